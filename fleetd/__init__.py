"""fleetd: the agent and the engine that run on every machine of a fleet cluster."""

__version__ = "2.0.0.dev0"
