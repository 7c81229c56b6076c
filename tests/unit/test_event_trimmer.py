"""The leader drops what is old of the cluster events, and stays quiet where there is nothing to drop."""

import asyncio

import pytest

from fleetd.leader.event_trimmer import FIRST_S, MOST, PERIOD_S, EventTrimmer
from fleetd.model.event import KEPT_S, ClusterEvent, EventKind
from fleetd.registry.events import EventLog
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Conflict, Unchanged
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


def test_the_leader_looks_once_an_hour_and_goes_on_while_there_is_more() -> None:
    async def run() -> list[int]:
        registry = Registry(EmbeddedStore(":memory:", offload=inline))
        await fill(registry, 2 * MOST + 1, KEPT_S + 60)
        task = asyncio.create_task(EventTrimmer(registry, (), lambda: NOW).run())
        seen = []
        for wait_s in (FIRST_S - 1, 2.0, 5.0):
            await asyncio.sleep(wait_s)
            seen.append(await left(registry))
        await fill(registry, 1, KEPT_S + 60)
        await asyncio.sleep(PERIOD_S - 30)
        seen.append(await left(registry))
        await asyncio.sleep(60)
        seen.append(await left(registry))
        task.cancel()
        return seen

    assert run_virtually(run()) == [201, 101, 0, 1, 0]


def test_the_leader_reads_nothing_again_after_it_has_dropped_events() -> None:
    async def run() -> tuple[bool, int]:
        node = Node()
        await fill(node.registry, 2 * MOST + 1, 2e9)
        await node.start()
        await asyncio.sleep(FIRST_S - 20)
        before = node.store.full_reads
        await asyncio.sleep(60)
        dropped = 2 * MOST + 1 - len((await node.store.range("/fleet.archive/events/0")).items)
        await node.stop()
        return dropped > 2 * MOST - 5, node.store.full_reads - before

    assert run_virtually(run()) == (True, 0)
