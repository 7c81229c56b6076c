"""Watches of workers: one watch of the store, distributed to all of them."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from fleetd.api.worker import fanout
from fleetd.api.worker.limits import Limits
from fleetd.model.certificate import MACHINE, WORKER, CertificateIdentity
from fleetd.store import worker_wire as wire
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Changes, Delete, Put
from tests.api.worker_caller import OTHER, OWN, SECRET, UNIT, Caller, Frames

PLACEMENTS = f"/fleet/placements/{OWN}/"
KEY = PLACEMENTS + UNIT


class CountedStore(EmbeddedStore):
    """Counts the watches that are open."""

    watching = 0

    async def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        self.watching += 1
        try:
            async for changes in super().watch(prefix, after_revision, end=end):
                yield changes
        finally:
            self.watching -= 1


@pytest.fixture
async def store() -> AsyncIterator[CountedStore]:
    made = CountedStore(":memory:", offload=inline, cluster_id="c0ffee")
    yield made
    await made.close()


@pytest.fixture
def worker(store: CountedStore) -> Caller:
    return Caller(store)


async def put(store: EmbeddedStore, key: str, value: bytes = b"x") -> int:
    return await store.transact([], [Put(key, value)])


async def next_of(frames: Frames) -> Any:
    frame = await frames.next()
    assert frame is not None
    return frame


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_stream_says_first_that_it_is_open(worker: Caller, store: CountedStore) -> None:
    revision = await put(store, KEY)
    frames = await worker.watch((PLACEMENTS, revision))
    assert await next_of(frames) == wire.WatchFrame(store_revision=revision, history=wire.history_mark("c0ffee"))
    await frames.close()


async def test_each_watch_of_a_stream_sees_what_is_below_its_prefix_and_after_its_revision(
    worker: Caller, store: CountedStore
) -> None:
    first = await put(store, KEY, b"1")
    second = await put(store, KEY, b"2")
    frames = await worker.watch((PLACEMENTS, second), (f"/fleet/synced/{OWN}", first), ("/fleet/", first - 1))
    await frames.next()
    seen = [await next_of(frames)]
    third = await store.transact([], [Put(f"/fleet/synced/{OWN}", b"s"), Delete(KEY)])
    seen += [await next_of(frames) for _ in range(3)]
    told = [(frame.number, [(event.key, event.revision) for event in frame.events]) for frame in seen]
    assert told[0] == (2, [(KEY, first), (KEY, second)])
    assert sorted(told[1:]) == [
        (0, [(KEY, third)]),
        (1, [(f"/fleet/synced/{OWN}", third)]),
        (2, [(f"/fleet/synced/{OWN}", third), (KEY, third)]),
    ]
    assert {frame.store_revision for frame in seen[1:]} == {third}
    await frames.close()


async def test_nothing_of_others_is_told(worker: Caller, store: CountedStore) -> None:
    start = await store.revision()
    frames = await worker.watch(*((prefix, start) for prefix in ("", "/", "/fleet/", f"/fleet/placements/{OTHER}/")))
    await frames.next()
    for key in (f"/fleet/placements/{OTHER}/{UNIT}", "/fleet/units/web.service", "/fleet/secrets/x", "/fleet/leader"):
        await put(store, key, SECRET)
    await put(store, KEY)
    for _ in range(3):
        frame = await next_of(frames)
        assert [event.key for event in frame.events] == [KEY]
    await frames.close()


async def test_a_thousand_workers_need_one_watch_of_the_store_and_none_without_them(
    worker: Caller, store: CountedStore
) -> None:
    start = await put(store, "/fleet/cluster")
    streams = []
    for number in range(1000):
        worker.certificate = CertificateIdentity(MACHINE, f"m{number}", WORKER)
        streams.append(await worker.watch((f"/fleet/placements/m{number}/", start)))
        await streams[-1].next()
    await settle()
    assert store.watching == 1
    await put(store, "/fleet/placements/m77/a.service")
    assert (await next_of(streams[77])).events[0].key == "/fleet/placements/m77/a.service"
    for stream in streams:
        await stream.close()
    await settle()
    assert store.watching == 0


async def test_a_quiet_stream_says_now_and_then_how_far_it_is(store: CountedStore) -> None:
    worker = Caller(store, heartbeat_s=0.01)
    frames = await worker.watch((PLACEMENTS, await store.revision()))
    await frames.next()
    later = await put(store, "/fleet/units/a.service")
    await asyncio.sleep(0.02)
    while (frame := await next_of(frames)).store_revision < later:
        assert not frame.events
    assert not frame.events
    await frames.close()


async def test_a_worker_that_comes_late_goes_on_where_it_was(worker: Caller, store: CountedStore) -> None:
    start = await store.revision()
    open_one = await worker.watch((PLACEMENTS, start))
    await open_one.next()
    revisions = [await put(store, KEY, b"%d" % number) for number in range(5)]
    await settle()
    late = await worker.watch((PLACEMENTS, revisions[1]))
    await late.next()
    assert [(await next_of(late)).events[0].revision for _ in range(3)] == revisions[2:]
    await open_one.close()
    await late.close()


async def test_a_worker_that_is_further_behind_than_what_is_kept_reads_again(
    worker: Caller, store: CountedStore
) -> None:
    start = await put(store, KEY)
    later = await put(store, KEY)
    one = await worker.watch((PLACEMENTS, later))
    await one.next()
    both = await worker.watch((PLACEMENTS, start), (PLACEMENTS, later))
    frame = await next_of(both)
    assert (frame.number, frame.status, frame.failure.revision) == (0, wire.COMPACTED, later)
    assert not frame.failure.was_set_back
    assert (await next_of(both)).status == 200
    await put(store, KEY)
    assert (await next_of(both)).number == 1  # the other watch goes on
    await one.close()
    await both.close()


async def test_what_is_kept_for_latecomers_is_bounded(worker: Caller, store: CountedStore) -> None:
    start = await store.revision()
    one = await worker.watch((PLACEMENTS, start))
    await one.next()
    for _ in range(6):
        await put(store, "/fleet/units/a.service", b"x" * 900_000)
    await settle()
    late = await worker.watch((PLACEMENTS, start))
    assert (await next_of(late)).status == wire.COMPACTED
    assert fanout.RECENT_BYTES < 6 * 900_000
    assert await late.next() is not None
    assert await late.next() is None  # without a watch that goes on the stream is over
    await one.close()


async def test_a_revision_that_is_compacted_is_so_for_workers(worker: Caller, store: CountedStore) -> None:
    first = await put(store, KEY)
    second = await put(store, KEY)
    await store.compact(second)
    frame = await next_of(await worker.watch((PLACEMENTS, first - 1)))
    assert (frame.status, frame.failure.revision, frame.failure.was_set_back) == (wire.COMPACTED, second, False)
    frames = await worker.watch((PLACEMENTS, first))
    await frames.next()
    assert (await next_of(frames)).events[0].revision == second
    await frames.close()


async def test_a_revision_to_come_is_as_if_the_store_was_set_back(worker: Caller, store: CountedStore) -> None:
    revision = await store.revision()
    frame = await next_of(await worker.watch((PLACEMENTS, revision + 9)))
    assert (frame.status, frame.failure.revision, frame.failure.was_set_back) == (wire.COMPACTED, revision, True)


async def test_a_restore_ends_all_watches(worker: Caller, store: CountedStore) -> None:
    frames = await worker.watch((PLACEMENTS, await store.revision()), ("/fleet/", await store.revision()))
    before = await next_of(frames)
    revision = await put(store, "/fleet/history", b"restored")
    ends = [await next_of(frames) for _ in range(2)]
    assert [(end.number, end.status, end.failure.was_set_back) for end in ends] == [(0, 410, True), (1, 410, True)]
    assert await frames.next() is None
    again = await worker.watch((PLACEMENTS, revision))
    assert (await next_of(again)).history == wire.history_mark("c0ffee/restored") != before.history
    await again.close()


async def test_a_restore_that_no_change_tells_of_ends_all_watches(store: CountedStore) -> None:
    """The restored store was past the revision of the watch when that was connected again."""
    epochs = [""]
    worker = Caller(store, heartbeat_s=0.01, epoch=lambda: epochs[-1])
    frames = await worker.watch((PLACEMENTS, await store.revision()))
    epochs.append("c0ffee")
    assert not (await next_of(frames)).failure, "the name that the server has at first"
    assert not (await next_of(frames)).failure
    epochs.append("c0ffee/restored")
    while (frame := await next_of(frames)).failure is None:
        pass
    assert (frame.status, frame.failure.was_set_back) == (410, True)
    assert await frames.next() is None
    again = await worker.watch((PLACEMENTS, await store.revision()))
    await next_of(again)
    epochs.append("c0ffee/restored twice")
    late = await worker.watch((PLACEMENTS, await store.revision()))
    assert not (await next_of(late)).failure
    while (frame := await next_of(again)).failure is None:
        pass
    assert frame.failure.was_set_back
    await late.close()


async def test_a_worker_that_does_not_read_loses_its_stream_and_slows_no_other(
    worker: Caller, store: CountedStore
) -> None:
    start = await store.revision()
    slow, fast = await worker.watch((PLACEMENTS, start)), await worker.watch((PLACEMENTS, start))
    await slow.next()
    await fast.next()
    for _ in range(6):
        await put(store, KEY, b"x" * 900_000)
        assert (await next_of(fast)).events
    assert await slow.next() is None
    await fast.close()


async def test_a_worker_has_a_bounded_number_of_streams_and_watches(store: CountedStore) -> None:
    worker = Caller(store, limits=Limits(streams=2))
    start = await store.revision()
    streams = [await worker.watch((PLACEMENTS, start)) for _ in range(2)]
    for stream in streams:
        await stream.next()
    request = wire.WatchRequest(watches=(wire.WatchFrom(PLACEMENTS, start),))
    assert (await worker.ask("watch", request))[0] == wire.UNAVAILABLE
    await streams[0].close()
    again = await worker.watch((PLACEMENTS, start))
    await again.next()
    await again.close()
    await streams[1].close()
    many = wire.WatchRequest(watches=(wire.WatchFrom(PLACEMENTS, start),) * 17)
    assert (await worker.ask("watch", many))[0] == wire.MALFORMED


async def test_streams_end_with_the_store_and_with_the_server(worker: Caller, store: CountedStore) -> None:
    start = await store.revision()
    frames = await worker.watch((PLACEMENTS, start))
    await frames.next()
    worker.api.close()
    assert await frames.next() is None
    frames = await worker.watch((PLACEMENTS, start))
    await frames.next()
    await settle()
    await store.close()
    assert await frames.next() is None


async def test_requests_to_the_machine_come_over_the_same_stream(worker: Caller, store: CountedStore) -> None:
    revision = await put(store, "/fleet/x")
    requests = f"/fleet-requests/{OWN}/"
    frames = await worker.watch((PLACEMENTS, revision), (requests, revision))
    await next_of(frames)
    await settle()
    assert store.watching == 2
    await put(store, f"/fleet-requests/{OTHER}/r1", SECRET)
    await put(store, f"{requests}r1")
    asked = await next_of(frames)
    assert (asked.number, [event.key for event in asked.events]) == (1, [f"{requests}r1"])
    await put(store, KEY)
    placed = await next_of(frames)
    assert (placed.number, [event.key for event in placed.events]) == (0, [KEY])
    await frames.close()
    await settle()
    assert store.watching == 0
