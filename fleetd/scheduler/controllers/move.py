"""Moves: units go to the machine that an operator names, as the disruption budget allows.

A unit that does not fit there stays where it is. One that fails there, or whose machine is lost on the way, returns to
where it was, or goes wherever it fits. The records are deleted with the unit's own transaction.
"""

from collections.abc import Sequence

from fleetd.model.move import Move
from fleetd.model.ordered import Names
from fleetd.model.reason import (
    KEPT,
    BudgetWait,
    NotMoved,
    Rejection,
    RejectionKind,
    WaitingForDownload,
    WaitingForRemoval,
    WaitingForStop,
)
from fleetd.scheduler.actions import Place, Withdraw
from fleetd.scheduler.allocations import is_handed_over
from fleetd.scheduler.disruption import answer_to
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.relations import joined_with
from fleetd.scheduler.relocation import (
    ask_for_proof,
    find_failed_start,
    hand_over,
    is_finishing,
    leave,
    prepare,
    spend,
    starts_first,
    why_not,
)
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlanBuilder

AT_WORK = Rejection(RejectionKind.AT_WORK)


def move(proposal: Proposal) -> None:
    """Have the units leave that are to move and may, and aim those on their way at their machines."""
    snapshot = proposal.snapshot
    for name, request in sorted(snapshot.moves.items()):
        plan = proposal.units[name]
        if plan.handed_over_from and _can_move(plan):
            _follow_handover(proposal, plan, request)
        elif request.revision < snapshot.restored_at:  # what was asked for may lie hours back
            _give_up(plan, request, NotMoved(request.machine))
        elif (later := _find_later(snapshot, name, request)) is not None:
            _give_up(plan, request, _not_moved(plan, request, later))
        elif not _can_move(plan):
            plan.ended_move = request.revision
        elif plan.assigned == request.machine:
            _watch(proposal, plan, request)
        elif plan.assigned:
            _begin(proposal, plan, request)
        else:
            _aim(proposal, plan, request)


def end_moves(proposal: Proposal) -> None:
    """End the moves of units that have been where they were to go, and may not stay there. After placement."""
    for name, request in proposal.snapshot.moves.items():
        if proposal.snapshot.assigned_machine(name) == request.machine != proposal.units[name].assigned:
            proposal.units[name].ended_move = request.revision


def _find_later(snapshot: Snapshot, name: str, request: Move) -> tuple[str, Rejection] | None:
    """The unit that goes with this one and was asked later to be moved to another machine, and why this one is not."""
    for other in joined_with(snapshot, name):
        later = snapshot.moves.get(other, request)
        if later.revision > request.revision and later.machine != request.machine:
            return other, Rejection(RejectionKind.MOVED, later.machine)
    return None


def moved_with(snapshot: Snapshot, name: str, machine: str) -> list[str]:
    """The unit, and those on the same machine that MachineOf= joins to it, which go with it."""
    joined = joined_with(snapshot, name)
    there: Names = {each: None for each in joined if snapshot.assigned_machine(each) == machine}
    return [name, *sorted(each for each in there if each != name and not _is_on_many(snapshot, each))]


def _is_on_many(snapshot: Snapshot, name: str) -> bool:
    return name in snapshot.global_units or name not in snapshot.units


def _can_move(plan: UnitPlanBuilder) -> bool:
    """False for a unit that is not to be on one machine, and for a oneshot that has completed."""
    state = plan.states.get(plan.assigned)
    has_completed = plan.completed == plan.generation or (state is not None and state.completed)
    return plan.unit is not None and plan.is_wanted and not plan.is_on_many and not has_completed


def _group(proposal: Proposal, plan: UnitPlanBuilder) -> list[UnitPlanBuilder]:
    """The unit and those that go with it: the wanted ones that are where it is."""
    names = moved_with(proposal.snapshot, plan.name, plan.assigned)
    plans = (proposal.units[name] for name in names if name in proposal.units)
    return [each for each in plans if each.assigned == plan.assigned and _can_move(each)]


