"""The decision that is stored for a unit: where it is, and why it is there or nowhere."""

from fleetd.model.placement import Decision
from fleetd.model.reason import (
    EVERYWHERE,
    INFEASIBLE,
    KEPT,
    MOVED,
    NO_MACHINES,
    STAYING,
    WITH_SOCKETS,
    Absence,
    Hold,
    Placed,
    Reason,
    RejectionCount,
    Rule,
    Stopping,
    WaitingForMachine,
    WaitingForRemoval,
    WaitingForRoom,
    WaitingForStop,
    is_waiting,
)
from fleetd.scheduler.feasibility import count_rejections, find_stopping
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.unit_plan import UnitPlan, UnitPlanBuilder

_WAS_TO_LEAVE = STAYING | WaitingForStop | WaitingForRemoval  # of a unit that has a machine: why it is still there


def finish(proposal: Proposal, plan: UnitPlanBuilder) -> UnitPlan | None:
    """The plan for one unit, or None if nothing changes. To be called when the proposal is complete."""
    decision = _decide(proposal, plan)
    if decision == plan.before and not plan.changes and not plan.ended_move:
        return None
    revision = plan.before.revision if plan.before else 0
    return UnitPlan(plan.name, revision, plan.written, plan.deleted, decision, plan.ended_move)


def _decide(proposal: Proposal, plan: UnitPlanBuilder) -> Decision | None:
    if not plan.is_wanted and not plan.placements:
        return None
    is_on_many = plan.is_wanted and plan.is_on_many
    assigned = "" if is_on_many else plan.assigned
    before = plan.before
    if is_on_many and before is not None and _is_as_before(plan):
        machines, rejections = before.machines, before.rejections
    else:
        here = [machine for machine, placement in plan.placements.items() if placement.is_active] if is_on_many else []
        machines = len(here)
        rejections = count_rejections(proposal, plan.name, here) if is_on_many or plan.unplaced else ()
    target = "" if assigned else plan.move_to
    return Decision(
        unit=plan.name,
        generation=plan.generation,
        machine=assigned,
        machines=machines,
        since=before.since if before and before.machine == assigned else proposal.now.unix_s,
        reason=_conclude(proposal, plan, assigned, machines, rejections),
        rejections=rejections,
        completed=plan.completed,
        lost=_lost_since(plan, assigned),
        target=target,
        arrival=plan.arrival if target and plan.arrival != MOVED else None,
        revision=before.revision if before else 0,
    )


def _is_as_before(plan: UnitPlanBuilder) -> bool:
    """True for a unit on many machines of which only some are looked at, and that is on all of these, as it was: it is
    on as many as before, and rejected by as many. There can be thousands."""
    if plan.scope is None or plan.changes:
        return False
    placements = [plan.placements.get(machine) for machine in plan.scope]
    return all(placement is not None and placement.is_active for placement in placements)


def _lost_since(plan: UnitPlanBuilder, assigned: str) -> float:
    """Since when the unit waits for its dead machine. One that may be alive is waited for as before, until it is
    back."""
    if assigned in plan.snapshot.away and plan.before and plan.before.machine == assigned:
        return plan.before.lost
    return plan.lost_at if assigned and plan.snapshot.is_dead(assigned) else 0.0


def _conclude(
    proposal: Proposal, plan: UnitPlanBuilder, assigned: str, machines: int, rejections: tuple[RejectionCount, ...]
) -> Reason | None:
    """The reason to be stored with the decision."""
    if not plan.is_wanted:
        return _reason_to_stop(plan)
    if plan.unplaced and rejections and (stopping := find_stopping(proposal, plan.name)):
        return WaitingForRoom(*stopping)
    if plan.reason:
        return plan.reason
    if assigned:
        return _reason_as_before(plan, assigned)
    if machines:
        return WITH_SOCKETS if plan.is_template else EVERYWHERE
    return INFEASIBLE if rejections else NO_MACHINES


def _reason_as_before(plan: UnitPlanBuilder, assigned: str) -> Reason | None:
    """Of a unit that stays where it was: the reason as it was, unless it waited for that machine, which is back."""
    before = plan.before
    if before is None or before.machine != assigned:
        return None
    if isinstance(before.reason, _WAS_TO_LEAVE):
        return KEPT
    if isinstance(before.reason, Placed) and before.reason.rule is Rule.MOVED:
        return before.reason if before.reason.machine == plan.handed_over_from else MOVED
    if assigned in plan.snapshot.machines and is_waiting(before.reason):
        return Placed(Rule.BACK, machine=assigned)
    return before.reason


def _reason_to_stop(plan: UnitPlanBuilder) -> Reason:
    """What still keeps a unit on machines that is not to be on any."""
    orphaned = tuple(machine for machine in plan.placements if plan.is_orphan(machine))
    if orphaned:
        return Stopping(orphaned, Hold.ORPHANED)
    parked = next((machine for machine in plan.placements if plan.is_parked(machine)), "")
    return WaitingForMachine(parked, Absence.PARKED) if parked else Stopping(tuple(plan.placements))
