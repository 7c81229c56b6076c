"""Store values that fleet did not write: each counts as absent, is named in the log, and blocks nothing else."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetd.api.http import Request
from fleetd.api.routes import Api
from fleetd.model.machine import Machine
from fleetd.model.placement import Decision
from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry.records import KINDS, LEADER, MACHINES, UNITS, KeySpace, MalformedRecord, Record
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import apply_change, apply_record, read_change
from fleetd.scheduler.planner import plan_cluster
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import KeyValue, Put
from tests.actors import ADMIN
from tests.examples import examples
from tests.unit.leading_node import MACHINE, Node
from tests.virtual_time import run_virtually

MALFORMED = {
    "no JSON": b"junk",
    "nothing": b"",
    "no UTF-8": b'{"name":"x.service","text":"\xff","target":"launched"}',
    "half a surrogate pair": rb'{"name":"x.service","text":"\ud800","target":"launched"}',
    "another shape": b'["x.service"]',
    "brackets without end": b'{"a":' * 50_000,
    "a field is missing": b'{"name":"x.service"}',
    "another type": b'{"name":"x.service","text":7,"target":"launched"}',
    "no target state": b'{"name":"x.service","text":"","target":"up"}',
    "another name": b'{"name":"y.service","text":"","target":"launched"}',
}


def item(key: str, value: bytes) -> KeyValue:
    return KeyValue(key, value, 3, 3)


def decode(item: KeyValue) -> Record:
    """Decode the item as the record that its key names."""
    key = KeySpace().parse_key(item.key)
    assert key is not None
    return key.kind.decode(item)


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_value_is_reported_by_its_key(value: bytes) -> None:
    with pytest.raises(MalformedRecord, match=r"/fleet/units/x\.service holds"):
        UNITS.decode(item("/fleet/units/x.service", value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("machines/m1", '{"id":"m2"}'),
        ("placements/m1/a.service", '{"machine":"m2","unit":"a.service","text":"","target":"loaded","generation":1}'),
        ("placements/m1/a.service", '{"machine":"m1","unit":"b.service","text":"","target":"loaded","generation":1}'),
        ("decisions/a.service", '{"unit":"b.service","generation":1}'),
        ("units/a", '{"name":"a","text":"","target":"loaded"}'),
    ],
)
def test_a_record_under_another_name_than_its_own_is_malformed(key: str, value: str) -> None:
    with pytest.raises(MalformedRecord, match=f"/fleet/{key} holds"):
        decode(item(f"/fleet/{key}", value.encode()))


@pytest.mark.parametrize("kind", ["units", "placements"])
def test_a_drop_in_that_would_be_written_elsewhere_makes_no_record(kind: str) -> None:
    key = "units/a.service" if kind == "units" else "placements/m1/a.service"
    named = (
        '{"name":"a.service","machine":"m1","unit":"a.service","text":"","target":"loaded","generation":1,"dropins":'
    )
    assert decode(item(f"/fleet/{key}", f'{named}[{{"name":"a.conf","text":""}}]}}'.encode()))
    with pytest.raises(MalformedRecord, match=f'/fleet/{key} holds a {kind} record in which "../a.conf" is no name'):
        decode(item(f"/fleet/{key}", f'{named}[{{"name":"../a.conf","text":""}}]}}'.encode()))


@pytest.mark.parametrize("number", ["-1", "9223372036854775808", "9" * 40, "1e400", "1.5", '"1"'])
@pytest.mark.parametrize("kind", ["placements", "decisions", "states"])
def test_a_number_that_cannot_be_written_again_is_malformed(kind: str, number: str) -> None:
    named = '"machine":"m1","unit":"a.service","text":"","target":"loaded","generation":'
    key = f"/fleet/{kind}/a.service" if kind == "decisions" else f"/fleet/{kind}/m1/a.service"
    assert decode(item(key, f"{{{named}9223372036854775807}}".encode()))
    with pytest.raises(MalformedRecord, match="generation"):
        decode(item(key, f"{{{named}{number}}}".encode()))


FOREIGN = [
    "units",
    "units/",
    "units/a/b.service",
    "states/m1",
    "states/m1/a.service/x",
    "states//a.service",
    "leader/x",
]


@pytest.mark.parametrize("key", FOREIGN)
async def test_a_key_with_too_few_or_too_many_names_is_not_fleets(key: str) -> None:
    store = EmbeddedStore(":memory:", offload=inline)
    registry = Registry(store)
    assert registry.parse_key(f"/fleet/{key}") is None
    for record, names in ((Unit("a.service", ""), ("a.service",)), (UnitState(), ("m1", "a.service"))):
        await store.transact([], [registry.put(record, *names)])
    await store.transact([], [Put(f"/fleet/{key}", registry.put(UnitState(), "m1", "a.service").value)])
    assert list(await registry.units()) == ["a.service"]
    assert list(await registry.states()) == [("m1", "a.service")]
    await store.close()


@pytest.mark.covers("R.4", "H.2")
def test_the_leader_logs_what_it_cannot_read_and_goes_on_placing(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        node = Node()
        bad = [
            Put(f"/fleet/units/{name}.service", value)
            for name, value in zip("abcdefghij", MALFORMED.values(), strict=True)
        ]
        bad += [
            Put("/fleet/machines/m9", b'{"id":"m8"}'),
            Put("/fleet/settings/m9", b"[]"),
            Put(f"/fleet/placements/{MACHINE}/ghost.service", b"\xff"),
            Put(f"/fleet/states/{MACHINE}/ghost.service", b'{"generation":-1}'),
            Put("/fleet/decisions/web.service", b'{"unit":7}'),
            Put("/fleet/synced/m9", b"{}"),
            Put("/fleet/states/m9", b"{}"),
        ]
        await node.store.transact([], bad[:9])
        await node.start()
        await node.store.transact([], bad[9:])
        await node.add("web.service")
        await asyncio.sleep(60)
        assert node.election.term is not None
        _, decision = await node.registry.unit_and_decision("web.service")
        assert isinstance(decision, Decision)
        assert decision.machine == MACHINE
        assert list(await node.registry.placements()) == [(MACHINE, "web.service")]
        named = [put.key for put in bad if put.key in caplog.text]
        assert named == [put.key for put in bad if put.key != "/fleet/states/m9"]
        await node.stop()

    run_virtually(scenario())


@pytest.mark.covers("H.2")
def test_an_unreadable_reboot_is_given_up_and_can_be_written_over() -> None:
    snapshot, keys = Snapshot(), KeySpace()
    change = read_change(keys, "/fleet/reboots/m1", item("/fleet/reboots/m1", b"junk"), 3)
    assert change is not None
    apply_change(snapshot, change)
    assert snapshot.reboots == {"m1": Reboot("", "", RebootPhase.GAVE_UP, RebootFailure.RESTORED, revision=3)}


@pytest.mark.covers("H.2")
def test_an_unreadable_placement_is_written_again_for_the_same_machine() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        await node.add("web.service")
        generation = (await node.registry.units())["web.service"].generation
        running = UnitState("loaded", "active", "running", target=TargetState.LAUNCHED, generation=generation)
        await node.store.transact([], [node.registry.put(running, MACHINE, "web.service")])
        await node.store.transact(
            [], [node.registry.put(Machine("0", session="s"), "0")]
        )  # which would be the first choice
        await asyncio.sleep(1)
        before = await node.registry.placements()
        assert list(before) == [(MACHINE, "web.service")]
        await node.store.transact([], [Put(f"/fleet/placements/{MACHINE}/web.service", b"junk")])
        await asyncio.sleep(1)
        assert await node.registry.placements() == before
        await node.stop()

    run_virtually(scenario())


NAMES = st.sampled_from(
    ["a.service", "b@1.service", "b@.service", "nodot", "@.service", "m1", "m2", "", "é.service", "a/b.service"]
)
TEXTS = st.sampled_from(
    [
        "",
        "[",
        "\0",
        "[X-Fleet]\nGlobal=true\n",
        "[X-Fleet]\nMachineOf=a.service\n",
        "[X-Fleet]\nMachineOf=nodot\nMachineOf=\n",
        "[X-Fleet]\nConflicts=*\n",
        "[X-Fleet]\nReplaces=* [\n",
        "[X-Fleet]\nMachineMetadata=a=b\nMachineID=\n",
    ]
)
NUMBERS = st.sampled_from([0, 1, 7, 2**63 - 1])
TARGETS = st.sampled_from(TargetState)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, bytes | None]:
    """A key below the prefix, and a well-formed value that fleet would not write there (None: it is deleted)."""
    kind = draw(st.sampled_from([kind.name for kind in KINDS if kind is not LEADER]))
    names = [draw(NAMES) for _ in range(2 if kind in ("placements", "states") else 1)]
    fields = {
        "name": names[-1],
        "unit": names[-1],
        "id": names[0],
        "machine": names[0] if kind == "placements" else draw(NAMES),
        "session": draw(st.sampled_from(["", "s1"])),
        "text": draw(TEXTS),
        "target": draw(TARGETS),
        "generation": draw(NUMBERS),
        "completed": draw(NUMBERS) if kind == "decisions" else draw(st.booleans()),
        "superseded": draw(st.booleans()),
        "active": draw(st.sampled_from(["", "active", "failed", "odd"])),
        "mode": draw(st.sampled_from(["ready", "leaving", "parked"])),
        "metadata": draw(st.dictionaries(st.sampled_from("ab"), st.sampled_from(["", "b"]))),
        "boot_id": draw(st.sampled_from(["", "b1"])),
        "ordered": draw(NUMBERS),
        "deadline": draw(NUMBERS),
        "kept": draw(st.lists(NAMES, max_size=2)),
        "awaited": draw(st.lists(NAMES, max_size=2)),
    }
    if kind == "reboots":
        fields |= {
            "phase": draw(st.sampled_from(RebootPhase)),
            "failure": draw(st.sampled_from([None, *RebootFailure])),
        }
    value = None if draw(st.integers(0, 9)) == 0 else msgspec.json.encode(fields)
    return "/".join((kind, *names)), value


@pytest.mark.covers("H.2")
@settings(max_examples=examples(150))
@given(st.lists(changes(), max_size=14))
async def test_the_leader_plans_and_the_api_lists_whatever_records_say(
    written: list[tuple[str, bytes | None]],
) -> None:
    store = EmbeddedStore(":memory:", offload=inline)
    registry, view = Registry(store), Snapshot()
    for revision, (key, value) in enumerate(written, start=1):
        found = None if value is None else KeyValue(f"/fleet/{key}", value, revision, revision)
        try:
            change = registry.change(f"/fleet/{key}", found, revision)
        except MalformedRecord:
            change = registry.change(f"/fleet/{key}", None, revision)
        if found:
            await store.transact([], [Put(found.key, found.value)])
        if change:
            plan_cluster(view, apply_record(view, change.key.kind, change.key.names, change.record))
    plan_cluster(view)
    for path in ("v1/units", "v1/state", "v1/machines", "v2/units"):
        assert (await Api(registry).handle(Request("GET", f"/fleet/{path}", actor=ADMIN))).status == 200
    await store.close()


@pytest.mark.parametrize(
    "address", ["x;touch${IFS}/tmp/y;#", "-oProxyCommand=x", "a b", "fe80::1%$(id)", "::1%", "10.0.0.1\n"]
)
def test_a_machine_with_an_invalid_address_is_listed_without_one(address: str) -> None:
    value = msgspec.json.encode(Machine("m1", address=address, metadata={"a": "b"}))
    assert MACHINES.decode(item("/fleet/machines/m1", value)) == Machine("m1", metadata={"a": "b"})


_WORDS = st.sampled_from(["units", "states", "trust", "authorities", "cluster-settings", "a.service", "m1", "", "x/y"])


@given(st.lists(_WORDS, max_size=4), st.sampled_from(["/fleet/", "/fleet", "/other/", ""]))
def test_many_keys_are_taken_apart_as_one_is(words: list[str], prefix: str) -> None:
    keys, key = KeySpace(), prefix + "/".join(words)
    parsed = keys.parse_key(key)
    for kind in KINDS:
        assert keys.names_in(kind)(key) == (parsed.names if parsed is not None and parsed.kind is kind else None)
