"""Whatever people and machines do, and in whatever order: what must always hold of the leader's decisions."""

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fleetd.model.machine import MachineMode
from fleetd.model.names import matches_glob
from fleetd.model.reason import COMPLETED, WaitingForPeer, WaitingForRoom, WaitingForStop, without_eviction
from fleetd.scheduler.feasibility import Candidate, rejection
from fleetd.scheduler.impact import Affected
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.snapshot import requirements_of
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
GLOBAL_TEXTS = ("Global=true", "Global=true\nConflicts=w@1.service", "Global=true\nMachineMetadata=role=x")

machines = st.sampled_from(MACHINES)
anything = st.sampled_from(UNITS + GLOBALS)
targets = st.sampled_from((LAUNCHED, LAUNCHED, LOADED, INACTIVE))
outcomes = st.sampled_from(("active", "active", "failed", "completed"))
roles = st.sampled_from(("x", "y"))


class Leader(RuleBasedStateMachine):
    """People submit and stop, machines come and go, the leader plans and is interrupted."""

    def __init__(self):
        super().__init__()
        self.cluster = Cluster()
        self.survivors = set()  # (machine, unit): copies that ran on while their machine was taken for dead
        self.pending = None
        self.hindering = set()  # (unit, machine) that were placed when the plan was made, and not superseded

    # What happens to the cluster.

    @rule(name=st.sampled_from(UNITS), text=st.sampled_from(TEXTS), operation=targets)
    def ask_for_a_unit(self, name, text, operation):
        self.cluster.unit(name, text, operation)

    @rule(name=st.sampled_from(GLOBALS), text=st.sampled_from(GLOBAL_TEXTS), operation=targets)
    def ask_for_a_global_unit(self, name, text, operation):
        self.cluster.unit(name, text, operation)

    @rule(name=anything)
    def destroy(self, name):
        self.cluster.destroy(name)

    @rule(machine=machines, role=roles)
    def come(self, machine, role):
        if machine not in self.cluster.local_units:
            self.cluster.machine(machine, role=role)
        elif machine not in self.cluster.snapshot.machines:
            self.cluster.come_back(machine, role=role)

    def present(self, machine):
        return machine in self.cluster.snapshot.machines

    @rule(machine=machines, reboot=st.booleans())
    def expire_lease(self, machine, reboot):
        if self.present(machine):
            self.cluster.expire_lease(machine, reboot=reboot)

    @rule(machine=machines)
    def judge_dead(self, machine):
        if machine in self.cluster.away:
            self.cluster.set_away(self.cluster.away - {machine})
            self.survivors |= {(machine, name) for name, copy in self.cluster.local_units[machine].items() if copy.runs}

    @rule(machine=machines, outcome=outcomes)
    def outlive_a_cut(self, machine, outcome):
        if self.present(machine):
            self.expire_lease(machine, False)
            self.judge_dead(machine)
            self.lead_and_work(outcome)
            self.cluster.come_back(machine)

    @rule(machine=machines, mode=st.sampled_from(list(MachineMode)))
    def change_mode(self, machine, mode):
        if self.present(machine):
            self.cluster.machine(machine, mode=mode)

    @rule(machine=machines, role=st.sampled_from(("x", "y", "")))
    def set_metadata(self, machine, role):
        self.cluster.settings(machine, role=role)

    @rule(machine=machines, name=anything, outcome=outcomes)
    def reconcile(self, machine, name, outcome):
        if self.present(machine) and self.cluster.snapshot.machines[machine].mode is not MachineMode.PARKED:
            self.cluster.reconcile(machine, name, outcome)

    @rule(machine=machines, outcome=outcomes)
    def run_agent(self, machine, outcome):
        if self.present(machine):
            self.cluster.run_agent(machine, outcome)

    @rule(machine=machines, mode=st.sampled_from(list(MachineMode)))
    def keep_running_what_is_to_go(self, machine, mode):
        if self.present(machine) and self.pending is None:
            self.change_mode(machine, MachineMode.LEAVING)
            self.plan(False)
            self.write(False, 1.0)
            for name, copy in self.cluster.local_units[machine].items():
                if self.placement_states(name, machine) == "withdrawn" and copy.active == "active":
                    self.cluster.keep_running(machine, name)
            self.change_mode(machine, mode)

    @rule(for_s=st.sampled_from((50.0, 100.0)))
    def wait(self, for_s):
        self.cluster.wait(for_s)

    # What the leader does.

    @precondition(lambda self: self.pending is None)
    @rule(overdue=st.booleans())
    def plan(self, overdue):
        copies = frozenset(self.cluster.snapshot.superseded) if overdue else frozenset()
        self.cluster.mark_changed(Affected(dict.fromkeys(name for _, name in copies)))
        self.hindering = {
            (name, machine)
            for name, at in self.cluster.snapshot.placements.items()
            for machine, order in at.items()
            if not order.superseded
        }
        self.pending = self.cluster.plan(copies)
        check_moves(self.cluster, self.pending)
        check_delays(self.cluster, self.pending)

    @precondition(lambda self: self.pending is not None)
    @rule(interrupted=st.booleans(), share=st.floats(0, 1))
    def write(self, interrupted, share):
        plan, self.pending = self.pending, None
        units = plan.units[: int(len(plan.units) * share)] if interrupted else plan.units
        for unit_plan in units:
            check_arrivals(self.cluster, unit_plan, self.hindering)
            self.cluster.apply_unit(unit_plan)
            check_orders(self.cluster)
        if interrupted:
            self.cluster.elect()
        else:
            self.cluster.acknowledge(plan)

    @rule(seed=st.integers(0, 1000))
    def elect(self, seed):
        self.pending = None
        self.cluster.elect(random.Random(seed))

    @rule(outcome=outcomes)
    def lead_and_work(self, outcome):
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
        check_rest(self.cluster)

    # What must always hold.

    @invariant()
    def one_copy_runs(self):
        copies = self.cluster.local_units
        for name in UNITS:
            running = [machine for machine, at in copies.items() if name in at and at[name].runs]
            if len(running) <= 1:
                settled = [
                    machine
                    for machine in self.cluster.snapshot.machines
                    if self.placement_states(name, machine) == "assigned"
                ]
                self.survivors -= {(machine, name) for machine in settled}
            self.survivors -= {(machine, name) for machine in copies if machine not in running}
            proper = [machine for machine in running if (machine, name) not in self.survivors]
            assert len(proper) <= 1, f"{name} runs on {running}, survivors {self.survivors}"

    def placement_states(self, name, machine):
        return self.cluster.placement_states(name).get(machine, "")

    @invariant()
    def the_plan_does_not_depend_on_the_order_of_events(self):
        plan = self.cluster.plan_cold()
        assert self.cluster.plan_cold(self.cluster.read_snapshot()) == plan
        assert self.cluster.plan_cold(self.cluster.read_snapshot(random.Random(1))) == plan

    def teardown(self):
        self.settle()


