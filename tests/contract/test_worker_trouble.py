"""A worker's store when servers fail, lag, freeze, refuse it, or have a store that was restored."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from fleetd.store import worker_wire as wire
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import Compacted, Conflict, Put, Unavailable, Unchanged
from fleetd.store.worker import Forbidden, WorkerStore
from tests.contract.store_harness import PATIENCE_S, events_until, next_of, put
from tests.contract.worker_server import WorkerServer

TIMEOUT_S = 0.3
START = 1  # the revision of a new store


class Cluster:
    """Two servers of one store, and a worker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = EmbeddedStore(":memory:", cluster_id="c")
        self.servers = [WorkerServer(self.store), WorkerServer(self.store)]
        self.stores = [self.store]
        self.workers: list[WorkerStore] = []

    async def start(self) -> "Cluster":
        for server in self.servers:
            await server.start()
        self.worker = self.new_worker()
        return self

    def new_worker(self, epoch: str = "", highest_revision: int = 0) -> WorkerStore:
        urls = [server.url for server in self.servers]
        options = {"request_timeout_s": TIMEOUT_S, "silence_s": 0.5}
        made = WorkerStore(urls, None, epoch=epoch, highest_revision=highest_revision, **options)
        self.workers.append(made)
        return made

    def restore(self, epoch: str) -> EmbeddedStore:
        """All servers have an empty store, whose epoch has this name."""
        restored = EmbeddedStore(":memory:", cluster_id="c")
        self.stores.append(restored)
        for server in self.servers:
            server.restore(restored, epoch)
        return restored


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0.01)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = await Cluster(tmp_path).start()
    yield made
    for closable in (*made.workers, *made.stores):
        await closable.close()
    for server in made.servers:
        await server.stop()


async def test_a_watch_goes_on_at_another_server_when_its_own_ends(cluster: Cluster) -> None:
    async with aclosing(cluster.worker.watch("/", START)) as watch:
        await put(cluster.store, "/a")
        assert len((await next_of(watch)).events) == 1
        writing = asyncio.ensure_future(_write_slowly(cluster.store, 30))
        await asyncio.sleep(0.05)
        await cluster.servers[0].stop()
        events = await events_until(watch, 32)
        await writing
    assert [event.revision for event in events] == list(range(3, 33))
    assert "watch" in cluster.servers[1].calls


async def _write_slowly(store: EmbeddedStore, count: int) -> None:
    for number in range(count):
        await put(store, f"/{number:03}")
        await asyncio.sleep(0.01)


async def test_when_all_servers_are_away_calls_fail_and_watches_are_silent_until_one_is_back(cluster: Cluster) -> None:
    async with aclosing(cluster.worker.watch("/", START)) as watch:
        first = await put(cluster.worker, "/a")
        await events_until(watch, first)
        for server in cluster.servers:
            await server.stop()
        waiting = asyncio.ensure_future(next_of(watch))
        with pytest.raises(Unavailable, match="fleet server does not answer"):
            await cluster.worker.get("/a")
        missed = await put(cluster.store, "/b")
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await cluster.servers[1].start()
        assert (await waiting).revision == missed
    assert (await cluster.worker.get("/b")) is not None


async def test_a_frozen_server_is_left_with_its_watches(cluster: Cluster) -> None:
    async with aclosing(cluster.worker.watch("/", START)) as watch:
        await events_until(watch, await put(cluster.worker, "/a"))
        cluster.servers[0].running.clear()
        assert await cluster.worker.get("/a") is not None
        await events_until(watch, await put(cluster.worker, "/b"))
    assert cluster.servers[1].calls.count("watch") == 1
    cluster.servers[0].running.set()


async def test_a_server_whose_watches_are_mute_is_left(cluster: Cluster) -> None:
    """Heartbeats of the test's servers come later than the worker waits for them."""
    async with aclosing(cluster.worker.watch("/", START)) as watch:
        waiting = asyncio.ensure_future(next_of(watch))
        await until(lambda: "watch" in cluster.servers[1].calls)
        await put(cluster.store, "/a")
        assert len((await waiting).events) == 1


async def test_a_server_that_lags_is_not_believed(cluster: Cluster) -> None:
    await put(cluster.worker, "/a", b"1")
    first = await put(cluster.worker, "/a", b"2")
    cluster.servers[0].lag = 1
    assert (await cluster.worker.get("/a")).value == b"2"
    assert await cluster.worker.revision() == first
    cluster.servers[1].lag = 1
    for call in (cluster.worker.get("/a"), cluster.worker.revision(), cluster.worker.range("/")):
        with pytest.raises(Unavailable, match="behind"):
            await call
    cluster.servers[1].lag = 0
    assert await cluster.worker.revision() == first


async def test_a_write_that_a_lagging_server_refused_is_done_by_another(cluster: Cluster) -> None:
    first = await put(cluster.worker, "/a")
    cluster.servers[0].lag = 1
    assert await cluster.worker.transact([Unchanged("/a", first)], [Put("/a", b"2")]) == first + 1


async def test_a_write_without_an_answer_is_not_sent_to_another_server(cluster: Cluster) -> None:
    cluster.servers[0].running.clear()
    with pytest.raises(Unavailable, match="no answer"):
        await put(cluster.worker, "/a")
    assert cluster.servers[1].calls == []
    cluster.servers[0].running.set()


async def test_a_restore_is_not_seen_before_the_servers_have_noted_it(cluster: Cluster) -> None:
    for _ in range(5):
        await put(cluster.worker, "/a")
    cluster.restore("c")
    with pytest.raises(Unavailable, match="behind"):
        await cluster.worker.get_many(["/a"])
    cluster.restore("c/1")
    assert (await cluster.worker.get_many(["/a"])).revision == START
    assert await put(cluster.worker, "/a") == START + 1


