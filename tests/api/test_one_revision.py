"""An answer shows one revision of the store, although it takes several reads."""

import json
from typing import Any

import pytest

from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.placement import Decision, Placement
from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.records import MACHINES, PLACEMENTS, SETTINGS, STATES
from fleetd.store.protocol import Delete, RangeResult

WEB = "web.service"


class Moved:
    """A store in which the unit moves from m1 to m2, and m1 is removed, after each first read of an answer."""

    def __init__(self, fleet: Any) -> None:
        self._registry = fleet.registry
        self._store = fleet.registry.store
        self.is_armed = False
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def range(self, prefix: str, **options: Any) -> RangeResult:
        found: RangeResult = await self._store.range(prefix, **options)
        await self._move()
        return found

    async def get_many(self, keys: Any, **options: Any) -> RangeResult:
        found: RangeResult = await self._store.get_many(keys, **options)
        await self._move()
        return found

    async def _move(self) -> None:
        self.reads += 1
        if not self.is_armed:
            return
        self.is_armed = False
        key, put = self._registry.key, self._registry.put
        gone = (key(MACHINES, "m1"), key(SETTINGS, "m1"), key(STATES, "m1", WEB), key(PLACEMENTS, "m1", WEB))
        there = (put(Machine("m2"), "m2"), put(Decision(WEB, 1, "m2"), WEB), put(UnitState(active="failed"), "m2", WEB))
        await self._store.transact([], [*map(Delete, gone), *there])


@pytest.fixture
async def moved(fleet: Any) -> Moved:
    unit = await fleet.add_unit(WEB, target="launched")
    await fleet.put(Machine("m1", metadata={"disk": "ssd"}), "m1")
    await fleet.put(MachineSettings({"disk": "hdd"}), "m1")
    await fleet.put(Decision(WEB, unit.generation, "m1"), WEB)
    await fleet.put(Placement("m1", WEB, unit.text, TargetState.LAUNCHED, unit.generation), "m1", WEB)
    running = UnitState("loaded", "active", "running", "ab" * 20, TargetState.LAUNCHED, unit.generation)
    await fleet.put(running, "m1", WEB)
    store = Moved(fleet)
    fleet.registry.store = store
    return store


@pytest.mark.parametrize(
    ("request_", "reads"),
    [
        ("GET /fleet/v1/units", 3),
        (f"GET /fleet/v1/units/{WEB}", 2),
        ("GET /fleet/v1/machines", 4),
        ("GET /fleet/v1/state", 1),
        (f"GET /fleet/v1/state?unitName={WEB}", 2),
        (f"GET /fleet/v1/state/{WEB}", 3),
        ("GET /fleet/v2/units", 4),
        (f"GET /fleet/v2/units?name={WEB}", 4),
        (f"GET /fleet/v2/machines/m1/drain?unit={WEB}", 9),
    ],
)
async def test_an_answer_shows_one_revision(fleet: Any, moved: Moved, request_: str, reads: int) -> None:
    before = await fleet.ask(request_)
    moved.is_armed, moved.reads = True, 0
    during = await fleet.ask(request_)
    assert (before.status, during.status) == (200, 200)
    assert json.loads(during.body) == json.loads(before.body)
    assert moved.reads == reads
    assert (await fleet.ask(request_)).body != before.body
