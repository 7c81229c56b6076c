"""Reading the latest records of cluster events, the newest first, whatever the number of older ones."""

from operator import attrgetter

import msgspec

from fleetd.model.event import AHEAD_S, record_name
from fleetd.registry.records import EVENTS, KeySpace
from fleetd.registry.registry import Registry
from fleetd.store.protocol import KeyValue

MOST_BYTES = 4 * 2**20
PAGE_KEYS = 200  # more in one span of time are read in ten shorter spans
_LONGEST = 6  # digits that names have in common which differ by less than eleven days
_SHORTEST = 15  # the same for less than a millisecond


class LatestEvents(msgspec.Struct, frozen=True):
    """Records in the order in which they were written, which count as read until they are given back
    (Registry.give_back). `is_all`: there are no older ones."""

    items: tuple[KeyValue, ...]
    is_all: bool


async def read_latest(registry: Registry, now_s: float, most_bytes: int = MOST_BYTES) -> LatestEvents:
    """The latest records, as many as `most_bytes` hold: those with the newest names, which begin with the time by the
    clock of the machine that wrote them."""
    newest = int(record_name(now_s + AHEAD_S, "")[:_LONGEST])
    spans = [f"{max(0, newest - past):0{_LONGEST}d}" for past in range(3)]  # the last two have at least eleven days
    reading = _Reading(registry, most_bytes)
    try:
        for span in dict.fromkeys(spans):
            await reading.read(span)
    except BaseException:
        registry.give_back(reading.items)
        raise
    return LatestEvents(tuple(sorted(reading.items, key=attrgetter("mod_revision"))), not reading.is_full)


class _Reading:
    """Records, the newest first, until there is no room for more."""

    def __init__(self, registry: Registry, room: int) -> None:
        self._registry = registry
        self._prefix = KeySpace(registry.archive_prefix).key(EVENTS) + "/"
        self._room = room
        self.items: list[KeyValue] = []
        self.is_full = False

    async def read(self, span: str) -> None:
        """Read the records whose names begin with these digits."""
        if self.is_full:
            return
        limit = PAGE_KEYS if len(span) < _SHORTEST else 0
        found = await self._registry.read_keys(self._prefix + span, "", limit, 0)
        if limit and len(found) == limit:
            self._registry.give_back(found)
            for digit in reversed(range(10)):
                await self.read(f"{span}{digit}")
            return
        for index, item in reversed(list(enumerate(found))):
            self._room -= len(item.value)
            if self._room < 0:
                self._registry.give_back(found[: index + 1])
                self.is_full = True
                return
            self.items.append(item)
