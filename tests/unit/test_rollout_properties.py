"""What must always hold of rollouts, drains, moves and reboots together, whatever people, machines and leaders do."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from fleetd.model.machine import Cordon, DrainRequest, MachineSettings
from fleetd.model.move import Move
from fleetd.model.reason import STAYING, WaitingForStop
from fleetd.model.reboot import RebootPhase
from fleetd.model.rollout import Action
from fleetd.registry.records import MOVES, SETTINGS, UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from fleetd.scheduler.effective_machine import DRAINED
from fleetd.scheduler.proposal import RebootPlan
from fleetd.scheduler.reboot_policy import RebootPolicy
from tests.examples import examples
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, NOON
from tests.unit.rebooting_cluster import RebootingCluster
from tests.unit.rolling_cluster import GROUP, text_of, word_of

MACHINES = ("m1", "m2", "m3", "m4")
INSTANCES = tuple(f"w@{number}.service" for number in (1, 2, 3))
GLOBAL = "g.service"
TIED_GROUP = "tied@.service"
TIED = tuple(f"tied@{number}.service" for number in (1, 2, 3))  # each on the machine of an instance, and tied to it
TIES = ("", "Requires", "After", "PartOf")
machines = st.sampled_from(MACHINES)
units = st.sampled_from((*INSTANCES, *TIED, GLOBAL))
words = st.sampled_from(("old", "new", "other", "bad", "badly"))


class Rollouts(RuleBasedStateMachine):
    """One group of instances, one of units tied to them, and one global unit."""

    def __init__(self):
        super().__init__()
        self.cluster = RebootingCluster(len(MACHINES))
        self.cluster.stuck = set(MACHINES)  # they come back when a rule says so
        self.cluster.deaf = set(MACHINES)  # and obey when a rule says so
        self.asked = {name: {"old"} for name in (*INSTANCES, *TIED, GLOBAL)}
        self.limit = 1
        self.tie = ""

    @initialize(
        limit=st.sampled_from((1, 2)),
        slots=st.sampled_from((1, 2)),
        tie=st.sampled_from(TIES),
        is_cyclic=st.booleans(),
    )
    def begin(self, limit, slots, tie, is_cyclic):
        self.limit = limit
        self.cluster.reboots = RebootPolicy(slots=slots)
        self.tie = tie
        self.is_cyclic = is_cyclic
        self._request("old", (*INSTANCES, *TIED))
        self._request("old", (GLOBAL,))
        self.cluster.come_to_rest()

    def _text(self, word, name):
        fleet = f"MaxUnavailable={self.limit}\n"
        number = name.partition("@")[2]
        if name in TIED:
            return text_of(word, f"{fleet}MachineOf=w@{number}", f"{self.tie}=w@{number}" if self.tie else "")
        if name == GLOBAL:
            return text_of(word, f"{fleet}Global=true")
        return text_of(word, fleet, f"After=tied@{number}" if self.is_cyclic else "")

    def _request(self, word, names):
        self.cluster.request_texts({name: self._text(word, name) for name in names})
        for name in names:
            self.asked[name].add(word)
            group = next((group for group in (INSTANCES, TIED) if name in group), ())
            if group and name not in self.cluster.assigned():  # reverted to what the others have
                self.asked[name] |= set().union(*(self.asked[other] for other in group))

    @rule(word=words, names=st.sets(st.sampled_from(INSTANCES), min_size=1))
    def change_instances(self, word, names):
        self._request(word, sorted(names))

    @rule(word=words)
    def change_all(self, word):
        self._request(word, INSTANCES)

    @rule(word=words, names=st.sets(st.sampled_from(TIED), min_size=1))
    def change_tied(self, word, names):
        self._request(word, sorted(names))

    @rule(word=words)
    def change_both_groups(self, word):
        self._request(word, (*INSTANCES, *TIED))

    @rule(word=words)
    def change_global(self, word):
        self._request(word, (GLOBAL,))

    @rule(name=units, state=st.sampled_from((LAUNCHED, INACTIVE)))
    def set_target_at_once(self, name, state):
        self.cluster.write(UNITS, (name,), replace(self.cluster.snapshot.units[name], target=state))

    @rule(name=units)
    def restart_at_once(self, name):
        unit = self.cluster.snapshot.units[name]
        self.cluster.write(UNITS, (name,), replace(unit, restart_of=unit.generation))

    @rule()
    def restart_one_after_the_other(self):
        self.cluster.restart(*INSTANCES)

    @rule(action=st.sampled_from(Action), group=st.sampled_from((GROUP, TIED_GROUP, GLOBAL)))
    def command(self, action, group):
        self.cluster.command(action, group)

    @rule(machine=machines)
    def lose(self, machine):
        if machine in self.cluster.snapshot.machines and len(self.cluster.snapshot.machines) > 1:
            self.cluster.power_off(machine)

    @rule(machine=machines, reboots=st.booleans())
    def come_back(self, machine, reboots):
        if machine not in self.cluster.snapshot.machines:
            (self.cluster.boot if reboots else self.cluster.reconnect)(machine)

    @rule(some=st.sets(machines, min_size=1), now=st.booleans())
    def reboot(self, some, now):
        for machine in some - set(self.cluster.snapshot.reboot_requests):
            self.cluster.ask_to_reboot(machine, drain_within_s=900.0, now=now)

    @rule(machine=machines)
    def cancel(self, machine):
        reboot = self.cluster.snapshot.reboots.get(machine)
        if reboot is None or reboot.phase is not RebootPhase.ORDERED:  # the API refuses that
            self.cluster.cancel(machine)

    @rule()
    def obey(self):
        self.cluster.deaf = set()
        self.cluster.obey()
        self.cluster.deaf = set(MACHINES)

    @rule(for_s=st.sampled_from((1.0, 60.0, 600.0, 1000.0)))
    def let_time_pass(self, for_s):
        self.cluster.wait(for_s)

    @rule(machine=machines, with_globals=st.booleans())
    def drain(self, machine, with_globals):
        request = DrainRequest("ann", NOON, with_globals=with_globals)
        self.cluster.write(SETTINGS, (machine,), MachineSettings(cordon=Cordon(), drain=request))

    @rule(name=st.sampled_from(INSTANCES), machine=machines)
    def move(self, name, machine):
        origin = self.cluster.assigned().get(name, "")
        self.cluster.write(MOVES, (name,), Move(machine, "ann", NOON, origin=origin, was_available=True))

    @rule(machine=machines)
    def uncordon(self, machine):
        self.cluster.write(SETTINGS, (machine,), None)

    @rule(machine=machines, name=units)
    def run_agent(self, machine, name):
        if machine in self.cluster.snapshot.machines:
            self.cluster.step(machine, name)

    @rule()
    def elect(self):
        self.cluster.elect()

    @rule()
    def lead(self):
        """No available member is disturbed while MaxUnavailable members are unavailable, nor restarted along; what
        leaves a drained machine has another one to go to; no more machines than there are slots reboot at a time."""
        snapshot = self.cluster.snapshot
        before = DisruptionBudget(snapshot, {})
        plan = self.cluster.plan()
        everything: set[tuple[str, str]] = set()
        for group, names in ((GROUP, INSTANCES), (GLOBAL, (GLOBAL,)), (TIED_GROUP, TIED)):
            held = {(name, machine) for name in names for machine in snapshot.placements.get(name, {})}
            down = {each for each in held if before.unavailability(*each) is not None}
            available = held - down
            if (rollout := snapshot.rollouts.get(group)) is not None:  # an operator resumed it in spite of these
                accepted = {member.unit for member in rollout.accepted}
                down = {each for each in down if each[0] not in accepted}
            down |= {(name, "") for name in names if before.unavailability(name, "") is not None}
            disturbed = {
                (placement.unit, placement.machine)
                for unit_plan in plan.units
                for placement in unit_plan.placements
                if placement.unit in names
                and snapshot.units[placement.unit].target is LAUNCHED
                and (placement.unit, placement.machine) in available
                and snapshot.placements[placement.unit][placement.machine].is_active
                and (
                    (placement.is_withdrawn and placement.unit not in TIED)  # those leave with their instance
                    or snapshot.placements[placement.unit][placement.machine].content != placement.content
                )
            }
            ordered = {
                (name, write.machine)
                for write in plan.writes
                if isinstance(write, RebootPlan) and write.reboot and write.reboot.phase is RebootPhase.ORDERED
                for name in write.reboot.kept
                if name in names and snapshot.units[name].target is LAUNCHED and (name, write.machine) in available
            }
            disturbed |= ordered
            everything |= disturbed
            if group == TIED_GROUP and self.tie in ("Requires", "PartOf"):
                changed = {(name.replace("w@", "tied@"), machine) for name, machine in everything if name in INSTANCES}
                disturbed |= {each for each in changed & available if self._is_launched(each)}
            # More than may be unavailable on one machine: all others have to be available.
            is_alone = len({machine for _, machine in down | disturbed}) == 1 and disturbed == ordered
            assert len(disturbed) <= max(0, self.limit - len(down)) or is_alone, (disturbed, down)
        for unit_plan in plan.units:
            reason = unit_plan.decision.reason if unit_plan.decision else None
            if isinstance(reason, WaitingForStop) and reason.because and reason.because.rejection == DRAINED:
                assert unit_plan.decision.target, unit_plan
        self.cluster.apply(plan)
        slots = self.cluster.reboots.slots
        assert sum(reboot.holds_slot for reboot in self.cluster.snapshot.reboots.values()) <= slots

    def _is_launched(self, member):
        """True if this is to run and is placed there."""
        name, machine = member
        is_asked = self.cluster.snapshot.units[name].target is LAUNCHED
        return is_asked and self.cluster.snapshot.placements[name][machine].is_active

    @rule()
    def settle(self):
        """Every rollout, every drain and every reboot ends, or says why it does not; no unit runs what was not asked
        for."""
        self.cluster.stuck, self.cluster.deaf = {*self.cluster.down}, set()  # who is lost stays lost
        self.cluster.end()
        self.cluster.stuck, self.cluster.deaf = set(MACHINES), set(MACHINES)
        snapshot = self.cluster.snapshot
        for machine, reboot in snapshot.reboots.items():
            assert not reboot.is_under_way or machine not in snapshot.machines, reboot
        if not any(reboot.holds_slot for reboot in snapshot.reboots.values()):
            assert not set(snapshot.reboot_requests) & set(snapshot.machines)
        for name, machine in self.cluster.assigned().items():
            if name in (*INSTANCES, *TIED) and machine in snapshot.draining and machine in snapshot.machines:
                assert isinstance(snapshot.decisions[name].reason, STAYING), snapshot.decisions[name]
        assert not self.cluster.snapshot.moves or self._is_blocked()
        for group in (GROUP, TIED_GROUP, GLOBAL):
            rollout = self.cluster.rollout(group)
            assert rollout.is_over or rollout.pause is not None, rollout
        for (_, name), placement in self.cluster.running.items():
            assert word_of(placement.content) in self.asked[name]

    def _is_blocked(self):
        """True if too many members are down for one to be moved, or the rest wait for a machine that is absent."""
        budget = DisruptionBudget(self.cluster.snapshot, {})
        assigned = self.cluster.assigned()
        return any(budget.unavailability(name, assigned.get(name, "")) is not None for name in (*INSTANCES, *TIED))

    def teardown(self):
        if GROUP in self.cluster.snapshot.rollouts:
            self.settle()


Rollouts.TestCase.settings = settings(
    max_examples=examples(300), stateful_step_count=40, suppress_health_check=list(HealthCheck), deadline=None
)
TestRollouts = pytest.mark.covers("C.1", "C.2", "C.3", "C.7", "C.9")(Rollouts.TestCase)
