"""What becomes of the copies of one unit: which stay, which go, which only retire, and whether it needs a home.

An order leaves in two steps: it is withdrawn, and deleted once the machine reports the unit gone. Until then the unit
is placed nowhere else, so that one copy runs. Only a machine that is dead is not waited for; a copy that outlived a
cut retires beside its replacement. Where a unit without a home goes is schedule.py's matter.
"""

import msgspec

from fleetd.core.cluster import Trial
from fleetd.core.feasibility import Question, count_refusals, has_no_conflict, why_leave, why_not
from fleetd.core.machine import SHORT_ID_LENGTH, MachineMode
from fleetd.core.placement import Decision, Placement
from fleetd.core.unit import TargetState, UnitState


class UnitPlan(msgspec.Struct, frozen=True):
    """All that is to be written for one unit, in one transaction guarded by the revision of its decision.

    `orders` are written, `cancels` are machines whose order is deleted; `decision` is written, or, where it is None,
    deleted.
    """

    unit: str
    revision: int
    orders: tuple[Placement, ...]
    cancels: tuple[str, ...]
    decision: Decision | None
    position: int = 0

    @property
    def places(self) -> tuple[bool, int]:
        """Sorts what is taken back before what is placed, and peers before those who follow them."""
        return (any(not order.withdrawn for order in self.orders), self.position)


class Draft:
    """The plan for one unit in the making. Whatever it orders is tried on the trial at once."""

    def __init__(self, trial: Trial, name: str, now_s: float) -> None:
        self.trial = trial
        self.view = trial.view
        self.name = name
        self.unit = self.view.units.get(name)
        self.placements = dict(self.view.placements.get(name, {}))  # as they will be
        self.states = self.view.states.get(name, {})
        self.before = self.view.decisions.get(name)
        self.completed = self.before.completed if self.before else 0
        self.homeless = False
        self.position = 0
        self._now_s = now_s
        self._reason = ""
        self._refusals: dict[str, int] = {}
        self._orders: dict[str, Placement] = {}
        self._cancels: dict[str, None] = {}

    @property
    def generation(self) -> int:
        """The generation of what is wanted now; of a unit that is destroyed, the last one decided."""
        return self.unit.generation if self.unit else self.before.generation if self.before else 0

    @property
    def home(self) -> str:
        """Where the unit is to be, or ''."""
        return self.trial.home(self.name)

    def question(self, machine: str) -> Question:
        """May the unit be on this machine?"""
        return Question(self.trial, self.name, self.view.requirements(self.name), machine)

    def place(self, machine: str, reason: str = "") -> None:
        """Order the unit to be on this machine as a person wants it now (no change where that is the order already)."""
        assert self.unit is not None
        order = Placement(machine, self.name, self.unit.text, self.unit.target, self.unit.generation)
        self._reason = reason or self._reason
        if self.placements.get(machine) != order:
            self._order(order)
            self.trial.place(self.name, machine, self.view.requirements(self.name))

    def withdraw(self, machine: str, reason: str = "") -> None:
        """Order the unit away from this machine."""
        former = self.placements.get(machine)
        generation = max(self.generation, former.generation if former else 0)
        text = former.text if former else self.unit.text if self.unit else ""
        self._order(Placement(machine, self.name, text, TargetState.INACTIVE, generation))
        self.trial.withdraw(self.name, machine)
        self._reason = reason or self._reason

    def retire(self, machine: str) -> None:
        """Let the copy on this machine run on until its replacement does."""
        assert self.unit is not None
        order = Placement(machine, self.name, self.unit.text, self.unit.target, self.unit.generation, retiring=True)
        self._order(order)
        self.trial.vacate(self.name, machine)

    def cancel(self, machine: str) -> None:
        """Delete the order to this machine: it is carried out, or nobody is left to carry it out."""
        self._cancels[machine] = None
        self._orders.pop(machine, None)
        del self.placements[machine]
        self.trial.vacate(self.name, machine)

    def explain(self, refusals: dict[str, int]) -> None:
        """Say why the unit is nowhere: machines counted by reason."""
        self._refusals = refusals
        self._reason = "no machine fits" if refusals else "there is no machine"

    def wait(self, reason: str) -> None:
        """Say what the unit waits for before it can be placed."""
        self.homeless = False
        self._reason = reason

    def refuse_on(self, refusals: dict[str, int]) -> None:
        """Say on how many machines a global unit is not, by reason."""
        self._refusals = refusals

    def finish(self) -> UnitPlan | None:
        """The plan, or None where nothing changes."""
        decision = self._decide()
        changes = bool(self._orders or self._cancels)
        if not changes and (decision is None) == (self.before is None) and decision == self.before:
            return None
        revision = self.before.revision if self.before else 0
        return UnitPlan(
            self.name, revision, tuple(self._orders.values()), tuple(self._cancels), decision, self.position
        )

    def _order(self, order: Placement) -> None:
        if self.view.placements.get(self.name, {}).get(order.machine) == order:
            self._orders.pop(order.machine, None)
        else:
            self._orders[order.machine] = order
        self._cancels.pop(order.machine, None)
        self.placements[order.machine] = order

    def _decide(self) -> Decision | None:
        if not self.view.is_wanted(self.name):
            if not self.placements:
                return None
            on = ", ".join(machine[:SHORT_ID_LENGTH] for machine in self.placements)
            self._reason = f"being stopped on {on}"
        elif not self._reason and self.before and self.before.machine == self.home:
            self._reason = self.before.reason
        copies = sum(not (placement.withdrawn or placement.retiring) for placement in self.placements.values())
        is_global = self.view.is_wanted(self.name) and self.view.requirements(self.name).is_global
        decision = Decision(
            unit=self.name,
            generation=self.generation,
            machine="" if is_global else self.home,
            machines=copies if is_global else 0,
            since=self.before.since if self.before else 0.0,
            reason=self._reason,
            refusals=self._refusals,
            completed=self.completed,
            revision=self.before.revision if self.before else 0,
        )
        moved = self.before is None or decision.machine != self.before.machine
        return msgspec.structs.replace(decision, since=self._now_s) if moved else decision


