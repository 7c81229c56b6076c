"""The snapshot holds equal texts and names of records once in memory, in whatever order they are read."""

from collections.abc import AsyncIterator
from itertools import permutations

import pytest

from fleetd.model.content import DropIn
from fleetd.model.placement import Decision, Placement
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry.records import Record, encode
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import apply_record
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import KeyValue

MACHINE = "0123456789abcdef0123456789abcdef"
TEXT = "[Service]\nExecStart=/bin/sleep infinity\n"
DROPINS = (DropIn("a.conf", "[Service]\nMemoryMax=1G\n"),)
UP = TargetState.LAUNCHED


def records(unit: str) -> dict[str, Record]:
    """All records of one running unit, by key."""
    return {
        f"/fleet/decisions/{unit}": Decision(unit, 3, MACHINE),
        f"/fleet/placements/{MACHINE}/{unit}": Placement(MACHINE, unit, TEXT, UP, 3, dropins=DROPINS),
        f"/fleet/states/{MACHINE}/{unit}": UnitState("loaded", "active", "running", "hash", UP, 3),
        f"/fleet/units/{unit}": Unit(unit, TEXT, UP, dropins=DROPINS),
    }


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    store = EmbeddedStore(":memory:")
    yield Registry(store)
    await store.close()


def read(snapshot: Snapshot, registry: Registry, key: str, record: Record) -> None:
    """Apply a record as decoded from the store, which shares no object with earlier ones."""
    change = registry.change("".join(key), KeyValue(key, bytes(encode(record)), 3, 3), 3)
    assert change is not None
    apply_record(snapshot, change.key.kind, change.key.names, change.record)


@pytest.mark.parametrize("order", list(permutations(range(4))))
async def test_equal_texts_and_ids_of_records_are_held_once(registry: Registry, order: tuple[int, ...]) -> None:
    snapshot = Snapshot()
    for unit in ("a.service", "b.service"):
        known = list(records(unit).items())
        for each in order:
            read(snapshot, registry, *known[each])
    placements = {unit: snapshot.placements[unit][MACHINE] for unit in ("a.service", "b.service")}
    states = [state for machines in snapshot.states.values() for state in machines.values()]
    named = [placement.machine for placement in placements.values()] + [
        decision.machine for decision in snapshot.decisions.values()
    ]
    named += [
        machine for machines in (*snapshot.placements.values(), *snapshot.states.values()) for machine in machines
    ]
    assert named == [MACHINE] * 8
    assert len(set(map(id, named))) == 1
    assert len({id(state.active) for state in states}) == 1
    for unit, placement in placements.items():
        assert snapshot.units[unit].text is placement.text
        assert snapshot.units[unit].dropins is placement.dropins


async def test_texts_that_differ_are_both_kept(registry: Registry) -> None:
    snapshot = Snapshot()
    for key, record in records("a.service").items():
        read(snapshot, registry, key, record)
    read(snapshot, registry, "/fleet/units/a.service", Unit("a.service", "[Service]\nExecStart=/bin/true\n", UP))
    assert snapshot.units["a.service"].text != snapshot.placements["a.service"][MACHINE].text == TEXT
