"""Failover: placements on dead machines are waited for or forgotten, and so are the machines' sessions."""

from fleetd.scheduler.allocations import decide_loss
from fleetd.scheduler.proposal import Proposal, SessionPlan


def fail_over(proposal: Proposal) -> None:
    """Wait for the dead machines of affected units, or forget the placements there, so that the units are placed
    anew."""
    snapshot = proposal.snapshot
    for machine in snapshot.dead():
        for name in snapshot.placed_on[machine]:
            plan = proposal.units.get(name)
            if plan is not None and plan.is_in_scope(machine):
                proposal.apply(plan, decide_loss(proposal, plan, machine))
                proposal.checkpoint()
    # The session of a dead machine goes before its placements: if it is alive after all, its agent must not take
    # missing placements for orders to stop its units.
    proposal.first += [SessionPlan(machine, None) for machine in snapshot.forgotten()]