def check_orders(cluster):
    """No unit is ordered to be on two machines."""
    for name in UNITS:
        homes = [machine for machine, word in cluster.placement_states(name).items() if word == "assigned"]
        assert len(homes) <= 1, f"{name} is ordered to be on {homes}"


def check_arrivals(cluster, plan, hindering):
    """What comes to a machine conflicts with nothing that may run there; copies that retired hinder nobody."""
    for order in plan.placements:
        former = cluster.snapshot.placements.get(plan.unit, {}).get(order.machine)
        if order.is_active and not (former and former.is_active):
            for name, at in cluster.snapshot.placements.items():
                resident = at.get(order.machine)
                if resident and name != plan.unit and (resident.is_active or (name, order.machine) in hindering):
                    assert not conflict(order, resident) or let_go(cluster, resident), f"{order} meets {resident}"


def let_go(cluster, resident):
    state = cluster.snapshot.states.get(resident.unit, {}).get(resident.machine)
    return resident.is_withdrawn and state and not state.runs and state.generation >= resident.generation


def check_moves(cluster, plan):
    """No unit is taken from a machine that it still fits on."""
    snapshot = cluster.snapshot
    gone = {(plan.unit, order.machine) for plan in plan.units for order in plan.placements if order.is_withdrawn}
    for unit_plan in plan.units:
        returns = any(order.is_active for order in unit_plan.placements)
        for order in unit_plan.placements:
            former = snapshot.placements.get(order.unit, {}).get(order.machine)
            if order.is_withdrawn and former and former.is_active and snapshot.is_wanted(order.unit) and not returns:
                assert has_to_go(snapshot, order.unit, order.machine, gone), f"{order} for no reason"


def check_delays(cluster, plan):
    """No unit that is to run, and runs nowhere else, is taken from a dead machine before its delay is over."""
    snapshot, lost = cluster.snapshot, cluster.snapshot.lost
    for unit_plan in plan.units:
        name = unit_plan.unit
        unit, running = (
            snapshot.units.get(name),
            [m for m, state in snapshot.states.get(name, {}).items() if state.runs],
        )
        if unit is None or unit.target is not LAUNCHED or running or len(cluster.assigned().get(name, "").split()) != 1:
            continue
        delay_s = requirements_of(unit.text, name).failover_delay_s or 0.0
        for machine in unit_plan.deletes:
            if snapshot.placements[name][machine].is_active and machine in lost and name not in GLOBALS:
                assert lost[machine].since_s + delay_s <= cluster.clock_s, f"{name} is taken from {machine}"