async def test_watches_end_as_set_back_when_the_store_was_restored(cluster: Cluster) -> None:
    async with aclosing(cluster.worker.watch("/", START)) as one, aclosing(cluster.worker.watch("/b", START)) as other:
        waiting = [asyncio.ensure_future(next_of(watch)) for watch in (one, other)]
        await asyncio.sleep(0.1)
        cluster.restore("c/1")
        for server in cluster.servers:  # a server ends its streams then
            await server.stop()
            await server.start()
        for each in waiting:
            with pytest.raises(Compacted) as compacted:
                await each
            assert compacted.value.was_set_back


async def test_what_an_earlier_fleetd_knew_counts(cluster: Cluster) -> None:
    await put(cluster.store, "/a")
    worker = cluster.new_worker("c", 3)
    with pytest.raises(Unavailable, match="behind"):
        await worker.get("/a")
    assert await cluster.new_worker("c/0", 3).get("/a") is not None
    assert await cluster.new_worker("", 3).get("/a") is not None


async def test_all_watches_share_one_stream(cluster: Cluster) -> None:
    worker = cluster.worker
    async with (
        aclosing(worker.watch("/a", START)) as a,
        aclosing(worker.watch("/b", START)) as b,
        aclosing(worker.watch("/c", START)) as c,
    ):
        waiting = [asyncio.ensure_future(next_of(watch)) for watch in (a, b)]
        await until(lambda: bool(cluster.servers[0].calls))
        await asyncio.sleep(0.1)
        assert cluster.servers[0].calls == ["watch"]
        waiting.append(asyncio.ensure_future(next_of(c)))
        await until(lambda: len(cluster.servers[0].calls) > 1)
        await asyncio.sleep(0.1)
        assert cluster.servers[0].calls == ["watch", "watch"]
        for key in ("/a", "/b", "/c"):
            await put(cluster.store, key)
        assert [changes.events[0].key for changes in await asyncio.gather(*waiting)] == ["/a", "/b", "/c"]


async def test_without_watches_no_stream_is_left(cluster: Cluster) -> None:
    async with aclosing(cluster.worker.watch("/", START)) as watch:
        await put(cluster.store, "/a")
        await next_of(watch)
    await asyncio.sleep(0.1)
    await put(cluster.store, "/b")
    await asyncio.sleep(0.7)
    assert cluster.servers[0].calls == ["watch"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, json.dumps({"error": {"code": 401, "message": "the certificate has expired"}}).encode(),
         "refuses this machine: the certificate has expired"),
        (403, json.dumps({"error": {"code": 403, "message": "the certificate was revoked"}}).encode(),
         "refuses this machine: the certificate was revoked"),
        (404, b"not here", "not here"),
        (502, b"", "HTTP status 502"),
        (200, b"{}", "not an answer of a fleet server"),
        (302, b"", "name the servers themselves"),
    ],
)  # fmt: skip
async def test_a_refusal_is_said_in_words_and_another_server_is_asked(
    cluster: Cluster, status: int, body: bytes, said: str
) -> None:
    await put(cluster.store, "/a")
    cluster.servers[0].refusal = (status, body)
    assert await cluster.worker.get("/a") is not None
    cluster.servers[1].refusal = (status, body)
    with pytest.raises(Unavailable, match=said):
        await cluster.worker.get("/a")


async def test_a_refusal_is_logged_once_also_while_a_server_fails_for_another_reason(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    refused = (403, json.dumps({"error": {"code": 403, "message": "the certificate was revoked"}}).encode())
    for refusal in ((502, b""), refused, (502, b""), refused):
        for server in cluster.servers:
            server.refusal = refusal
        with pytest.raises(Unavailable):
            await cluster.worker.get("/a")
    assert caplog.text.count("HTTP status 502") == len(cluster.servers)
    assert caplog.text.count("refuses this machine: the certificate was revoked") == len(cluster.servers)


async def test_what_a_worker_may_not_do_is_asked_of_one_server_alone(cluster: Cluster) -> None:
    failure = wire.Failure(message="a worker may not write /history")
    cluster.servers[0].refusal = (wire.FORBIDDEN, wire.encode(failure))
    with pytest.raises(Forbidden, match="may not write /history"):
        await put(cluster.worker, "/history")
    assert cluster.servers[1].calls == []
    with pytest.raises(Forbidden, match="only servers"):
        await cluster.worker.compact(1)
    assert await cluster.worker.members() == ()


async def test_errors_of_the_store_arrive_as_such_and_no_other_server_is_asked(cluster: Cluster) -> None:
    with pytest.raises(Conflict):
        await cluster.worker.transact([Unchanged("/a", 7)], [Put("/a", b"")])
    assert cluster.servers[1].calls == []


@pytest.mark.parametrize("stream", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2\x93\x01"])
async def test_a_stream_that_is_none_is_left(cluster: Cluster, stream: bytes) -> None:
    cluster.servers[0].refusal = (200, stream)
    async with aclosing(cluster.worker.watch("/", START)) as watch:
        await put(cluster.store, "/a")
        waiting = asyncio.ensure_future(next_of(watch))
        await asyncio.sleep(0.3)
        cluster.servers[0].refusal = None
        assert len((await waiting).events) == 1


async def test_a_worker_needs_a_server() -> None:
    with pytest.raises(ValueError, match="at least one"):
        WorkerStore([], None)