def draft_unit(trial: Trial, name: str, now_s: float, overdue: frozenset[tuple[str, str]]) -> Draft:
    """What becomes of the unit's copies. `homeless` says that a machine must be found for it."""
    draft = Draft(trial, name, now_s)
    _release(draft)
    if not draft.view.is_wanted(name):
        for machine, placement in list(draft.placements.items()):
            if not placement.withdrawn:
                draft.withdraw(machine)
    elif draft.view.requirements(name).is_global:
        _draft_global(draft)
    else:
        _tend_home(draft)
        _tend_retiring(draft, overdue)
        _tend_strays(draft)
        if not draft.home:
            _seek_home(draft)
    return draft


def _release(draft: Draft) -> None:
    """Orders to the dead and orders that are carried out are deleted."""
    for machine, placement in list(draft.placements.items()):
        done = placement.withdrawn and _is_gone(placement, draft.states.get(machine))
        if done or draft.view.is_dead(machine):
            draft.cancel(machine)


def _is_gone(placement: Placement, state: UnitState | None) -> bool:
    """Whether the machine has reported that it carried out this withdrawal."""
    return state is not None and _has_let_go(state) and state.generation >= placement.generation


def _has_let_go(state: UnitState) -> bool:
    """Whether this is the last report of a copy: stopped, its file removed. The machine takes it back next."""
    return state.target is TargetState.INACTIVE and not state.runs


def _tend_home(draft: Draft) -> None:
    """The unit stays where it is, with what a person now wants of it, unless it may not."""
    home, *surplus = [
        machine for machine, order in draft.placements.items() if not (order.withdrawn or order.retiring)
    ] or [""]
    for machine in surplus:
        draft.retire(machine)
    if not home:
        return
    state = draft.states.get(home)
    if state is not None and state.completed and state.generation >= draft.generation:
        draft.completed = draft.generation
    reason = _why_go(draft, home)
    if reason:
        draft.withdraw(home, reason)
    else:
        draft.place(home)


