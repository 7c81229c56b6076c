"""Several workers, and several servers, of one server half."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import Changes, Compacted
from fleetd.store.worker import WorkerStore
from tests.contract.served_workers import ServedWorkers
from tests.contract.store_harness import PATIENCE_S, events_until, put


@pytest.fixture
async def served() -> AsyncIterator[tuple[EmbeddedStore, ServedWorkers]]:
    behind = EmbeddedStore(":memory:", cluster_id="c")
    server = await ServedWorkers(behind).start()
    yield behind, server
    await server.stop()
    await behind.close()


async def test_a_worker_that_comes_later_misses_nothing(served: tuple[EmbeddedStore, ServedWorkers]) -> None:
    """It comes from another server, and has not seen what this one has distributed already."""
    behind, server = served
    early, late = WorkerStore([server.url], None), WorkerStore([server.url], None)
    start = await late.revision()
    async with aclosing(early.watch("/", start)) as one:
        revisions = [await put(behind, f"/{number}") for number in range(5)]
        await events_until(one, revisions[-1])
        async with aclosing(late.watch("/", revisions[0])) as other:
            assert [event.revision for event in await events_until(other, revisions[-1])] == revisions[1:]
    for store in (early, late):
        await store.close()


async def test_a_worker_that_goes_from_server_to_server_misses_and_repeats_nothing() -> None:
    behind = EmbeddedStore(":memory:", cluster_id="c")
    servers = [await ServedWorkers(behind).start() for _ in range(2)]
    urls = [server.url for server in servers]
    settled = [WorkerStore([url], None) for url in urls]  # so that each server distributes changes all the time
    watches = [store.watch("/", 1) for store in settled]
    listening = [asyncio.ensure_future(_drain(watch)) for watch in watches]
    await asyncio.sleep(0.1)
    moving = WorkerStore(urls, None, request_timeout_s=1.0)
    start = await moving.revision()

    async def write() -> int:
        for number in range(300):
            revision = await put(behind, f"/{number:03}")
            await asyncio.sleep(0.005)
        return revision

    async def follow() -> list[int]:
        seen: list[int] = []
        position = start
        while position < start + 300:
            try:
                async with aclosing(moving.watch("/", position)) as watch:
                    async for changes in watch:
                        seen += [event.revision for event in changes.events]
                        position = changes.revision
                        if position >= start + 300:
                            break
            except Compacted:  # a server that has just started has nothing older than what it was asked first
                read = await moving.range("/")
                seen += sorted(item.mod_revision for item in read.items if item.mod_revision > position)
                position = read.revision
        return seen

    writing, following = asyncio.ensure_future(write()), asyncio.ensure_future(follow())
    for turn in range(6):
        await asyncio.sleep(0.2)
        number = turn % 2
        await servers[number].stop()
        await asyncio.sleep(0.1)
        servers[number] = await ServedWorkers(behind, servers[number].port).start()
    await writing
    assert await asyncio.wait_for(following, PATIENCE_S) == list(range(start + 1, start + 301))
    for task in listening:
        task.cancel()
    for store in (*settled, moving):
        await store.close()
    for server in servers:
        await server.stop()
    await behind.close()


async def _drain(watch: AsyncGenerator[Changes, None]) -> None:
    async for _ in watch:
        pass
