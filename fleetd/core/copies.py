"""What becomes of the copies of one unit: which stay, which go, which only retire, and whether it needs a home.

An order leaves in two steps: it is withdrawn, and deleted once the machine reports the unit gone. Until then the unit
is placed nowhere else, so that one copy runs. Only a machine that is dead is not waited for; a copy that outlived a
cut retires beside its replacement. Where a unit without a home goes is schedule.py's matter.
"""

import math

import msgspec

from fleetd.core.cluster import Names, Trial, requirements_of
from fleetd.core.failover import Waits
from fleetd.core.feasibility import Question, count_refusals, has_no_conflict, why_leave, why_not
from fleetd.core.machine import SHORT_ID_LENGTH, MachineMode
from fleetd.core.placement import Decision, Placement
from fleetd.core.unit import TargetState, UnitState

_KEPT = "where it is only kept running since the store was restored"


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


class Draft:
    """The plan for one unit in the making. Whatever it orders is tried on the trial at once."""

    def __init__(self, trial: Trial, name: str, now_s: float, scope: Names | None = None) -> None:
        """`scope` are the machines where there may be something to decide; None: wherever the unit is or may go."""
        self.trial = trial
        self.view = trial.view
        self.name = name
        self.unit = self.view.units.get(name)
        self.is_wanted = self.view.is_wanted(name)
        self.placements = dict(self.view.placements.get(name, {}))  # as they will be
        self.states = self.view.states.get(name, {})
        self.before = self.view.decisions.get(name)
        self.completed = self.before.completed if self.before else 0
        self.homeless = False
        self.waits = ""  # for what
        self.waits_until_s = math.inf  # by the leader's own clock, for a home that is lost
        self._lost = 0.0  # since when it is lost, in Unix time
        self._scope = scope
        self._now_s = now_s
        self._reason = ""
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

    @property
    def is_global(self) -> bool:
        """Whether the unit, which is known, is global."""
        return self.view.requirements(self.name).is_global

    @property
    def stage(self) -> int:
        """When the plan is to be written: what is taken back first, then what stays, then what comes."""
        comes = [not self._stayed_on(order.machine) for order in self._orders.values() if order.stays]
        return 2 if any(comes) else 1 if comes else 0

    @property
    def first_machine(self) -> str:
        """The machine that gets an order, or the first of those that do, or ''."""
        return next(iter(self._orders), "")

    def orders(self) -> list[tuple[str, Placement]]:
        """The orders to be looked at, by machine, in order."""
        if self._scope is None:
            return list(self.placements.items())
        return [(machine, self.placements[machine]) for machine in sorted(self._scope) if machine in self.placements]

    def machines(self) -> list[str]:
        """The machines to be looked at, in order."""
        if self._scope is None:
            return list(self.view.machines)
        return [machine for machine in sorted(self._scope) if machine in self.view.machines]

    def question(self, machine: str) -> Question:
        """May the unit be on this machine?"""
        return Question(self.trial, self.name, self.view.requirements(self.name), machine)

    def place(self, machine: str, reason: str = "") -> None:
        """Order the unit to be on this machine as a person wants it now (no change where that is the order already)."""
        assert self.unit is not None
        done = self.completed == self.generation
        order = Placement(machine, self.name, self.unit.text, self.unit.target, self.unit.generation, completed=done)
        self._reason = reason or self._reason
        self.homeless = False
        if self.placements.get(machine) != order:
            self._order(order)
            self.trial.place(self.name, machine, self.view.requirements(self.name))

    def withdraw(self, machine: str, reason: str = "") -> None:
        """Order the unit away from this machine."""
        former = self.placements[machine]
        generation = max(self.generation, former.generation)
        self._order(Placement(machine, self.name, former.text, TargetState.INACTIVE, generation))
        self.trial.withdraw(self.name, machine, requirements_of(former.text, self.name))
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

    def lose(self, machine: str, waits: Waits) -> None:
        """This machine, which had an order, is dead: wait for it if that is the home, and the unit is to wait."""
        if self._is_only_home(machine) and waits.is_waiting(self.name, machine):
            self.waits_until_s = waits.end_s(self.name, machine)
            self._lost = waits.loss(machine).at
            until = waits.describe(self.name, machine)
            self._reason = f"waits for machine {machine[:SHORT_ID_LENGTH]} to come back, {until}"
            return
        if self.placements[machine].stays and waits.runs_again(self.name):
            self.completed = 0
        self.cancel(machine)

    def _is_only_home(self, machine: str) -> bool:
        """Whether nothing of the unit is or may stay anywhere else, so that it loses nothing by waiting."""
        stays = [where for where, order in self.placements.items() if order.stays]
        goes = [where for where, order in self.placements.items() if order.withdrawn]
        runs = [where for where, state in self.states.items() if state.runs and where not in goes]
        return stays == [machine] and not any(where in self.view.machines for where in runs)

    def conclude(self, reason: str) -> None:
        """Say why the unit is nowhere and need not be anywhere."""
        self._reason = reason

    def wait(self, what_for: str, reason: str = "") -> None:
        """Say what the unit waits for before it can be placed; `reason` says more."""
        self.homeless = False
        self.waits = what_for
        self._reason = reason or what_for

    def wait_for_stop(self, machine: str) -> None:
        """The unit waits until it is stopped on this machine; why it had to go from there is still said."""
        short_id = machine[:SHORT_ID_LENGTH]
        what_for = f"waits until {short_id} has stopped it"
        if self.is_orphan(machine):
            what_for = f"waits until it is stopped on {short_id}, {_KEPT}"
        said = self.before.reason if self.before else ""
        why = self._reason or said.rpartition("; waits until ")[0]
        self.wait(what_for, f"{why}; {what_for}" if why else what_for)

    def is_orphan(self, machine: str) -> bool:
        """Whether the machine only keeps the unit running, and does not carry out that it is to go."""
        return machine in self.states and self.states[machine].orphan

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
        home = "" if is_global else self.home
        here = [machine for machine, order in self.placements.items() if order.stays]
        refusals = count_refusals(self.trial, self.name, here) if is_global or self.homeless else {}
        return Decision(
            unit=self.name,
            generation=self.generation,
            machine=home,
            machines=len(here) if is_global else 0,
            since=self.before.since if self.before and self.before.machine == home else self._now_s,
            reason=self._conclude(home, here, refusals),
            refusals=refusals,
            completed=self.completed,
            lost=self._decide_lost(home),
            revision=self.before.revision if self.before else 0,
        )

    def _decide_lost(self, home: str) -> float:
        """A machine that may be alive after all is waited for as before, until it is back."""
        if home in self.view.away and self.before and self.before.machine == home:
            return self.before.lost
        return self._lost if home and self.view.is_dead(home) else 0.0

    def _stayed_on(self, machine: str) -> bool:
        former = self.view.placements.get(self.name, {}).get(machine)
        return former is not None and former.stays

    def _conclude(self, home: str, here: list[str], refusals: dict[str, int]) -> str:
        """The sentence for a person."""
        if not self.is_wanted:
            return self._say_what_remains()
        if self._reason:
            return self._reason
        if home:
            return self.before.reason if self.before and self.before.machine == home else ""
        if here:
            return "on every machine that it fits on"
        return "no machine fits" if refusals else "there is no machine"

    def _say_what_remains(self) -> str:
        """What still holds a unit that is not wanted."""
        kept = [machine[:SHORT_ID_LENGTH] for machine in self.placements if self.is_orphan(machine)]
        if kept:
            return f"to be stopped on {', '.join(kept)}, {_KEPT}"
        return f"being stopped on {', '.join(machine[:SHORT_ID_LENGTH] for machine in self.placements)}"


