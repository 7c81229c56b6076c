"""Deletes what workers go on to announce of units that were taken from them, or of former contents of units
(scheduler/stale_announcements.py)."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from fleetd.registry.records import PLACEMENTS, SERVICES, encode
from fleetd.registry.registry import Registry
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.stale_announcements import Place, find_stale
from fleetd.store.protocol import Comparison, Delete, HasValue, StoreError, Unchanged

log = logging.getLogger(__name__)

PERIOD_S = 60.0  # a machine that does as it is told has taken its names back by then


class AnnouncementSweeper:
    """Sweeps during one term: at its beginning and after writes of the leader, so nothing is done at rest. `guards` are
    the comparisons that hold while the term lasts, `snapshot` returns what the leader knows."""

    def __init__(self, registry: Registry, guards: Sequence[Comparison], snapshot: Callable[[], Snapshot]) -> None:
        self._registry = registry
        self._guards = tuple(guards)
        self._snapshot = snapshot
        self._written = asyncio.Event()
        self._written.set()

    def note_write(self) -> None:
        """Note that the leader has written something."""
        self._written.set()

    async def run(self) -> None:
        """Sweep until this is cancelled. What is deleted was there at two looks in a row."""
        seen: dict[Place, tuple[str, ...]] = {}
        while True:
            if not seen:
                await self._written.wait()
            self._written.clear()
            await asyncio.sleep(PERIOD_S)
            found = find_stale(self._snapshot())
            for place in [place for place in found if place in seen]:
                await self._delete(place, found[place])
            seen = found

    async def _delete(self, place: Place, services: Sequence[str]) -> None:
        """Delete these announcements, unless another content of the unit is placed there now."""
        keys, (machine, unit) = self._registry, place
        placed = self._snapshot().placements.get(unit, {}).get(machine)
        key = keys.key(PLACEMENTS, machine, unit)
        guards = (*self._guards, HasValue(key, encode(placed)) if placed else Unchanged(key, 0))
        deletes = [Delete(keys.key(SERVICES, service, machine, unit)) for service in services]
        facts = {"unit": unit, "machine": machine}
        try:
            await self._registry.store.transact(guards, deletes)
            log.warning("a machine went on to announce what it is not to; the names are deleted", extra=facts)
        except StoreError as error:
            log.info("cannot delete what is announced on a machine, trying again: %s", error, extra=facts)
