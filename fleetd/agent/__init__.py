"""The agent brings one machine to its desired state: observe, plan (in reconciler/), execute, report."""

from fleetd.agent.agent import Agent

__all__ = ["Agent"]
