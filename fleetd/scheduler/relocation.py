"""What drains and moves have in common: units leave one machine for another, as the disruption budget allows."""

from collections.abc import Iterator, Sequence

from fleetd.model.group import group_of
from fleetd.model.reason import BudgetWait, Rejection, RejectionKind
from fleetd.scheduler.feasibility import Candidate, rejection
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.unit_plan import ProofRequest, UnitPlanBuilder

ABSENT = Rejection(RejectionKind.ABSENT)


def joined_groups(proposal: Proposal, plans: Sequence[UnitPlanBuilder]) -> Iterator[list[UnitPlanBuilder]]:
    """The units, in order, in groups that MachineOf= joins."""
    left = {plan.name: plan for plan in plans}
    while left:
        pending = [next(iter(left))]
        group = []
        while pending:
            plan = left.pop(pending.pop(), None)
            if plan is not None:
                group.append(plan)
                pending += proposal.snapshot.colocated_with(plan.name)
        yield group


def why_not(
    proposal: Proposal, names: Sequence[str], machine: str, *, ignores_cordon: bool = False
) -> tuple[str, Rejection] | None:
    """The first of these units that the machine does not take together with the others, and why; None if it takes
    all."""
    if machine not in proposal.snapshot.machines:
        return names[0], ABSENT
    for name in names:
        requirements = proposal.requirements(name)
        candidate = Candidate(proposal, name, requirements, machine, tuple(names), runs_there=ignores_cordon)
        found = rejection(candidate)
        if found is not None:
            return name, found
    return None


def spend(proposal: Proposal, group: Sequence[UnitPlanBuilder], machine: str) -> BudgetWait | None:
    """Spend the budget for all of the group on this machine, or return what one of them waits for."""
    budget = proposal.budget
    for plan in group:
        wait = budget.may_stop(plan.name, machine)
        if wait is not None:
            return wait
    for plan in group:
        budget.spend(plan.name, machine)
    return None


def leave(
    proposal: Proposal,
    group: Sequence[UnitPlanBuilder],
    machine: str,
    goal: str,
    why: Rejection,
    ranking: Ranking | None = None,
) -> None:
    """Have the group leave the machine for the machine `goal`, where its place is kept ('': for none). A `ranking` that
    is used again counts each of them there."""
    for plan in group:
        plan.leaves = {**plan.leaves, machine: why}
        if goal:
            plan.move_to = goal
            proposal.occupy(plan.name, goal, proposal.requirements(plan.name))
            if ranking is not None:
                ranking.record_placement(plan.name, goal)


def ask_for_proof(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> None:
    """Have the machine prove that the unit is healthy there: the next of its group may go then."""
    options = proposal.snapshot.group_options(group_of(plan.name))
    plan.proofs = {**plan.proofs, machine: ProofRequest(options.settle_s, options.deadline_s)}


def is_finishing(plan: UnitPlanBuilder, machine: str) -> bool:
    """True for a oneshot that is at work."""
    state = plan.states.get(machine)
    return plan.requirements.is_oneshot and state is not None and state.active == "activating"
