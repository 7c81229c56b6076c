"""The events that are kept, in the order in which they were written."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from operator import attrgetter

from fleetd.api.v2.event_lines import Moment, Selection, events_prefix, read_kept
from fleetd.model.event import first_name_at
from fleetd.registry.latest_events import read_latest
from fleetd.registry.registry import Registry
from fleetd.store.protocol import KeyValue

HELD_BYTES = 4 * 2**20  # for one reader, until it has taken them
PAGE_KEYS = 200
SCANS = 2  # at once, for all readers

_by_revision = attrgetter("mod_revision")


class KeptEvents:
    """Reads the records of events in the order of their revisions.

    Their keys are in the order of the clocks of the machines that wrote them, which differ. So each scan goes through
    all keys and keeps the oldest records that were not read yet; the next scan goes on after these.
    """

    def __init__(self, registry: Registry, held_bytes: int = HELD_BYTES) -> None:
        self._registry = registry
        self._prefix = events_prefix(registry)
        self._held_bytes = held_bytes
        self._scans = asyncio.Semaphore(SCANS)

    async def read(self, selection: Selection, since_s: float, after: int, until: int) -> AsyncGenerator[Moment, None]:
        """What the selection selects of what was written after the revision `after`, as it was at the revision `until`,
        and since this Unix time (0: from the oldest). Raises Unavailable, and ApiError if there is no room for it."""
        is_all = False
        while not is_all:
            async with self._scans:
                found, is_all = await self._find_oldest(selection, since_s, after, until)
            try:
                for item in found:
                    after = item.mod_revision
                    for moment in read_kept(self._registry, [item]):
                        yield moment
            finally:
                self._registry.give_back(found)

    async def read_latest(
        self, selection: Selection, now_s: float, after: int, until: int
    ) -> tuple[list[Moment], bool]:
        """What the selection selects of the latest events, as many of all as are held for a reader, and true if these
        are all that are kept. It is Unix time `now_s`. Raises Unavailable, and ApiError if there is no room for it."""
        async with self._scans:
            found = await read_latest(self._registry, now_s, self._held_bytes)
            try:
                moments: list[Moment] = []
                for items in _batched([item for item in found.items if after < item.mod_revision <= until]):
                    moments += filter(selection.select, read_kept(self._registry, items))
                    await asyncio.sleep(0)  # there may be thousands
                return moments, found.is_all
            finally:
                self._registry.give_back(found.items)

    async def _find_oldest(
        self, selection: Selection, since_s: float, after: int, until: int
    ) -> tuple[list[KeyValue], bool]:
        """The first records in order that are selected, as many as are held for a reader, and true if these are all."""
        found: list[KeyValue] = []
        before, is_all = until, True
        last = self._prefix + first_name_at(since_s) if since_s else ""
        try:
            while page := await self._registry.read_keys(self._prefix, last, PAGE_KEYS, until):
                last = page[-1].key
                dropped: list[KeyValue] = []
                for item in page:
                    is_wanted = after < item.mod_revision <= before and self._selects(selection, item)
                    (found if is_wanted else dropped).append(item)
                if sum(len(item.value) for item in found) > self._held_bytes:
                    found, others = _cut(found, self._held_bytes)
                    dropped += others
                    before, is_all = found[-1].mod_revision, False
                self._registry.give_back(dropped)
        except BaseException:
            self._registry.give_back(found)
            raise
        return sorted(found, key=_by_revision), is_all

    def _selects(self, selection: Selection, item: KeyValue) -> bool:
        return any(selection.select(moment) for moment in read_kept(self._registry, [item]))


def _batched(items: list[KeyValue]) -> Iterator[list[KeyValue]]:
    return (items[start : start + PAGE_KEYS] for start in range(0, len(items), PAGE_KEYS))


def _cut(items: list[KeyValue], most_bytes: int) -> tuple[list[KeyValue], list[KeyValue]]:
    """The first of these records in order, at least one and half as many bytes as may be held, and the others."""
    ordered = sorted(items, key=_by_revision)
    size = count = 0
    for item in ordered:
        size += len(item.value)
        if count and size > most_bytes // 2:
            break
        count += 1
    return ordered[:count], ordered[count:]
