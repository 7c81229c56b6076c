"""What the leader's controllers propose in one pass, laid over a snapshot that stays as it is."""

from collections.abc import Callable, Mapping

import msgspec

from fleetd.model.constraints import Requirements
from fleetd.model.names import template_of
from fleetd.model.ordered import Names
from fleetd.model.placement import Placement
from fleetd.model.quota import Usage
from fleetd.model.reason import Eviction, WaitingForStop, without_eviction
from fleetd.model.reboot import Reboot, RebootRequest
from fleetd.model.requirements import requirements_of
from fleetd.model.rollout import Rollout
from fleetd.model.unit import TargetState
from fleetd.scheduler.actions import (
    Action,
    AwaitIsolation,
    Decline,
    FindMachine,
    Forget,
    Keep,
    Place,
    Prepare,
    Supersede,
    Wait,
    WaitForMachine,
    Withdraw,
)
from fleetd.scheduler.disruption import DisruptionBudget
from fleetd.scheduler.failover_delays import NO_DELAYS, START, FailoverDelays, FailoverPolicy, Now
from fleetd.scheduler.occupancy import Occupancy
from fleetd.scheduler.preference import Standing
from fleetd.scheduler.reboot_policy import ONE_AT_A_TIME, RebootPolicy
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan, UnitPlanBuilder


class SessionPlan(msgspec.Struct, frozen=True):
    """Write the session in which a machine was planned for, or delete it (None): the machine is dead."""

    machine: str
    session: str | None


class RolloutPlan(msgspec.Struct, frozen=True):
    """Write the rollout of a group, guarded by the revision of the record that it was planned from."""

    group: str
    rollout: Rollout


class RebootPlan(msgspec.Struct, frozen=True):
    """Write the reboot of a machine, or delete it (None), guarded by the `revision` of the record and by the
    `request_revision` of the request that it was planned from (0: there was none). The request is deleted, too, if it
    `ends_request`; `request` is written in its stead where nobody has asked. `session` is that of a machine which is
    ordered to reboot: it is written again, so that the machine reads its order.
    """

    machine: str
    revision: int
    request_revision: int
    reboot: Reboot | None
    ends_request: bool = False
    request: RebootRequest | None = None
    session: str = ""


Write = UnitPlan | SessionPlan | RolloutPlan | RebootPlan | Usage


