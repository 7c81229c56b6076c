"""What must hold of units that must never run twice (IsolationSec=), and of those that run under a lock (Lock=): at
every moment, by the processes of the systemds, whatever happens to machines, networks and the store."""

from fleetd.model.content import Content
from fleetd.model.isolation import IsolationOptions, UnitLock
from fleetd.model.isolation_options import isolation_options_of
from tests.simulation.checker import Checker
from tests.simulation.units import ISOLATED, LOCKED, unit_text

ASKED: dict[str, IsolationOptions] = {
    name: isolation_options_of(Content(unit_text(name)), name) for name in (*ISOLATED, *LOCKED)
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


class LocksAreKept(Checker):
    """No more processes run under a lock than it has slots, not for a moment."""

    _seen: object = None

    def see_rest(self) -> None:
        if self._seen is self.world.processes:
            return
        self._seen = self.world.processes
        holders: dict[UnitLock, list[str]] = {}
        for machine, name in self.world.processes:
            lock = ASKED[name].lock if name in ASKED else None
            if lock is not None:
                holders.setdefault(lock, []).append(f"{name} on {machine}")
        for lock, found in holders.items():
            if len(found) > lock.slots:
                self.fail(f"under the lock {lock.name} run {', '.join(found)}")
