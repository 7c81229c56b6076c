"""The actions of scenarios about what units need on their machines."""

from tests.simulation.actions import Action, verb
from tests.simulation.world import World

SLOW_S = 40.0


@verb
def fail_downloads(world: World, action: Action) -> None:
    """`fail-downloads MACHINE [for SECONDS]`: the machine can have nothing that it does not have."""
    name = action.args[0]
    machine = world.machines[name]
    machine.failing_downloads = "connection refused"

    def mend() -> None:
        machine.failing_downloads = ""

    world.begin(f"failure of the downloads on {name}", action.for_s, mend)


@verb
def slow_downloads(world: World, action: Action) -> None:
    """`slow-downloads MACHINE [for SECONDS]`: what the machine begins to download takes long."""
    name = action.args[0]
    fetcher = world.machines[name].fetcher
    usual_s, fetcher.takes_s = fetcher.takes_s, SLOW_S

    def mend() -> None:
        fetcher.takes_s = min(usual_s, 3.0)

    world.begin(f"slow downloads on {name}", action.for_s, mend)


@verb
def lose_downloads(world: World, action: Action) -> None:
    """`lose-downloads MACHINE`: somebody removes there what is not in use."""
    machine = world.machines[action.args[0]]
    machine.lost_downloads_s = world.loop.time()
    machine.fetcher.here.clear()
