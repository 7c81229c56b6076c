"""fleetd: the agent and the engine that run on every machine of a fleet cluster."""

from importlib.metadata import version

__version__ = version("fleet")
