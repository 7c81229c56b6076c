"""Whoever is root on a worker has its certificate, and sends any request: it gets nothing that is not its machine's."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.api.http import StreamedResponse
from fleetd.api.worker.limits import Limits
from fleetd.store import worker_wire as wire
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import CreatedAt, Delete, HasValue, KeyValue, Put, Unchanged
from fleetd.store.worker_wire import WatchFrom
from tests.api.worker_caller import OTHER, OWN, SECRET, UNIT, Caller, Frames, fill, machine_value, state_value

OTHER_LEASE, OWN_LEASE = 1, 2
STATUSES = {200, *wire.STATUSES}
OWN_KEYS = (
    f"/fleet/machines/{OWN}",
    f"/fleet/states/{OWN}/{UNIT}",
    f"/fleet/placements/{OWN}/{UNIT}",
    f"/fleet/synced/{OWN}",
    f"/fleet/settings/{OWN}",
    "/fleet/history",
    "/fleet/cluster",
)
OTHER_KEYS = (
    f"/fleet/machines/{OTHER}",
    f"/fleet/states/{OTHER}/{UNIT}",
    f"/fleet/placements/{OTHER}/{UNIT}",
    f"/fleet/synced/{OTHER}",
    f"/fleet/trust/machines/{OTHER}",
    f"/fleet/trust/machines/{OWN}",
    "/fleet/trust/tokens/abc",
    "/fleet/units/web.service",
    "/fleet/secrets/db.pw",
    "/fleet/leader",
    "/fleet/leases/1",
    "/fleet-authority/1",
    "/other/key",
)

words = st.sampled_from(
    f"/ // . .. \0 {OWN} {OTHER} {OWN[:2]} fleet machines states placements units {UNIT} é".split(" ")
)
own_or_other = st.sampled_from([*OWN_KEYS, *OTHER_KEYS])
keys = st.one_of(
    own_or_other,
    own_or_other,
    own_or_other.flatmap(lambda key: words.map(key.__add__)),
    st.lists(words, max_size=5).map("/".join).map("/fleet/".__add__),
    st.sampled_from(["", "/", "/fleet", "/fleet/"]),
    st.text(max_size=5),
)
revisions = st.one_of(st.integers(0, 12), st.sampled_from([-1, 2**31, 2**62, 2**63 - 1]))
leases = st.one_of(st.sampled_from([OWN_LEASE, OTHER_LEASE]), st.integers(0, 4), st.sampled_from([-1, 2**63 - 1]))
values = st.sampled_from(
    [
        b"",
        b"x",
        SECRET,
        machine_value(),
        machine_value(OTHER),
        machine_value(etcd_member="1"),
        state_value(),
        b'{"format":2}',
        b'{"format":1,"id":"ab12","metadata":{"a":"b"}}',
    ]
)
known = st.fixed_dictionaries({}, optional={"highest_revision": revisions, "history": st.sampled_from(["", "x"])})
comparisons = st.one_of(
    st.builds(Unchanged, keys, revisions), st.builds(CreatedAt, keys, revisions), st.builds(HasValue, keys, values)
)
operations = st.one_of(st.builds(Put, keys, values, leases), st.builds(Delete, keys))

FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "cluster-id": {},
    "get": {"key": keys},
    "get-many": {"keys": st.lists(keys, max_size=4).map(tuple), "revision": revisions},
    "range": {
        "prefix": keys,
        "after": keys,
        "limit": st.sampled_from([0, 1, 2, 2**31, 2**63 - 1, -1]),
        "revision": revisions,
    },
    "digest": {"prefix": keys},
    "transact": {
        "comparisons": st.lists(comparisons, max_size=3).map(tuple),
        "operations": st.lists(operations, max_size=3, unique_by=lambda each: each.key).map(tuple),
    },
    wire.WATCH: {"watches": st.lists(st.builds(WatchFrom, keys, revisions), max_size=3).map(tuple)},
    "grant": {"ttl_s": st.sampled_from([0.1, 1.0, 60.0, 1e9, -1.0, float("inf"), float("nan")])},
    "keep-alive": {"lease": leases},
    "time-to-live": {"lease": leases},
    "revoke": {"lease": leases},
    "revision": {},
    "lock": {
        "action": st.sampled_from([wire.TAKE_LOCK, wire.RENEW_LOCK, wire.RELEASE_LOCK, "", "read"]),
        "unit": st.sampled_from([UNIT, "x.service", "", "/", f"../{OTHER}/{UNIT}"]),
        "session": st.sampled_from(["", "only.1", "only.2", "only.zz", "/.1", "../x.1"]),
    },
}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, wire.Request]:
    call = draw(st.sampled_from(sorted(wire.CALLS)))
    fields = {name: draw(strategy) for name, strategy in FIELDS[call].items()}
    return call, wire.CALLS[call].request(**fields, **draw(known))


class Attack:
    """A cluster in which another machine has a lease, and what a worker's root gets of it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.received: list[bytes] = []

    async def prepare(self) -> None:
        self.store = EmbeddedStore(":memory:", offload=inline, cluster_id="c0ffee", now=lambda: self.now_s)
        await fill(self.store)
        lease = await self.store.grant(60)
        assert lease == OTHER_LEASE
        put = Put(f"/fleet/machines/{OTHER}", SECRET, lease)
        await self.store.transact([], [put, Put(f"/fleet/leases/{lease}", OTHER.encode(), lease)])
        self.now_s = 10.0
        limits = Limits(requests_at_once=1e9, bytes_at_once=1e9)
        self.worker = Caller(self.store, heartbeat_s=0.001, now=lambda: self.now_s, limits=limits)
        assert await self.worker.grant(60) == OWN_LEASE

    async def send(self, call: str, body: bytes) -> None:
        response = await self.worker.send(call, body)
        assert response.status in STATUSES
        if not isinstance(response, StreamedResponse):
            self.received.append(response.body)
            return
        frames = Frames(response.chunks)
        for _ in range(4):
            frame = await frames.next()
            if frame is None:
                break
            self.received.append(wire.encode(frame))
            assert all(is_own(event.key) for event in frame.events)
        await frames.close()

    async def others(self) -> dict[str, KeyValue]:
        """What is in the store of others than this machine."""
        found = {item.key: item for item in (await self.store.range("")).items}
        own_leases = {key for key, item in found.items() if key.startswith("/fleet/leases/") and item.value == b"ab12"}
        writes = (f"/fleet/machines/{OWN}", f"/fleet/states/{OWN}/")
        return {key: item for key, item in found.items() if not key.startswith(writes) and key not in own_leases}


