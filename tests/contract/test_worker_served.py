"""Several workers of one server half."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from fleetd.store.embedded import EmbeddedStore
from fleetd.store.worker import WorkerStore
from tests.contract.served_workers import ServedWorkers
from tests.contract.store_harness import events_until, put


@pytest.fixture
async def served() -> AsyncIterator[tuple[EmbeddedStore, ServedWorkers]]:
    behind = EmbeddedStore(":memory:", cluster_id="c")
    server = await ServedWorkers(behind).start()
    yield behind, server
    await server.stop()
    await behind.close()


async def test_a_worker_that_comes_later_misses_nothing(served: tuple[EmbeddedStore, ServedWorkers]) -> None:
    """It comes from another server, and has not seen what this one has dealt out already."""
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
