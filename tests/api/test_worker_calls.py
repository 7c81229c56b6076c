"""What a server answers to a worker: each call, what is refused, and why."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from fleetd.api.worker.limits import Limits
from fleetd.model.announcement import Announcement, ServicePort, ServiceRecord
from fleetd.model.certificate import MACHINE, PERSON, SERVER, CertificateIdentity
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.registry.records import MACHINES, SERVICES, Leader, encode
from fleetd.store import worker_wire as wire
from fleetd.store.protocol import CreatedAt, Delete, HasValue, Put, Unchanged
from tests.api.worker_caller import (
    KEYS,
    OTHER,
    OWN,
    RECORDED,
    SECRET,
    UNIT,
    Caller,
    machine_value,
    make_store,
    state_value,
)
from tests.metrics import Counted

OWN_KEY = f"/fleet/machines/{OWN}"
STATE_KEY = f"/fleet/states/{OWN}/{UNIT}"
PLACEMENT_KEY = f"/fleet/placements/{OWN}/{UNIT}"


@pytest.fixture
async def worker() -> AsyncIterator[Caller]:
    store = await make_store()
    yield Caller(store)
    await store.close()


async def register(worker: Caller, **fields: Any) -> int:
    lease = await worker.grant()
    answer = await worker.transact(Put(OWN_KEY, machine_value(**fields), lease))
    assert isinstance(answer, wire.TransactAnswer), answer
    return lease


async def test_a_worker_reads_its_own_records(worker: Caller) -> None:
    got = await worker.get(PLACEMENT_KEY)
    assert got.item.value == b"a placement"
    many = await worker.ask(
        "get-many", wire.KeysRequest(keys=(f"/fleet/synced/{OWN}", "/fleet/history", PLACEMENT_KEY))
    )
    assert [item.key for item in many.found.items] == [f"/fleet/synced/{OWN}", PLACEMENT_KEY]
    found = await worker.range(f"/fleet/placements/{OWN}/")
    assert [item.key for item in found.found.items] == [PLACEMENT_KEY]
    digest = (await worker.ask("digest", wire.PrefixRequest(prefix=f"/fleet/placements/{OWN}/"))).digest
    assert (digest.count, digest.written_at) == (1, got.item.mod_revision)
    assert found.store_revision == digest.revision == await worker.store.revision()
    assert found.history == wire.history_mark("c0ffee")


async def test_a_wider_range_is_answered_with_the_own_part(worker: Caller) -> None:
    for prefix in ("", "/", "/fleet/", "/fleet/p"):
        items = (await worker.range(prefix)).found.items
        assert PLACEMENT_KEY in [item.key for item in items]
        assert [item.key for item in items] == sorted(item.key for item in items)
        assert SECRET not in [item.value for item in items]
        digest = (await worker.ask("digest", wire.PrefixRequest(prefix=prefix))).digest
        assert digest.count == len(items)
    assert (await worker.range("/fleet/units/")).found.items == ()
    assert [item.key for item in (await worker.range("/fleet/", limit=1)).found.items] == [PLACEMENT_KEY]
    after = await worker.range("/fleet/", after=PLACEMENT_KEY)
    assert [item.key for item in after.found.items] == [f"/fleet/synced/{OWN}"]


async def test_a_range_of_an_earlier_revision_has_the_own_part_of_it(worker: Caller) -> None:
    before = (await worker.range("/fleet/")).found
    await worker.store.transact([], [Put(PLACEMENT_KEY, b"later"), Put("/fleet/cluster", b"id")])
    assert (await worker.range("/fleet/", revision=before.revision)).found == before


@pytest.mark.parametrize(
    "key", [f"/fleet/placements/{OTHER}/{UNIT}", "/fleet/units/web.service", "/fleet/leases/1", ""]
)
async def test_other_keys_are_neither_read_nor_compared(worker: Caller, key: str) -> None:
    for status, failure in (
        await worker.get(key),
        await worker.ask("get-many", wire.KeysRequest(keys=(PLACEMENT_KEY, key))),
        await worker.transact(comparisons=(Unchanged(key, 0),)),
        await worker.transact(comparisons=(CreatedAt(key, 5),)),
        await worker.transact(comparisons=(HasValue(key, SECRET),)),
    ):
        assert (status, "only what is of its own machine" in failure.message) == (wire.FORBIDDEN, True)


async def test_what_a_worker_says_of_itself_is_overwritten_by_what_was_recorded(worker: Caller) -> None:
    await register(worker, address="10.66.66.66", metadata={"role": "db"}, host_keys=("ssh-rsa EVIL",), boot_id="b")
    item = await worker.store.get(OWN_KEY)
    assert item is not None
    stored = replace(MACHINES.decode(item), capabilities={})
    assert stored == Machine(
        OWN,
        session="s",
        boot_id="b",
        address=RECORDED.address,
        metadata=RECORDED.metadata,
        host_keys=RECORDED.host_keys,
        is_worker=True,
    )


async def test_a_machine_whose_record_a_restore_has_lost_takes_part_with_nothing_that_it_says(worker: Caller) -> None:
    await worker.store.transact([], [Delete(f"/fleet/trust/machines/{OWN}")])
    await register(worker, address="10.66.66.66", metadata={"role": "db"})
    item = await worker.store.get(OWN_KEY)
    assert item is not None
    assert replace(MACHINES.decode(item), capabilities={}) == Machine(OWN, session="s", is_worker=True)


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        (OWN_KEY, b"x", "holds no machines record"),
        (OWN_KEY, machine_value(OTHER), "of another name"),
        (OWN_KEY, b'{"format":99,"id":"ab12"}', "later fleetd"),
        (OWN_KEY, machine_value(boot_id="x" * 70_000), "at most 65536 bytes"),
        (STATE_KEY, b"{", "holds no states record"),
        (STATE_KEY, b'{"format":99}', "later fleetd"),
        (STATE_KEY, state_value(error="x" * 70_000), "at most 65536 bytes"),
        (f"/fleet/states/{OWN}/../{UNIT}", state_value(), "not the state of a unit"),
        (f"/fleet/states/{OTHER}/{UNIT}", state_value(), "only its own machine"),
        ("/fleet/history", b"x", "only its own machine"),
        (f"/fleet/placements/{OWN}/{UNIT}", b"x", "only its own machine"),
    ],
)
async def test_what_is_no_record_of_the_machine_is_not_written(
    worker: Caller, key: str, value: bytes, cause: str
) -> None:
    lease = await worker.grant()
    before = await worker.store.range("/")
    status, failure = await worker.transact(Put(key, value, lease))
    assert status == wire.FORBIDDEN
    assert cause in failure.message
    assert (await worker.store.range("/")).items == before.items


async def test_one_refused_operation_prevents_all(worker: Caller) -> None:
    lease = await worker.grant()
    state = Put(STATE_KEY, state_value(), lease)
    for refused in (Delete(PLACEMENT_KEY), Put(OWN_KEY, b"x", lease), Put(OWN_KEY, machine_value(), 0)):
        status, _ = await worker.transact(state, refused)
        assert status == wire.FORBIDDEN
    assert await worker.store.get(STATE_KEY) is None


def service(*ports: int, address: str = "10.0.0.7", note: str = "") -> bytes:
    return encode(ServiceRecord(address, tuple(map(ServicePort, ports)), "of all the others", note))


async def test_a_worker_announces_what_its_units_do_at_its_recorded_address_and_zone(worker: Caller) -> None:
    text = "[X-Fleet]\nAnnounce=80\n"
    placed = encode(Placement(OWN, UNIT, text, TargetState.LAUNCHED, 1))
    await worker.store.transact([], [Put(PLACEMENT_KEY, placed)])
    key = f"/fleet/services/web/{OWN}/{UNIT}"
    written = await worker.transact(Put(key, service(80, address="10.66.66.66")))
    assert isinstance(written, wire.TransactAnswer)
    item = await worker.store.get(key)
    assert item is not None
    announced = Announcement("web", UNIT, OWN, RECORDED.address, 80, "tcp", RECORDED.metadata["zone"])
    assert SERVICES.decode(item).announcements() == (announced,)
    found = await worker.range("/fleet/services/")
    assert [each.key for each in found.found.items] == [key]
    for settings, zone in (
        (encode(MachineSettings(metadata={"zone": "north"})), "north"),
        (encode(MachineSettings(metadata={"zone": ""})), ""),
        (encode(MachineSettings(metadata={"disk": "ssd"})), RECORDED.metadata["zone"]),
        (b"no settings", RECORDED.metadata["zone"]),
    ):
        await worker.store.transact([], [Put(f"/fleet/settings/{OWN}", settings)])
        await worker.transact(Put(key, service(80)))
        item = await worker.store.get(key)
        assert item is not None
        assert SERVICES.decode(item).zone == zone
    for refused, cause in (
        (Put(f"/fleet/services/db/{OWN}/{UNIT}", service(80)), "does not announce db"),
        (Put(f"/fleet/services/web/{OWN}/x.service", service(80)), "x.service of machine ab12 does not announce web"),
        (Put(key, service(81)), "does not announce web"),
        (Put(key, service(80, note="x" * 5000)), "at most 4096 bytes"),
        (Put(key, b"x"), "holds no services record"),
        (Put(f"/fleet/services/web/{OTHER}/{UNIT}", service(80)), "only its own machine"),
        (Delete(f"/fleet/services/web/{OTHER}/{UNIT}"), "only its own machine"),
    ):
        status, failure = await worker.transact(refused)
        assert (status, cause in failure.message) == (wire.FORBIDDEN, True), failure.message
    await worker.store.transact([], [Put(PLACEMENT_KEY, b"no placement")])
    status, failure = await worker.transact(Put(key, service(80)))
    assert (status, "holds no placements record" in failure.message) == (wire.FORBIDDEN, True)
    assert isinstance(await worker.transact(Delete(key)), wire.TransactAnswer)
    assert await worker.store.get(key) is None


async def test_states_take_bounded_room(worker: Caller) -> None:
    lease = await worker.grant()
    value = state_value(error="x" * 60_000)
    for first in range(0, 300, 15):
        puts = [Put(f"/fleet/states/{OWN}/{number}.service", value, lease) for number in range(first, first + 15)]
        answer = await worker.transact(*puts)
    assert (answer[0], "more room" in answer[1].message) == (wire.FORBIDDEN, True)
    for first in range(0, 300, 100):
        await worker.transact(
            *(Delete(f"/fleet/states/{OWN}/{number}.service") for number in range(first, first + 100))
        )
    assert isinstance(await worker.transact(*puts), wire.TransactAnswer)


async def test_comparisons_and_conflicts_are_those_of_the_store(worker: Caller) -> None:
    lease = await register(worker)
    status, _ = await worker.transact(Put(OWN_KEY, machine_value(), lease), comparisons=(Unchanged(OWN_KEY, 0),))
    assert status == wire.CONFLICT
    item = (await worker.get(OWN_KEY)).item
    answer = await worker.transact(
        Put(OWN_KEY, machine_value(), lease), comparisons=(Unchanged(OWN_KEY, item.mod_revision),)
    )
    assert answer.revision == answer.store_revision == await worker.store.revision()


# Leases


async def test_a_lease_names_its_machine_and_lives_by_its_beats(worker: Caller) -> None:
    lease = await register(worker)
    item = await worker.store.get(KEYS.lease_key(lease))
    assert item is not None
    assert (item.value, item.lease) == (OWN.encode(), lease)
    beat = (await worker.ask("keep-alive", wire.LeaseRequest(lease=lease))).beat
    assert beat.ttl_s == 60
    assert 0 < (await worker.ask("time-to-live", wire.LeaseRequest(lease=lease))).ttl_s <= 60
    assert isinstance(await worker.ask("revoke", wire.LeaseRequest(lease=lease)), wire.Answer)
    assert await worker.store.get(OWN_KEY) is None
    assert await worker.store.get(KEYS.lease_key(lease)) is None
    assert (await worker.ask("keep-alive", wire.LeaseRequest(lease=lease)))[0] == wire.LEASE_NOT_FOUND


async def test_leases_of_others_are_as_if_there_were_none(worker: Caller) -> None:
    other = await worker.store.grant(60)
    await worker.store.transact([], [Put(f"/fleet/machines/{OTHER}", SECRET, other)])
    of_fleet = await worker.store.grant(60)
    await worker.store.transact([], [Put("/fleet/leader", encode(Leader("m", "t")), of_fleet)])
    for lease in (other, of_fleet, 999, 0):
        request = wire.LeaseRequest(lease=lease)
        assert (await worker.ask("keep-alive", request))[0] == wire.LEASE_NOT_FOUND
        assert (await worker.ask("time-to-live", request)).ttl_s is None
        assert isinstance(await worker.ask("revoke", request), wire.Answer)
        status, _ = await worker.transact(Put(STATE_KEY, state_value(), lease))
        assert status == (wire.LEASE_NOT_FOUND if lease else wire.FORBIDDEN)
    assert await worker.store.time_to_live(other) is not None
    assert await worker.store.time_to_live(of_fleet) is not None


async def test_every_server_knows_whose_a_lease_is(worker: Caller) -> None:
    lease = await register(worker)
    elsewhere = Caller(worker.store)
    assert (await elsewhere.ask("keep-alive", wire.LeaseRequest(lease=lease))).beat.ttl_s == 60
    thief = Caller(worker.store, CertificateIdentity(MACHINE, OTHER, "worker"))
    assert (await thief.ask("keep-alive", wire.LeaseRequest(lease=lease)))[0] == wire.LEASE_NOT_FOUND


async def test_a_machine_that_becomes_a_worker_keeps_the_lease_that_its_key_is_on(worker: Caller) -> None:
    lease = await worker.store.grant(60)
    await worker.store.transact([], [Put(OWN_KEY, machine_value(), lease)])
    assert (await worker.ask("keep-alive", wire.LeaseRequest(lease=lease))).beat.ttl_s == 60


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), float("inf"), 1e12])
async def test_a_lease_has_a_sensible_time_to_live(worker: Caller, ttl_s: float) -> None:
    assert (await worker.ask("grant", wire.GrantRequest(ttl_s=ttl_s)))[0] == wire.MALFORMED


async def test_a_worker_has_a_bounded_number_of_leases(worker: Caller) -> None:
    leases = [await worker.grant() for _ in range(16)]
    assert (await worker.ask("grant", wire.GrantRequest(ttl_s=60)))[0] == wire.UNAVAILABLE
    await worker.ask("revoke", wire.LeaseRequest(lease=leases[0]))
    assert await worker.grant()


async def test_leases_that_are_asked_for_at_once_are_bounded_as_well(worker: Caller) -> None:
    class SlowStore:
        async def grant(self, ttl_s: float) -> int:
            await asyncio.sleep(0)
            return await worker.store.grant(ttl_s)

        def __getattr__(self, name: str) -> Any:
            return getattr(worker.store, name)

    asker = Caller(SlowStore())  # type: ignore[arg-type]
    for _ in range(3):
        asked = [asker.ask("grant", wire.GrantRequest(ttl_s=60)) for _ in range(12)]
        await asyncio.gather(*asked)
    granted = await worker.store.range(KEYS.leases_prefix)
    assert len(granted.items) == 16


# Who asks, and what is no request


@pytest.mark.parametrize(
    "certificate",
    [None, CertificateIdentity(PERSON, "ann"), CertificateIdentity(MACHINE, OWN, SERVER)],
    ids=["none", "person", "server"],
)
async def test_only_workers_are_answered(worker: Caller, certificate: CertificateIdentity | None) -> None:
    asker = Caller(worker.store, certificate)
    status, failure = await asker.get(PLACEMENT_KEY)
    assert (status, "only workers" in failure.message) == (wire.FORBIDDEN, True)


async def test_a_certificate_of_what_is_no_machine_gets_nothing(worker: Caller) -> None:
    for name in ("", "a/b", "..", f"{OWN}/"):
        asker = Caller(worker.store, CertificateIdentity(MACHINE, name, "worker"))
        assert (await asker.get(PLACEMENT_KEY))[0] == wire.MALFORMED


@pytest.mark.parametrize(
    ("call", "body", "method", "type_"),
    [
        ("get", b"", "POST", wire.CONTENT_TYPE),
        ("get", b"\xc1", "POST", wire.CONTENT_TYPE),
        ("get", msgspec.msgpack.encode({"key": 5}), "POST", wire.CONTENT_TYPE),
        ("get", msgspec.msgpack.encode({"key": b"\xff"}), "POST", wire.CONTENT_TYPE),
        ("get", wire.encode(wire.KeyRequest(key=PLACEMENT_KEY)), "GET", wire.CONTENT_TYPE),
        ("get", wire.encode(wire.KeyRequest(key=PLACEMENT_KEY)), "POST", "application/json"),
        ("compact", b"", "POST", wire.CONTENT_TYPE),
        ("", b"", "POST", wire.CONTENT_TYPE),
        ("get", b"\x91" * 100_000, "POST", wire.CONTENT_TYPE),
        ("range", wire.encode(wire.RangeRequest(prefix="/", limit=-1)), "POST", wire.CONTENT_TYPE),
        ("range", wire.encode(wire.RangeRequest(prefix="/", revision=2**63)), "POST", wire.CONTENT_TYPE),
        ("keep-alive", wire.encode(wire.LeaseRequest(lease=-5)), "POST", wire.CONTENT_TYPE),
        ("get-many", wire.encode(wire.KeysRequest(keys=(PLACEMENT_KEY,) * 129)), "POST", wire.CONTENT_TYPE),
    ],
)
async def test_what_is_no_request_is_refused_in_words(
    worker: Caller, call: str, body: bytes, method: str, type_: str
) -> None:
    response = await worker.send(call, body, method, type_)
    assert response.status == wire.MALFORMED
    assert wire.decode_body(response.body, wire.Failure).message


async def test_a_server_that_is_not_ready_says_so(worker: Caller) -> None:
    asker = Caller(worker.store, not_ready=lambda: "this machine is not registered yet")
    status, failure = await asker.get(PLACEMENT_KEY)
    assert (status, failure.message) == (wire.UNAVAILABLE, "this machine is not registered yet")


async def test_a_worker_asks_so_often_and_no_more(worker: Caller) -> None:
    now_s = 0.0
    asker = Caller(worker.store, limits=Limits(requests_per_s=2.0, requests_at_once=3.0), now=lambda: now_s)
    statuses = [isinstance(await asker.get(PLACEMENT_KEY), wire.KeyAnswer) for _ in range(5)]
    assert statuses == [True, True, True, False, False]
    now_s = 1.0
    assert isinstance(await asker.get(PLACEMENT_KEY), wire.KeyAnswer)
    asker.certificate = CertificateIdentity(MACHINE, OTHER, "worker")  # another one is not slowed
    assert isinstance(await asker.get(f"/fleet/synced/{OTHER}"), wire.KeyAnswer)


async def test_a_worker_moves_so_much_and_no_more(worker: Caller) -> None:
    now_s = 0.0
    asker = Caller(worker.store, limits=Limits(bytes_per_s=100.0, bytes_at_once=100.0), now=lambda: now_s)
    assert isinstance(await asker.range("/fleet/"), wire.RangeAnswer)
    status, failure = await asker.range("/fleet/")
    assert (status, "bytes a second" in failure.message) == (wire.UNAVAILABLE, True)
    now_s = 60.0
    assert isinstance(await asker.range("/fleet/"), wire.RangeAnswer)


# What a server may be behind


async def test_a_server_that_is_behind_says_so_and_writes_nothing(worker: Caller) -> None:
    lease = await register(worker)
    known = await worker.get(OWN_KEY)
    ahead = {"highest_revision": known.store_revision + 100, "history": known.history}
    before = await worker.store.revision()
    for call, request in (
        ("get", wire.KeyRequest(key=OWN_KEY, **ahead)),
        ("range", wire.RangeRequest(prefix="/", **ahead)),
        ("range", wire.RangeRequest(prefix="/", revision=before, **ahead)),
        ("digest", wire.PrefixRequest(prefix="/", **ahead)),
        ("cluster-id", wire.Request(**ahead)),
        ("revision", wire.Request(**ahead)),
        ("keep-alive", wire.LeaseRequest(lease=lease, **ahead)),
        ("revoke", wire.LeaseRequest(lease=lease, **ahead)),
        ("grant", wire.GrantRequest(ttl_s=5, **ahead)),
        ("transact", wire.TransactRequest(operations=(Put(STATE_KEY, state_value(), lease),), **ahead)),
        ("watch", wire.WatchRequest(watches=(), **ahead)),
    ):
        status, failure = await worker.ask(call, request)
        assert (call, status, failure.lagging) == (call, wire.UNAVAILABLE, True)
    assert await worker.store.revision() == before


async def test_a_store_that_was_restored_answers_with_another_history(worker: Caller) -> None:
    known = await worker.get(PLACEMENT_KEY)
    await worker.store.transact([], [Put("/fleet/history", b"restored")])
    ahead = wire.KeyRequest(key=PLACEMENT_KEY, highest_revision=known.store_revision + 100, history=known.history)
    answer = await worker.ask("get", ahead)
    assert answer.item == known.item
    assert answer.history == wire.history_mark("c0ffee/restored")


async def test_the_errors_of_the_store_are_passed_on(worker: Caller) -> None:
    await worker.store.close()
    status, failure = await worker.get(PLACEMENT_KEY)
    assert (status, failure.lagging) == (wire.UNAVAILABLE, False)
    assert "closed" in failure.message


async def test_answers_are_counted_by_call_and_status(worker: Caller) -> None:
    counted = Counted()
    await worker.get(PLACEMENT_KEY)
    await worker.send("no-call", b"")
    assert counted("fleet_worker_answers_total", call="get", code="200") == 1
    assert counted("fleet_worker_answers_total", call="other", code="400") == 1


REQUEST_KEY, ANSWER_KEY = KEYS.request_key(OWN, "r1"), KEYS.answer_key("r1", OWN)


async def ask_machine(worker: Caller) -> int:
    """A server asks the machine; returns the lease."""
    lease = await worker.store.grant(30)
    await worker.store.transact([], [Put(REQUEST_KEY, b"{}", lease)])
    return lease


async def test_a_worker_answers_on_the_lease_of_the_request(worker: Caller) -> None:
    lease = await ask_machine(worker)
    found = await worker.range(f"{KEYS.requests_prefix}{OWN}/")
    [item] = found.found.items
    assert (item.key, item.lease) == (REQUEST_KEY, lease)
    guard = CreatedAt(REQUEST_KEY, item.create_revision)
    assert isinstance(await worker.transact(Put(ANSWER_KEY, b"a", lease), comparisons=(guard,)), wire.TransactAnswer)
    await worker.store.revoke(lease)
    assert await worker.store.get(ANSWER_KEY) is None


async def test_an_answer_to_no_request_or_on_another_lease_is_refused(worker: Caller) -> None:
    own = await worker.grant()
    status, _ = await worker.transact(Put(ANSWER_KEY, b"a", own))
    assert status == wire.LEASE_NOT_FOUND
    await ask_machine(worker)
    status, _ = await worker.transact(Put(ANSWER_KEY, b"a", own))
    assert status == wire.LEASE_NOT_FOUND
    assert await worker.store.get(ANSWER_KEY) is None


async def test_the_lease_of_a_request_is_for_its_answer_alone(worker: Caller) -> None:
    lease = await ask_machine(worker)
    status, _ = await worker.transact(Put(ANSWER_KEY, b"a", lease), Put(STATE_KEY, state_value(), lease))
    assert status == wire.LEASE_NOT_FOUND
    assert await worker.store.get(ANSWER_KEY) is None


async def test_an_answer_is_bounded(worker: Caller) -> None:
    lease = await ask_machine(worker)
    status, failure = await worker.transact(Put(ANSWER_KEY, b"a" * 8193, lease))
    assert (status, "at most 8192 bytes" in failure.message) == (wire.FORBIDDEN, True)
