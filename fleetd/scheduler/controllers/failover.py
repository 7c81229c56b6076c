"""Failover: placements on dead machines are waited for or forgotten, and so are the machines' sessions."""

from fleetd.scheduler.actions import Forget
from fleetd.scheduler.allocations import decide_loss
from fleetd.scheduler.proposal import Proposal, SessionPlan


def fail_over(proposal: Proposal) -> None:
    """Wait for the dead machines of affected units, or forget the placements there, so that the units are placed
    anew."""
    snapshot = proposal.snapshot
    left = dict.fromkeys(snapshot.forgotten())
    for machine in snapshot.dead():
        for name in snapshot.placed_on[machine]:
            plan = proposal.units.get(name)
            if plan is not None and plan.is_in_scope(machine):
                action = decide_loss(proposal, plan, machine)
                if isinstance(action, Forget):
                    left[machine] = None
                proposal.apply(plan, action)
                proposal.checkpoint()
    # The session of a dead machine goes before its placements: if it is alive after all, its agent must not take
    # missing placements for orders to stop its units. Also where it has gone before, for its units were waited for: the
    # plan is written only if the machine is still not back.
    proposal.first += [SessionPlan(machine, None) for machine in sorted(left)]
