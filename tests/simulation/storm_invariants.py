"""Nobody asks the store without end."""

from typing import TYPE_CHECKING

from tests.simulation.checker import Checker, now

if TYPE_CHECKING:
    from tests.simulation.world import World

STORM_S = 10.0
STORM_REQUESTS = 1_000  # a busy leader makes some tens of requests in that time


class Rule8NobodyStorms(Checker):
    """No fleetd makes more than this many requests of the store in ten seconds, whatever happens."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._next_s = 0.0
        self._counts: dict[str, int] = {}

    def see_rest(self) -> None:
        if now() < self._next_s:
            return
        self._next_s = now() + STORM_S
        counts = {
            machine.name: sum(machine.wire.requests.values())
            for machine in self.world.machines.values()
            if machine.wire is not None
        }
        for machine, count in counts.items():
            asked = count - self._counts.get(machine, 0)
            if asked > STORM_REQUESTS:
                self.fail(f"{machine} has asked the store {asked} times in {STORM_S:g} s")
        self._counts = counts
