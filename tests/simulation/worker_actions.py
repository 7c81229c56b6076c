"""The actions of scenarios about workers."""

from tests.simulation.actions import Action, verb
from tests.simulation.world import World


@verb
def part(world: World, action: Action) -> None:
    """`part WORKER SERVER [for SECONDS]`: the worker does not reach this server; others it does. Of no effect on others
    than a worker."""
    worker, server = action.args
    world.part(worker, server)
    world.begin(f"way from {worker} to {server}", action.for_s, lambda: world.join(worker, server))
