"""Properties of the leader's decisions that hold whatever operators and machines do, in any order."""

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleetd.model.confinement import limits_of, refuse
from fleetd.model.machine import MachineMode
from fleetd.model.names import matches_glob
from fleetd.model.reason import COMPLETED, WaitingForPeer, WaitingForRoom, WaitingForStop, without_eviction
from fleetd.model.requirements import requirements_of
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.feasibility import Candidate, rejection
from fleetd.scheduler.proposal import Proposal
from tests.examples import examples
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, Cluster, conflict

MACHINES = ("m1", "m2", "m3")
GLOBALS = ("g1.service", "g2.service")
UNITS = ("a.service", "b.service", "c.service", "w@1.service", "w@2.service")
TEXTS = (
    "",
    "",
    "MachineMetadata=role=x",
    "MachineID=m2",
    "Conflicts=w@*.service",
    "Conflicts=a.service g1.service",
    "MachineOf=a.service",
    "MachineOf=b.service",
    "MachineOf=c.service\nMachineMetadata=role=x",
    "MachineOf=%n",
    "MachineOf=g1.service",
    "Replaces=w@*.service",
    "Replaces=b.service",
    "FailoverDelay=100",
    "FailoverDelay=infinity\nRerunAfterFailover=true",
    "MachineOf=a.service\nFailoverDelay=100",
)
LIMITS = ({}, {"accept": ("[ab].service", "g1.service")}, {"accept": ("w@*",)}, {"confine": True})
GLOBAL_TEXTS = ("Global=true", "Global=true\nConflicts=w@1.service", "Global=true\nMachineMetadata=role=x")

machines = st.sampled_from(MACHINES)
anything = st.sampled_from(UNITS + GLOBALS)
targets = st.sampled_from((LAUNCHED, LAUNCHED, LOADED, INACTIVE))
outcomes = st.sampled_from(("active", "active", "failed", "completed"))
roles = st.sampled_from(("x", "y"))


