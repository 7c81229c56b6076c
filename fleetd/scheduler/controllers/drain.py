"""Drains: the units of a machine move to others, as the disruption budget allows.

What fits nowhere else is not stopped, and the place of a unit that moves is kept for it (Decision.target).
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from fleetd.model.group import group_of
from fleetd.model.machine import DrainRequest
from fleetd.model.reason import DrainEnded, MayFinish, NowhereElse, Reason, Rejection, RejectionCount
from fleetd.scheduler.feasibility import Candidate, count_rejections, rejection
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.unit_plan import ProofRequest, UnitPlanBuilder

LISTED = 3  # reasons why a unit fits nowhere else


def drain(proposal: Proposal) -> None:
    """Have the units of drained machines leave that may leave now, and say of the others why they stay."""
    snapshot = proposal.snapshot
    for name in snapshot.moving:
        if name in proposal.units:  # the next of its group may go when it is proven where it goes
            options = snapshot.group_options(group_of(name))
            plan = proposal.units[name]
            plan.proofs[plan.move_to] = ProofRequest(options.settle_s, options.deadline_s)
    for machine in sorted(snapshot.draining):
        request = snapshot.settings[machine].drain
        effective = snapshot.effective.get(machine)
        if request is not None and effective is not None and not effective.evicts and not effective.hold:
            _drain_machine(proposal, machine, request)


def _drain_machine(proposal: Proposal, machine: str, request: DrainRequest) -> None:
    is_over = 0 < request.deadline <= proposal.now.unix_s
    plans = [proposal.units[name] for name in sorted(proposal.snapshot.placed_on.get(machine, ()))]
    present = [plan for plan in plans if plan.is_wanted and plan.placements[machine].is_active]
    if request.with_globals and not is_over:
        for plan in present:
            if plan.is_on_many and (request.force or _spend(proposal, [plan], machine) is None):
                plan.leaves[machine] = None
    movable = [plan for plan in present if not plan.is_on_many and plan.assigned == machine]
    if movable and not is_over and request.deadline:
        proposal.wake(movable[0].name, proposal.now.clock_s + request.deadline - proposal.now.unix_s)
    ranking = Ranking(proposal)
    for group in _groups(proposal, movable):
        reason = _move(proposal, ranking, machine, group, request, is_over=is_over)
        if reason is not None:
            for plan in group:
                plan.stays = reason


def _groups(proposal: Proposal, plans: Sequence[UnitPlanBuilder]) -> Iterator[list[UnitPlanBuilder]]:
    """The units in groups that MachineOf= joins. Those come first whose units are unavailable already."""
    left = {plan.name: plan for plan in sorted(plans, key=lambda plan: _is_available(proposal, plan))}
    while left:
        pending = [next(iter(left))]
        group = []
        while pending:
            plan = left.pop(pending.pop(), None)
            if plan is not None:
                group.append(plan)
                pending += proposal.snapshot.colocated_with(plan.name)
        yield group


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
    if not request.force and any(_is_finishing(plan, machine) for plan in group):
        return MayFinish(request.deadline)
    wait = None if request.force else _spend(proposal, group, machine)
    if wait is not None:
        return wait
    for plan in group:
        plan.leaves[machine] = None
        if choice is not None:
            plan.move_to = choice.machine
            proposal.occupy(plan.name, choice.machine, proposal.requirements(plan.name))
            ranking.record_placement(plan.name, choice.machine)
    return None


def _count_rejections(proposal: Proposal, names: Sequence[str], machine: str) -> tuple[RejectionCount, ...]:
    """How many machines but this one reject a unit of the group for each reason, the most frequent first."""
    if len(names) == 1:
        return count_rejections(proposal, names[0], [machine])
    counts: Counter[Rejection] = Counter()
    for other in proposal.snapshot.machines:
        candidates = (Candidate(proposal, name, proposal.requirements(name), other, tuple(names)) for name in names)
        found = next(filter(None, map(rejection, candidates)), None)
        if found is not None and other != machine:
            counts[found] += 1
    return tuple(RejectionCount(found, count) for found, count in counts.most_common())


def _spend(proposal: Proposal, group: Sequence[UnitPlanBuilder], machine: str) -> Reason | None:
    """Spend the budget for all of the group, or return what one of them waits for."""
    budget = proposal.budget
    for plan in group:
        wait = budget.may_disturb(plan.name, machine)
        if wait is not None:
            return wait
    for plan in group:
        budget.spend(plan.name, machine)
    return None


def _is_finishing(plan: UnitPlanBuilder, machine: str) -> bool:
    """True for a oneshot that is at work."""
    state = plan.states.get(machine)
    return plan.requirements.is_oneshot and state is not None and state.active == "activating"
