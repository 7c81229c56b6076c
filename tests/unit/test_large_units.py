"""A hundred unit files of the largest size: reading them does not block the event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fleetd.leader.slices import in_slices
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import UNITS
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import Event, KeyValue
from tests.virtual_time import offload_inline, run_virtually

MANY = 100
TEXT = "[Service]\n" + f"Environment=X={'x' * 1000}\n" * 200


class Turns:
    """Counts the iterations of the event loop."""

    count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@asynccontextmanager
async def counted() -> AsyncIterator[Turns]:
    turns = Turns()
    task = asyncio.create_task(turns.run())
    try:
        yield turns
    finally:
        task.cancel()


def test_a_listing_yields_to_the_event_loop_while_it_is_decoded() -> None:
    async def body() -> None:
        store = EmbeddedStore(":memory:", offload=offload_inline, cluster_id="test")
        registry = Registry(store)
        await registry.write_unit(Unit("small.service", "", TargetState.INACTIVE), None)
        async with counted() as turns:
            await registry.read(UNITS)
        small = turns.count
        for number in range(MANY):
            await registry.write_unit(Unit(f"u{number}.service", TEXT, TargetState.INACTIVE), None)
        async with counted() as turns:
            assert len(await registry.read(UNITS)) == MANY + 1
        await store.close()
        assert turns.count - small >= 8

    run_virtually(body())


def test_in_slices_yields_after_each_large_record_and_after_many_small_ones() -> None:
    async def body(size: int) -> int:
        items = [KeyValue(f"/fleet/units/u{number}.service", b"x" * size, 1, 1) for number in range(MANY)]
        events = [Event(item.key, item, 1) for item in items]
        async with counted() as turns:
            assert [event async for event in in_slices([*items, *events])] == [*items, *events]
        return turns.count

    assert run_virtually(body(200_000)) >= 2 * MANY - 1
    assert run_virtually(body(200)) <= 3
