"""The leader's mirror: what it does not have to read again, and what it finds out that it has missed."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fleetd.leader.mirror import ArrivedKeys
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Changes, Delete, PrefixDigest, Put, RangeResult, Unavailable
from tests.unit.leading_node import FaultyStore, Node
from tests.virtual_time import run_virtually

PREFIX = "/fleet/"
OUTSIDE = ("/other/key", "/fleet.archive/versions/web.service/7", "/fleet-requests/m1/1")


class MuteStore(FaultyStore):
    """A store whose watches deliver nothing, on demand; and whose digests fail, on demand."""

    is_mute = False
    has_no_digest = False
    digests = 0

    async def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        async for changes in super().watch(prefix, after_revision, end=end):
            if not self.is_mute:
                yield changes

    async def digest(self, prefix: str) -> PrefixDigest:
        self.digests += prefix == PREFIX
        if self.has_no_digest:
            raise Unavailable("the store does not answer")
        return await super().digest(prefix)


def full_reads_after(*operations: Sequence[Put | Delete], **faults: Any) -> tuple[int, int]:
    """How often the leader reads everything again, and asks for a digest of it, within half a minute after these
    transactions, which follow each other by ten seconds."""

    async def run() -> tuple[int, int]:
        node = Node(MuteStore)
        store = node.store
        assert isinstance(store, MuteStore)
        for key in OUTSIDE:
            await store.transact([], [Put(key, b"x")])
        await node.start()
        await node.add("web.service")
        await asyncio.sleep(30)
        before, digests = store.full_reads, store.digests
        for fault, value in faults.items():
            setattr(store, fault, value)
        for each in operations:
            await store.transact([], each)
            await asyncio.sleep(10)
        await asyncio.sleep(30)
        made = store.full_reads - before, store.digests - digests
        await node.stop()
        return made

    return run_virtually(run())


UNIT = PREFIX + "units/web.service"


def test_what_others_write_and_delete_elsewhere_in_the_store_is_no_reason_to_read_the_cluster_again() -> None:
    written = [[Put(key, b"y")] for key in OUTSIDE]
    deleted = [[Delete(key)] for key in OUTSIDE]
    assert full_reads_after(*written, *deleted) == (0, 6)


def test_what_is_written_below_the_prefix_costs_no_digest() -> None:
    assert full_reads_after([Put(UNIT, b"{}")], [Delete(UNIT)]) == (0, 0)


def test_a_write_that_the_watch_has_not_delivered_is_read() -> None:
    assert full_reads_after([Put(UNIT, b"{}")], is_mute=True)[0] >= 1


def test_a_deletion_that_the_watch_has_not_delivered_is_read() -> None:
    assert full_reads_after([Delete(UNIT)], is_mute=True)[0] >= 1


def test_a_deletion_that_the_watch_has_not_delivered_is_read_also_if_others_write_after_it() -> None:
    assert full_reads_after([Delete(UNIT)], [Put(OUTSIDE[0], b"y")], is_mute=True)[0] >= 1


def test_without_an_answer_about_what_there_is_everything_is_read() -> None:
    assert full_reads_after([Put(OUTSIDE[0], b"y")], has_no_digest=True)[0] >= 1


KEYS = tuple(PREFIX + name for name in "abcd") + OUTSIDE[:2]
TRANSACTIONS = st.lists(st.dictionaries(st.sampled_from(KEYS), st.booleans(), min_size=1, max_size=3), max_size=12)


@given(TRANSACTIONS, TRANSACTIONS)
async def test_the_keys_that_have_arrived_match_the_digest_of_the_store(
    before: list[dict[str, bool]], after: list[dict[str, bool]]
) -> None:
    store = EmbeddedStore(":memory:", offload=inline)
    for transaction in before:
        await store.transact([], operations(transaction))
    found = await store.range(PREFIX)
    arrived = ArrivedKeys.of(found)
    assert arrived.match(await store.digest(PREFIX))
    watch = store.watch(PREFIX, found.revision)
    for transaction in after:
        seen = await store.range(PREFIX)
        await store.transact([], operations(transaction))
        if await has_changed(store, seen):
            assert arrived.match(await store.digest(PREFIX)) is False
            arrived.take(await anext(watch))
        assert arrived.match(await store.digest(PREFIX))
    await store.close()


def operations(transaction: dict[str, bool]) -> list[Put | Delete]:
    return [Put(key, b"x") if is_put else Delete(key) for key, is_put in transaction.items()]


async def has_changed(store: EmbeddedStore, seen: RangeResult) -> bool:
    return (await store.range(PREFIX)).items != seen.items
