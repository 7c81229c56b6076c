"""The systemd of a simulated machine."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from fleetd.model.content import DropIn
from fleetd.systemd.protocol import NO_DROPINS, IsolatedUnit, ManagerUnavailable
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.simulation.wire import IsFatal, Link

_CHANGING = ("write", "remove", "link", "start", "stop", "reload")


class MachineSystemd(SimulatedSystemd):
    """A simulated systemd that reports its calls, and blocks a paused fleetd. `is_fatal` is asked about each call that
    changes something."""

    def __init__(
        self,
        system_units: Mapping[str, str],
        link: Link,
        on_call: Callable[[str, Sequence[str]], None],
        is_fatal: IsFatal,
    ) -> None:
        super().__init__(system_units=system_units)
        self._link = link
        self._on_call = on_call
        self._is_fatal = is_fatal
        self.lease_rate = 1.0  # how much longer, on its clock, than it was told: clocks differ

    async def _take_time(self, verb: str, names: Any, *, connected: bool = True) -> None:
        await super()._take_time(verb, names, connected=connected)
        await self._link.awake.wait()
        if verb in _CHANGING and self._is_fatal(f"before it asks systemd to {verb} {' '.join(names)}"):
            raise ManagerUnavailable("who asked is dead")
        self._on_call(verb, list(names))
        self.calls.clear()

    async def write(
        self, files: Mapping[str, str], dropins: Mapping[str, Sequence[DropIn]] = NO_DROPINS
    ) -> Mapping[str, Exception]:
        refused = await super().write(files, dropins)
        self._is_fatal(f"after it has written {' '.join(files)}")
        return refused

    async def remove(self, names: Collection[str]) -> Mapping[str, Exception]:
        failures = await super().remove(names)
        self._is_fatal(f"after it has removed {' '.join(names)}")
        return failures

    async def start(self, name: str) -> None:
        await super().start(name)
        self._is_fatal(f"after it has asked systemd to start {name}")

    async def stop(self, name: str) -> None:
        await super().stop(name)
        self._is_fatal(f"after it has asked systemd to stop {name}")

    async def reload(self) -> None:
        await super().reload()
        self._is_fatal("after it has asked systemd to reload")

    async def hold_lease(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        await super().hold_lease(*self._as_clocked(units, until_s))
        self._is_fatal("after it has held the lease")

    async def end_isolation(self, units: Sequence[IsolatedUnit], until_s: float) -> None:
        await super().end_isolation(*self._as_clocked(units, until_s))
        self._is_fatal("after it has ended the isolation")

    def _as_clocked(self, units: Sequence[IsolatedUnit], until_s: float) -> tuple[Sequence[IsolatedUnit], float]:
        now_s, rate = asyncio.get_running_loop().time(), self.lease_rate
        slow = [msgspec.structs.replace(unit, stop_s=unit.stop_s * rate) for unit in units]
        return slow, now_s + (until_s - now_s) * rate

    def hang_up(self) -> None:
        """The present client gets no more signals, and no more answers."""
        self._session = False

    async def wait_for_changes(self) -> Sequence[str]:
        names = await super().wait_for_changes()
        await self._link.awake.wait()
        return names

    def begin_shutdown(self) -> None:
        """The whole machine goes down: systemd stops its units, and fleetd at the end."""
        self.stopping = True
        for name in self.processes():
            unit = self._units.get(name)
            if unit is not None:
                self._units.queue_stop(unit)

    def has_job(self, name: str) -> bool:
        """True if a job for the unit is queued."""
        unit = self._units.get(name)
        return unit is not None and unit.job is not None

    @property
    def own_names(self) -> tuple[str, ...]:
        """The machine's units that fleet does not manage."""
        return tuple(self._system_units)