def release_copies(draft: Draft, waits: Waits) -> None:
    """Orders to the dead, if they are not waited for, and orders that are carried out are deleted. What is left has the
    requirements that a person now wants it to have, so that the others reckon with them."""
    for machine, order in draft.orders():
        if order.withdrawn and _is_gone(order, draft.states.get(machine)):
            draft.cancel(machine)
        elif draft.view.is_dead(machine):
            draft.lose(machine, waits)
        elif order.stays and draft.unit and order.text != draft.unit.text:
            draft.trial.renew(draft.name, machine, draft.view.requirements(draft.name))


def tend_copies(draft: Draft, waits: Waits) -> None:
    """Which copies stay, with what a person now wants of them, and which go."""
    if not draft.is_wanted:
        for machine, order in draft.orders():
            if not order.withdrawn:
                draft.withdraw(machine)
    elif draft.is_global:
        _tend_global(draft, waits)
    else:
        _tend_home(draft, waits)


def seek_homes(draft: Draft, overdue: frozenset[tuple[str, str]]) -> None:
    """Which machines get the unit (back): to be asked when it is settled of every unit where it stays. `homeless` says
    that a machine must be found for it. `overdue` are the (machine, unit) of retiring copies whose time is up."""
    if not draft.is_wanted:
        return
    if draft.is_global:
        _spread_global(draft)
    else:
        _tend_strays(draft)
        _tend_retiring(draft, overdue)
        if not draft.home:
            _seek_home(draft)


