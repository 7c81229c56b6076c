"""Drains: the units of a machine move to others, as the disruption budget allows.

What fits nowhere else is not stopped, and the place of a unit that moves is kept for it (Decision.target).
"""

from collections import Counter
from collections.abc import Sequence

from fleetd.model.machine import DrainRequest
from fleetd.model.reason import DrainEnded, MayFinish, NowhereElse, Reason, Rejection, RejectionCount
from fleetd.scheduler.effective_machine import DRAINED, REBOOTS
from fleetd.scheduler.feasibility import count_rejections
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.relocation import (
    ask_for_proof,
    find_failed_start,
    find_prepared,
    hand_over,
    is_finishing,
    joined_groups,
    leave,
    prepare,
    spend,
    starts_first,
    why_not,
)
from fleetd.scheduler.unit_plan import UnitPlanBuilder

LISTED = 3  # reasons why a unit fits nowhere else


def drain(proposal: Proposal) -> None:
    """Have the units of drained machines leave that may leave now, and say of the others why they stay."""
    snapshot = proposal.snapshot
    for name in snapshot.moving:
        if name in proposal.units:  # the next of its group may go when it is proven where it goes
            plan = proposal.units[name]
            ask_for_proof(proposal, plan, plan.move_to)
    for _, name in snapshot.superseded:
        if name in proposal.units and proposal.units[name].handed_over_from:
            ask_for_proof(proposal, proposal.units[name], proposal.units[name].assigned)
    ranking: Ranking | None = None  # one for all machines: none of them takes what leaves another
    for machine in sorted(snapshot.draining):
        request = snapshot.drain_request(machine)
        effective = snapshot.effective.get(machine)
        if request is None or effective is None or effective.evicts or effective.hold:
            continue
        movable = _begin(proposal, machine, request)
        if movable:  # most of the time not: a drained machine stays empty until it is uncordoned
            ranking = ranking or Ranking(proposal)
            _drain_machine(proposal, ranking, machine, request, movable)


def _begin(proposal: Proposal, machine: str, request: DrainRequest) -> list[UnitPlanBuilder]:
    """Have the units leave that are on many machines. Returns those that are to be moved."""
    is_over = _is_over(proposal, request)
    names = (name for name in sorted(proposal.snapshot.placed_on.get(machine, ())) if name in proposal.units)
    plans = [proposal.units[name] for name in names]
    present = [plan for plan in plans if plan.is_wanted and plan.placements[machine].is_active]
    if request.with_globals and not is_over:
        for plan in present:
            if plan.is_on_many and (request.force or spend(proposal, [plan], machine) is None):
                leave(proposal, [plan], machine, "", _why(proposal, machine))
    placed_alone = (plan for plan in present if not plan.is_on_many and plan.assigned == machine)
    return [plan for plan in placed_alone if machine not in plan.leaves and not plan.handed_over_from]


def _drain_machine(
    proposal: Proposal, ranking: Ranking, machine: str, request: DrainRequest, movable: Sequence[UnitPlanBuilder]
) -> None:
    is_over = _is_over(proposal, request)
    if not is_over and request.deadline:
        proposal.wake(movable[0].name, proposal.now.clock_s + request.deadline - proposal.now.unix_s)
    # Those first that are unavailable already.
    for group in joined_groups(proposal, sorted(movable, key=lambda plan: _is_available(proposal, plan))):
        reason = _move(proposal, ranking, machine, group, request, is_over=is_over)
        if reason is not None:
            for plan in group:
                plan.stays = reason


def _is_over(proposal: Proposal, request: DrainRequest) -> bool:
    return 0 < request.deadline <= proposal.now.unix_s


def _is_available(proposal: Proposal, plan: UnitPlanBuilder) -> bool:
    return proposal.budget.unavailability(plan.name, plan.assigned) is None


def _move(
    proposal: Proposal,
    ranking: Ranking,
    machine: str,
    group: Sequence[UnitPlanBuilder],
    request: DrainRequest,
    *,
    is_over: bool,
) -> Reason | None:
    """Have the group leave for the best other machine. Returns why it stays, or None."""
    names = [plan.name for plan in group]
    choice = ranking.choose(names)
    if choice is None and not request.force:
        return NowhereElse(_count_rejections(proposal, names, machine)[:LISTED])
    if is_over:
        return DrainEnded(request.deadline)
    if not request.force and any(is_finishing(plan, machine) for plan in group):
        return MayFinish(request.deadline)
    goal = find_prepared(proposal, group) or (choice.machine if choice else "")
    if goal and starts_first(proposal, group, machine, goal):
        failed = find_failed_start(group[0])
        if failed is None or failed.drained_at != request.at:
            return hand_over(proposal, group[0], machine, goal, ranking)
        if not request.force:
            return failed  # it is tried once
    if not request.force:
        wait = prepare(proposal, group, machine, goal, ranking) or spend(proposal, group, machine)
        if wait is not None:
            return wait
    leave(proposal, group, machine, goal, _why(proposal, machine), ranking)
    return None


def _why(proposal: Proposal, machine: str) -> Rejection:
    """Why units are to leave this machine."""
    settings = proposal.snapshot.settings.get(machine)
    return DRAINED if settings is not None and settings.drain is not None else REBOOTS


def _count_rejections(proposal: Proposal, names: Sequence[str], machine: str) -> tuple[RejectionCount, ...]:
    """How many machines but this one reject a unit of the group for each reason, the most frequent first."""
    if len(names) == 1:
        return count_rejections(proposal, names[0], [machine])
    counts: Counter[Rejection] = Counter()
    for other in proposal.snapshot.machines:
        found = why_not(proposal, names, other)
        if found is not None and other != machine:
            counts[found[1]] += 1
    return tuple(RejectionCount(found, count) for found, count in counts.most_common())
