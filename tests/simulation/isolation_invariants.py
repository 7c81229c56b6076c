"""What must hold of units that must never run twice (IsolationSec=): at every moment, by the processes of the systemds,
whatever happens to machines, networks and the store."""

from fleetd.model.content import Content
from fleetd.model.isolation import IsolationOptions
from fleetd.model.isolation_options import isolation_options_of
from tests.simulation.checker import Checker
from tests.simulation.units import ISOLATED, unit_text

ASKED: dict[str, IsolationOptions] = {
    name: isolation_options_of(Content(unit_text(name)), name) for name in ISOLATED
}  # what no edition of a unit changes


class SinglesRunOnce(Checker):
    """No two machines run one unit with IsolationSec=, not for a moment."""

    _seen: object = None

    def see_rest(self) -> None:
        if self._seen is self.world.processes:
            return
        self._seen = self.world.processes
        machines: dict[str, list[str]] = {}
        for machine, name in self.world.processes:
            if name in ASKED and ASKED[name].is_single:
                machines.setdefault(name, []).append(machine)
        for name, found in machines.items():
            if len(found) > 1:
                self.fail(f"{name} runs on {' and '.join(found)}")
