"""Decide what is done about each allocation of a unit, by its state.

A placement ends in two steps: it is withdrawn, and deleted once the machine reports the unit gone. Until then the unit
is placed nowhere else, so that it runs once. Only a dead machine is not waited for; what it ran is superseded when it
returns, beside the replacement.

The decisions only read: the plan of the unit and the proposal as they are so far. Each returns one action, or None.
"""

from collections.abc import Mapping, Sequence

from fleetd.model.content import is_same_content
from fleetd.model.reason import (
    ADOPTED,
    COMPLETED,
    KEPT,
    RESUMED,
    Absence,
    MissingSecrets,
    NotMoved,
    Placed,
    Rejection,
    RejectionKind,
    Rule,
    WaitingForMachine,
    WaitingForPeer,
    WaitingForRemoval,
    WaitingForStop,
)
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState, UnitState
from fleetd.scheduler.actions import (
    Action,
    AwaitIsolation,
    Conclude,
    Decline,
    FindMachine,
    Forget,
    Keep,
    Place,
    Supersede,
    Wait,
    WaitForMachine,
    Withdraw,
)
from fleetd.scheduler.allocation_state import AllocationState as State
from fleetd.scheduler.disruption import answer_to, is_standby, judge_member
from fleetd.scheduler.feasibility import (
    Candidate,
    accepts,
    eviction_reason,
    meets_constraints,
    rejection,
    rejection_by_occupants,
)
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.unit_plan import UnitPlanBuilder

# Before any unit is reviewed: what is over.


