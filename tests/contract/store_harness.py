"""Helpers for the store's suites: fill a store, and wait for what a watch reports."""

import asyncio
from collections.abc import AsyncIterator

from fleetd.store.protocol import MAX_OPERATIONS, Changes, Event, Put, Store

PATIENCE_S = 60.0


async def put(store: Store, key: str, value: bytes = b"x", lease: int = 0) -> int:
    return await store.transact([], [Put(key, value, lease)])


async def fill(store: Store, below: str, count: int, value: bytes = b"x") -> int:
    """Put `count` keys in as few transactions as the limits allow. Return the last revision."""
    puts = [Put(f"{below}{number:05}", value) for number in range(count)]
    for start in range(0, count, MAX_OPERATIONS):
        revision = await store.transact([], puts[start : start + MAX_OPERATIONS])
    return revision


async def next_of(watch: AsyncIterator[Changes]) -> Changes:
    return await asyncio.wait_for(anext(watch), PATIENCE_S)


async def events_until(watch: AsyncIterator[Changes], revision: int) -> list[Event]:
    """All events up to this revision, which the watch must reach."""
    events: list[Event] = []
    seen = 0
    while seen < revision:
        changes = await next_of(watch)
        events += changes.events
        seen = changes.revision
    return events
