"""The plan for one unit in the making: what is ordered and withdrawn, and the decision that says so.

What is right for the unit is not decided here: its copies are copies.py's matter, where it goes planner.py's.
"""

import math
from collections.abc import Mapping

import msgspec

from fleetd.model.constraints import Requirements
from fleetd.model.machine import MachineMode
from fleetd.model.names import is_template
from fleetd.model.ordered import Names
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import (
    EVERYWHERE,
    INFEASIBLE,
    NO_MACHINES,
    WITH_SOCKETS,
    Absence,
    Eviction,
    Hold,
    PeerWait,
    Placed,
    Reason,
    RejectionCount,
    Rule,
    Stopping,
    WaitingForMachine,
    WaitingForPeer,
    WaitingForRoom,
    WaitingForStop,
    is_waiting,
    without_eviction,
)
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.scheduler.failover import FailoverDelays
from fleetd.scheduler.feasibility import Candidate, count_rejections, find_stopping
from fleetd.scheduler.snapshot import Proposal, Snapshot, requirements_of

_NOTHING = Requirements()


class UnitPlan(msgspec.Struct, frozen=True, gc=False):
    """All that is to be written for one unit, in one transaction guarded by the revision of its decision.

    `orders` are written, `cancels` are machines whose order is deleted; `decision` is written, or, where it is None,
    deleted.
    """

    unit: str
    revision: int
    orders: tuple[Placement, ...]
    cancels: tuple[str, ...]
    decision: Decision | None


