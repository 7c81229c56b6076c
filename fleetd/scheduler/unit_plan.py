"""The plan for one unit: what to write, and the builder that controllers fill in."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import msgspec

from fleetd.model.constraints import Requirements
from fleetd.model.content import Content, HasContent, is_same_content
from fleetd.model.group import UpdateAction, group_of
from fleetd.model.names import is_template
from fleetd.model.ordered import Names
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import MOVED, Eviction, Hold, PeerWait, Reason, Rejection
from fleetd.model.requirements import requirements_of
from fleetd.model.secret import SecretRef
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.scheduler.allocation_state import AllocationState, classify
from fleetd.scheduler.isolation import former_hold_s
from fleetd.scheduler.snapshot import Snapshot

_NOTHING = Requirements()
# Shared by all plans, most of which change nothing: one that does gets mappings of its own before.
_NONE = cast(dict[str, Any], MappingProxyType({}))


class UnitPlan(msgspec.Struct, frozen=True, gc=False):
    """What to write for one unit, in one transaction guarded by the revision of its decision.

    `placements` are written; those on the machines in `deletes` are deleted; `decision` is written, or deleted if None.
    `ended_move` is the revision of the Move of this unit that is deleted (0: none is).
    """

    unit: str
    revision: int
    placements: tuple[Placement, ...]
    deletes: tuple[str, ...]
    decision: Decision | None
    ended_move: int = 0


class ProofRequest(msgspec.Struct, frozen=True, gc=False):
    """The proof of health that a placement asks for (Placement.prove_after_s, Placement.prove_within_s)."""

    after_s: float | None
    within_s: float | None


class UnitPlanBuilder(msgspec.Struct, eq=False, gc=False):
    """The plan for one unit while it is made: its placements as they will be, and what is to be said of them.
    Proposal.apply changes it.

    `scope` are the machines on which there may be something to decide; None: all. `is_template`: it does not run, but
    sockets need its file. `is_on_many`: it is placed wherever it fits, because it is global, or a template, which is
    placed where its sockets are. No builder refers to another, so gc=False is safe, and spares the collector a large
    cluster.
    """

    snapshot: Snapshot
    name: str
    scope: Names | None = None
    unit: Unit | None = None
    requirements: Requirements = _NOTHING  # of the unit as it is now
    is_wanted: bool = False
    is_template: bool = False
    is_on_many: bool = False
    former: Mapping[str, Placement] = _NONE  # by machine
    placements: dict[str, Placement] = _NONE  # as they will be, by machine
    changes: dict[str, Placement | None] = _NONE  # what is written, by machine; None: the placement is deleted
    states: Mapping[str, UnitState] = _NONE
    before: Decision | None = None
    assigned: str = ""  # the machine that the unit is assigned to, or ''
    completed: int = 0  # the generation whose oneshot ran to its end
    unplaced: bool = False  # it needs a machine, and none is known
    waits: PeerWait | None = None  # for what, before it can be placed
    leaves: Mapping[str, Rejection] = _NONE  # the machines that it is to leave, and why
    stays: Reason | None = None  # why it stays on a machine that it was to leave
    prepares_on: str = ""  # the machine that gets what it needs, before it moves there
    move_to: str = ""  # the machine that it moves to
    arrival: Reason = MOVED  # why it is there, once it is
    ended_move: int = 0  # the revision of its Move, which is over
    lost_at: float = 0.0  # Unix time since when the machine that it waits for is lost
    reason: Reason | None = None
    eviction: Eviction | None = None  # why it may not stay where it was
    held: Mapping[str, Content] = _NONE  # by machine, '' for all: content kept instead of the unit's, by a rollout
    proofs: Mapping[str, ProofRequest] = _NONE  # by machine, '' for all: asked for by a rollout, a drain or a move
    ended: Mapping[str, None] = _NONE  # machines, '' for all: a oneshot that a rollout reverted is not run again there
    acts_at_once: bool = False  # it was started, stopped or restarted since its rollout began: with held content, too

    @classmethod
    def begin(cls, snapshot: Snapshot, name: str, scope: Names | None = None) -> "UnitPlanBuilder":
        """A builder that starts from the snapshot."""
        unit, before = snapshot.units.get(name), snapshot.decisions.get(name)
        former = snapshot.placements.get(name, _NONE)
        requirements = snapshot.requirements(name) if unit else _NOTHING
        template = is_template(name)
        return cls(
            snapshot,
            name,
            scope,
            unit=unit,
            requirements=requirements,
            is_wanted=snapshot.is_wanted(name),
            is_template=template,
            is_on_many=requirements.is_global or template,
            former=former,
            placements=former,
            states=snapshot.states.get(name, _NONE),
            before=before,
            assigned=snapshot.assigned_machine(name) if former else "",
            completed=before.completed if before else 0,
            move_to=before.target if before else "",
            arrival=(before.arrival if before else None) or MOVED,
        )

    @property
    def generation(self) -> int:
        """The unit's generation; of a destroyed unit, the last one decided."""
        return self.unit.generation if self.unit else self.before.generation if self.before else 0

    def held_content(self, machine: str) -> Content | None:
        """The content that the unit is to keep on this machine, or None if it is to have the present one."""
        return self.held.get(machine) or self.held.get("") if self.held else None

    def requirements_on(self, machine: str) -> Requirements:
        """What the content requires that the unit is to have on this machine."""
        held = self.held_content(machine)
        return self.requirements if held is None or self.is_template else requirements_of(held, self.name)

    def placement_on(self, machine: str) -> Placement:
        """The placement on this machine with the target and the content that the unit is to have there."""
        assert self.unit is not None
        unit, former, held = self.unit, self.placements.get(machine), self.held_content(machine)
        content = held or unit
        proof = self.proofs.get(machine) or self.proofs.get("") if self.proofs else None
        if former is not None and former.is_active and is_same_content(former, content):
            is_left_alone = held is not None and not self.acts_at_once
            if is_left_alone and proof is None and former.target is self.target:
                return former
            if proof is None and former.generation == unit.generation:  # an answered question is not taken back
                proof = ProofRequest(former.prove_after_s, former.prove_within_s)
        if proof is not None and not self.snapshot.answers_proofs(machine):
            proof = None
        return Placement(
            machine,
            self.name,
            content.text,
            self.target,
            unit.generation,
            completed=self.completed == unit.generation or self._is_ended(machine),
            restart_of=unit.restart_of if held is None or self.acts_at_once else 0,
            dropins=content.dropins,
            prove_after_s=proof.after_s if proof else None,
            prove_within_s=proof.within_s if proof else None,
            update=self._update_on(former, content),
            secrets=self._secrets_on(machine, former, content),
            isolation_hold_s=former_hold_s(former, content, self.states.get(machine)),
        )

    def preparation_on(self, machine: str) -> Placement:
        """The placement that has this machine get what the unit needs with the content that it is to have there."""
        assert self.unit is not None
        content = self.held_content(machine) or self.unit
        target = TargetState.INACTIVE
        generation = self.unit.generation
        return Placement(machine, self.name, content.text, target, generation, dropins=content.dropins, prepares=True)

    def _secrets_on(self, machine: str, former: Placement | None, content: HasContent) -> tuple[SecretRef, ...]:
        """The versions of the unit's secrets on this machine: the present ones. One that nothing starts anew there, and
        one that a rollout has not got to yet, keeps those that it has, as long as there are."""
        names = self.requirements_on(machine).secrets
        if not names:
            return ()
        assert self.unit is not None
        kept: dict[str, int] = {}
        is_same = former is not None and former.is_active and is_same_content(former, content)
        if former is not None and is_same and former.generation == self.unit.generation:
            kept = {ref.name: ref.version for ref in former.secrets}
        elif self.held_content(machine) is not None and not self.acts_at_once:  # also where its machine was lost
            kept = {ref.name: ref.version for placement in self.former.values() for ref in placement.secrets}
        return tuple([self.snapshot.pick_secret(name, kept.get(name, 0)) for name in names])

    def _is_ended(self, machine: str) -> bool:
        return not self.acts_at_once and (machine in self.ended or "" in self.ended)

    def _update_on(self, former: Placement | None, content: HasContent) -> UpdateAction:
        """What the machine is to do about changed content: it may not have carried out the last change yet."""
        if former is None or not former.is_active:
            return UpdateAction.AUTO
        if is_same_content(former, content):
            return former.update
        return self.snapshot.group_options(group_of(self.name)).action

    @property
    def target(self) -> TargetState:
        """The target of its placements."""
        assert self.unit is not None
        return TargetState.LOADED if self.is_template else self.unit.target

    @property
    def is_to_run(self) -> bool:
        """True if the unit is to run, and is not a oneshot that has completed."""
        is_launched = self.unit is not None and self.unit.target is TargetState.LAUNCHED
        return is_launched and self.completed != self.generation

    @property
    def is_single(self) -> bool:
        """True for a unit that must never run twice (IsolationSec=)."""
        return self.requirements.isolation.is_single and not self.is_on_many

    @property
    def handed_over_from(self) -> str:
        """The machine where the unit runs on until it is proven where it moves to; '' if it starts nowhere first."""
        return next((machine for machine, placement in self.placements.items() if placement.hands_over), "")

    def allocation_state(self, machine: str) -> AllocationState:
        """What the unit is on this machine, with the plan so far."""
        placement, state = self.placements.get(machine), self.states.get(machine)
        if placement is None and state is None:
            return AllocationState.ABSENT
        found = classify(placement, state, self.snapshot.presence(machine), is_to_run=self.is_to_run)
        # A parked machine gets no placement that its last report could be taken for, and nobody there deletes it.
        return AllocationState.ABSENT if found is AllocationState.UNCONFIRMED and self.is_parked(machine) else found

    def is_alone(self) -> bool:
        """True if nothing is known of the unit beside the machine that it is assigned to."""
        here = (self.assigned,)
        return tuple(self.placements) == here and (not self.states or tuple(self.states) == here)

    def allocation_states(self) -> dict[str, AllocationState]:
        """What the unit is on each machine that has a placement or a report of it, in order of machines."""
        return {machine: self.allocation_state(machine) for machine in sorted({**self.placements, **self.states})}

    def is_in_scope(self, machine: str) -> bool:
        """True if there may be something to decide on this machine."""
        return self.scope is None or machine in self.scope

    def scoped_placements(self) -> list[str]:
        """The machines whose placements are to be reviewed, in order."""
        if self.scope is None:
            return list(self.placements)
        return [machine for machine in sorted(self.scope) if machine in self.placements]

    def scoped_machines(self) -> list[str]:
        """The registered machines to consider, in order."""
        if self.scope is None:
            return list(self.snapshot.machines)
        return [machine for machine in sorted(self.scope) if machine in self.snapshot.machines]

    def note_completion(self) -> None:
        """Record that the oneshot has run to its end, if its machine reports that."""
        state = self.states.get(self.assigned)
        if state is not None and state.completed and state.generation >= self.generation:
            self.completed = self.generation

    def is_orphan(self, machine: str) -> bool:
        """True if the agent keeps the unit running since the store was restored, and ignores a withdrawal."""
        return machine in self.states and self.states[machine].orphan

    def is_parked(self, machine: str) -> bool:
        """True if the machine is registered, but its fleetd was stopped."""
        record = self.snapshot.effective.get(machine)
        return record is not None and record.hold is not None

    def hold_on(self, machine: str) -> Hold | None:
        """Why the machine does not stop the unit as it is told to, or None."""
        return Hold.ORPHANED if self.is_orphan(machine) else Hold.PARKED if self.is_parked(machine) else None

    def write(self, placement: Placement) -> None:
        """Have this placement written."""
        self._begin_to_change()
        self.changes[placement.machine] = self.placements[placement.machine] = placement

    def delete(self, machine: str) -> None:
        """Have the placement on this machine deleted."""
        self._begin_to_change()
        self.changes[machine] = None
        del self.placements[machine]

    def _begin_to_change(self) -> None:
        if not self.changes:
            self.placements, self.changes = dict(self.former), {}

    @property
    def written(self) -> tuple[Placement, ...]:
        """The placements to write, in the order in which they were proposed."""
        return tuple(filter(None, self.changes.values()))

    @property
    def deleted(self) -> tuple[str, ...]:
        """The machines whose placements are to be deleted."""
        return tuple([machine for machine, placement in self.changes.items() if placement is None])

    def turn(self) -> tuple[int, str]:
        """Sort key of the plan: what only takes back comes first, then what stays, then what is new; within these by
        machine."""
        stage, first_machine = 0, ""
        if not self.changes:
            return stage, first_machine
        for machine, placement in self.changes.items():
            if placement is None:
                continue
            first_machine = first_machine or machine
            if placement.is_active:
                former = self.former.get(machine)
                stage = max(stage, 1 if former is not None and former.is_active else 2)
        return stage, first_machine