def decide_loss(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> Action | None:
    """Wait for a dead machine if the unit is assigned to it and is to wait; else forget the placement there."""
    if plan.allocation_state(machine) is not State.LOST:
        return None
    delays = proposal.delays
    is_kept = delays.kept_until(plan.name, machine) > 0
    if is_kept and plan.is_on_many and plan.placements[machine].is_active:
        return None
    if delays.is_waiting(plan.name, machine) and _is_only_allocation(plan, machine):
        absence = Absence.REBOOTS if is_kept else Absence.LOST
        if not is_kept and delays.is_isolation_the_longest(plan.name, machine):
            absence = Absence.ISOLATED
        reason = WaitingForMachine(machine, absence, delays.until(plan.name, machine))
        return WaitForMachine(reason, delays.loss(machine).at, delays.end_s(plan.name, machine))
    if delays.is_isolating(plan.name, machine):
        return AwaitIsolation(delays.isolation_end_s(plan.name, machine))
    return Forget(machine, reruns=plan.placements[machine].is_active and delays.runs_again(plan.name))


def decide_release(plan: UnitPlanBuilder, machine: str) -> Action | None:
    """Forget a placement that is carried out. Others count with the unit's present requirements from here on."""
    placement = plan.placements[machine]
    match plan.allocation_state(machine):
        case State.DECLINED:
            is_accepted = machine in plan.states and not plan.snapshot.refusal(plan.name, machine)
            is_accepted = is_accepted or _is_other_content(plan, machine)  # which it may take
            is_over = is_accepted or not plan.is_wanted or plan.snapshot.is_dead(machine)
            return Forget(machine) if is_over else None
        case State.STOPPED:
            is_refused = plan.is_wanted and plan.snapshot.refusal(plan.name, machine)
            return Decline(machine) if is_refused else Forget(machine)
        case State.ASSIGNED if plan.unit is not None and not plan.held_content(machine):
            return None if is_same_content(placement, plan.unit) else Keep(machine)
    return None


def _is_other_content(plan: UnitPlanBuilder, machine: str) -> bool:
    """True if the machine has refused content for which it could not have what it needs, and the unit has other."""
    refused, content = plan.placements[machine], plan.held_content(machine) or plan.unit
    if content is None or not requirements_of(refused.content, plan.name).downloads:
        return False
    return not is_same_content(refused, content)


def end_preparation(plan: UnitPlanBuilder, machine: str) -> Forget | Decline | None:
    """Forget a placement with which a machine gets what the unit needs, unless that is to come there; or note that it
    cannot have it. After all else is decided."""
    if plan.is_wanted and plan.snapshot.refusal(plan.name, machine):
        return Decline(machine)
    is_to_come = machine == (plan.prepares_on if plan.assigned else plan.move_to)
    return None if is_to_come and plan.is_wanted and not plan.is_on_many else Forget(machine)


def _is_only_allocation(plan: UnitPlanBuilder, machine: str) -> bool:
    """True if the unit neither runs nor may stay on any other machine, so that nothing is lost by waiting."""
    is_active = [where for where, placement in plan.placements.items() if placement.is_active]
    goes = [where for where, placement in plan.placements.items() if placement.is_leaving]
    runs = [where for where, state in plan.states.items() if state.runs and where not in goes]
    return is_active == [machine] and not any(where in plan.snapshot.machines for where in runs)


# The review: which allocations stay.


def decide_stay(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> Action | None:
    """Keep the allocation, with the unit's present text and target, or withdraw it."""
    match plan.allocation_state(machine):
        case State.SUPERSEDED if plan.is_on_many or not plan.is_wanted:
            return Withdraw(machine)
        case State.ASSIGNED | State.LOST if not plan.is_wanted:
            return Withdraw(machine)
        case State.ASSIGNED | State.LOST if plan.is_on_many:
            return Withdraw(machine) if _why_unfit(proposal, plan, machine) else Place(machine)
        case State.ASSIGNED | State.LOST if machine == plan.assigned:
            found = _why_unfit(proposal, plan, machine) or _why_replaced(proposal, plan, machine)
            return _evict(proposal, plan, machine, found) if found else _stay(plan, machine)
        case State.ASSIGNED:  # the unit was global before
            return Supersede(machine)
    return None


def _evict(proposal: Proposal, plan: UnitPlanBuilder, machine: str, because: Rejection) -> Withdraw:
    reruns = _has_to_leave(proposal, plan, machine) and proposal.delays.runs_again(plan.name)
    return Withdraw(machine, because, reruns=reruns)


def _stay(plan: UnitPlanBuilder, machine: str) -> Place:
    """Keep the unit where it is, and say what its machine's absence means for it."""
    state, before = plan.states.get(machine), plan.before
    if plan.is_parked(machine) and (state is None or state.generation < plan.generation):
        return Place(machine, WaitingForMachine(machine, Absence.PARKED))
    if machine in plan.snapshot.machines and before is not None and before.lost > 0:
        return Place(machine, Placed(Rule.RETURNED, machine=machine))
    return Place(machine, plan.stays)


def _why_unfit(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> Rejection | None:
    """Why the unit may not stay on the machine, or None. A machine that is parked, away or waited for keeps its
    units."""
    effective = plan.snapshot.effective.get(machine)
    if effective is None or effective.hold:
        return None
    if effective.evicts:
        return effective.evicts if _has_to_leave(proposal, plan, machine) else None
    if machine in plan.leaves:
        return plan.leaves[machine]
    candidate = _candidate(proposal, plan, machine)
    return accepts(candidate) or eviction_reason(candidate)


def _has_to_leave(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> bool:
    """True if the machine evicts the unit. One with a failover delay waits for a machine that is only switched off."""
    effective = plan.snapshot.effective.get(machine)
    if effective is None or effective.evicts is None:
        return False
    delays = proposal.delays
    waits = delays.delay_s(plan.name, machine) > 0 or delays.kept_until(plan.name, machine) > 0
    return not (effective.may_return and waits)


def _why_replaced(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> Rejection | None:
    """The rejection if another unit replaces this one here and it fits on a machine where none does, or None."""
    replacer = _replacer(proposal, plan, machine)
    if not replacer or not plan.snapshot.accepts_work(machine) or _is_awaited(proposal, replacer, machine):
        return None
    others = (_candidate(proposal, plan, other) for other in plan.snapshot.machines if other != machine)
    free = any(not rejection(each) and not _replacer(proposal, plan, each.machine) for each in others)
    return Rejection(RejectionKind.REPLACED, replacer) if free else None


def _is_awaited(proposal: Proposal, replacer: str, machine: str) -> bool:
    """True while a unit with downloads that is placed on this machine has not been started there as it is to be: what
    it replaces runs on until then. One that waits for its lock has them; it may be what it replaces that holds it."""
    placement = proposal.snapshot.placements.get(replacer, {}).get(machine)
    if placement is None or not requirements_of(placement.content, replacer).downloads:
        return False
    state = proposal.snapshot.states.get(replacer, {}).get(machine)
    return state is None or (state.generation < placement.generation and not is_standby(placement, state))


def _replacer(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> str:
    """The unit on this machine that replaces this one, or ''."""
    occupancy = proposal.occupancy(machine)
    return min(occupancy.replacing(plan.name, plan.requirements_on(machine)), default="") if occupancy.replaces else ""


# After the review of all units: what is left behind, and where the unit goes.


def decide_handover(proposal: Proposal, plan: UnitPlanBuilder, machine: str, state: State) -> Action | None:
    """Decide on an allocation that runs beside the one to replace it.

    A superseded one is withdrawn once its replacement runs; with Handover=start-first, once that is proven. If the
    replacement failed, or did not start within the handover time, the unit is assigned here again, or runs on if it
    does not fit here. An agent that keeps an orphan running ignores a withdrawal: its allocation is superseded first,
    after which the agent treats it like any other.
    """
    report = plan.states.get(machine)
    is_overdue = _is_overdue(proposal, plan, machine)
    if report is None or not report.runs:
        return Withdraw(machine)
    if plan.is_single:
        return _decide_second(proposal, plan, machine, state)
    if plan.placements[machine].hands_over:
        return None if report.outdated or report.orphan else _decide_start_first(proposal, plan, machine)
    if _is_needed(plan, is_overdue=is_overdue):
        if report.outdated:
            return None  # it may run no more, or be the only one that runs
        if not rejection(_candidate(proposal, plan, machine, runs_there=True)):
            return Place(machine, ADOPTED)
    if state is State.ORPHANED:
        return Supersede(machine) if _is_replaced(plan) else None
    if not report.orphan and _is_dispensable(proposal, plan, machine, is_overdue=is_overdue):
        return Withdraw(machine)
    return None


def _decide_second(proposal: Proposal, plan: UnitPlanBuilder, machine: str, state: State) -> Action | None:
    """Decide on an allocation of a unit that must not run twice (IsolationSec=) beside the assigned one, or where none
    is assigned: it is stopped, whether anything replaces it or not, or assigned here if it runs nowhere else."""
    if state is State.ORPHANED:
        return Supersede(machine)
    report = plan.states[machine]
    if plan.assigned and not is_early(plan, machine):
        return Withdraw(machine)
    if report.outdated:
        return None  # its machine has still to say whether it runs
    is_at_work = report.active != "deactivating"
    if is_at_work and not rejection(_candidate(proposal, plan, machine, runs_there=True)):
        return Place(machine, ADOPTED)
    return Withdraw(machine)


def is_early(plan: UnitPlanBuilder, machine: str) -> bool:
    """True for a unit that must not run twice and runs on this machine, if it does not run yet where it is assigned: it
    must not be started there before it has stopped here."""
    report = plan.states.get(machine)
    runs_here = plan.is_single and report is not None and report.runs
    return runs_here and not plan.snapshot.is_running_on(plan.name, plan.assigned)


def _decide_start_first(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> Action | None:
    """Decide on an allocation that runs until the unit is proven where it moves to (Handover=start-first). It is
    assigned here again, if it may be here still, when it fails there, or cannot be there any longer."""
    why = _find_hindrance(plan)
    if why is None:
        return Withdraw(machine) if is_handed_over(plan) else None
    if plan.snapshot.effective[machine].evicts is not None:
        return Withdraw(machine)
    candidate = _candidate(proposal, plan, machine)
    if meets_constraints(candidate) or rejection_by_occupants(candidate):
        return None  # what runs is not stopped as long as nothing else does
    drain = plan.snapshot.drain_request(machine)
    goal = plan.assigned or (plan.before.machine if plan.before else "")
    return Place(machine, NotMoved(goal, why, drained_at=drain.at if drain else 0.0))


def is_handed_over(plan: UnitPlanBuilder) -> bool:
    """True if a unit that started first where it moves to counts there, and need not run where it was."""
    placement = plan.placements[plan.assigned]
    if placement.prove_after_s is None:  # nobody is asked for a proof
        return _is_replaced(plan)
    return plan.target is not TargetState.LAUNCHED or judge_member(placement, plan.states.get(plan.assigned)) is None


def _find_hindrance(plan: UnitPlanBuilder) -> Rejection | None:
    """Why a unit that started first where it moves to will not run there, or None."""
    if not plan.assigned:
        return plan.eviction.rejection if plan.eviction else Rejection(RejectionKind.ABSENT)
    if plan.is_parked(plan.assigned):  # nobody there can prove anything
        return Rejection(RejectionKind.PARKED)
    placement, state = plan.placements[plan.assigned], plan.states.get(plan.assigned)
    if placement.prove_after_s is None:
        return Rejection(RejectionKind.FAILED, state.result or "it failed") if state and _has_failed(state) else None
    proof = answer_to(placement, state)
    return Rejection(RejectionKind.FAILED, proof.failed) if proof is not None and proof.failed else None


def _is_overdue(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> bool:
    """True if the superseded allocation has had its time to be replaced."""
    since_s = plan.snapshot.superseded_since.get((machine, plan.name))
    return since_s is not None and since_s + proposal.policy.handover_timeout_s <= proposal.now.clock_s


def _is_needed(plan: UnitPlanBuilder, *, is_overdue: bool) -> bool:
    """True if nothing replaces a superseded allocation: the replacement failed, or it does not start in time."""
    if not plan.assigned:
        return True
    is_late = is_overdue and not _is_replaced(plan) and not plan.snapshot.is_running_on(plan.name, plan.assigned)
    return is_late or _has_failed(plan.states.get(plan.assigned))


def _is_dispensable(proposal: Proposal, plan: UnitPlanBuilder, machine: str, *, is_overdue: bool) -> bool:
    """True if a superseded allocation can be stopped: its replacement runs, or a unit placed here conflicts with it.
    After the handover time also if the replacement is starting, the machine leaves, or the oneshot has completed."""
    if _is_replaced(plan) or _is_in_the_way(proposal, plan, machine):
        return True
    state = plan.states.get(plan.assigned)
    begins = state is not None and state.runs and state.active != "deactivating" and not state.outdated
    is_left = plan.snapshot.effective[machine].evicts is not None
    return is_overdue and (begins or is_left or plan.completed == plan.generation)


def _is_in_the_way(proposal: Proposal, plan: UnitPlanBuilder, machine: str) -> bool:
    """True if a unit placed on this machine conflicts with the one that runs here beside it. One whose place is only
    kept, while it stops elsewhere, is not here yet, and may never be."""
    found = proposal.occupancy(machine).conflicting(plan.name, plan.requirements_on(machine))
    return any(proposal.is_placed(other, machine) for other in found)


def _is_replaced(plan: UnitPlanBuilder) -> bool:
    """True if the unit is in its target state on its assigned machine."""
    if not plan.assigned:
        return False
    state = plan.states.get(plan.assigned)
    is_active = state is not None and not state.outdated and (state.active == "active" or state.completed)
    return is_active or plan.unit is None or plan.unit.target is not TargetState.LAUNCHED


def _has_failed(state: UnitState | None) -> bool:
    return state is not None and (state.active == "failed" or (bool(state.error) and not state.runs))


def decide_unassigned(proposal: Proposal, plan: UnitPlanBuilder, states: Mapping[str, State]) -> Action:
    """Place a unit that has no machine where it is still being stopped, or have it wait, or find it a machine; unless
    it has completed."""
    stops = (State.STOPPING, State.ORPHANED, *((State.SUPERSEDED,) if plan.is_single else ()))
    leaving = [machine for machine, state in states.items() if state in stops]
    unconfirmed = [machine for machine, state in states.items() if state is State.UNCONFIRMED]
    returning = [machine for machine, state in states.items() if state is State.RETURNING]
    lost = [machine for machine, state in states.items() if state is State.LOST]
    isolating = [machine for machine in lost if proposal.delays.is_isolating(plan.name, machine)]
    if plan.completed == plan.generation:
        return Conclude(COMPLETED)
    if len(leaving) == 1 and _may_resume(proposal, plan, leaving[0], states[leaving[0]]):
        return Place(leaving[0], RESUMED)
    if leaving:
        return Wait(_wait_for_stop(plan, leaving[0]))
    if unconfirmed:
        return Wait(WaitingForRemoval(unconfirmed[0]))
    if returning:
        return Wait(WaitingForMachine(returning[0], Absence.RETURNING))
    if isolating:
        until = proposal.delays.isolated_until(plan.name, isolating[0])
        return Wait(WaitingForMachine(isolating[0], Absence.ISOLATED, until))
    if missing := plan.snapshot.missing_secrets(plan.requirements):
        return Conclude(MissingSecrets(missing))
    if plan.move_to in plan.snapshot.machines:
        # One that returns does so in spite of a cordon.
        returns = isinstance(plan.arrival, NotMoved)
        goal = _candidate(proposal, plan, plan.move_to, runs_there=returns)
        if not rejection(goal):
            return Place(plan.move_to, plan.arrival)
    return FindMachine()


def decide_return(proposal: Proposal, plan: UnitPlanBuilder, group: Sequence[str]) -> Place | None:
    """Put a unit that was to move, and that no other machine takes any more, back on the drained machine in spite of
    the cordon, together with this group; unless it was to leave whatever follows."""
    machine = _moved_from(plan)
    effective, drain = plan.snapshot.effective.get(machine), plan.snapshot.drain_request(machine)
    if effective is None or effective.evicts or effective.hold or (drain is not None and drain.force):
        return None
    candidate = Candidate(proposal, plan.name, plan.requirements_on(machine), machine, tuple(group))
    is_rejected = meets_constraints(candidate) or rejection_by_occupants(candidate)
    return None if is_rejected else Place(machine, KEPT)


def _moved_from(plan: UnitPlanBuilder) -> str:
    """The machine that a unit which is to move has just left, or ''."""
    reason = plan.before.reason if plan.before and plan.move_to else None
    if isinstance(reason, WaitingForPeer):
        reason = reason.peer_waits
    return reason.machine if isinstance(reason, WaitingForStop | WaitingForRemoval) else ""


def decide_on_many(proposal: Proposal, plan: UnitPlanBuilder, machine: str, *, matches: bool) -> Action | None:
    """Place a unit that is to be on every machine that it fits on, or not. `matches`: this one accepts work and meets
    the unit's constraints."""
    state = plan.allocation_state(machine)
    if machine in plan.placements:
        return Place(machine) if _may_resume(proposal, plan, machine, state) else None
    if state is State.UNCONFIRMED or not matches:
        return None
    return None if rejection_by_occupants(_candidate(proposal, plan, machine)) else Place(machine)


def _may_resume(proposal: Proposal, plan: UnitPlanBuilder, machine: str, state: State) -> bool:
    """True if a withdrawn unit may stay on the machine after all: it was started again since, or the agent keeps it
    running."""
    is_started_again = state is State.STOPPING and plan.placements[machine].generation < plan.generation
    is_kept = state is State.ORPHANED
    if machine not in plan.snapshot.machines or not (is_started_again or is_kept):
        return False
    return not rejection(_candidate(proposal, plan, machine, runs_there=is_kept))


def _wait_for_stop(plan: UnitPlanBuilder, machine: str) -> WaitingForStop:
    """The unit waits until it is stopped on this machine. Why it may not stay there is kept from pass to pass."""
    before = plan.before.reason if plan.before else None
    because = plan.eviction or (before.because if isinstance(before, WaitingForStop) else None)
    return WaitingForStop(machine, because, plan.hold_on(machine))


def _candidate(proposal: Proposal, plan: UnitPlanBuilder, machine: str, *, runs_there: bool = False) -> Candidate:
    """The unit as a candidate for this machine."""
    return Candidate(proposal, plan.name, plan.requirements_on(machine), machine, runs_there=runs_there)
