"""What one machine does. The loop observes, has reconciler/plan.py plan, and does it; its parts each hold one concern:
what is asked (orders), what was done (ledger), doing it (steps), trying again (retries), why it failed (explanations),
and what is reported (publisher).
"""

from fleetd.agent.agent import Agent

__all__ = ["Agent"]
