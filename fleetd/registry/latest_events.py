"""Reading the latest records of cluster events, the newest first, whatever the number of older ones."""

from collections.abc import AsyncGenerator
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
    """Records in the order in which they were written. `is_all`: there are no older ones."""

    items: tuple[KeyValue, ...]
    is_all: bool


async def read_latest(registry: Registry, now_s: float, most_bytes: int = MOST_BYTES) -> LatestEvents:
    """The latest records, as many as `most_bytes` hold: those with the newest names, which begin with the time by the
    clock of the machine that wrote them."""
    prefix = KeySpace(registry.archive_prefix).key(EVENTS) + "/"
    newest = int(record_name(now_s + AHEAD_S, "")[:_LONGEST])
    spans = [f"{max(0, newest - past):0{_LONGEST}d}" for past in range(3)]  # the last two have at least eleven days
    items: list[KeyValue] = []
    size = 0
    for span in dict.fromkeys(spans):
        async for item in _newest_first(registry, prefix, span):
            size += len(item.value)
            if size > most_bytes:
                return LatestEvents(_in_order(items), is_all=False)
            items.append(item)
    return LatestEvents(_in_order(items), is_all=True)


async def _newest_first(registry: Registry, prefix: str, span: str) -> AsyncGenerator[KeyValue, None]:
    """The records whose names begin with these digits."""
    limit = PAGE_KEYS if len(span) < _SHORTEST else 0
    found = (await registry.store.range(prefix + span, limit=limit)).items
    if limit == 0 or len(found) < limit:
        for item in reversed(found):
            yield item
        return
    for digit in reversed(range(10)):
        async for item in _newest_first(registry, prefix, f"{span}{digit}"):
            yield item


def _in_order(items: list[KeyValue]) -> tuple[KeyValue, ...]:
    return tuple(sorted(items, key=attrgetter("mod_revision")))