def _begin(proposal: Proposal, plan: UnitPlanBuilder, request: Move) -> None:
    """Have the unit leave the machine where it is, if it may."""
    machine = plan.assigned
    if machine != request.origin:  # it was placed anew meanwhile
        plan.ended_move = request.revision
        return
    source = proposal.snapshot.effective.get(machine)
    if source is None or source.hold is not None:
        return  # it stops nothing at present
    group = _group(proposal, plan)
    names = [each.name for each in group]
    found = why_not(proposal, names, request.machine)
    if found is None and not request.force and any(is_finishing(each, machine) for each in group):
        found = plan.name, AT_WORK
    if found is not None:
        _give_up(plan, request, _not_moved(plan, request, found))
        return
    failed = find_failed_start(plan)
    is_second = request.force and failed is not None and failed.machine == request.machine
    wait: BudgetWait | WaitingForDownload | WaitingForStop | WaitingForRemoval | None = None
    if starts_first(proposal, group, machine, request.machine) and not is_second:
        wait = hand_over(proposal, plan, machine, request.machine)
        if wait is None:
            return
    elif not request.force:
        wait = prepare(proposal, group, machine, request.machine) or spend(proposal, group, machine)
    if wait is not None:
        for each in group:
            each.stays = wait
        return
    leave(proposal, group, machine, request.machine, Rejection(RejectionKind.MOVED, request.machine))
    for each in group:
        ask_for_proof(proposal, each, request.machine)


def _follow_handover(proposal: Proposal, plan: UnitPlanBuilder, request: Move) -> None:
    """End the move of a unit that started first where it is to go, and is proven there, or that is to stay after all
    where it runs. Placement ends any other (end_moves)."""
    machine = plan.handed_over_from
    if request.machine == machine:
        if why_not(proposal, [plan.name], machine, ignores_cordon=True) is None:
            plan.ended_move, goal = request.revision, plan.assigned
            proposal.apply(plan, Place(machine, KEPT))
            proposal.apply(plan, Withdraw(goal) if goal else None)
    elif plan.assigned == request.machine and is_handed_over(plan):
        plan.ended_move = request.revision


def _aim(proposal: Proposal, plan: UnitPlanBuilder, request: Move) -> None:
    """Say where a unit goes that is on no machine: where it is to move, or, if that takes it no longer, elsewhere. If
    nothing else takes it, it keeps the place that it was to have, and may return to the machine that it leaves."""
    group = _group(proposal, plan)
    names = [each.name for each in group]
    goal = plan.move_to or request.machine
    found = why_not(proposal, names, goal)
    if found is not None:
        goal = _find_other(proposal, names, request)
        plan.ended_move = request.revision
        if not goal:
            return
    for each in group:
        each.move_to = goal
        each.arrival = _not_moved(each, request, found) if found else each.arrival
        proposal.occupy(each.name, goal, proposal.requirements(each.name))
        ask_for_proof(proposal, each, goal)


def _watch(proposal: Proposal, plan: UnitPlanBuilder, request: Move) -> None:
    """End the move of a unit that is proven where it was to go; have it leave again if it failed there."""
    machine = plan.assigned
    group = _group(proposal, plan)
    for each in group:
        ask_for_proof(proposal, each, machine)
    if proposal.budget.unavailability(plan.name, machine) is None:
        plan.ended_move = request.revision
        return
    failure = _find_failure(plan)
    if not failure:
        return
    goal = _find_other(proposal, [each.name for each in group], request) if request.was_available else ""
    if goal and not request.force and spend(proposal, group, machine) is not None:
        return
    plan.ended_move = request.revision
    if goal:
        why = Rejection(RejectionKind.FAILED, failure)
        leave(proposal, group, machine, goal, why)
        for each in group:
            each.arrival = _not_moved(each, request, (plan.name, why))


def _find_failure(plan: UnitPlanBuilder) -> str:
    """Why the unit is found to be unhealthy on its machine, '' if it is not."""
    proof = answer_to(plan.placements[plan.assigned], plan.states.get(plan.assigned))
    return proof.cause if proof is not None else ""


def _find_other(proposal: Proposal, names: Sequence[str], request: Move) -> str:
    """Where the units go that cannot be where they were to go: back, or, rather than to a machine that is cordoned,
    wherever they fit; '' for nowhere."""
    if why_not(proposal, names, request.origin) is None:
        return request.origin
    choice = Ranking(proposal).choose(names, without=request.machine)
    if choice is not None:
        return choice.machine
    returns = why_not(proposal, names, request.origin, ignores_cordon=True) is None
    return request.origin if returns else ""


def _give_up(plan: UnitPlanBuilder, request: Move, reason: NotMoved) -> None:
    """End the move: the unit stays where it is, for this reason."""
    plan.ended_move = request.revision
    plan.stays = reason


def _not_moved(plan: UnitPlanBuilder, request: Move, found: tuple[str, Rejection]) -> NotMoved:
    name, why = found
    return NotMoved(request.machine, why, name if name != plan.name else "")