def _is_gone(placement: Placement, state: UnitState | None) -> bool:
    """Whether the machine has reported that it carried out this withdrawal."""
    return state is not None and _has_let_go(state) and state.generation >= placement.generation


def _has_let_go(state: UnitState) -> bool:
    """Whether this is the last report of a copy: stopped, its file removed. The machine takes it back next."""
    return state.target is TargetState.INACTIVE and not state.runs


def _tend_home(draft: Draft, waits: Waits) -> None:
    """The unit stays where it is, with what a person now wants of it, unless it may not."""
    home = draft.home
    for machine, order in list(draft.placements.items()):
        if order.stays and machine != home:  # it was global before
            draft.retire(machine)
    if not home:
        return
    state = draft.states.get(home)
    if state is not None and state.completed and state.generation >= draft.generation:
        draft.completed = draft.generation
    if _is_left(draft, home, waits) and waits.runs_again(draft.name):
        draft.completed = 0
    reason = _why_unfit(draft, home, waits) or _why_make_way(draft, home)
    if reason:
        draft.withdraw(home, reason)
    else:
        is_back = home in draft.view.machines and draft.before is not None and draft.before.lost > 0
        draft.place(home, f"machine {home[:SHORT_ID_LENGTH]} came back in time" if is_back else "")


def _is_left(draft: Draft, machine: str, waits: Waits) -> bool:
    """Whether the machine leaves without this unit; for one that only shuts down, a unit with a delay waits."""
    record = draft.view.machines.get(machine)
    if record is None or record.mode is not MachineMode.LEAVING:
        return False
    return not (record.shuts_down and waits.delay_s(draft.name, machine) > 0)


def _why_unfit(draft: Draft, machine: str, waits: Waits) -> str:
    """Why a unit may not stay on a machine, or ''. One that is parked, away or waited for keeps what it has."""
    record = draft.view.machines.get(machine)
    if record is None or record.mode is MachineMode.PARKED:
        return ""
    if record.mode is MachineMode.LEAVING:
        return f"machine {record.short_id} is leaving" if _is_left(draft, machine, waits) else ""
    reason = why_leave(draft.question(machine))
    return reason and f"{reason} on {record.short_id}"


def _why_make_way(draft: Draft, machine: str) -> str:
    """Why a unit goes although it may stay, or '': another replaces it here, and it fits where none does."""
    pusher = _pushed_by(draft, machine)
    if not pusher or not draft.view.takes_work(machine):
        return ""
    others = (draft.question(other) for other in draft.view.machines if other != machine)
    free = any(not why_not(question) and not _pushed_by(draft, question.machine) for question in others)
    return f"makes way for {pusher}" if free else ""


def _pushed_by(draft: Draft, machine: str) -> str:
    """The unit on this machine that replaces this one, or ''."""
    room = draft.trial.room(machine)
    return min(room.replacing(draft.name, draft.view.requirements(draft.name)), default="")


def _tend_strays(draft: Draft) -> None:
    """A copy that runs without an order outlived a cut."""
    for machine, state in draft.states.items():
        if state.runs and machine in draft.view.machines and machine not in draft.placements:
            draft.retire(machine)


def _tend_retiring(draft: Draft, overdue: frozenset[tuple[str, str]]) -> None:
    """A copy that outlived a cut goes when its replacement runs; where that has failed, or does not even begin to run
    in time, it is the unit again, or runs on where it may not be that. So is one that is kept running since the store
    was restored, but it does not go."""
    retiring = [machine for machine, order in draft.placements.items() if order.retiring]
    kept = [machine for machine in draft.placements if _is_kept(draft, machine)]  # last: it may have been long ago
    for machine in (*retiring, *kept):
        if machine not in draft.view.machines:
            continue
        state = draft.states.get(machine)
        home = draft.home
        is_overdue = (machine, draft.name) in overdue
        is_late = is_overdue and not _is_replaced(draft) and not draft.view.is_running_on(draft.name, home)
        is_needed = not home or is_late or _has_failed(draft.states.get(home))
        if state is None or not state.runs:
            draft.withdraw(machine)
        elif is_needed and state.outdated:
            continue  # it may run no more, or be the only one
        elif is_needed and not why_not(draft.question(machine)):
            draft.place(machine, "the copy that was left running")
            if home:
                draft.withdraw(home)
        elif machine in retiring and _is_dispensable(draft, machine, is_overdue):
            draft.withdraw(machine)


