"""A leader at rest: its requests to the store do not depend on the number of units."""

import asyncio

import pytest

from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry.records import UNITS
from fleetd.store.protocol import Put
from tests.metrics import exported
from tests.unit.leading_node import MACHINE, TTL_S, Node
from tests.virtual_time import run_virtually

REST_S = 600.0
HEARTBEATS = REST_S / (TTL_S / 3) + REST_S / (TTL_S / 6)  # the machine's, and the leader's, whose TTL is half as long


def requests() -> float:
    """The number of requests to the store so far."""
    return sum(value for (name, _), value in exported().items() if name == "fleet_store_request_duration_seconds_count")


async def requests_at_rest(units: int) -> float:
    """The number of requests in ten minutes without a change, with this many running units."""
    node = Node()
    await node.start()
    for name in [f"u{number}.service" for number in range(units)]:
        await node.registry.write_unit(Unit(name, "", TargetState.LAUNCHED), None)
        generation = (await node.registry.store.get_many([node.registry.key(UNITS, name)])).items[0].mod_revision
        state = UnitState("loaded", "active", "running", target=TargetState.LAUNCHED, generation=generation)
        put = node.registry.put(state, MACHINE, name)
        await node.store.transact([], [Put(put.key, put.value)])
    await asyncio.sleep(30)
    assert len(await node.registry.placements()) == units
    revision, before = await node.store.revision(), requests()
    await asyncio.sleep(REST_S)
    made = requests() - before
    assert await node.store.revision() == revision
    await node.stop()
    return made


@pytest.mark.covers("P.3", "R.8")
def test_at_rest_only_heartbeats_reach_the_store_whatever_the_number_of_units() -> None:
    few = run_virtually(requests_at_rest(3))
    many = run_virtually(requests_at_rest(300))
    assert abs(few - many) <= 2
    assert many <= HEARTBEATS + 2
