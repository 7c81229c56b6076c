"""fleetd: the agent and the engine that run on every machine of a fleet cluster."""

# Three numbers and nothing else: what comes before a release is spelt one way for packages (PEP 440: 2.0.0.dev0) and
# another for clients that compare versions (semver: 2.0.0-dev), and those of CoreOS fleet pass over all but X.Y.Z.
__version__ = "2.0.0"
