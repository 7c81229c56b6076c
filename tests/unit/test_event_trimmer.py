"""The leader drops what is old of the cluster events, and stays quiet where there is nothing to drop."""

import asyncio

import pytest

from fleetd.leader.event_trimmer import DELAY_S, MOST, PERIOD_S, EventTrimmer
from fleetd.model.event import KEPT_S, ClusterEvent, EventKind
from fleetd.registry.events import EventLog
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Conflict, Delete, Put, Unchanged
from tests.unit.leading_node import Node
from tests.virtual_time import run_virtually

NOW = 1_800_000_000.0


async def fill(registry: Registry, records: int, age_s: float) -> None:
    events = EventLog(registry, lambda: NOW - age_s, lambda: f"w{age_s:g}")
    for _ in range(records):
        written = events.write_set([ClusterEvent(EventKind.LOST, machine="m1")])
        await registry.store.transact(written.comparisons, written.operations)


async def left(registry: Registry) -> int:
    return (await registry.store.digest("/fleet.archive/events/")).count


async def test_old_records_are_dropped_a_hundred_at_a_time() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline))
    await fill(registry, MOST + 20, KEPT_S + 60)
    await fill(registry, 5, 60.0)
    trimmer = EventTrimmer(registry, (), lambda: NOW)
    assert [await trimmer.trim() for _ in range(3)] == [MOST, 20, 0]
    assert await left(registry) == 5


async def test_a_machine_that_leads_no_longer_drops_nothing() -> None:
    registry = Registry(EmbeddedStore(":memory:", offload=inline))
    await fill(registry, 3, KEPT_S + 60)
    trimmer = EventTrimmer(registry, (Unchanged("/fleet/leader", 7),), lambda: NOW)
    with pytest.raises(Conflict):
        await trimmer.trim()
    assert await left(registry) == 3


def test_old_records_are_dropped_after_a_write_but_at_most_once_an_hour() -> None:
    async def run() -> list[int]:
        registry = Registry(EmbeddedStore(":memory:", offload=inline))
        await fill(registry, 2 * MOST + 1, KEPT_S + 60)
        trimmer = EventTrimmer(registry, (), lambda: NOW)
        task = asyncio.create_task(trimmer.run())
        seen = []

        async def see_after(wait_s: float) -> None:
            await asyncio.sleep(wait_s)
            seen.append(await left(registry))

        await see_after(2 * PERIOD_S)  # nothing was written
        trimmer.note_write()
        await see_after(DELAY_S + 0.5)
        await see_after(5.0)
        await fill(registry, 1, KEPT_S + 60)
        trimmer.note_write()
        await see_after(2 * PERIOD_S)  # that was within the hour, and nothing was written later
        trimmer.note_write()
        await see_after(DELAY_S + 0.5)
        task.cancel()
        return seen

    assert run_virtually(run()) == [201, 101, 0, 1, 0]


def test_what_could_not_be_dropped_is_dropped_after_a_later_write() -> None:
    async def run() -> list[int]:
        registry = Registry(EmbeddedStore(":memory:", offload=inline))
        await fill(registry, 3, KEPT_S + 60)
        await registry.store.transact([], [Put("/fleet/leader", b"another")])
        trimmer = EventTrimmer(registry, (Unchanged("/fleet/leader", 0),), lambda: NOW)
        task = asyncio.create_task(trimmer.run())
        await asyncio.sleep(1)
        seen = []
        for _ in range(2):
            trimmer.note_write()
            await asyncio.sleep(PERIOD_S + 60)
            seen.append(await left(registry))
            await registry.store.transact([], [Delete("/fleet/leader")])
        task.cancel()
        return seen

    assert run_virtually(run()) == [3, 0]


def test_the_leader_reads_nothing_again_after_it_has_dropped_events() -> None:
    async def run() -> tuple[int, int]:
        node = Node()
        await fill(node.registry, 2 * MOST + 1, 2e9)
        await node.start()
        await node.add("web.service")
        before = node.store.full_reads
        await asyncio.sleep(60)
        old = len((await node.store.range("/fleet.archive/events/0000000")).items)
        await node.stop()
        return old, node.store.full_reads - before

    assert run_virtually(run()) == (0, 0)