class Proposal:
    """What earlier controllers of this pass have proposed, for the later ones to build on. `apply` changes it.

    `units` are the plans of the affected units, in order of names. `first` is written before them, `last` after them.
    `budget` says which units may be disturbed. `wakeups` are the leader-clock times at which a unit is to be planned
    again. `standings`, if not None, are to say why the machine of each unit was chosen. Call `checkpoint` about once a
    unit: it raises where the pass is to be abandoned.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        scopes: Mapping[str, Names | None] | None = None,
        *,
        now: Now = START,
        policy: FailoverPolicy = NO_DELAYS,
        reboots: RebootPolicy = ONE_AT_A_TIME,
        checkpoint: Callable[[], None] = lambda: None,
        standings: dict[str, Standing] | None = None,
    ) -> None:
        """`scopes` are the affected units, in order, each with the machines to decide about (None: all)."""
        self.snapshot = snapshot
        self.now = now
        self.policy = policy
        self.reboots = reboots
        self.delays = FailoverDelays(snapshot, policy, now)
        self.checkpoint = checkpoint
        self.standings = standings
        self.units = {name: UnitPlanBuilder.begin(snapshot, name, scope) for name, scope in (scopes or {}).items()}
        self.budget = DisruptionBudget(snapshot, self.units)
        self.asks_store_health = False  # a reboot waits for it
        self.first: list[Write] = []
        self.last: list[Write] = []
        self.turns: dict[str, int] = {}  # units that were given a new machine → in which order
        self.wakeups: dict[str, float] = {}
        self._occupancies: dict[str, Occupancy] = {}
        self._arrivals: dict[str, Names] = {}  # unit or template → the machines that it is newly placed on

    def wake(self, name: str, at_s: float) -> None:
        """Have the unit planned again at this time on the leader's clock, or earlier."""
        self.wakeups[name] = min(at_s, self.wakeups.get(name, at_s))

    def requirements(self, name: str) -> Requirements:
        """What a known unit requires with the content that it is to have. `requirements_on` of its plan says what a
        unit on many machines requires on one of them."""
        plan = self.units.get(name)
        held = plan.held.get("") if plan is not None and plan.held else None
        return self.snapshot.requirements(name) if held is None else requirements_of(held, name)

    def occupancy(self, machine: str) -> Occupancy:
        """The units placed on the machine, with the proposal."""
        return self._occupancies.get(machine) or self.snapshot.occupancy(machine)

    def is_placed(self, name: str, machine: str) -> bool:
        """True if the unit has a placement on the machine, withdrawn or not, with the proposal."""
        plan = self.units.get(name)
        return machine in (self.snapshot.placements.get(name, ()) if plan is None else plan.placements)

    def machines_with(self, name: str) -> Names:
        """The machines with the unit, or with instances of the template, of this name, with the proposal; perhaps
        others."""
        return self.snapshot.machines_with(name) | self._arrivals.get(name, {})

    def occupy(self, name: str, machine: str, requirements: Requirements) -> None:
        """The unit is placed on this machine, with these requirements."""
        self.vacate(name, machine)
        self._occupancies[machine].add(name, requirements, staying=True)
        for arrival in filter(None, (name, template_of(name))):
            self._arrivals.setdefault(arrival, {})[machine] = None

    def withdraw(self, name: str, machine: str, requirements: Requirements) -> None:
        """The unit is withdrawn from this machine. It still conflicts with others until it has stopped."""
        self.vacate(name, machine)
        self._occupancies[machine].add(name, requirements, staying=False)

    def vacate(self, name: str, machine: str) -> None:
        """The unit is gone from this machine, or superseded there. An occupancy is copied when it is first changed."""
        occupancy = self._occupancies.get(machine)
        if occupancy is None:
            occupancy = self._occupancies[machine] = self.snapshot.occupancy(machine).copy()
        occupancy.discard(name)

    def apply(self, plan: UnitPlanBuilder, action: Action | None) -> None:
        """Carry out an action in the plan of one unit and in the occupancies. None does nothing."""
        if action is None:
            return
        match action:  # the most frequent first
            case Place():
                self._place(plan, action)
            case FindMachine():
                plan.unplaced = True
            case Keep(machine):
                self.occupy(plan.name, machine, plan.requirements_on(machine))
            case Withdraw(machine, because, reruns):
                plan.eviction = Eviction(machine, because) if because else plan.eviction
                _leave(plan, machine, reruns=reruns)
                former = plan.placements[machine]
                generation = max(plan.generation, former.generation)
                target = TargetState.INACTIVE
                order = Placement(machine, plan.name, former.text, target, generation, dropins=former.dropins)
                plan.write(msgspec.structs.replace(order, isolation_hold_s=former.isolation_hold_s))
                self.withdraw(plan.name, machine, requirements_of(former.content, plan.name))
            case Supersede(machine, hands_over=True):
                former = plan.placements[machine]
                plan.write(msgspec.structs.replace(former, superseded=True, hands_over=True))
                _leave(plan, machine)
                self.withdraw(plan.name, machine, requirements_of(former.content, plan.name))
            case Supersede(machine):
                assert plan.unit is not None
                unit = plan.unit
                order = Placement(machine, plan.name, unit.text, unit.target, unit.generation, dropins=unit.dropins)
                plan.write(msgspec.structs.replace(order, superseded=True))
                _leave(plan, machine)
                self.vacate(plan.name, machine)
            case Forget(machine, reruns):
                plan.delete(machine)
                _leave(plan, machine, reruns=reruns)
                self.vacate(plan.name, machine)
            case Decline(machine):
                plan.write(msgspec.structs.replace(plan.placements[machine], declined=True, prepares=False))
                self.vacate(plan.name, machine)
            case Prepare(machine):
                plan.prepares_on = machine
                order = plan.preparation_on(machine)
                if plan.placements.get(machine) != order:
                    plan.write(order)
                    self.vacate(plan.name, machine)
            case WaitForMachine(reason, lost_at, until_s):
                plan.reason, plan.lost_at = reason, lost_at
                self.wake(plan.name, until_s)
            case AwaitIsolation(until_s):
                self.wake(plan.name, until_s)
            case Wait(reason):
                plan.waits = without_eviction(reason) if isinstance(reason, WaitingForStop) else reason
                plan.reason = reason
            case _:  # WaitForPeer, Conclude
                plan.reason = action.reason
                plan.unplaced = False
        self.budget.note_change(plan.name)

    def _place(self, plan: UnitPlanBuilder, action: Place) -> None:
        machine = action.machine
        placement = plan.placement_on(machine)
        plan.reason = action.reason or plan.reason
        plan.unplaced = False
        plan.assigned = machine
        if plan.placements.get(machine) != placement:
            plan.write(placement)
            self.occupy(plan.name, machine, plan.requirements_on(machine))


def _leave(plan: UnitPlanBuilder, machine: str, *, reruns: bool = False) -> None:
    """The unit is assigned to this machine no longer."""
    if plan.assigned == machine:
        plan.assigned = ""
    if reruns:
        plan.completed = 0
