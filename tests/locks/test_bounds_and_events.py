"""How many locks there may be, what readers of events learn of locks, and what metrics say."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from fleetd import metrics
from fleetd.model.event import EventRecord
from fleetd.model.lock import LONGEST_TTL_S, MOST_LOCKS, SHARE_OF_LOCKS, Holder, LockRecord
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import MAX_OPERATIONS, Put
from tests.locks.test_api import LOCK, Locks, settle


@pytest.fixture
async def fleet() -> AsyncIterator[Locks]:
    store = EmbeddedStore(":memory:", offload=inline, now=asyncio.get_running_loop().time)
    fleet = Locks(Registry(store))
    await fleet.accept()
    yield fleet
    await store.close()


async def fill(fleet: Locks, count: int, by: str, first: int = 0) -> None:
    """Have so many locks held, by sessions whose keys are gone."""
    record = msgspec.json.encode(LockRecord((Holder("1", 1, 30.0, 1, by=by),)))
    puts = [Put(f"/fleet-lock-state/names/l{number}", record) for number in range(first, first + count)]
    for start in range(0, count, MAX_OPERATIONS):
        await fleet.registry.store.transact([], puts[start : start + MAX_OPERATIONS])


async def lock_events(fleet: Locks) -> list[tuple[str, str, str, str]]:
    """The events that are kept: kind, action or step, subject, detail."""
    items = (await fleet.registry.store.range(f"{fleet.registry.archive_prefix}events/")).items
    events = [event for item in items for event in msgspec.json.decode(item.value, type=EventRecord).events]
    return [(event.kind, event.action or event.step, event.subject, event.detail) for event in events]


async def test_a_cluster_holds_so_many_locks_and_those_who_have_vanished_are_cleared_first(fleet: Locks) -> None:
    await fill(fleet, MOST_LOCKS, "others")
    status, message = await fleet.refused(f"POST {LOCK}", {"wait": 0})
    assert (status, message.startswith("10000 locks are held in this cluster, and 10000 may be: ")) == (429, True)
    await settle(31)  # a full TTL after they were seen to be gone
    await fleet.take()
    assert len(await fleet.list()) == 1


async def test_one_user_holds_a_quarter_of_them(fleet: Locks) -> None:
    held = await fleet.take()
    (lock,) = await fleet.list()
    await fill(fleet, SHARE_OF_LOCKS, lock["holders"][0].get("by", ""))
    await settle(1)
    status, message = await fleet.refused("POST /fleet/v2/locks/other", {"wait": 0})
    assert (status, message.startswith("you hold 2501 locks of this cluster, and one user may hold 2500: ")) == (
        429,
        True,
    )
    waiting = await fleet.wait()  # for one that is held already
    assert (await waiting.line())["state"] == "waiting"
    await waiting.close()
    assert await fleet.release(held) == 200


async def test_what_a_session_says_of_itself_is_kept_short(fleet: Locks) -> None:
    await fleet.take(holder="\x07" * 128)
    (lock,) = await fleet.list()
    assert len(lock["holders"][0]["holder"]) <= 128


async def test_taking_and_releasing_locks_makes_no_events(fleet: Locks) -> None:
    for _ in range(3):
        await fleet.release(await fleet.take())
    assert await lock_events(fleet) == []


async def test_a_lock_that_is_taken_away_or_lost_makes_an_event(fleet: Locks) -> None:
    await fleet.take(ttl=10, holder="host:1")
    assert (await fleet.ask(f"DELETE {LOCK}")).status == 200
    assert await lock_events(fleet) == [("asked", "unlock", "backup", "host:1")]
    waiting = await fleet.wait()
    await waiting.last()
    assert (await lock_events(fleet))[1:] == [("lock", "lost", "backup", "host:1")]


async def test_a_list_clears_who_has_vanished(fleet: Locks) -> None:
    held = await fleet.take(ttl=10, holder="host:1")
    await fleet.registry.store.revoke(int(held["session"].rpartition(".")[2], 16))
    assert [lock["holders"][0]["is_gone"] for lock in await fleet.list()] == [True]
    await settle(10.1)
    assert await fleet.list() == []
    assert await lock_events(fleet) == [("lock", "lost", "backup", "host:1")]


async def test_the_first_lock_after_a_restore_makes_an_event(fleet: Locks) -> None:
    await fleet.release(await fleet.take())
    fleet.epoch.note_set_back(fleet.epoch.name)
    await fleet.accept()
    await settle(LONGEST_TTL_S + 1)
    await fleet.take("/fleet/v2/locks/first")
    await fleet.take("/fleet/v2/locks/second")
    assert await lock_events(fleet) == [("lock", "restored", "first", "")]


def value(line: str) -> float:
    return next(float(each.split()[-1]) for each in metrics.render().decode().splitlines() if each.startswith(line))


async def test_metrics_of_locks(fleet: Locks) -> None:
    taken = value('fleet_locks_taken_total{after="wait"}') if b'after="wait"' in metrics.render() else 0.0
    held = await fleet.take(ttl=10)
    waiting = await fleet.wait(ttl=10)
    await waiting.line()
    assert (value("fleet_locks_held "), value("fleet_lock_waiters ")) == (1, 1)
    await fleet.release(held)
    await waiting.last()
    assert (value("fleet_locks_held "), value("fleet_lock_waiters ")) == (1, 0)
    assert value('fleet_locks_taken_total{after="wait"}') == taken + 1
    await settle(11)
    assert value("fleet_locks_held ") == 0