def is_own(key: str) -> bool:
    return key in ("/fleet/history", "/fleet/cluster") or OWN in key.split("/")[3:4]


async def attack(requests: list[tuple[str, wire.Request]]) -> None:
    attack = Attack()
    await attack.prepare()
    before = await attack.others()
    for call, request in requests:
        await attack.send(call, wire.encode(request))
        for received in attack.received:
            assert SECRET not in received
        attack.received.clear()
        own = await attack.store.get_many([f"/fleet/machines/{OWN}", f"/fleet/states/{OWN}/{UNIT}"])
        assert OTHER_LEASE not in [item.lease for item in own.items]
        assert all(b"10.0.0.7" in item.value for item in own.items if item.key == f"/fleet/machines/{OWN}")
    assert await attack.others() == before
    assert await attack.store.time_to_live(OTHER_LEASE) == 50.0
    await attack.store.close()


def tricky_keys() -> list[str]:
    ends = ("", "/", "\0", "x", "/..", f"/../{OTHER}", f"/{UNIT}")
    found = [key + end for key in (*OWN_KEYS, *OTHER_KEYS) for end in ends]
    found += [key[:cut] for key in (*OWN_KEYS, *OTHER_KEYS) for cut in range(len(key))]
    return list(dict.fromkeys(found))


def requests_about(key: str) -> Iterator[tuple[str, wire.Request]]:
    """Every call with this key in each of its places."""
    own = OWN_KEYS[0]
    yield "get", wire.KeyRequest(key=key)
    yield "get-many", wire.KeysRequest(keys=(own, key))
    yield "get-many", wire.KeysRequest(keys=(key,), revision=5)
    yield "range", wire.RangeRequest(prefix=key)
    yield "range", wire.RangeRequest(prefix=key, limit=1, revision=5)
    yield "range", wire.RangeRequest(prefix="/fleet/", after=key)
    yield "digest", wire.PrefixRequest(prefix=key)
    yield wire.WATCH, wire.WatchRequest(watches=(WatchFrom(key, 1),))
    for comparison in (Unchanged(key, 3), CreatedAt(key, 3), HasValue(key, SECRET)):
        yield "transact", wire.TransactRequest(comparisons=(comparison,))
    for lease in (0, OTHER_LEASE, OWN_LEASE):
        for value in (SECRET, machine_value(address="10.66.66.66"), machine_value(OTHER), state_value()):
            yield "transact", wire.TransactRequest(operations=(Put(key, value, lease),))
    yield "transact", wire.TransactRequest(operations=(Delete(key),))


@pytest.mark.covers("R.10")
async def test_no_call_with_any_tricky_key_opens_what_is_of_others() -> None:
    requests = [request for key in tricky_keys() for request in requests_about(key)]
    requests += [(call, wire.LeaseRequest(lease=OTHER_LEASE)) for call in ("keep-alive", "revoke", "time-to-live")]
    await attack(requests)


async def test_comparisons_tell_nothing_of_others() -> None:
    """The answer to a comparison that holds is the same as to one that does not."""
    attack = Attack()
    await attack.prepare()
    for key in OTHER_KEYS:
        item = await attack.store.get(key)
        assert item is not None
        for right, wrong in (
            (HasValue(key, item.value), HasValue(key, b"wrong")),
            (Unchanged(key, item.mod_revision), Unchanged(key, 0)),
            (CreatedAt(key, item.create_revision), CreatedAt(key, 0)),
        ):
            for comparison in (right, wrong):
                await attack.send("transact", wire.encode(wire.TransactRequest(comparisons=(comparison,))))
    assert len(set(attack.received)) == len(OTHER_KEYS)  # the words name the key that was asked for
    await attack.store.close()


@pytest.mark.covers("R.10")
@settings(deadline=None)
@given(st.lists(calls(), min_size=1, max_size=10))
def test_a_workers_root_reads_and_writes_nothing_that_is_not_its_machines(
    requests: list[tuple[str, wire.Request]],
) -> None:
    asyncio.run(attack(requests))


async def send_bytes(call: str, body: bytes) -> None:
    attack = Attack()
    await attack.prepare()
    before = await attack.others()
    await attack.send(call, body)
    assert await attack.others() == before
    assert not any(SECRET in received for received in attack.received)
    await attack.store.close()


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([*sorted(wire.CALLS), "", "../../v2/units", "compact"]), st.binary(max_size=40))
def test_bytes_that_are_no_request_are_refused_and_change_nothing(call: str, body: bytes) -> None:
    asyncio.run(send_bytes(call, body))


@settings(deadline=None, max_examples=50)
@given(calls(), st.data())
def test_a_request_with_changed_bytes_does_no_more(asked: tuple[str, wire.Request], data: st.DataObject) -> None:
    body = bytearray(wire.encode(asked[1]))
    if body:
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    asyncio.run(send_bytes(asked[0], bytes(body)))
