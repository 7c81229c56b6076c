"""What becomes of the copies of one unit: which stay, which go, which only retire, and whether it needs a home.

An order leaves in two steps: it is withdrawn, and deleted once the machine reports the unit gone. Until then the unit
is placed nowhere else, so that one copy runs. Only a machine that is dead is not waited for; a copy that outlived a
cut retires beside its replacement. Where a unit without a home goes is planner.py's matter.
"""

from fleetd.model.machine import SHORT_ID_LENGTH, MachineMode
from fleetd.model.placement import Placement, Wait, WaitKind
from fleetd.model.unit import TargetState, UnitState
from fleetd.scheduler.failover import Waits
from fleetd.scheduler.feasibility import has_no_conflict, why_leave, why_not, why_not_beside
from fleetd.scheduler.unit_plan import Draft


def release_copies(draft: Draft, waits: Waits) -> None:
    """Orders to the dead, if they are not waited for, and orders that are carried out are deleted. What is left has the
    requirements that a person now wants it to have, so that the others reckon with them."""
    for machine, order in draft.orders():
        state = draft.states.get(machine)
        if order.declined:
            accepts = state is not None and not draft.view.refusal(draft.name, machine)
            if accepts or not draft.is_wanted or draft.view.is_dead(machine):
                draft.cancel(machine)
        elif order.withdrawn and _is_gone(order, state):
            _let_go(draft, machine)
        elif draft.view.is_dead(machine):
            draft.lose(machine, waits)
        elif order.stays and draft.unit and order.text != draft.unit.text:
            draft.trial.renew(draft.name, machine, draft.requirements)


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
        if draft.placements or draft.states:
            _tend_strays(draft)
            _tend_retiring(draft, overdue)
        if not draft.home:
            _seek_home(draft)


def _let_go(draft: Draft, machine: str) -> None:
    """The machine has carried out that the unit goes. If it refuses it, it is to say when it no longer does."""
    if draft.is_wanted and draft.view.refusal(draft.name, machine):
        draft.decline(machine)
    else:
        draft.cancel(machine)


def _is_gone(placement: Placement, state: UnitState | None) -> bool:
    """Whether the machine has reported that it carried out this withdrawal."""
    return state is not None and _has_let_go(state) and state.generation >= placement.generation


def _has_let_go(state: UnitState) -> bool:
    """Whether this is the last report of a copy: stopped, its file removed. The machine takes it back next."""
    return state.target is TargetState.INACTIVE and not state.runs


def _tend_home(draft: Draft, waits: Waits) -> None:
    """The unit stays where it is, with what a person now wants of it, unless it may not."""
    if not draft.placements:
        return
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
        if draft.is_parked(home) and (state is None or state.generation < draft.generation):
            draft.wait_for_parked(home)


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
    refusal = draft.view.refusal(draft.name, machine)
    if refusal:
        return f"machine {record.short_id} {refusal}"
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
    return min(room.replacing(draft.name, draft.requirements), default="") if room.replaces else ""


def _tend_strays(draft: Draft) -> None:
    """A copy that runs without an order outlived a cut. One that is kept running since the store was restored, although
    nobody wants the unit to run, is left to a person."""
    for machine, state in draft.states.items():
        is_left = state.orphan and not _is_to_run(draft)
        if state.runs and not is_left and machine in draft.view.machines and machine not in draft.placements:
            draft.retire(machine)


def _tend_retiring(draft: Draft, overdue: frozenset[tuple[str, str]]) -> None:
    """A copy that outlived a cut goes when its replacement runs; where that has failed, or does not even begin to run
    in time, it is the unit again, or runs on where it may not be that. So is one that is kept running since the store
    was restored, which obeys no order to go: where its replacement runs it is told first that it retires. Then it says
    that it is a copy like any other, and goes."""
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
        elif machine in kept and _is_replaced(draft):
            draft.retire(machine)
        elif machine in retiring and not state.orphan and _is_dispensable(draft, machine, is_overdue):
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
    leaving = [machine for machine, order in draft.placements.items() if order.leaves]
    forgetting = [machine for machine in draft.states if _has_to_forget(draft, machine)]
    returning = [machine for machine in draft.states if _is_returning(draft, machine)]
    if draft.completed == draft.generation:
        draft.conclude("completed")
    elif len(leaving) == 1 and _may_return(draft, leaving[0]):
        draft.place(leaving[0], "wanted again while it was being stopped there")
    elif leaving:
        draft.wait_for_stop(leaving[0])
    elif forgetting:
        wait = Wait(WaitKind.STOP, draft.name, forgetting[0])
        draft.wait(wait, f"waits until {forgetting[0][:SHORT_ID_LENGTH]} has let go of it")
    elif returning:
        wait = Wait(WaitKind.MACHINE, machine=returning[0])
        draft.wait(wait, f"waits for {returning[0][:SHORT_ID_LENGTH]}, which is coming back with it")
    else:
        draft.homeless = True


def _may_return(draft: Draft, machine: str) -> bool:
    """Whether a unit on its way out of a machine may stay after all: a person has asked for it anew, or the machine
    keeps it running."""
    stays = draft.placements[machine].generation < draft.generation or _is_kept(draft, machine)
    return stays and machine in draft.view.machines and not why_not(draft.question(machine))


def _is_kept(draft: Draft, machine: str) -> bool:
    """Whether a machine only keeps the unit running, since the store was restored, that a person wants to run."""
    return _is_to_run(draft) and draft.placements[machine].withdrawn and draft.is_orphan(machine)


def _is_to_run(draft: Draft) -> bool:
    """Whether a person wants the unit to run, and it has not done its work."""
    return draft.view.units[draft.name].target is TargetState.LAUNCHED and draft.completed != draft.generation


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
    sites = draft.view.sites
    suiting = sites.suiting_for_work(draft.requirements)
    for machine in draft.machines():
        if machine in draft.placements:
            comes = draft.placements[machine].withdrawn and _may_return(draft, machine)
        else:
            fits = bool(suiting & sites.bits[machine]) and not why_not_beside(draft.question(machine))
            comes = fits and not _has_to_forget(draft, machine)
        if comes:
            draft.place(machine)