class Leader(RuleBasedStateMachine):
    """Operators submit and stop units, machines come and go, the leader plans and is interrupted while it writes."""

    def __init__(self):
        super().__init__()
        self.cluster = Cluster()
        self.survivors = set()  # (machine, unit): ran on while the machine was judged dead
        self.pending = None
        self.occupants = set()  # (unit, machine): placed and not superseded when the pending plan was made

    # What happens to the cluster.

    @rule(name=st.sampled_from(UNITS), text=st.sampled_from(TEXTS), requested=targets)
    def submit(self, name, text, requested):
        self.cluster.unit(name, text, requested)

    @rule(name=st.sampled_from(UNITS), dropin=st.sampled_from(TEXTS), requested=targets)
    def submit_with_a_drop_in(self, name, dropin, requested):
        self.cluster.unit(name, "", requested, dropin=dropin)

    @rule(name=st.sampled_from(GLOBALS), text=st.sampled_from(GLOBAL_TEXTS), requested=targets)
    def submit_global(self, name, text, requested):
        self.cluster.unit(name, text, requested)

    @rule(name=anything)
    def destroy(self, name):
        self.cluster.destroy(name)

    @rule(machine=machines, role=roles)
    def register(self, machine, role):
        if machine not in self.cluster.local_units:
            self.cluster.machine(machine, role=role)
        elif machine not in self.cluster.snapshot.machines:
            self.cluster.come_back(machine, role=role)

    def is_registered(self, machine):
        return machine in self.cluster.snapshot.machines

    @rule(machine=machines, reboot=st.booleans())
    def expire_lease(self, machine, reboot):
        if self.is_registered(machine):
            self.cluster.expire_lease(machine, reboot=reboot)

    @rule(machine=machines)
    def judge_dead(self, machine):
        if machine in self.cluster.away:
            self.cluster.set_away(self.cluster.away - {machine})
            self.survivors |= {
                (machine, name) for name, local in self.cluster.local_units[machine].items() if local.runs
            }

    @rule(machine=machines, outcome=outcomes)
    def return_from_partition(self, machine, outcome):
        if self.is_registered(machine):
            self.expire_lease(machine, False)
            self.judge_dead(machine)
            self.run_leader_and_agents(outcome)
            self.cluster.come_back(machine)

    @rule(machine=machines, mode=st.sampled_from(list(MachineMode)))
    def change_mode(self, machine, mode):
        if self.is_registered(machine):
            self.cluster.machine(machine, mode=mode)

    @rule(machine=machines, limits=st.sampled_from(LIMITS))
    def restart_with_other_limits(self, machine, limits):
        if self.is_registered(machine):
            self.cluster.machine(machine, self.cluster.snapshot.machines[machine].mode, facts=limits)

    @rule(machine=machines, role=st.sampled_from(("x", "y", "")))
    def set_metadata(self, machine, role):
        self.cluster.settings(machine, role=role)

    @rule(machine=machines, why=st.sampled_from(("disk", "kernel")))
    def cordon(self, machine, why):
        self.cluster.cordon(machine, why)

    @rule(machine=machines)
    def uncordon(self, machine):
        self.cluster.uncordon(machine)

    @rule(machine=machines, name=anything, outcome=outcomes)
    def reconcile(self, machine, name, outcome):
        if self.is_registered(machine) and self.cluster.snapshot.machines[machine].mode is not MachineMode.PARKED:
            self.cluster.reconcile(machine, name, outcome)

    @rule(machine=machines, outcome=outcomes)
    def run_agent(self, machine, outcome):
        if self.is_registered(machine):
            self.cluster.run_agent(machine, outcome)

    @rule(machine=machines, mode=st.sampled_from(list(MachineMode)))
    def orphan_withdrawn_units(self, machine, mode):
        if self.is_registered(machine) and self.pending is None:
            self.change_mode(machine, MachineMode.LEAVING)
            self.plan(False)
            self.write(False, 1.0)
            for name, local in self.cluster.local_units[machine].items():
                if self.placement_state(name, machine) == "withdrawn" and local.active == "active":
                    self.cluster.keep_running(machine, name)
            self.change_mode(machine, mode)

    @rule(for_s=st.sampled_from((50.0, 100.0)))
    def wait(self, for_s):
        self.cluster.wait(for_s)

    # What the leader does.

    @precondition(lambda self: self.pending is None)
    @rule(overdue=st.booleans())
    def plan(self, overdue):
        handovers = frozenset(self.cluster.snapshot.superseded) if overdue else frozenset()
        self.cluster.mark_changed(Affected(dict.fromkeys(name for _, name in handovers)))
        self.occupants = {
            (name, machine)
            for name, at in self.cluster.snapshot.placements.items()
            for machine, placement in at.items()
            if not placement.superseded
        }
        self.pending = self.cluster.plan(handovers)
        check_evictions(self.cluster, self.pending)
        check_delays(self.cluster, self.pending)
        check_cordons(self.cluster, self.pending)

    @precondition(lambda self: self.pending is not None)
    @rule(interrupted=st.booleans(), share=st.floats(0, 1))
    def write(self, interrupted, share):
        plan, self.pending = self.pending, None
        units = plan.units[: int(len(plan.units) * share)] if interrupted else plan.units
        for unit_plan in units:
            check_no_conflict(self.cluster, unit_plan, self.occupants)
            self.cluster.apply_unit(unit_plan)
            check_one_assigned_machine(self.cluster)
        if interrupted:
            self.cluster.elect()
        else:
            self.cluster.acknowledge(plan)

    @rule(seed=st.integers(0, 1000))
    def elect(self, seed):
        self.pending = None
        self.cluster.elect(random.Random(seed))

    @rule(outcome=outcomes)
    def run_leader_and_agents(self, outcome):
        if self.pending is None:
            self.plan(False)
        self.write(False, 1.0)
        for machine in list(self.cluster.snapshot.machines):
            self.cluster.run_agent(machine, outcome)

    @rule()
    def settle(self):
        if self.pending is not None:
            self.write(False, 1.0)
        self.cluster.settle()
        check_at_rest(self.cluster)

    # What must always hold.

    @invariant()
    def each_unit_runs_once_but_for_survivors(self):
        local_units = self.cluster.local_units
        for name in UNITS:
            running = [machine for machine, at in local_units.items() if name in at and at[name].runs]
            if len(running) <= 1:
                settled = [m for m in self.cluster.snapshot.machines if self.placement_state(name, m) == "assigned"]
                self.survivors -= {(machine, name) for machine in settled}
            self.survivors -= {(machine, name) for machine in local_units if machine not in running}
            proper = [machine for machine in running if (machine, name) not in self.survivors]
            assert len(proper) <= 1, f"{name} runs on {running}, survivors {self.survivors}"

    def placement_state(self, name, machine):
        return self.cluster.placement_states(name).get(machine, "")

    @invariant()
    def the_plan_does_not_depend_on_the_order_of_records(self):
        plan = self.cluster.plan_cold()
        assert self.cluster.plan_cold(self.cluster.read_snapshot()) == plan
        assert self.cluster.plan_cold(self.cluster.read_snapshot(random.Random(1))) == plan

    def teardown(self):
        self.settle()


