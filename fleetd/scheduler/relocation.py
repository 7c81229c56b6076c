"""What drains and moves have in common: units leave one machine for another, as the disruption budget allows.

A unit of a group with Handover=start-first starts on the other machine while it runs on (hand_over): that disturbs
nothing, and so costs nothing of the budget. Placement ends it (allocations.decide_handover): it stops where it was once
it is proven where it goes, and stays where it was if it fails there. Any other unit stops first (leave).
"""

from collections.abc import Iterator, Sequence

from fleetd.model.group import Handover, group_of
from fleetd.model.reason import (
    BudgetWait,
    NotMoved,
    Placed,
    Rejection,
    RejectionKind,
    Rule,
    WaitingForDownload,
    WaitingForRemoval,
    WaitingForStop,
)
from fleetd.model.unit import TargetState
from fleetd.scheduler.actions import Place, Prepare, Supersede
from fleetd.scheduler.allocation_state import AllocationState
from fleetd.scheduler.disruption import serves
from fleetd.scheduler.feasibility import Candidate, rejection
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.unit_plan import ProofRequest, UnitPlanBuilder

ABSENT = Rejection(RejectionKind.ABSENT)
_NOTHING_THERE = (AllocationState.ABSENT, AllocationState.DECLINED, AllocationState.PREPARING)


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


def find_prepared(proposal: Proposal, group: Sequence[UnitPlanBuilder]) -> str:
    """The machine that gets what the group needs already, if it takes the group; '' if there is none."""
    names = [plan.name for plan in group]
    for plan in group:
        for machine, placement in plan.placements.items():
            if placement.prepares and why_not(proposal, names, machine) is None:
                return machine
    return ""


def prepare(
    proposal: Proposal, group: Sequence[UnitPlanBuilder], machine: str, goal: str, ranking: Ranking | None = None
) -> WaitingForDownload | None:
    """Have the machine `goal` get what the group needs, before it is stopped on this machine. Returns what it waits
    for, None if all is there, or nothing would be gained. `ranking` as below."""
    waits = [plan.name for plan in group if _has_to_wait(proposal, plan, machine, goal)]
    if not waits:
        return None
    for plan in group:  # so that others go elsewhere
        proposal.occupy(plan.name, goal, proposal.requirements(plan.name))
        if ranking is not None:
            ranking.record_placement(plan.name, goal)
    return WaitingForDownload(goal, tuple(waits))


def _has_to_wait(proposal: Proposal, plan: UnitPlanBuilder, machine: str, goal: str) -> bool:
    """Have the machine `goal` get what the unit needs. True if it is not there yet. One that does not run, or has left
    something there, waits for nothing."""
    state, effective = plan.states.get(machine), proposal.snapshot.effective.get(goal)
    if state is None or not state.runs or plan.target is not TargetState.LAUNCHED:
        return False
    is_possible = effective is not None and effective.has_downloads
    if not is_possible or not plan.requirements_on(goal).downloads:
        return False
    if plan.allocation_state(goal) not in (*_NOTHING_THERE, AllocationState.UNCONFIRMED):
        return False
    proposal.apply(plan, Prepare(goal))
    order, report = plan.placements[goal], plan.states.get(goal)
    return report is None or report.prepared != order.content.hash


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


def starts_first(proposal: Proposal, group: Sequence[UnitPlanBuilder], machine: str, goal: str) -> bool:
    """True for a unit that is to run on this machine until it is proven on the machine `goal`: its group asks for that
    (Handover=start-first), it runs here, two of it may run, and `goal` can prove it."""
    [plan, *others] = group
    options = proposal.snapshot.group_options(group_of(plan.name))
    if options.handover is not Handover.START_FIRST or others or proposal.snapshot.colocated_with(plan.name):
        return False
    if plan.requirements_on(machine).isolation.is_set or plan.requirements.isolation.is_set:
        return False
    is_to_serve = plan.target is TargetState.LAUNCHED and not plan.requirements_on(machine).is_oneshot
    return is_to_serve and serves(plan.states.get(machine)) and proposal.snapshot.answers_proofs(goal)


def hand_over(
    proposal: Proposal, plan: UnitPlanBuilder, machine: str, goal: str, ranking: Ranking | None = None
) -> WaitingForStop | WaitingForRemoval | None:
    """Have the unit start on the machine `goal` while it runs on here, or return what it waits for: two of it may run,
    and no third one. `ranking` as above."""
    wait = _find_third(plan)
    if wait is not None:
        return wait
    proposal.apply(plan, Supersede(machine, hands_over=True))
    ask_for_proof(proposal, plan, goal)
    proposal.apply(plan, Place(goal, Placed(Rule.MOVED, machine=machine)))
    if ranking is not None:
        ranking.record_placement(plan.name, goal)
    return None


def _find_third(plan: UnitPlanBuilder) -> WaitingForStop | WaitingForRemoval | None:
    """What is left of the unit on other machines than its own, as what it waits for."""
    for machine, state in plan.allocation_states().items():
        if machine == plan.assigned or state in _NOTHING_THERE:
            continue
        is_removed = state is AllocationState.UNCONFIRMED
        return WaitingForRemoval(machine) if is_removed else WaitingForStop(machine, hold=plan.hold_on(machine))
    return None


def find_failed_start(plan: UnitPlanBuilder) -> NotMoved | None:
    """Where and why the unit failed when it was to start elsewhere, if that is why it is where it is. Other content, or
    a restart, may do better."""
    before = plan.before
    reason = before.reason if before is not None and before.generation == plan.generation else None
    if not isinstance(reason, NotMoved) or reason.rejection is None:
        return None
    return reason if reason.rejection.kind is RejectionKind.FAILED else None


def ask_for_proof(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> None:
    """Have the machine prove that the unit is healthy there: the next of its group may go then."""
    options = proposal.snapshot.group_options(group_of(plan.name))
    plan.proofs = {**plan.proofs, machine: ProofRequest(options.settle_s, options.deadline_s)}


def is_finishing(plan: UnitPlanBuilder, machine: str) -> bool:
    """True for a oneshot that is at work."""
    state = plan.states.get(machine)
    return plan.requirements.is_oneshot and state is not None and state.active == "activating"
