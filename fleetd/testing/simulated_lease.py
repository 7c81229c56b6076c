"""The lease of a simulated machine: units that systemd stops when nobody renews it (systemd/isolation.py)."""

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from fleetd.model.isolation_dropin import MARK, PERMITS
from fleetd.model.unit import AT_REST
from fleetd.systemd.protocol import IsolatedUnit, Isolation
from fleetd.testing.simulated_units import SimulatedUnits

_MARK, _PERMITS = f"%t/{MARK}", f"%t/{PERMITS}"


class SimulatedLease:
    """The boot clock is the event loop's."""

    def __init__(self, units: SimulatedUnits) -> None:
        self._all = units
        self._units: tuple[IsolatedUnit, ...] = ()
        self._timers: list[asyncio.TimerHandle] = []
        self._state = Isolation()

    def reset(self) -> None:
        """The machine has booted."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        self._units, self._state = (), Isolation()
        self._unmark()
        self.permit(())

    @property
    def state(self) -> Isolation:
        """See ServiceManager.isolation."""
        names = (unit.name for unit in self._units)
        is_under_way = self._state.is_isolated and any(map(self._runs, names))
        return msgspec.structs.replace(self._state, is_under_way=is_under_way)

    def hold(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        """See ServiceManager.hold_lease."""
        for timer in self._timers:
            timer.cancel()
        self._units = tuple(units)
        self._state = msgspec.structs.replace(self._state, is_leased=True)
        self._timers = [asyncio.get_running_loop().call_at(until_s, self._isolate)]

    def end(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        """See ServiceManager.end_isolation."""
        self.hold(units, until_s)
        self._state = Isolation(is_leased=True)
        self._unmark()

    def drop(self) -> None:
        """See ServiceManager.drop_lease."""
        for timer in self._timers:
            timer.cancel()
        self._units, self._state = (), Isolation()
        self._unmark()

    def permit(self, names: Collection[str]) -> None:
        """See ServiceManager.permit."""
        paths = self._all.paths
        for path in [path for path in paths if path.startswith(f"{_PERMITS}/")]:
            del paths[path]
        paths |= {f"{_PERMITS}/{name}": None for name in names}

    def _unmark(self) -> None:
        self._all.paths.pop(_MARK, None)

    def _runs(self, name: str) -> bool:
        unit = self._all.get(name)
        return unit is not None and unit.active not in AT_REST

    def _isolate(self) -> None:
        if not self._state.is_isolated:
            stopped = tuple(unit.name for unit in self._units if self._runs(unit.name))
            self._state = Isolation(is_leased=True, is_isolated=True, stopped=stopped)
        self._all.paths[_MARK] = None
        loop = asyncio.get_running_loop()
        for unit in self._units:
            self._all.stop(unit.name)
            self._timers.append(loop.call_later(unit.stop_s, self._all.kill, unit.name))
