"""Locks through the API: wait, take, renew, release, list, take away."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from fleetd.api.http import Response, StreamedResponse
from fleetd.api.locking import Locking
from fleetd.api.schema import USER_HEADER
from fleetd.api.unit_lock import ask_for_unit
from fleetd.api.v2.locks import MOST_WAITERS_OF_USER
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.isolation import IsolationOptions, UnitLock
from fleetd.model.lock import LONGEST_TTL_S, Holder, LockRecord
from fleetd.model.permission import Grant, Permission, Rights
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import CreatedAt, Delete, Put
from tests.api.conftest import JSON, Fleet
from tests.virtual_time import START_S

LOCK = "/fleet/v2/locks/backup"
PATIENCE_S = 2000.0  # by the virtual clock


class Locks(Fleet):
    """The API, and this machine's knowledge of the store."""

    def __init__(self, registry: Registry) -> None:
        now = asyncio.get_running_loop().time
        self.epoch = StoreEpoch(registry, "m1", now=now)
        super().__init__(registry, epoch=self.epoch, now=now, unix_now=lambda: 1_800_000_000 + now() - START_S)

    async def accept(self) -> None:
        """Read the store's epoch, as the agent does."""
        highest = self.epoch.highest_revision
        self.epoch.accept(await self.epoch.check(highest, await self.registry.store.revision()))

    async def take(self, lock: str = LOCK, **terms: Any) -> dict[str, Any]:
        """Take a lock at once."""
        response = await self.ask(f"POST {lock}", {"wait": 0, **terms})
        assert response.status == 200, response.body
        return dict(json.loads(response.body))

    async def wait(self, lock: str = LOCK, **terms: Any) -> "Waiting":
        """Begin to wait for a lock."""
        response: Any = await self.ask(f"POST {lock}", terms)
        assert isinstance(response, StreamedResponse), response
        return Waiting(response)

    async def renew(self, held: dict[str, Any]) -> Response:
        return await self.ask(f"PUT /fleet/v2/lock-sessions/{held['session']}")

    async def release(self, held: dict[str, Any]) -> int:
        return (await self.ask(f"DELETE /fleet/v2/lock-sessions/{held['session']}")).status

    async def list(self) -> list[dict[str, Any]]:
        return list(json.loads((await self.ask("GET /fleet/v2/locks")).body)["locks"])


