"""Records of a later fleetd: reported, and left as they are by leader, agent and API."""

import asyncio

import msgspec
import pytest

from fleetd.api.http import Request
from fleetd.api.routes import Api
from fleetd.leader.election import NEWER_RECORD_S
from fleetd.model.announcement import ServicePort, ServiceRecord
from fleetd.model.certificate import Revocation, TrustedAuthority
from fleetd.model.cluster_settings import ClusterSettings
from fleetd.model.decoding import FORMAT
from fleetd.model.event import ClusterEvent, EventKind, EventRecord
from fleetd.model.join_token import JoinToken
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.move import Move
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.reboot import Reboot, RebootRequest
from fleetd.model.rollout import Action, Apply, Command, Rollout
from fleetd.model.secret import SealedSecret, SealedVersion, Secret, SecretVersion
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unit_set import UnitSet
from fleetd.model.version import GroupContent, Version
from fleetd.registry.records import (
    KINDS,
    UNITS,
    Leader,
    MalformedRecord,
    NewerRecord,
    Record,
    Synced,
    encode,
)
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import KeyValue, Put
from tests.actors import ADMIN
from tests.unit.leading_node import Node
from tests.virtual_time import run_virtually

RECORDS: dict[str, tuple[Record, str]] = {
    "units": (Unit("a.service", ""), "a.service"),
    "settings": (MachineSettings(), "m1"),
    "cluster-settings": (ClusterSettings(), ""),
    "machines": (Machine("m1"), "m1"),
    "placements": (Placement("m1", "a.service", "", TargetState.LOADED, 1), "m1/a.service"),
    "decisions": (Decision("a.service", 1), "a.service"),
    "synced": (Synced("s"), "m1"),
    "states": (UnitState(), "m1/a.service"),
    "leader": (Leader("m1", "t"), ""),
    "usage": (Usage(), ""),
    "rollouts": (Rollout("r1", 1), "web@.service"),
    "moves": (Move("m1", "ann", 3.0, force=True, origin="m2", was_available=True), "a.service"),
    "reboot-requests": (RebootRequest("q1", "b1", "ann", 3.0, drain_within_s=9.0, now=True, client="c"), "m1"),
    "reboots": (Reboot("q1", "b1"), "m1"),
    "commands": (Command("c1", Action.PAUSE, "r1"), "web@.service"),
    "applies": (Apply(), "r1"),
    "secrets": (Secret((SecretVersion(1),)), "db.pw"),
    "sealed-secrets": (SealedSecret("k", (SealedVersion(1, b"k", b"b"),)), "m1/db.pw"),
    "services": (
        ServiceRecord("10.0.0.1", (ServicePort(53, "udp"),), "eu", "tcp:53: refused", "dns", "m1", "a.service"),
        "dns/m1/a.service",
    ),
    "sets": (UnitSet(("a.service",)), "deploy"),
    "trust/tokens": (JoinToken("ab", 0.0, 1.0), "h"),
    "trust/machines": (MachineIdentity("worker"), "m1"),
    "versions": (Version(number=1, held=GroupContent("")), "a.service/1"),
    "events": (EventRecord(1.0, (ClusterEvent(EventKind.LOST, machine="m1"),)), "000000000001000-u"),
    "trust/authorities": (TrustedAuthority(1, "PEM", cross="PEM", by="ann", at_s=3.0), "1"),
    "trust/revocations": (Revocation(1, "person/ann", 3.0, "bob", 4.0), "1"),
}


def newer(record: Record) -> bytes:
    """The record as a later fleetd may write it: with another format, a new field, and a field of another type."""
    fields = msgspec.json.decode(encode(record))
    assert fields["format"] == FORMAT
    return msgspec.json.encode({**fields, "format": FORMAT + 1, "new": [], "generation": "7"})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_newer_record_is_told_by_its_format(kind) -> None:  # type: ignore[no-untyped-def]
    record, names = RECORDS[kind.name]
    key = f"/fleet/{kind.name}/{names}".rstrip("/")
    assert isinstance(kind.decode(KeyValue(key, encode(record), 1, 1)), kind.record)
    with pytest.raises(NewerRecord, match=f"{key} was written by a later version of fleetd"):
        kind.decode(KeyValue(key, newer(record), 1, 1))


@pytest.mark.parametrize("value", [b'{"name":7}', b'{"name":7,"format":1}', b'{"format":"2"}', b'{"format":0}', b"x"])
def test_a_malformed_record_is_not_taken_for_a_newer_one(value: bytes) -> None:
    with pytest.raises(MalformedRecord) as found:
        UNITS.decode(KeyValue("/fleet/units/a.service", value, 1, 1))
    assert not isinstance(found.value, NewerRecord)


def test_a_record_without_a_format_has_the_first() -> None:
    item = KeyValue("/fleet/units/a.service", b'{"name":"a.service","text":""}', 4, 4)
    assert UNITS.decode(item) == Unit("a.service", "", generation=4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in ("leader", "usage")], ids=repr)
def test_a_leader_that_reads_a_newer_record_resigns_and_changes_nothing(kind, caplog) -> None:  # type: ignore[no-untyped-def]
    async def scenario() -> None:
        node = Node()
        await node.start()
        await node.add("web.service")
        await asyncio.sleep(20)
        record, names = RECORDS[kind.name]
        key = node.registry.key(kind, *filter(None, names.split("/")))
        await node.store.transact([], [Put(key, newer(record))])
        before = await node.store.range("/fleet/")
        await asyncio.sleep(NEWER_RECORD_S / 2)
        assert node.election.term is None
        after = await node.store.range("/fleet/")
        kept = {item.key: item.value for item in before.items if item.key != "/fleet/leader"}
        assert {item.key: item.value for item in after.items} == kept
        await node.stop()

    run_virtually(scenario())
    assert "leadership given up" in caplog.text
    assert "was written by a later version of fleetd" in caplog.text


def test_a_leader_leads_again_once_the_newer_record_is_gone() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        key = node.registry.key(UNITS, "a.service")
        await node.store.transact([], [Put(key, newer(Unit("a.service", "")))])
        await asyncio.sleep(20)
        assert node.election.term is None
        await node.store.transact([], [Put(key, encode(Unit("a.service", "")))])
        await asyncio.sleep(NEWER_RECORD_S + 10)
        assert node.election.term is not None
        await node.stop()

    run_virtually(scenario())


async def test_the_api_neither_replaces_nor_deletes_a_newer_record() -> None:
    store = EmbeddedStore(":memory:", offload=inline)
    registry = Registry(store)
    value = newer(Unit("a.service", ""))
    await store.transact([], [Put("/fleet/units/a.service", value)])
    api = Api(registry)
    for method, body in (("GET", b""), ("DELETE", b""), ("PUT", b'{"desiredState":"launched"}')):
        request = Request(
            method, "/fleet/v1/units/a.service", headers=(("Content-Type", "application/json"),), body=body, actor=ADMIN
        )
        answer = await api.handle(request)
        assert (answer.status, b"later version of fleetd" in answer.body) == (500, True)
    found = await store.get("/fleet/units/a.service")
    assert found is not None
    assert found.value == value
    await store.close()