def check_one_assigned_machine(cluster):
    """No unit is assigned to two machines."""
    for name in UNITS:
        assigned = [machine for machine, state in cluster.placement_states(name).items() if state == "assigned"]
        assert len(assigned) <= 1, f"{name} is assigned to {assigned}"


def check_no_conflict(cluster, plan, occupants):
    """A new placement conflicts with no unit that may run on the machine; superseded allocations do not count."""
    for placement in plan.placements:
        former = cluster.snapshot.placements.get(plan.unit, {}).get(placement.machine)
        if placement.is_active and not (former and former.is_active):
            for name, at in cluster.snapshot.placements.items():
                resident = at.get(placement.machine)
                if resident and name != plan.unit and (resident.is_active or (name, placement.machine) in occupants):
                    may_meet = not conflict(placement, resident) or is_removed(cluster, resident)
                    assert may_meet, f"{placement} conflicts with {resident}"


def is_removed(cluster, resident):
    """True if the machine has reported the withdrawn unit stopped and removed."""
    state = cluster.snapshot.states.get(resident.unit, {}).get(resident.machine)
    return resident.is_withdrawn and state and not state.runs and state.generation >= resident.generation


def check_evictions(cluster, plan):
    """No unit is withdrawn from a machine where it still fits."""
    snapshot = cluster.snapshot
    placements = [placement for unit_plan in plan.units for placement in unit_plan.placements]
    withdrawn = {(each.unit, each.machine) for each in placements if each.is_withdrawn}
    for unit_plan in plan.units:
        if any(each.is_active for each in unit_plan.placements) or not snapshot.is_wanted(unit_plan.unit):
            continue
        for placement in unit_plan.placements:
            former = snapshot.placements.get(placement.unit, {}).get(placement.machine)
            if placement.is_withdrawn and former and former.is_active:
                may_leave = must_leave(snapshot, placement.unit, placement.machine, withdrawn)
                assert may_leave, f"{placement} is withdrawn for no reason"


def check_delays(cluster, plan):
    """No unit that is to run, and runs on no other machine, fails over from a dead one before its delay is over."""
    snapshot, lost = cluster.snapshot, cluster.snapshot.lost
    for unit_plan in plan.units:
        name = unit_plan.unit
        unit = snapshot.units.get(name)
        running = [machine for machine, state in snapshot.states.get(name, {}).items() if state.runs]
        if unit is None or unit.target is not LAUNCHED or running or len(cluster.assigned().get(name, "").split()) != 1:
            continue
        delay_s = requirements_of(unit.content, name).failover_delay_s or 0.0
        for machine in unit_plan.deletes:
            if snapshot.placements[name][machine].is_active and machine in lost and name not in GLOBALS:
                assert lost[machine].since_s + delay_s <= cluster.clock_s, f"{name} fails over from {machine} too early"


def check_cordons(cluster, plan):
    """A cordoned machine gets no unit but global ones and those that run there already."""
    snapshot = cluster.snapshot
    for unit_plan in plan.units:
        for placement in unit_plan.placements:
            name, machine = placement.unit, placement.machine
            former = snapshot.placements.get(name, {}).get(machine)
            is_new = placement.is_active and not (former and former.is_active)
            if is_new and name not in GLOBALS and not snapshot.is_running_on(name, machine):
                effective = snapshot.effective.get(machine)
                assert not (effective and effective.cordon), f"{placement} on a cordoned machine"


def must_leave(snapshot, name, machine, withdrawn):
    """True if the unit may not stay on the machine. `withdrawn`: the (unit, machine) that the plan withdraws."""
    required = requirements_of(snapshot.units[name].content, name)
    record = snapshot.machines[machine]
    here = set(snapshot.occupancies[machine].staying)
    staying_on = here - {other for other, where in withdrawn if where == machine and other != name}
    metadata = snapshot.effective[machine].metadata
    return (
        record.mode is MachineMode.LEAVING
        or refuse(limits_of(record), name, snapshot.units[name].content)
        or required.machine_id not in (None, machine)
        or any(metadata.get(key) not in values for key, values in required.metadata)
        or any(peer not in staying_on for peer in required.machine_of)
        or any(other != name and conflicting(snapshot, name, other, machine) for other in here)
        or any(matches_glob(pattern, name) for other in here for pattern in replaces(snapshot, other))
    )


def replaces(snapshot, name):
    unit = snapshot.units.get(name)
    return requirements_of(unit.content, name).replaces if unit else ()


