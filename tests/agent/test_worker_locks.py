"""Locks of units on workers: a server takes them, and only those that the unit's placement names."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from fleetd.api.locking import Asked, Locking
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.registry.registry import Registry
from fleetd.store import worker_wire as wire
from fleetd.store.embedded import EmbeddedStore, inline
from tests.api.worker_caller import OWN, Caller, fill

UNIT = "web.service"
TEXT = "[Service]\nExecStart=/bin/x\n[X-Fleet]\nLock=only\n"


class Cluster:
    """A server, a worker that asks it, and another holder."""

    async def open(self) -> None:
        now = asyncio.get_running_loop().time
        self.store = EmbeddedStore(":memory:", offload=inline, cluster_id="c0ffee", now=now)
        await fill(self.store)
        self.registry = Registry(self.store)
        epoch = StoreEpoch(self.registry, "m1", now=now)
        epoch.accept(await epoch.check(0, await self.store.revision()))
        self.locking = Locking(self.registry, epoch, now, lambda: 1e9 + now())
        self.worker = Caller(self.store, locking=self.locking, now=now)
        await self.place()

    async def place(self, target: TargetState = TargetState.LAUNCHED, text: str = TEXT) -> None:
        placement = Placement(OWN, UNIT, text, target, 5)
        await self.store.transact([], [self.registry.put(placement, OWN, UNIT)])

    async def ask(self, action: str, **fields: Any) -> Any:
        return await self.worker.ask("lock", wire.LockRequest(action=action, **fields))

    async def take(self) -> Any:
        return await self.ask(wire.TAKE_LOCK, unit=UNIT)


@pytest.fixture
async def cluster() -> AsyncGenerator[Cluster, None]:
    opened = Cluster()
    await opened.open()
    yield opened
    opened.worker.api.close()
    await opened.store.close()


async def test_a_worker_takes_renews_and_releases_the_lock_of_its_unit(cluster: Cluster) -> None:
    taken = await cluster.take()
    [holder] = (await cluster.locking.read("only")).record.holders
    assert (taken.token, holder.holder, holder.ttl_s) == (holder.token, f"{UNIT} on {OWN[:8]}", 45.0)
    assert (await cluster.take()).session == taken.session  # the answer was lost
    assert (await cluster.ask(wire.RENEW_LOCK, session=taken.session)).gone == ""
    await asyncio.sleep(40)
    assert (await cluster.ask(wire.RENEW_LOCK, session=taken.session)).session == taken.session
    assert (await cluster.ask(wire.RELEASE_LOCK, session=taken.session)).gone == ""
    assert (await cluster.locking.read("only")).record.holders == ()
    assert "released" in (await cluster.ask(wire.RENEW_LOCK, session=taken.session)).gone


async def test_it_keeps_its_place_while_it_asks_and_loses_it_when_it_does_not(cluster: Cluster) -> None:
    held = await cluster.locking.try_to_acquire(Asked("only", 30.0, 1, "", "backup"))
    assert held is not None
    waiting = await cluster.take()
    assert (waiting.session, waiting.words) == ("", "held by backup")
    await cluster.take()
    assert len((await cluster.locking.read("only")).sessions) == 2
    await cluster.locking.release(held.session)
    await asyncio.sleep(1)
    assert (await cluster.take()).session
    await cluster.place(text=TEXT.replace("only", "other"))
    held = await cluster.locking.try_to_acquire(Asked("other", 300.0, 1, "", "backup"))
    assert held is not None
    assert (await cluster.take()).words == "held by backup"
    await asyncio.sleep(20)
    assert len((await cluster.locking.read("other")).sessions) == 1


async def test_a_server_leaves_what_it_gave_to_a_worker_that_renews_it_with_another(cluster: Cluster) -> None:
    taken = await cluster.take()
    other = Caller(cluster.store, locking=cluster.locking, now=asyncio.get_running_loop().time)
    renewal = wire.LockRequest(action=wire.RENEW_LOCK, session=taken.session)
    for _ in range(3):
        assert (await other.ask("lock", renewal)).session == taken.session
        await asyncio.sleep(10)
    cluster.worker.api.close()
    await asyncio.sleep(1)
    assert (await other.ask("lock", renewal)).session == taken.session
    other.api.close()


async def test_a_session_that_is_gone_is_given_once(cluster: Cluster) -> None:
    taken = await cluster.take()
    other = Caller(cluster.store, locking=cluster.locking, now=asyncio.get_running_loop().time)
    await other.ask("lock", wire.LockRequest(action=wire.RELEASE_LOCK, session=taken.session))
    assert (await cluster.take()).session == taken.session  # this server has not heard of it
    assert (await cluster.ask(wire.RENEW_LOCK, session=taken.session)).gone
    assert (await cluster.take()).session != taken.session
    other.api.close()


async def test_a_server_that_ends_gives_up_what_nobody_was_told_of(cluster: Cluster) -> None:
    held = await cluster.locking.try_to_acquire(Asked("only", 30.0, 1, "", "backup"))
    assert held is not None
    await cluster.take()
    await cluster.locking.release(held.session)
    await asyncio.sleep(1)
    assert (await cluster.locking.read("only")).record.holders
    cluster.worker.api.close()
    await asyncio.sleep(1)
    assert (await cluster.locking.read("only")).record.holders == ()


async def test_it_has_no_other_lock_and_renews_and_releases_none_of_others(cluster: Cluster) -> None:
    held = await cluster.locking.try_to_acquire(Asked("other", 30.0, 1, "machine m2", "web.service on m2"))
    assert held is not None
    for action in (wire.RENEW_LOCK, wire.RELEASE_LOCK):
        status, failure = await cluster.ask(action, session=str(held.session))
        assert (status, failure.message) == (wire.FORBIDDEN, "another one holds this lock")
    for changed in (cluster.place(TargetState.LOADED), cluster.place(text="[Service]\nExecStart=/bin/x\n")):
        await changed
        assert (await cluster.take())[0] == wire.FORBIDDEN
    assert (await cluster.ask(wire.TAKE_LOCK, unit="db.service"))[0] == wire.FORBIDDEN
    assert (await cluster.ask("read", unit=UNIT))[0] == wire.MALFORMED
    assert (await cluster.ask(wire.RENEW_LOCK, session="x"))[0] == wire.MALFORMED


async def test_it_has_one_slot_of_a_lock_whatever_its_root_asks_for(cluster: Cluster) -> None:
    text = TEXT.replace("only", "pool 3")
    for unit in (UNIT, "web-2.service"):
        placement = Placement(OWN, unit, text, TargetState.LAUNCHED, 5)
        await cluster.store.transact([], [cluster.registry.put(placement, OWN, unit)])
    taken, second = await asyncio.gather(cluster.take(), cluster.ask(wire.TAKE_LOCK, unit="web-2.service"))
    assert taken.session
    for _ in range(3):
        assert (await cluster.ask(wire.RENEW_LOCK, session=taken.session)).gone == ""
        assert (await cluster.take()).words == f"held by {UNIT} on {OWN[:8]}"
        second = await cluster.ask(wire.TAKE_LOCK, unit="web-2.service")
        assert (second.session, second.words) == ("", f"held by {UNIT} on {OWN[:8]}")
        await asyncio.sleep(10)
    assert len((await cluster.locking.read("pool")).sessions) == 1
    await asyncio.sleep(60)  # the session has ended, as after a reboot of the worker
    assert (await cluster.take()).session not in ("", taken.session)


async def test_another_number_of_slots_is_told(cluster: Cluster) -> None:
    assert await cluster.locking.try_to_acquire(Asked("only", 30.0, 3, "", "backup"))
    assert "3 slots" in (await cluster.take()).gone


async def test_a_server_without_locks_says_so(cluster: Cluster) -> None:
    caller = Caller(cluster.store)
    status, failure = await caller.ask("lock", wire.LockRequest(action=wire.TAKE_LOCK, unit=UNIT))
    assert (status, failure.message) == (wire.UNAVAILABLE, "this server takes no locks for workers")