def has_to_go(snapshot, name, machine, gone):
    wanted = requirements_of(snapshot.units[name].text, name)
    record = snapshot.machines[machine]
    here = set(snapshot.occupancies[machine].staying)
    staying_on = here - {other for other, where in gone if where == machine and other != name}
    metadata = snapshot.effective[machine].metadata
    return (
        record.mode is MachineMode.LEAVING
        or wanted.machine_id not in (None, machine)
        or any(metadata.get(key) not in values for key, values in wanted.metadata)
        or any(peer not in staying_on for peer in wanted.machine_of)
        or any(other != name and conflicting(snapshot, name, other, machine) for other in here)
        or any(
            matches_glob(pattern, name)
            for other in here
            for pattern in requirements_of(
                snapshot.units[other].text if other in snapshot.units else "", other
            ).replaces
        )
    )


def conflicting(snapshot, name, other, machine):
    if other not in snapshot.units or snapshot.units[other].generation > snapshot.units[name].generation:
        return False
    mine = requirements_of(snapshot.units[name].text, name).conflicts
    texts = {snapshot.units[other].text, snapshot.placements[other][machine].text}
    theirs = [pattern for text in texts for pattern in requirements_of(text, other).conflicts]
    return any(matches_glob(p, other) for p in mine) or any(matches_glob(p, name) for p in theirs)


def check_rest(cluster):
    """At rest: nothing is left to plan, whoever looks; what was asked is done or explained."""
    snapshot = cluster.snapshot
    for other in (snapshot, cluster.read_snapshot(random.Random(7))):
        plan = cluster.plan_cold(other)
        assert not plan.writes, "planning for what changed misses something"
    for name in UNITS + GLOBALS:
        check_unit_at_rest(snapshot, name)
    for machine, record in snapshot.machines.items():
        if record.mode is MachineMode.READY:
            check_company(snapshot, machine)


def check_unit_at_rest(snapshot, name):
    decision = snapshot.decisions.get(name)
    if not snapshot.is_wanted(name):
        assert bool(decision) == any(is_held(snapshot, name, m) for m in snapshot.placements.get(name, {}))
        return
    assert decision is not None
    assert decision.reason
    if name in GLOBALS:
        here = [
            m for m, order in snapshot.placements.get(name, {}).items() if order.is_active and m in snapshot.machines
        ]
        stuck = [
            m for m, order in snapshot.placements.get(name, {}).items() if order.is_withdrawn and m in snapshot.machines
        ]
        refused = sum(each.machines for each in decision.rejections)
        assert len(snapshot.machines) - len(stuck) <= len(here) + refused <= len(snapshot.machines)
    elif not snapshot.assigned_machine(name):
        explained = sum(each.machines for each in decision.rejections) == len(snapshot.machines)
        assert explained or decision.reason == COMPLETED or is_true_wait(snapshot, name), decision
    else:
        assert not decision.rejections


def is_held(snapshot, name, machine):
    """Whether a copy that is to go does not, at rest: nobody is there to stop it, or it is only kept running."""
    return (
        machine in snapshot.away or mode(snapshot, machine) is MachineMode.PARKED or is_orphan(snapshot, name, machine)
    )


def is_orphan(snapshot, name, machine):
    state = snapshot.states.get(name, {}).get(machine)
    return state is not None and state.orphan


def is_true_wait(snapshot, name):
    """Whether what a unit waits for, at rest, is there, be it of a unit that MachineOf binds to it; and is said."""
    reason = snapshot.decisions[name].reason
    if isinstance(reason, WaitingForPeer):
        late = snapshot.decisions[reason.unit]
        assert snapshot.is_wanted(reason.unit)
        assert not snapshot.assigned_machine(reason.unit)
        assert late.completed != late.generation
        waits = without_eviction(late.reason) if isinstance(late.reason, WaitingForStop) else late.reason
        return waits == reason.peer_waits and is_true_wait(snapshot, reason.unit)
    assert not isinstance(reason, WaitingForRoom)
    if not isinstance(reason, WaitingForStop):
        return False
    machine = reason.machine
    if not is_orphan(snapshot, name, machine):
        return machine in snapshot.away or mode(snapshot, machine) is MachineMode.PARKED
    candidate = Candidate(Proposal(snapshot), name, snapshot.requirements(name), machine)
    is_to_run = snapshot.units[name].target is LAUNCHED
    stays_away = machine not in snapshot.machines or rejection(candidate) or not is_to_run
    return snapshot.placements[name][machine].is_withdrawn and stays_away


def mode(snapshot, machine):
    return snapshot.machines[machine].mode if machine in snapshot.machines else None


def check_company(snapshot, machine):
    occupancy = snapshot.occupancies.get(machine)
    staying = list(occupancy.staying) if occupancy else []
    orders = [snapshot.placements[name][machine] for name in staying]
    for order in orders:
        assert snapshot.is_wanted(order.unit)
        assert all(peer in staying for peer in requirements_of(order.text, order.unit).machine_of)
        assert order.generation == snapshot.units[order.unit].generation
        assert not any(other is not order and conflict(order, other) for other in orders)


Leader.TestCase.settings = settings(
    max_examples=examples(150), stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
TestWhateverHappens = Leader.TestCase