class UnitPlanBuilder(msgspec.Struct, eq=False, gc=False):
    """The plan for one unit in the making. Whatever it orders is tried on the trial at once.

    `scope` are the machines where there may be something to decide; None: wherever the unit is or may go. No draft
    knows another, so the collector, which would look at all of a large cluster again and again, need not see them.
    """

    proposal: Proposal
    name: str
    now_s: float
    scope: Names | None = None
    unit: Unit | None = None
    requirements: Requirements = _NOTHING  # as a person now wants them
    is_wanted: bool = False
    placements: dict[str, Placement] = {}  # as they will be
    states: Mapping[str, UnitState] = {}
    before: Decision | None = None
    completed: int = 0
    unplaced: bool = False
    waits: PeerWait | None = None  # for what, before it can be placed
    waits_until_s: float = math.inf  # by the leader's own clock, for a home that is lost
    _former: Mapping[str, Placement] = {}
    _lost: float = 0.0  # since when the home is lost, in Unix time
    _reason: Reason | None = None
    _eviction: Eviction | None = None  # why it may not stay where it was
    _orders: dict[str, Placement] = {}
    _cancels: dict[str, None] = {}

    @classmethod
    def begin(cls, proposal: Proposal, name: str, now_s: float, scope: Names | None = None) -> "UnitPlanBuilder":
        """With what is known of the unit."""
        snapshot = proposal.snapshot
        unit, before = snapshot.units.get(name), snapshot.decisions.get(name)
        former = snapshot.placements.get(name)
        return cls(
            proposal,
            name,
            now_s,
            scope,
            unit=unit,
            requirements=snapshot.requirements(name) if unit else _NOTHING,
            is_wanted=snapshot.is_wanted(name),
            placements=dict(former) if former else {},
            states=snapshot.states.get(name, {}),
            before=before,
            completed=before.completed if before else 0,
            _former=former or {},
        )

    @property
    def snapshot(self) -> Snapshot:
        """The cluster that is planned for."""
        return self.proposal.snapshot

    @property
    def generation(self) -> int:
        """The generation of what is wanted now; of a unit that is destroyed, the last one decided."""
        return self.unit.generation if self.unit else self.before.generation if self.before else 0

    @property
    def assigned_machine(self) -> str:
        """Where the unit is to be, or ''."""
        return self.proposal.assigned_machine(self.name)

    @property
    def is_global(self) -> bool:
        """Whether the unit is wherever it fits: it is global, or a template, which is where its sockets are."""
        return self.requirements.is_global or self.is_template

    @property
    def is_template(self) -> bool:
        """Whether it is a template: not to be run, but needed by sockets."""
        return is_template(self.name)

    @property
    def target(self) -> TargetState:
        """What a machine is to make of it."""
        assert self.unit is not None
        return TargetState.LOADED if self.is_template else self.unit.target

    def turn(self) -> tuple[int, str]:
        """When the plan is to be written: what is taken back first, then what stays, then what comes; of that, what
        the same machine gets together."""
        stage, first_machine = 0, ""
        for machine, order in self._orders.items():
            first_machine = first_machine or machine
            if order.is_active:
                former = self._former.get(machine)
                stage = max(stage, 1 if former is not None and former.is_active else 2)
        return stage, first_machine

    def orders(self) -> list[tuple[str, Placement]]:
        """The orders to be looked at, by machine, in order."""
        if self.scope is None:
            return list(self.placements.items())
        return [(machine, self.placements[machine]) for machine in sorted(self.scope) if machine in self.placements]

    def machines(self) -> list[str]:
        """The machines to be looked at, in order."""
        if self.scope is None:
            return list(self.snapshot.machines)
        return [machine for machine in sorted(self.scope) if machine in self.snapshot.machines]

    def candidate(self, machine: str) -> Candidate:
        """May the unit be on this machine?"""
        return Candidate(self.proposal, self.name, self.requirements, machine)

    def place(self, machine: str, reason: Reason | None = None) -> None:
        """Order the unit to be on this machine as a person wants it now (no change where that is the order already)."""
        assert self.unit is not None
        done = self.completed == self.generation
        unit = self.unit
        order = Placement(
            machine,
            self.name,
            unit.text,
            self.target,
            unit.generation,
            completed=done,
            restart_of=unit.restart_of,
        )
        self._reason = reason or self._reason
        self.unplaced = False
        if self.placements.get(machine) != order:
            self._order(order)
            self.proposal.place(self.name, machine, self.requirements)

    def evict(self, eviction: Eviction) -> None:
        """Order the unit away from the machine where it may not stay."""
        self._eviction = eviction
        self.withdraw(eviction.machine)

    def withdraw(self, machine: str) -> None:
        """Order the unit away from this machine."""
        former = self.placements[machine]
        generation = max(self.generation, former.generation)
        self._order(Placement(machine, self.name, former.text, TargetState.INACTIVE, generation))
        self.proposal.withdraw(self.name, machine, requirements_of(former.text, self.name))

    def supersede(self, machine: str) -> None:
        """Let the copy on this machine run on until its replacement does."""
        assert self.unit is not None
        order = Placement(machine, self.name, self.unit.text, self.unit.target, self.unit.generation, superseded=True)
        self._order(order)
        self.proposal.vacate(self.name, machine)

    def cancel(self, machine: str) -> None:
        """Delete the order to this machine: it is carried out, or nobody is left to carry it out."""
        self._cancels[machine] = None
        self._orders.pop(machine, None)
        del self.placements[machine]
        self.proposal.vacate(self.name, machine)

    def decline(self, machine: str) -> None:
        """Nothing of the unit is on this machine, which refuses it: have it say when it no longer does."""
        self._order(msgspec.structs.replace(self.placements[machine], declined=True))
        self.proposal.vacate(self.name, machine)

    def lose(self, machine: str, waits: FailoverDelays) -> None:
        """This machine, which had an order, is dead: wait for it if that is the home, and the unit is to wait."""
        if waits.is_waiting(self.name, machine) and self._is_only_home(machine):
            self.waits_until_s = waits.end_s(self.name, machine)
            self._lost = waits.loss(machine).at
            self._reason = WaitingForMachine(machine, Absence.LOST, waits.until(self.name, machine))
            return
        if self.placements[machine].is_active and waits.runs_again(self.name):
            self.completed = 0
        self.cancel(machine)

    def _is_only_home(self, machine: str) -> bool:
        """Whether nothing of the unit is or may stay anywhere else, so that it loses nothing by waiting."""
        is_active = [where for where, order in self.placements.items() if order.is_active]
        goes = [where for where, order in self.placements.items() if order.is_leaving]
        runs = [where for where, state in self.states.items() if state.runs and where not in goes]
        return is_active == [machine] and not any(where in self.snapshot.machines for where in runs)

    def conclude(self, reason: Reason) -> None:
        """Record why the unit is on no machine and need not be placed."""
        self._reason = reason

    def wait(self, reason: PeerWait) -> None:
        """Record what has to happen before the unit can be placed."""
        self.unplaced = False
        self.waits = without_eviction(reason) if isinstance(reason, WaitingForStop) else reason
        self._reason = reason

    def wait_for_stop(self, machine: str) -> None:
        """The unit waits until it is stopped on this machine. Why it may not stay there is kept from pass to pass."""
        before = self.before.reason if self.before else None
        because = self._eviction or (before.because if isinstance(before, WaitingForStop) else None)
        hold = Hold.ORPHANED if self.is_orphan(machine) else Hold.PARKED if self.is_parked(machine) else None
        self.wait(WaitingForStop(machine, because, hold))

    def wait_for_peer(self, reason: WaitingForPeer) -> None:
        """The unit waits for another one that is placed with it."""
        self.unplaced = False
        self._reason = reason

    def wait_for_parked(self, machine: str) -> None:
        """The unit stays on this machine, or is to leave it, and the machine carries out neither while it is parked."""
        self._reason = WaitingForMachine(machine, Absence.PARKED)

    def is_orphan(self, machine: str) -> bool:
        """Whether the machine only keeps the unit running, and does not carry out that it is to go."""
        return machine in self.states and self.states[machine].orphan

    def is_parked(self, machine: str) -> bool:
        """Whether the machine is there, but its fleetd was stopped."""
        record = self.snapshot.machines.get(machine)
        return record is not None and record.mode is MachineMode.PARKED

    def finish(self) -> UnitPlan | None:
        """The plan, or None where nothing changes. To be called when everything is tried on the trial."""
        decision = self._decide()
        if decision == self.before and not self._orders and not self._cancels:
            return None
        revision = self.before.revision if self.before else 0
        return UnitPlan(self.name, revision, tuple(self._orders.values()), tuple(self._cancels), decision)

    def _order(self, order: Placement) -> None:
        self._orders[order.machine] = order
        self._cancels.pop(order.machine, None)
        self.placements[order.machine] = order

    def _decide(self) -> Decision | None:
        wanted = self.is_wanted
        if not wanted and not self.placements:
            return None
        is_global = wanted and self.is_global
        assigned = "" if is_global else self.assigned_machine
        here = [machine for machine, order in self.placements.items() if order.is_active] if is_global else []
        rejections = count_rejections(self.proposal, self.name, here) if is_global or self.unplaced else ()
        if self.unplaced and rejections:
            self._wait_for_room()
        return Decision(
            unit=self.name,
            generation=self.generation,
            machine=assigned,
            machines=len(here),
            since=self.before.since if self.before and self.before.machine == assigned else self.now_s,
            reason=self._conclude(assigned, here, rejections),
            rejections=rejections,
            completed=self.completed,
            lost=self._decide_lost(assigned),
            revision=self.before.revision if self.before else 0,
        )

    def _wait_for_room(self) -> None:
        """Where the unit fits nowhere, but will as soon as another one has stopped: say which, and where."""
        found = find_stopping(self.proposal, self.name)
        if found:
            self._reason = WaitingForRoom(*found)

    def _decide_lost(self, assigned: str) -> float:
        """A machine that may be alive after all is waited for as before, until it is back."""
        if assigned in self.snapshot.away and self.before and self.before.machine == assigned:
            return self.before.lost
        return self._lost if assigned and self.snapshot.is_dead(assigned) else 0.0

    def _conclude(self, assigned: str, here: list[str], rejections: tuple[RejectionCount, ...]) -> Reason | None:
        """The reason to be stored with the decision."""
        if not self.is_wanted:
            return self._reason_to_stop()
        if self._reason:
            return self._reason
        if assigned:
            return self._reason_as_before(assigned, self.before)
        if here:
            return WITH_SOCKETS if self.is_template else EVERYWHERE
        return INFEASIBLE if rejections else NO_MACHINES

    def _reason_as_before(self, assigned: str, before: Decision | None) -> Reason | None:
        """Of a unit that stays where it was: the reason as it was, unless it waited for that machine, which is back."""
        if before is None or before.machine != assigned:
            return None
        if assigned in self.snapshot.machines and is_waiting(before.reason):
            return Placed(Rule.BACK, machine=assigned)
        return before.reason

    def _reason_to_stop(self) -> Reason:
        """What still keeps a unit on machines that is not to be on any."""
        orphaned = tuple(machine for machine in self.placements if self.is_orphan(machine))
        if orphaned:
            return Stopping(orphaned, Hold.ORPHANED)
        parked = next((machine for machine in self.placements if self.is_parked(machine)), "")
        return WaitingForMachine(parked, Absence.PARKED) if parked else Stopping(tuple(self.placements))