def _why_go(draft: Draft, machine: str) -> str:
    """Why a unit is taken from a machine, or ''. One that is parked or away keeps what it has."""
    record = draft.view.machines.get(machine)
    if record is None or record.mode is MachineMode.PARKED:
        return ""
    if record.mode is MachineMode.LEAVING:
        return f"machine {record.short_id} is leaving"
    question = draft.question(machine)
    reason = why_leave(question)
    if reason:
        return f"{reason} on {record.short_id}"
    pusher = _pushed_by(draft, machine)
    if pusher and any(
        not why_not(draft.question(other)) and not _pushed_by(draft, other)
        for other in draft.view.machines
        if other != machine
    ):
        return f"makes way for {pusher}"
    return ""


def _pushed_by(draft: Draft, machine: str) -> str:
    """The unit on this machine that replaces this one, or ''."""
    room = draft.trial.room(machine)
    return next(room.replacing(draft.name, draft.view.requirements(draft.name)), "")


def _tend_retiring(draft: Draft, overdue: frozenset[tuple[str, str]]) -> None:
    """A copy that outlived a cut goes when its replacement runs; it is taken back when the replacement failed."""
    for machine, order in list(draft.placements.items()):
        if not order.retiring or machine not in draft.view.machines:
            continue
        state = draft.states.get(machine)
        home = draft.home
        if state is None or not state.runs or (machine, draft.name) in overdue:
            draft.withdraw(machine)
        elif not home or _has_failed(draft.states.get(home)):
            if not why_not(draft.question(machine)):
                draft.place(machine, "the copy that was left running")
                if home:
                    draft.withdraw(home)
        elif _is_replaced(draft, home) or has_no_conflict(draft.question(machine)):
            draft.withdraw(machine)


def _is_replaced(draft: Draft, home: str) -> bool:
    """Whether the unit at home does what it should, so that no other copy is needed."""
    assert draft.unit is not None
    state = draft.states.get(home)
    return draft.unit.target is not TargetState.LAUNCHED or (
        state is not None and (state.active == "active" or state.completed)
    )


def _has_failed(state: UnitState | None) -> bool:
    return state is not None and (state.active == "failed" or (bool(state.error) and not state.runs))


def _tend_strays(draft: Draft) -> None:
    """Copies that a machine reports without an order, while the unit has its home elsewhere."""
    home = draft.home
    for machine, state in draft.states.items():
        if not home or machine in draft.placements or machine not in draft.view.machines or _has_let_go(state):
            continue
        if state.runs:
            draft.retire(machine)
        else:
            draft.withdraw(machine)


def _seek_home(draft: Draft) -> None:
    """The unit needs a machine, unless it has done its work, or an earlier copy is still on its way out."""
    if draft.completed == draft.generation:
        draft.wait("completed")
        return
    for machine, order in draft.placements.items():
        if order.withdrawn:
            wanted_anew = order.generation < draft.generation and draft.view.takes_work(machine)
            if wanted_anew and not why_not(draft.question(machine)):
                draft.place(machine, "wanted again while it was being stopped there")
            else:
                draft.wait(f"waits until {machine[:SHORT_ID_LENGTH]} has stopped it")
            return
    for machine, state in draft.states.items():
        if machine in draft.view.machines and machine not in draft.placements and _has_let_go(state):
            draft.wait(f"waits until {machine[:SHORT_ID_LENGTH]} has let go of it")
            return
    draft.homeless = True


def _draft_global(draft: Draft) -> None:
    """A global unit is on every machine that it fits on; what is placed there already comes first."""
    refusals = []
    for machine in sorted(draft.view.machines):
        order = draft.placements.get(machine)
        staying = order is not None and not order.withdrawn
        mode = draft.view.machines[machine].mode
        if mode is MachineMode.LEAVING and staying:
            draft.withdraw(machine)
        elif mode is MachineMode.PARKED and staying:
            draft.place(machine)
        elif mode is MachineMode.READY:
            reason = why_leave(draft.question(machine)) if staying else why_not(draft.question(machine))
            if reason:
                refusals.append(reason)
            if staying and reason:
                draft.withdraw(machine)
            elif not reason and _may_be_ordered(draft, machine):
                draft.place(machine)
    draft.refuse_on(count_refusals(refusals))


def _may_be_ordered(draft: Draft, machine: str) -> bool:
    """Whether no earlier copy of a global unit is still on its way out of this machine."""
    order = draft.placements.get(machine)
    if order is not None and order.withdrawn:
        return order.generation < draft.generation
    state = draft.states.get(machine)
    return order is not None or state is None or not _has_let_go(state)
