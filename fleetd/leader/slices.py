"""Long loops, cut into slices between which the event loop runs other tasks."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

from fleetd.store.protocol import Event, KeyValue

SLICE = 200  # small records in one slice: about 5 ms
HEAVY_BYTES = 1000  # to parse so many bytes of a unit file takes as long as a small record

T = TypeVar("T")


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """The items, one by one; after each slice, other tasks run."""
    weight = 0
    for item in items:
        yield item
        weight += 1 + _size(item) // HEAVY_BYTES
        if weight >= SLICE:
            weight = 0
            await asyncio.sleep(0)


def _size(item: object) -> int:
    """The bytes of the value in a key or an event; 0 for anything else."""
    found = item.item if isinstance(item, Event) else item
    return len(found.value) if isinstance(found, KeyValue) else 0
