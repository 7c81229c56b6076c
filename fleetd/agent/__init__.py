"""The agent brings one machine to its desired state: it observes, plans (reconciler/plan.py), executes and reports."""

from fleetd.agent.agent import Agent

__all__ = ["Agent"]