def conflicting(snapshot, name, other, machine):
    """True if the unit conflicts with the other and was changed later: the other one stays."""
    if other not in snapshot.units or snapshot.units[other].generation > snapshot.units[name].generation:
        return False
    mine = requirements_of(snapshot.units[name].content, name).conflicts
    contents = {snapshot.units[other].content, snapshot.placements[other][machine].content}
    theirs = [pattern for content in contents for pattern in requirements_of(content, other).conflicts]
    return any(matches_glob(p, other) for p in mine) or any(matches_glob(p, name) for p in theirs)


def check_at_rest(cluster):
    """At rest, every leader's plan is empty, and each unit has reached its target or has a reason why not."""
    snapshot = cluster.snapshot
    for other in (snapshot, cluster.read_snapshot(random.Random(7))):
        plan = cluster.plan_cold(other)
        assert not plan.writes, "the plans for what had changed missed something"
    for name in UNITS + GLOBALS:
        check_unit_at_rest(snapshot, name)
    for machine, record in snapshot.machines.items():
        if record.mode is MachineMode.READY:
            check_machine_at_rest(snapshot, machine)


def check_unit_at_rest(snapshot, name):
    decision = snapshot.decisions.get(name)
    if not snapshot.is_wanted(name):
        assert bool(decision) == any(is_held(snapshot, name, m) for m in snapshot.placements.get(name, {}))
        return
    assert decision is not None
    assert decision.reason
    if name in GLOBALS:
        registered = [each for each in snapshot.placements.get(name, {}).values() if each.machine in snapshot.machines]
        active = sum(each.is_active for each in registered)
        withdrawn = sum(each.is_withdrawn for each in registered)
        rejected = sum(each.machines for each in decision.rejections)
        assert len(snapshot.machines) - withdrawn <= active + rejected <= len(snapshot.machines)
    elif not snapshot.assigned_machine(name):
        explained = sum(each.machines for each in decision.rejections) == len(snapshot.machines)
        assert explained or decision.reason == COMPLETED or is_true_wait(snapshot, name), decision
    else:
        assert not decision.rejections


def is_held(snapshot, name, machine):
    """True if a withdrawn allocation may remain at rest: no agent is there to stop it, or it is an orphan."""
    return (
        machine in snapshot.away or mode(snapshot, machine) is MachineMode.PARKED or is_orphan(snapshot, name, machine)
    )


def is_orphan(snapshot, name, machine):
    state = snapshot.states.get(name, {}).get(machine)
    return state is not None and state.orphan


def is_true_wait(snapshot, name):
    """True if the unit, or the peer that it waits for, has to wait at rest, and its reason says for what."""
    reason = snapshot.decisions[name].reason
    if isinstance(reason, WaitingForPeer):
        peer = snapshot.decisions[reason.unit]
        assert snapshot.is_wanted(reason.unit)
        assert not snapshot.assigned_machine(reason.unit)
        assert peer.completed != peer.generation
        waits = without_eviction(peer.reason) if isinstance(peer.reason, WaitingForStop) else peer.reason
        return waits == reason.peer_waits and is_true_wait(snapshot, reason.unit)
    assert not isinstance(reason, WaitingForRoom)
    if not isinstance(reason, WaitingForStop):
        return False
    machine = reason.machine
    if not is_orphan(snapshot, name, machine):
        return machine in snapshot.away or mode(snapshot, machine) is MachineMode.PARKED
    candidate = Candidate(Proposal(snapshot), name, snapshot.requirements(name), machine, runs_there=True)
    is_to_run = snapshot.units[name].target is LAUNCHED
    stays_away = machine not in snapshot.machines or rejection(candidate) or not is_to_run
    return snapshot.placements[name][machine].is_withdrawn and stays_away


def mode(snapshot, machine):
    return snapshot.machines[machine].mode if machine in snapshot.machines else None


def check_machine_at_rest(snapshot, machine):
    occupancy = snapshot.occupancies.get(machine)
    staying = list(occupancy.staying) if occupancy else []
    placements = [snapshot.placements[name][machine] for name in staying]
    for placement in placements:
        assert snapshot.is_wanted(placement.unit)
        assert all(peer in staying for peer in requirements_of(placement.content, placement.unit).machine_of)
        assert placement.generation == snapshot.units[placement.unit].generation
        assert not any(other is not placement and conflict(placement, other) for other in placements)


Leader.TestCase.settings = settings(
    max_examples=examples(150), stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
TestLeaderProperties = Leader.TestCase