def _is_dispensable(draft: Draft, machine: str, is_overdue: bool) -> bool:
    """Whether a retiring copy is not missed, or hinders another unit. In time, one is not that is still beginning to be
    replaced, whose machine leaves, or whose work has been done."""
    if _is_replaced(draft) or has_no_conflict(draft.question(machine)):
        return True
    state = draft.states.get(draft.home)
    begins = state is not None and state.runs and state.active != "deactivating" and not state.outdated
    is_left = draft.view.machines[machine].mode is MachineMode.LEAVING
    return is_overdue and (begins or is_left or draft.completed == draft.generation)


def _is_replaced(draft: Draft) -> bool:
    """Whether the unit does at home what it should, so that no other copy is needed."""
    if not draft.home:
        return False
    state = draft.states.get(draft.home)
    is_active = state is not None and not state.outdated and (state.active == "active" or state.completed)
    return is_active or draft.view.units[draft.name].target is not TargetState.LAUNCHED


def _has_failed(state: UnitState | None) -> bool:
    return state is not None and (state.active == "failed" or (bool(state.error) and not state.runs))


def _seek_home(draft: Draft) -> None:
    """The unit needs a machine, unless it has done its work, or there is a copy of it still, or again."""
    leaving = [machine for machine, order in draft.placements.items() if order.withdrawn]
    forgetting = [machine for machine in draft.states if _has_to_forget(draft, machine)]
    returning = [machine for machine in draft.states if _is_returning(draft, machine)]
    if draft.completed == draft.generation:
        draft.conclude("completed")
    elif len(leaving) == 1 and _may_return(draft, leaving[0]):
        draft.place(leaving[0], "wanted again while it was being stopped there")
    elif leaving:
        draft.wait_for_stop(leaving[0])
    elif forgetting:
        draft.wait(f"waits until {forgetting[0][:SHORT_ID_LENGTH]} has let go of it")
    elif returning:
        draft.wait(f"waits for {returning[0][:SHORT_ID_LENGTH]}, which is coming back with it")
    else:
        draft.homeless = True


def _may_return(draft: Draft, machine: str) -> bool:
    """Whether a unit on its way out of a machine may stay after all: a person has asked for it anew, or the machine
    keeps it running."""
    stays = draft.placements[machine].generation < draft.generation or _is_kept(draft, machine)
    return stays and machine in draft.view.machines and not why_not(draft.question(machine))


def _is_kept(draft: Draft, machine: str) -> bool:
    """Whether a machine only keeps the unit running, since the store was restored, that a person wants to run."""
    is_to_run = draft.view.units[draft.name].target is TargetState.LAUNCHED and draft.completed != draft.generation
    return is_to_run and draft.placements[machine].withdrawn and draft.is_orphan(machine)


def _has_to_forget(draft: Draft, machine: str) -> bool:
    """Whether the machine still shows its last report of a copy, which it takes back next: until it has, a new order
    could be taken for carried out."""
    if machine not in draft.view.machines or machine in draft.placements:
        return False
    state = draft.states.get(machine)
    return state is not None and _has_let_go(state)


def _is_returning(draft: Draft, machine: str) -> bool:
    """Whether the unit runs on a machine that was taken for dead: what runs there is published before its own key."""
    lost = machine not in draft.view.machines and machine not in draft.placements
    return lost and draft.view.is_running_on(draft.name, machine)


def _tend_global(draft: Draft, waits: Waits) -> None:
    """A global unit stays wherever it fits; which copies retired before it became global does not matter any more."""
    for machine, order in draft.orders():
        reason = _why_unfit(draft, machine, waits) if order.stays else ""
        if reason or order.retiring:
            draft.withdraw(machine)
        elif order.stays:
            draft.place(machine)


def _spread_global(draft: Draft) -> None:
    """A global unit comes to every machine that it fits on."""
    for machine in draft.machines():
        if machine in draft.placements:
            if draft.placements[machine].withdrawn and _may_return(draft, machine):
                draft.place(machine)
        elif not _has_to_forget(draft, machine) and not why_not(draft.question(machine)):
            draft.place(machine)
