"""The store's protocol on each implementation: keys, comparisons and leases."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from fleetd.store.protocol import (
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    Conflict,
    CreatedAt,
    Delete,
    Event,
    HasValue,
    KeyValue,
    LeaseNotFound,
    PrefixDigest,
    Put,
    RangeResult,
    Store,
    Unavailable,
    Unchanged,
)
from tests.contract.store_harness import events_until, fill, next_of, put

# Reading and writing


async def test_a_key_has_the_revisions_of_its_creation_and_last_change(store: Store, below: str) -> None:
    assert await store.get(below + "a") is None
    first = await put(store, below + "a", b"one")
    second = await put(store, below + "a", b"two")
    assert second == first + 1
    assert await store.get(below + "a") == KeyValue(below + "a", b"two", first, second)


async def test_a_key_deleted_and_written_again_is_a_new_one(store: Store, below: str) -> None:
    await put(store, below + "a")
    await store.transact([], [Delete(below + "a")])
    assert await store.get(below + "a") is None
    again = await put(store, below + "a")
    assert await store.get(below + "a") == KeyValue(below + "a", b"x", again, again)


async def test_empty_values_and_every_byte_are_kept(store: Store, below: str) -> None:
    every_byte = bytes(range(256))
    await store.transact([], [Put(below + "empty", b""), Put(below + "bytes", every_byte)])
    found = await store.get_many([below + "empty", below + "bytes"])
    assert [item.value for item in found.items] == [b"", every_byte]


async def test_keys_need_not_be_ascii(store: Store, below: str) -> None:
    keys = [below + "a", below + "é", below + "\uffff", below + "😀"]
    await store.transact([], [Put(key, key.encode()) for key in reversed(keys)])
    assert [item.key for item in (await store.range(below)).items] == keys


async def test_a_transaction_has_one_revision(store: Store, below: str) -> None:
    revision = await store.transact([], [Put(below + "b", b""), Put(below + "a", b"")])
    snapshot = await store.range(below)
    assert [(item.key, item.mod_revision) for item in snapshot.items] == [
        (below + "a", revision),
        (below + "b", revision),
    ]
    assert snapshot.revision == revision == await store.revision()


async def test_deleting_a_missing_key_changes_nothing(store: Store, below: str) -> None:
    before = await store.revision()
    assert await store.transact([], [Delete(below + "a")]) == before
    assert await store.revision() == before


async def test_get_many_answers_in_order_and_leaves_out_missing_keys(store: Store, below: str) -> None:
    revision = await store.transact([], [Put(below + name, name.encode()) for name in "abc"])
    snapshot = await store.get_many([below + "c", below + "missing", below + "a"])
    assert [item.value for item in snapshot.items] == [b"c", b"a"]
    assert snapshot.revision == revision


async def test_get_many_accepts_as_many_keys_as_a_transaction(store: Store, below: str) -> None:
    await fill(store, below, MAX_OPERATIONS)
    keys = [f"{below}{number:05}" for number in range(MAX_OPERATIONS + 1)]
    assert len((await store.get_many(keys[:-1])).items) == MAX_OPERATIONS
    with pytest.raises(ValueError, match="129"):
        await store.get_many(keys)


async def test_a_range_has_only_keys_with_its_prefix(store: Store, below: str) -> None:
    inside = [below + "b", below + "b/c", below + "bé"]
    outside = [below + "a", below + "c", below[:-1] + "0"]
    await store.transact([], [Put(key, b"") for key in inside + outside])
    assert [item.key for item in (await store.range(below + "b")).items] == inside


async def test_an_empty_answer_has_the_revision(store: Store, below: str) -> None:
    revision = await put(store, below + "a")
    assert await store.range(below + "none") == RangeResult((), revision)
    assert await store.get_many([]) == RangeResult((), revision)


async def test_an_empty_prefix_means_every_key(store: Store, below: str) -> None:
    await put(store, below + "a")
    assert below + "a" in [item.key for item in (await store.range("")).items]


async def test_a_range_may_begin_after_a_key_and_have_a_limit(store: Store, below: str) -> None:
    names = ["a", "b", "b/c", "bé", "c"]
    revision = await store.transact([], [Put(below + name, b"") for name in names])

    async def names_read(**options: Any) -> list[str]:
        snapshot = await store.range(below, **options)
        assert snapshot.revision == revision
        return [item.key.removeprefix(below) for item in snapshot.items]

    assert await names_read(limit=2) == names[:2]
    assert await names_read(limit=99) == await names_read(limit=0) == names
    assert await names_read(after=below + "b", limit=2) == names[2:4]
    assert await names_read(after=below + "bb") == ["bé", "c"]  # a key that does not exist
    assert await names_read(after=below + "c") == await names_read(after=below[:-1] + "z") == []
    assert await names_read(after="/", limit=1) == ["a"]


async def test_reads_at_an_earlier_revision_see_no_later_write(store: Store, below: str) -> None:
    lease = await store.grant(60)
    await store.transact([], [Put(below + name, b"old", lease if name == "c" else 0) for name in "abc"])
    at = (await store.range(below)).revision
    before = await store.get_many([below + name for name in "abcd"])
    for value in (b"new", b"newer"):
        await store.transact([], [Put(below + "a", value), Put(below + "d", value)])
    await store.transact([], [Delete(below + "b")])
    await store.revoke(lease)
    assert [item.key for item in (await store.range(below)).items] == [below + "a", below + "d"]
    assert await store.get_many([below + name for name in "abcd"], revision=at) == before
    assert await store.get_many([], revision=at) == RangeResult((), at)
    assert await store.range(below, revision=at) == before
    assert await store.range(below, revision=at, limit=2) == RangeResult(before.items[:2], at)
    assert await store.range(below, revision=at, after=below + "a") == RangeResult(before.items[1:], at)
    assert (await store.range(below + "d", revision=at)).items == ()


async def test_revisions_that_are_compacted_or_to_come_cannot_be_read(store: Store, below: str) -> None:
    first = await put(store, below + "a")
    second = await put(store, below + "a", b"y")
    await store.compact(second)
    assert [item.value for item in (await store.range(below, revision=first)).items] == [b"x"]
    for revision in (first - 1, second + 50):
        with pytest.raises(Unavailable):
            await store.range(below, revision=revision)
        with pytest.raises(Unavailable):
            await store.get_many([below + "a"], revision=revision)


async def test_a_digest_has_the_number_of_keys_and_the_last_write(store: Store, below: str) -> None:
    begun = await put(store, below[:-1] + "0")  # outside, as is everything after the prefix
    assert await store.digest(below) == PrefixDigest(0, 0, begun)
    await put(store, below + "b", b"x" * 100_000)
    later = await put(store, below + "a")
    assert await store.digest(below) == PrefixDigest(2, later, later)
    again = await put(store, below + "b")
    outside = await put(store, below[:-1] + "0")
    assert await store.digest(below) == PrefixDigest(2, again, outside)
    gone = await store.transact([], [Delete(below + "b")])
    assert await store.digest(below) == PrefixDigest(1, later, gone)
    assert (await store.digest("")).count >= 2


async def test_a_range_may_have_thousands_of_keys(store: Store, below: str) -> None:
    await fill(store, below, 3000, value=b"v" * 1024)
    items = (await store.range(below)).items
    assert [item.key for item in items] == [f"{below}{number:05}" for number in range(3000)]
    assert all(item.value == b"v" * 1024 for item in items)


async def test_values_may_be_as_large_as_the_largest_unit_file(store: Store, below: str) -> None:
    large = [bytes([65 + number]) * (256 * 1024) for number in range(24)]
    for number, value in enumerate(large):
        await put(store, f"{below}{number:02}", value)
    assert [item.value for item in (await store.range(below)).items] == large


# Comparisons


async def test_unchanged_holds_until_the_key_changes(store: Store, below: str) -> None:
    key = below + "a"
    first = await store.transact([Unchanged(key, 0)], [Put(key, b"1")])
    with pytest.raises(Conflict, match=key.replace("[", r"\[").replace("]", r"\]")):
        await store.transact([Unchanged(key, 0)], [Put(key, b"no")])
    second = await store.transact([Unchanged(key, first)], [Put(key, b"2")])
    with pytest.raises(Conflict):
        await store.transact([Unchanged(key, first)], [Put(key, b"no")])
    await store.transact([Unchanged(key, second)], [Delete(key)])
    assert await store.get(key) is None


async def test_created_at_holds_after_changes_but_not_after_deletion(store: Store, below: str) -> None:
    key = below + "a"
    created = await store.transact([CreatedAt(key, 0)], [Put(key, b"1")])
    await store.transact([CreatedAt(key, created)], [Put(key, b"2")])
    await store.transact([CreatedAt(key, created)], [Delete(key)])
    await put(store, key, b"3")
    with pytest.raises(Conflict):
        await store.transact([CreatedAt(key, created)], [Put(key, b"no")])
    with pytest.raises(Conflict):
        await store.transact([CreatedAt(key, 0)], [Put(key, b"no")])


async def test_has_value_needs_the_key_and_exactly_that_value(store: Store, below: str) -> None:
    key = below + "a"
    with pytest.raises(Conflict):
        await store.transact([HasValue(key, b"")], [Put(key, b"no")])
    await put(store, key, b"")
    await store.transact([HasValue(key, b"")], [Put(key, b"yes")])
    with pytest.raises(Conflict):
        await store.transact([HasValue(key, b"ye")], [Put(key, b"no")])
    await store.transact([HasValue(key, b"yes")], [Delete(key)])


async def test_one_failed_comparison_prevents_all_operations(store: Store, below: str) -> None:
    await put(store, below + "a", b"1")
    before = await store.range(below)
    with pytest.raises(Conflict):
        await store.transact(
            [HasValue(below + "a", b"1"), Unchanged(below + "b", 7)], [Put(below + "b", b""), Delete(below + "a")]
        )
    assert await store.range(below) == before


async def test_one_of_several_concurrent_comparing_writers_wins(store: Store, below: str) -> None:
    writers = (store.transact([Unchanged(below + "a", 0)], [Put(below + "a", b"%d" % number)]) for number in range(20))
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 19 + ["int"]


async def test_a_transaction_may_have_128_comparisons_and_operations(store: Store, below: str) -> None:
    keys = [f"{below}{number:03}" for number in range(MAX_OPERATIONS)]
    await store.transact([Unchanged(key, 0) for key in keys], [Put(key, b"x") for key in keys])
    assert len((await store.range(below)).items) == MAX_OPERATIONS


@pytest.mark.parametrize(
    ("comparisons", "operations"),
    [
        ([], [Put(f"/over/{number}", b"") for number in range(MAX_OPERATIONS + 1)]),
        ([Unchanged(f"/over/{number}", 0) for number in range(MAX_OPERATIONS + 1)], [Put("/over/0", b"")]),
        ([], [Put("/over/0", b"x" * MAX_TRANSACTION_BYTES)]),
        (
            [HasValue("/over/0", b"x" * (MAX_TRANSACTION_BYTES // 2))],
            [Put("/over/0", b"x" * (MAX_TRANSACTION_BYTES // 2))],
        ),
        ([], [Put("/over/0", b""), Delete("/over/0")]),
    ],
    ids=["operations", "comparisons", "bytes", "bytes-of-both", "one-key-twice"],
)
async def test_a_transaction_over_the_limits_is_a_value_error(
    store: Store, comparisons: list[Unchanged | HasValue], operations: list[Put | Delete]
) -> None:
    with pytest.raises(ValueError, match="allowed"):
        await store.transact(comparisons, operations)
    assert (await store.range("/over/")).items == ()


async def test_a_transaction_just_within_the_limits_is_written(store: Store, below: str) -> None:
    value = b"x" * (MAX_TRANSACTION_BYTES - len(below + "a"))
    await put(store, below + "a", value)
    assert (await store.get(below + "a")).value == value


# Leases


async def test_revoking_a_lease_deletes_its_keys(store: Store, below: str) -> None:
    lease = await store.grant(60)
    assert lease != 0
    written = await store.transact(
        [], [Put(below + "a", b"", lease), Put(below + "b", b"", lease), Put(below + "c", b"")]
    )
    assert (await store.get(below + "a")).lease == lease
    await store.revoke(lease)
    snapshot = await store.range(below)
    assert [item.key for item in snapshot.items] == [below + "c"]
    async with aclosing(store.watch(below, written)) as watch:
        events = await events_until(watch, snapshot.revision)
    assert sorted(events, key=lambda event: event.key) == [
        Event(below + "a", None, written + 1),
        Event(below + "b", None, written + 1),
    ]


async def test_a_lease_without_keep_alives_ends_and_watches_see_it(store: Store, below: str) -> None:
    lease = await store.grant(1)
    start = await put(store, below + "a", lease=lease)
    async with aclosing(store.watch(below, start)) as watch:
        changes = await next_of(watch)
    assert changes.events == (Event(below + "a", None, changes.revision),)
    assert await store.get(below + "a") is None
    with pytest.raises(LeaseNotFound):
        await store.keep_alive(lease)
    assert await store.time_to_live(lease) is None


async def test_a_lease_with_keep_alives_lives_on(store: Store, below: str) -> None:
    lease = await store.grant(3)
    revision = await put(store, below + "a", lease=lease)
    for _ in range(8):
        await asyncio.sleep(0.5)
        beat = await store.keep_alive(lease)
    assert beat.ttl_s == 3
    assert beat.revision >= revision
    assert await store.get(below + "a") is not None
    await store.revoke(lease)


async def test_a_keep_alive_answers_the_present_revision(store: Store, below: str) -> None:
    lease = await store.grant(60)
    before = (await store.keep_alive(lease)).revision
    revision = await put(store, below + "a")
    assert before < revision == (await store.keep_alive(lease)).revision
    await store.revoke(lease)


async def test_time_to_live_falls_and_a_keep_alive_resets_it(store: Store, below: str) -> None:
    lease = await store.grant(30)
    fresh = await store.time_to_live(lease)
    await asyncio.sleep(1.1)
    later = await store.time_to_live(lease)
    await store.keep_alive(lease)
    again = await store.time_to_live(lease)
    assert 1 <= later < fresh <= 30
    assert later < again <= 30
    await store.revoke(lease)


async def test_an_ended_lease_accepts_no_keep_alive_and_no_key(store: Store, below: str) -> None:
    lease = await store.grant(60)
    await store.revoke(lease)
    await store.revoke(lease)
    with pytest.raises(LeaseNotFound):
        await store.keep_alive(lease)
    with pytest.raises(LeaseNotFound):
        await store.transact([], [Put(below + "a", b""), Put(below + "b", b"", lease)])
    assert (await store.range(below)).items == ()


async def test_a_failed_comparison_is_a_conflict_even_with_an_ended_lease(store: Store, below: str) -> None:
    lease = await store.grant(60)
    await store.revoke(lease)
    with pytest.raises(Conflict):
        await store.transact([Unchanged(below + "a", 5)], [Put(below + "a", b"", lease)])


async def test_a_put_moves_its_key_to_another_lease_or_to_none(store: Store, below: str) -> None:
    lease, other = await store.grant(60), await store.grant(60)
    await store.transact([], [Put(below + name, b"", lease) for name in "abc"])
    await store.transact([], [Put(below + "a", b""), Put(below + "b", b"", other)])
    await store.revoke(lease)
    assert [(item.key, item.lease) for item in (await store.range(below)).items] == [
        (below + "a", 0),
        (below + "b", other),
    ]
    await store.revoke(other)
    assert [item.key for item in (await store.range(below)).items] == [below + "a"]


async def test_leases_are_rounded_up_to_whole_seconds(store: Store) -> None:
    lease = await store.grant(4.2)
    assert (await store.keep_alive(lease)).ttl_s == 5
    await store.revoke(lease)


# The store itself


async def test_a_stores_id_never_changes(store: Store) -> None:
    assert await store.cluster_id() == await store.cluster_id() != ""


async def test_a_closed_store_is_unavailable(store: Store, below: str) -> None:
    await store.close()
    for call in (store.get(below), store.transact([], [Put(below, b"")]), store.revision(), store.keep_alive(1)):
        with pytest.raises(Unavailable, match="closed"):
            await call


async def test_a_cancelled_call_leaves_the_store_usable(store: Store, below: str) -> None:
    start = await store.revision()
    for number in range(20):
        task = asyncio.ensure_future(put(store, f"{below}{number:02}"))
        await asyncio.sleep(0)
        task.cancel()
    last = await put(store, below + "last")
    kept = [item.key for item in (await store.range(below)).items]
    async with aclosing(store.watch(below, start)) as watch:
        events = await events_until(watch, last)
    assert sorted(event.key for event in events) == kept
