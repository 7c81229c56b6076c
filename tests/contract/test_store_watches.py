"""Watches of the store's protocol, on each implementation."""

import asyncio
from contextlib import aclosing

import pytest

from fleetd.store.protocol import Compacted, Delete, Event, KeyValue, Put, Store
from tests.contract.store_harness import PATIENCE_S, events_until, next_of, put


async def test_a_watch_reports_every_change_below_its_prefix_in_order(store: Store, below: str) -> None:
    start = await store.revision()
    async with aclosing(store.watch(below + "w/", start)) as watch:
        first = await store.transact([], [Put(below + "w/a", b"1"), Put(below + "other", b"")])
        second = await store.transact([], [Put(below + "w/a", b"2"), Put(below + "w/b", b"")])
        third = await store.transact([], [Delete(below + "w/a"), Delete(below + "other")])
        events = await events_until(watch, third)
    assert [event for event in events if event.revision != second] == [
        Event(below + "w/a", KeyValue(below + "w/a", b"1", first, first), first),
        Event(below + "w/a", None, third),
    ]
    at_second = sorted((event for event in events if event.revision == second), key=lambda event: event.key)
    assert at_second == [
        Event(below + "w/a", KeyValue(below + "w/a", b"2", first, second), second),
        Event(below + "w/b", KeyValue(below + "w/b", b"", second, second), second),
    ]
    assert [event.revision for event in events] == sorted(event.revision for event in events)


async def test_a_watch_with_an_end_reports_the_keys_from_its_prefix_on_and_before_the_end(
    store: Store, below: str
) -> None:
    within = [below + name for name in ("b.archive/events/1", "b.archive/versions/1", "b/c", "b/é/c")]
    others = [below + name for name in ("a", "b", "b-requests/1", "b.archive/drops/1", "b0", "b2/c", "c")]
    start = await store.revision()
    async with aclosing(store.watch(below + "b.archive/events/", start, end=below + "b0")) as watch:
        await store.transact([], [Put(key, b"") for key in (*others, *within)])
        last = await store.transact([], [Delete(key) for key in (*within, *others)])
        events = await events_until(watch, last)
    assert sorted(event.key for event in events if event.item) == within
    assert sorted(event.key for event in events if not event.item) == within


async def test_a_watch_waits_for_changes_to_come(store: Store, below: str) -> None:
    async with aclosing(store.watch(below, await store.revision())) as watch:
        waiting = asyncio.ensure_future(next_of(watch))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        revision = await put(store, below + "a")
        assert (await waiting).revision == revision


async def test_a_watch_from_a_snapshot_misses_and_repeats_nothing(store: Store, below: str) -> None:
    """Writers continue while watches begin, end, and begin again from their last revision."""

    async def write() -> int:
        for number in range(120):
            revision = await put(store, f"{below}{number:03}")
        return revision

    writing = asyncio.ensure_future(write())
    snapshot = await store.range(below)
    seen = [item.key for item in snapshot.items]
    position = snapshot.revision
    while len(seen) < 120:
        async with aclosing(store.watch(below, position)) as watch:
            for _ in range(3):
                if len(seen) < 120:
                    changes = await next_of(watch)
                    seen += [event.key for event in changes.events]
                    position = changes.revision
    assert seen == [f"{below}{number:03}" for number in range(120)]
    assert position == await writing


async def test_a_revision_is_never_split(store: Store, below: str) -> None:
    """The transactions are so large that etcd sends them in fragments."""
    start = await store.revision()
    revisions = [
        await store.transact([], [Put(f"{below}{number}", bytes([65 + turn]) * 90_000) for number in range(10)])
        for turn in range(4)
    ]
    counts: dict[int, int] = {}
    async with aclosing(store.watch(below, start)) as watch:
        while revisions[-1] not in counts:
            changes = await next_of(watch)
            of_these = [event.revision for event in changes.events]
            for revision in sorted(set(of_these)):
                assert revision not in counts
                counts[revision] = of_these.count(revision)
            assert changes.revision == of_these[-1]
    assert counts == dict.fromkeys(revisions, 10)


async def test_a_watch_accepts_thousands_of_waiting_revisions(store: Store, below: str) -> None:
    start = await store.revision()
    written: list[int] = []  # leases of other tests may end meanwhile, which takes revisions, too
    for first in range(0, 1500, 50):
        written += await asyncio.gather(*(put(store, f"{below}{number:04}") for number in range(first, first + 50)))
    async with aclosing(store.watch(below, start)) as watch:
        events = await events_until(watch, max(written))
    assert [event.revision for event in events] == sorted(written)


async def test_several_watches_see_the_same(store: Store, below: str) -> None:
    start = await store.revision()
    async with aclosing(store.watch(below, start)) as one, aclosing(store.watch(below, start)) as other:
        both = asyncio.gather(next_of(one), next_of(other))
        await put(store, below + "a")
        assert len(set(await both)) == 1


async def test_only_revisions_that_are_not_compacted_can_be_watched(store: Store, below: str) -> None:
    first = await put(store, below + "a")
    second = await store.transact([], [Delete(below + "a")])
    third = await put(store, below + "b")
    await store.compact(second)
    await store.compact(second)
    await store.compact(first)
    async with aclosing(store.watch(below, first)) as watch:
        events = await events_until(watch, third)
    assert [(event.key, event.revision) for event in events] == [(below + "a", second), (below + "b", third)]
    async with aclosing(store.watch(below, first - 1)) as watch:
        with pytest.raises(Compacted) as compacted:
            await next_of(watch)
    assert compacted.value.revision == second


async def test_compaction_reaches_the_present_and_not_the_future(store: Store, below: str) -> None:
    revision = await put(store, below + "a")
    await store.compact(revision + 1)
    with pytest.raises(ValueError, match="still to come"):
        await store.compact(revision + 50)
    async with aclosing(store.watch(below, revision)) as watch:
        later = await put(store, below + "a")
        assert (await next_of(watch)).revision == later
    assert (await store.get(below + "a")).mod_revision == later


async def test_a_watch_after_a_future_revision_ends_as_if_compacted(store: Store, below: str) -> None:
    """After a restore, a watch from before must read everything again."""
    async with aclosing(store.watch(below, await store.revision() + 1000)) as watch:
        with pytest.raises(Compacted):
            await next_of(watch)


async def test_a_watch_ends_when_the_store_is_closed(store: Store, below: str) -> None:
    watch = store.watch(below, await store.revision())
    waiting = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0.1)
    await store.close()
    assert await asyncio.wait_for(waiting, PATIENCE_S) is None


async def test_a_watch_from_the_past_misses_nothing_while_another_one_is_open(store: Store, below: str) -> None:
    start = await store.revision()
    async with aclosing(store.watch(below, start)) as one:
        revisions = [await put(store, f"{below}{number}") for number in range(5)]
        await events_until(one, revisions[-1])
        async with aclosing(store.watch(below, revisions[1])) as other:
            assert [event.revision for event in await events_until(other, revisions[-1])] == revisions[2:]
        async with aclosing(store.watch(below, start)) as other:
            assert [event.revision for event in await events_until(other, revisions[-1])] == revisions