class Waiting:
    """A client that waits."""

    def __init__(self, response: StreamedResponse) -> None:
        self._chunks = response.chunks
        self.lines: list[dict[str, Any]] = []

    async def line(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            self.lines.append(json.loads(await anext(self._chunks)))
        return self.lines[-1]

    async def last(self) -> dict[str, Any]:
        """The last line, which `held` or `timeout` is."""
        while (await self.line())["state"] == "waiting":
            pass
        return self.lines[-1]

    async def close(self) -> None:
        await self._chunks.aclose()


@pytest.fixture
async def fleet() -> AsyncIterator[Locks]:
    now = asyncio.get_running_loop().time
    store = EmbeddedStore(":memory:", offload=inline, now=now)
    fleet = Locks(Registry(store))
    await fleet.accept()
    yield fleet
    await store.close()


def named(who: str) -> tuple[tuple[str, str], ...]:
    """The header of somebody with this name."""
    return (*JSON, (USER_HEADER, who))


async def settle(seconds: float = 0.001) -> None:
    await asyncio.sleep(seconds)


async def test_a_lock_is_taken_at_once_and_listed(fleet: Locks) -> None:
    held = await fleet.take(ttl=10, holder="host:1")
    assert held["state"] == "held"
    assert held["ttl"] == 10
    epoch, _, created = held["token"].partition("-")
    assert (int(epoch), int(created) > 0) == (1_800_000_000, True)
    (lock,) = await fleet.list()
    assert (lock["name"], lock["slots"], lock["waiting"]) == ("backup", 1, 0)
    (holder,) = lock["holders"]
    assert (holder["session"], holder["holder"], holder["token"]) == (held["session"], "host:1", held["token"])


async def test_nobody_releases_what_another_one_holds(fleet: Locks) -> None:
    """The next one would have the lock at once, while who holds it is at work."""
    now = asyncio.get_running_loop().time
    locking = Locking(fleet.registry, fleet.epoch, now, now)
    of_unit = await locking.acquire(ask_for_unit("web.service", IsolationOptions(lock=UnitLock("backup")), "m1"))
    for who in ("ann", ""):
        status, message = await fleet.refused(f"DELETE /fleet/v2/lock-sessions/{of_unit.session}", headers=named(who))
        assert (status, "machine m1 has taken this session" in message) == (403, True)
        assert "fleetctl unlock --force backup" in message
    assert len((await fleet.list())[0]["holders"]) == 1
    await locking.release(of_unit.session)
    of_ann = json.loads((await fleet.ask(f"POST {LOCK}", {"wait": 0}, named("ann"))).body)
    path = f"DELETE /fleet/v2/lock-sessions/{of_ann['session']}"
    assert (await fleet.ask(path, headers=named("ben"))).status == 403
    assert (await fleet.ask(path, headers=named("ann"))).status == 200


async def test_nobody_releases_the_place_of_another_one_who_waits(fleet: Locks) -> None:
    await fleet.take()
    waiting: Any = await fleet.ask(f"POST {LOCK}", {}, named("ann"))
    line = asyncio.create_task(anext(waiting.chunks))
    await settle(1)
    own = next(
        item for item in (await fleet.registry.store.range("/fleet-locks/backup/")).items if b"ann" in item.value
    )
    session = f"backup.{own.key.rpartition('/')[2]}"
    assert (await fleet.ask(f"DELETE /fleet/v2/lock-sessions/{session}", headers=named("ben"))).status == 403
    assert (await fleet.ask(f"DELETE /fleet/v2/lock-sessions/{session}", headers=named("ann"))).status == 200
    line.cancel()
    await waiting.chunks.aclose()


async def test_nobody_keeps_a_lease_that_is_not_of_the_session(fleet: Locks) -> None:
    held = await fleet.take(f"{LOCK}-other", ttl=30)
    others = {"of a machine": await fleet.registry.store.grant(30), "of a lock": int(held["session"].split(".")[1], 16)}
    said = set()
    for _ in range(4):
        await settle(10)
        for lease in (*others.values(), 12345):
            said.add(await fleet.refused(f"PUT /fleet/v2/lock-sessions/backup.{lease:x}"))
    assert [await fleet.registry.store.time_to_live(lease) for lease in others.values()] == [None, None]
    assert len(said) == 1, "nor learns which leases there are"


async def test_the_keys_are_in_the_layout_of_etcds_concurrency_package(fleet: Locks) -> None:
    held = await fleet.take()
    (item,) = (await fleet.registry.store.range("/fleet-locks/")).items
    assert item.key == f"/fleet-locks/backup/{item.lease:x}"
    assert held["session"] == f"backup.{item.lease:x}"


async def test_who_does_not_wait_is_refused_and_leaves_nothing(fleet: Locks) -> None:
    await fleet.take(holder="host:1")
    status, message = await fleet.refused(f"POST {LOCK}", {"wait": 0})
    assert (status, message) == (409, "lock backup is not free: held by host:1")
    await settle()
    assert len((await fleet.registry.store.range("/fleet-locks/")).items) == 1


async def test_a_release_wakes_the_next_one(fleet: Locks) -> None:
    held = await fleet.take()
    waiting = await fleet.wait()
    assert (await waiting.line())["state"] == "waiting"
    await settle()
    before = asyncio.get_running_loop().time()
    assert await fleet.release(held) == 200
    next_ = await waiting.last()
    assert next_["state"] == "held"
    assert next_["token"] > held["token"]
    assert asyncio.get_running_loop().time() - before < 0.1
    assert await fleet.release(held) == 404


async def test_a_session_that_is_renewed_holds_its_lock_and_one_that_is_not_loses_it_after_two_ttls(
    fleet: Locks,
) -> None:
    held = await fleet.take(ttl=10)
    waiting = await fleet.wait(ttl=10)
    for _ in range(20):
        await asyncio.sleep(3)
        assert (await fleet.renew(held)).status == 200
    since = asyncio.get_running_loop().time()
    next_ = await waiting.last()
    took_s = asyncio.get_running_loop().time() - since
    assert next_["state"] == "held"
    assert 20 <= took_s < 21.5  # until its lease ended, and a full TTL after it had vanished without a release
    status, message = await fleet.refused(f"PUT /fleet/v2/lock-sessions/{held['session']}")
    assert (status, "is lost" in message) == (404, True)


async def test_one_who_comes_after_a_holder_has_vanished_waits_for_its_ttl_too(fleet: Locks) -> None:
    held = await fleet.take(ttl=30)
    lease = int(held["session"].rpartition(".")[2], 16)
    await fleet.registry.store.revoke(lease)
    status, message = await fleet.refused(f"POST {LOCK}", {"wait": 0})
    assert (status, "who has vanished and may go on for 30 s" in message) == (409, True)
    (lock,) = await fleet.list()
    assert lock["holders"][0]["is_gone"]
    await asyncio.sleep(30.1)
    assert (await fleet.take())["token"] > held["token"]


async def test_a_wait_ends(fleet: Locks) -> None:
    await fleet.take(ttl=300)
    waiting = await fleet.wait(wait=20)
    assert (await waiting.last())["state"] == "timeout"
    await waiting.close()
    await settle()
    assert [lock["waiting"] for lock in await fleet.list()] == [0]


async def test_a_client_that_goes_away_gives_up_its_place(fleet: Locks) -> None:
    held = await fleet.take()
    first, second = await fleet.wait(), await fleet.wait()
    await first.line()
    await second.line()
    await settle()
    await first.close()
    await settle()
    await fleet.release(held)
    assert (await second.last())["state"] == "held"


async def test_a_lock_that_comes_as_the_client_goes_away_is_free_again(fleet: Locks) -> None:
    held = await fleet.take()
    waiting = await fleet.wait()
    await waiting.line()
    await settle()
    await fleet.release(held)
    await settle()
    await waiting.close()
    await settle()
    assert await fleet.list() == []
    await fleet.take()


async def test_a_lock_that_the_client_was_told_of_is_not_released_with_the_connection(fleet: Locks) -> None:
    waiting = await fleet.wait()
    held = await waiting.last()
    await waiting.close()
    await settle()
    assert (await fleet.renew(held)).status == 200


async def test_many_wait_and_one_at_a_time_has_it(fleet: Locks) -> None:
    held = await fleet.take(ttl=300)
    waiting = [await fleet.wait(ttl=300) for _ in range(MOST_WAITERS_OF_USER)]
    await asyncio.gather(*(one.line() for one in waiting))
    await settle()
    assert len((await fleet.registry.store.range("/fleet-locks/")).items) == 2  # one of this machine waits in the store
    tasks = [asyncio.create_task(one.last()) for one in waiting]
    tokens = [held["token"]]
    status, message = await fleet.refused(f"POST {LOCK}", {})
    assert (status, message) == (
        429,
        "512 clients of yours wait for locks here, and 512 may: end some, or name another server (--endpoint)",
    )
    for number in range(MOST_WAITERS_OF_USER):
        await fleet.release(held)
        async with asyncio.timeout(PATIENCE_S):
            held = await tasks[number]  # in the order in which they came
        tokens.append(held["token"])
        await settle()
        assert sum(task.done() for task in tasks) == number + 1
    assert tokens == sorted(set(tokens))


async def test_a_lock_with_slots(fleet: Locks) -> None:
    first, second = await fleet.take(slots=2), await fleet.take(slots=2)
    assert (await fleet.refused(f"POST {LOCK}", {"wait": 0, "slots": 2}))[0] == 409
    waiting = await fleet.wait(slots=2)
    await waiting.line()
    status, message = await fleet.refused(f"POST {LOCK}", {"slots": 3})
    assert status == 412
    assert message == (
        "lock backup has 2 slots for those who hold it or wait for it, and not 3: all have to say the same number "
        "(--slots)"
    )
    await fleet.release(first)
    assert (await waiting.last())["state"] == "held"
    assert (await fleet.renew(second)).status == 200


async def test_another_program_is_waited_for_and_waits(fleet: Locks) -> None:
    store = fleet.registry.store
    lease = await store.grant(60)
    key = f"/fleet-locks/backup/{lease:x}"
    await store.transact([CreatedAt(key, 0)], [Put(key, b"", lease)])
    (lock,) = await fleet.list()
    assert lock["holders"][0] == {"session": f"backup.{lease:x}", "is_foreign": True}
    waiting = await fleet.wait()
    assert (await waiting.line())["detail"] == "held by another program"
    await settle()
    await store.transact([], [Delete(key)])
    assert (await waiting.last())["state"] == "held"


async def test_a_lock_is_taken_away(fleet: Locks) -> None:
    held = await fleet.take(ttl=30, holder="host:1")
    waiting = await fleet.wait()
    await waiting.line()
    answer = json.loads((await fleet.ask(f"DELETE {LOCK}")).body)
    assert [session["holder"] for session in answer["sessions"]] == ["host:1"]
    assert 29 < answer["free_after"] <= 30
    assert (await fleet.renew(held)).status == 404
    before = asyncio.get_running_loop().time()
    assert (await waiting.last())["state"] == "held"
    assert 29 < asyncio.get_running_loop().time() - before < 32
    assert (await fleet.refused("DELETE /fleet/v2/locks/other"))[0] == 404


async def test_a_restore_ends_sessions_and_nobody_takes_a_lock_for_the_longest_ttl(fleet: Locks) -> None:
    held = await fleet.take(ttl=10)
    fleet.epoch.note_set_back(fleet.epoch.name)
    assert (await fleet.refused("POST /fleet/v2/locks/other", {"wait": 0}))[0] == 409
    await fleet.accept()
    status, message = await fleet.refused(f"PUT /fleet/v2/lock-sessions/{held['session']}")
    assert (status, "restored" in message) == (404, True)
    waiting = await fleet.wait("/fleet/v2/locks/other")
    assert "the store was restored" in (await waiting.line())["detail"]
    before = asyncio.get_running_loop().time()
    later = await waiting.last()
    assert LONGEST_TTL_S - 1 < asyncio.get_running_loop().time() - before < LONGEST_TTL_S + 2
    assert later["token"] > held["token"]


async def test_a_store_that_has_fallen_back_is_noticed_by_who_takes_a_lock(fleet: Locks) -> None:
    fleet.epoch.note_revision(10_000)
    status, message = await fleet.refused(f"POST {LOCK}", {"wait": 0})
    assert (status, "restored" in message) == (503, True)
    assert fleet.epoch.set_back.is_set()


async def test_who_may_only_view_takes_no_lock(fleet: Locks) -> None:
    held = await fleet.take()
    fleet.rights = Rights([Grant(Permission.VIEW)])
    for request, body in (
        (f"POST {LOCK}", {"wait": 0}),
        (f"DELETE {LOCK}", None),
        (f"PUT /fleet/v2/lock-sessions/{held['session']}", None),
        (f"DELETE /fleet/v2/lock-sessions/{held['session']}", None),
    ):
        assert (await fleet.refused(request, body))[0] == 403
    assert len(await fleet.list()) == 1


async def test_who_may_operate_some_names_takes_locks_of_those(fleet: Locks) -> None:
    fleet.rights = Rights([Grant(Permission.OPERATE, "web-*")])
    await fleet.take("/fleet/v2/locks/web-backup")
    status, message = await fleet.refused(f"POST {LOCK}", {"wait": 0})
    assert (status, "backup" in message) == (403, True)


@pytest.mark.parametrize(
    ("request_", "body", "words"),
    [
        ("POST /fleet/v2/locks/a b", {}, "is no name of a lock"),
        (f"POST {LOCK}", {"ttl": 1}, "a ttl of 1 s: it has to be from 3 to 300 s"),
        (f"POST {LOCK}", {"slots": 0}, "0 slots: a lock has from 1 to 256"),
        (f"POST {LOCK}", {"wait": -1}, "wait: -1"),
        (f"POST {LOCK}", {"holder": "x" * 129}, "128 characters"),
        (f"POST {LOCK}", {"ttl": "x"}, "unable to decode body"),
        ("PUT /fleet/v2/lock-sessions/x", None, "is no session of a lock"),
        ("DELETE /fleet/v2/lock-sessions/x.0", None, "is no session of a lock"),
    ],
)
async def test_what_is_malformed_is_refused(fleet: Locks, request_: str, body: Any, words: str) -> None:
    status, message = await fleet.refused(request_, body)
    assert (status, words in message) == (400, True), message


async def test_a_record_that_cannot_be_read_is_said_and_left_out_of_lists(fleet: Locks) -> None:
    await fleet.registry.store.transact([], [Put("/fleet-lock-state/names/backup", b"{")])
    status, message = await fleet.refused(f"POST {LOCK}", {"wait": 0})
    assert (status, "/fleet-lock-state/names/backup" in message) == (500, True)
    assert [lock["holders"] for lock in await fleet.list()] == [[]]


async def test_an_outage_of_the_store_ends_no_wait(fleet: Locks) -> None:
    held = await fleet.take(ttl=300)
    waiting = await fleet.wait(ttl=5)
    await waiting.line()
    await settle()
    sessions = (await fleet.registry.store.range("/fleet-locks/backup/")).items
    (own,) = (item for item in sessions if not held["session"].endswith(f".{item.lease:x}"))
    await fleet.registry.store.revoke(own.lease)  # as a store that was away for long does
    await asyncio.sleep(5)
    await fleet.release(held)
    assert (await waiting.last())["state"] == "held"


def test_the_holder_of_a_lock_is_kept_in_a_format() -> None:
    assert msgspec.json.decode(msgspec.json.encode(LockRecord((Holder("a", 1, 3.0, 2),))))["format"] == 1
