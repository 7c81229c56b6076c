"""The plan for one unit while it is made: its placements as they will be, and the decision that explains them."""

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
    """What to write for one unit, in one transaction guarded by the revision of its decision.

    `placements` are written; those on the machines in `deletes` are deleted; `decision` is written, or deleted if None.
    """

    unit: str
    revision: int
    placements: tuple[Placement, ...]
    deletes: tuple[str, ...]
    decision: Decision | None


class UnitPlanBuilder(msgspec.Struct, eq=False, gc=False):
    """The plan for one unit while it is made. Every change is made on the proposal at once.

    `scope` are the machines on which there may be something to decide; None: all. No builder refers to another, so
    gc=False is safe, and spares the collector a large cluster.
    """

    proposal: Proposal
    name: str
    now_s: float
    scope: Names | None = None
    unit: Unit | None = None
    requirements: Requirements = _NOTHING  # of the unit as it is now
    is_wanted: bool = False
    placements: dict[str, Placement] = {}  # as they will be, by machine
    states: Mapping[str, UnitState] = {}
    before: Decision | None = None
    completed: int = 0
    unplaced: bool = False
    waits: PeerWait | None = None  # for what, before it can be placed
    waits_until_s: float = math.inf  # leader-clock deadline for its lost machine
    _former: Mapping[str, Placement] = {}
    _lost: float = 0.0  # Unix time since when its machine is lost
    _reason: Reason | None = None
    _eviction: Eviction | None = None  # why it may not stay where it was
    _written: dict[str, Placement] = {}
    _deletes: dict[str, None] = {}

    @classmethod
    def begin(cls, proposal: Proposal, name: str, now_s: float, scope: Names | None = None) -> "UnitPlanBuilder":
        """A builder that starts from the snapshot."""
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
        """The unit's generation; of a destroyed unit, the last one decided."""
        return self.unit.generation if self.unit else self.before.generation if self.before else 0

    @property
    def assigned_machine(self) -> str:
        """The machine that the unit is assigned to, or ''."""
        return self.proposal.assigned_machine(self.name)

    @property
    def is_global(self) -> bool:
        """True if the unit is placed wherever it fits: it is global, or a template, which is placed where its sockets
        are."""
        return self.requirements.is_global or self.is_template

    @property
    def is_template(self) -> bool:
        """True for a template: it does not run, but sockets need its file."""
        return is_template(self.name)

    @property
    def target(self) -> TargetState:
        """The target of its placements."""
        assert self.unit is not None
        return TargetState.LOADED if self.is_template else self.unit.target

    def turn(self) -> tuple[int, str]:
        """Sort key of the plan: what only takes back comes first, then what stays, then what is new; within these by
        machine."""
        stage, first_machine = 0, ""
        for machine, placement in self._written.items():
            first_machine = first_machine or machine
            if placement.is_active:
                former = self._former.get(machine)
                stage = max(stage, 1 if former is not None and former.is_active else 2)
        return stage, first_machine

    def scoped_placements(self) -> list[tuple[str, Placement]]:
        """The (machine, placement) to review, in order of machines."""
        if self.scope is None:
            return list(self.placements.items())
        return [(machine, self.placements[machine]) for machine in sorted(self.scope) if machine in self.placements]

    def machines(self) -> list[str]:
        """The machines to consider, in order."""
        if self.scope is None:
            return list(self.snapshot.machines)
        return [machine for machine in sorted(self.scope) if machine in self.snapshot.machines]

    def candidate(self, machine: str) -> Candidate:
        """The unit as a candidate for this machine."""
        return Candidate(self.proposal, self.name, self.requirements, machine)

    def place(self, machine: str, reason: Reason | None = None) -> None:
        """Place the unit on this machine with its present text and target. `reason` None: the reason stays."""
        assert self.unit is not None
        done = self.completed == self.generation
        unit = self.unit
        placement = Placement(
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
        if self.placements.get(machine) != placement:
            self._write(placement)
            self.proposal.place(self.name, machine, self.requirements)

    def evict(self, eviction: Eviction) -> None:
        """Withdraw the unit from the machine where it may not stay."""
        self._eviction = eviction
        self.withdraw(eviction.machine)

    def withdraw(self, machine: str) -> None:
        """Withdraw the unit from this machine."""
        former = self.placements[machine]
        generation = max(self.generation, former.generation)
        self._write(Placement(machine, self.name, former.text, TargetState.INACTIVE, generation))
        self.proposal.withdraw(self.name, machine, requirements_of(former.text, self.name))

    def supersede(self, machine: str) -> None:
        """Let the allocation on this machine run on until its replacement runs."""
        assert self.unit is not None
        placement = Placement(
            machine, self.name, self.unit.text, self.unit.target, self.unit.generation, superseded=True
        )
        self._write(placement)
        self.proposal.vacate(self.name, machine)

    def delete(self, machine: str) -> None:
        """Delete the placement on this machine: it is carried out, or the machine is dead."""
        self._deletes[machine] = None
        self._written.pop(machine, None)
        del self.placements[machine]
        self.proposal.vacate(self.name, machine)

    def decline(self, machine: str) -> None:
        """Nothing of the unit is on this machine, which refuses it: keep the placement, so that it reports when it does
        not."""
        self._write(msgspec.structs.replace(self.placements[machine], declined=True))
        self.proposal.vacate(self.name, machine)

    def lose_machine(self, machine: str, waits: FailoverDelays) -> None:
        """This machine, which has a placement, is dead: wait for it if the unit is assigned to it and is to wait."""
        if waits.is_waiting(self.name, machine) and self._is_only_allocation(machine):
            self.waits_until_s = waits.end_s(self.name, machine)
            self._lost = waits.loss(machine).at
            self._reason = WaitingForMachine(machine, Absence.LOST, waits.until(self.name, machine))
            return
        if self.placements[machine].is_active and waits.runs_again(self.name):
            self.completed = 0
        self.delete(machine)

    def _is_only_allocation(self, machine: str) -> bool:
        """True if the unit neither runs nor may stay on any other machine, so that nothing is lost by waiting."""
        is_active = [where for where, placement in self.placements.items() if placement.is_active]
        goes = [where for where, placement in self.placements.items() if placement.is_leaving]
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
        """True if the agent keeps the unit running since the store was restored, and ignores a withdrawal."""
        return machine in self.states and self.states[machine].orphan

    def is_parked(self, machine: str) -> bool:
        """True if the machine is registered, but its fleetd was stopped."""
        record = self.snapshot.machines.get(machine)
        return record is not None and record.mode is MachineMode.PARKED

    def finish(self) -> UnitPlan | None:
        """The plan, or None if nothing changes. To be called when the proposal is complete."""
        decision = self._decide()
        if decision == self.before and not self._written and not self._deletes:
            return None
        revision = self.before.revision if self.before else 0
        return UnitPlan(self.name, revision, tuple(self._written.values()), tuple(self._deletes), decision)

    def _write(self, placement: Placement) -> None:
        self._written[placement.machine] = placement
        self._deletes.pop(placement.machine, None)
        self.placements[placement.machine] = placement

    def _decide(self) -> Decision | None:
        wanted = self.is_wanted
        if not wanted and not self.placements:
            return None
        is_global = wanted and self.is_global
        assigned = "" if is_global else self.assigned_machine
        here = [machine for machine, placement in self.placements.items() if placement.is_active] if is_global else []
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
        """Since when the unit waits for its dead machine. One that may be alive is waited for as before, until it is
        back."""
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
