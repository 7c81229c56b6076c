"""A machine is parked after the end of its fleetd, on a virtual clock and the embedded store."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from fleetd.membership.parking import Parking, park_when_possible
from fleetd.model.machine import Machine, MachineMode
from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.records import MACHINES, SYNCED, Synced
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import Comparison, Delete, Operation, Unavailable
from tests.virtual_time import offload_inline, run_virtually

ID = "a" * 32
MANY = 300
MACHINE = Machine(ID, session="s1", boot_id="boot-1")
STATE = UnitState(active="active", target=TargetState.LAUNCHED)
STATES = {f"u{number}.service": STATE for number in range(MANY)}


class FaultyStore(EmbeddedStore):
    """The first `away` transactions fail; of the next `lost` ones the answer is lost."""

    away = 0
    lost = 0

    async def transact(self, comparisons: list[Comparison], operations: list[Operation]) -> int:  # type: ignore[override]
        if self.away:
            self.away -= 1
            raise Unavailable("the store does not answer")
        revision = await super().transact(comparisons, operations)
        if self.lost:
            self.lost -= 1
            raise Unavailable("the answer is lost")
        return revision


def scenario(body: Callable[[FaultyStore, Registry], Awaitable[None]]) -> None:
    """A store with a machine that registered for ten seconds, and that the leader has acknowledged."""

    async def run() -> None:
        store = FaultyStore(":memory:", offload=offload_inline, cluster_id="test")
        registry = Registry(store)
        try:
            lease = await store.grant(10)
            await store.transact([], [registry.put(MACHINE, ID, lease=lease), registry.put(Synced("s1"), ID)])
            await store.transact([], [registry.put(STATE, ID, "u0.service", lease=lease)])
            await body(store, registry)
        finally:
            await store.close()

    run_virtually(run())


async def is_parked_with_all(registry: Registry) -> bool:
    """True if the machine is parked, and all its states outlive its former lease."""
    await asyncio.sleep(1000)
    found = (await registry.machines()).get(ID)
    return found is not None and found.mode is MachineMode.PARKED and len(await registry.states(ID)) == MANY


@pytest.mark.covers("S.21")
def test_key_and_states_outlive_the_lease_whatever_their_number() -> None:
    async def body(store: FaultyStore, registry: Registry) -> None:
        assert await park_when_possible(registry, Parking(MACHINE, STATES, math.inf))
        assert await is_parked_with_all(registry)

    scenario(body)


def test_an_unavailable_store_is_retried_and_lost_answers_do_no_harm() -> None:
    async def body(store: FaultyStore, registry: Registry) -> None:
        store.away, store.lost = 3, 2
        assert await park_when_possible(registry, Parking(MACHINE, STATES, math.inf))
        assert await is_parked_with_all(registry)

    scenario(body)


def test_a_lease_dropped_by_a_frozen_store_is_parked_before_it_counts_as_dead() -> None:
    async def body(store: FaultyStore, registry: Registry) -> None:
        await asyncio.sleep(20)
        assert await registry.machines() == {}
        assert await park_when_possible(registry, Parking(MACHINE, STATES, math.inf))
        assert await is_parked_with_all(registry)

    scenario(body)


def test_an_existing_lease_is_used_and_a_lost_one_replaced() -> None:
    async def body(store: FaultyStore, registry: Registry) -> None:
        granted = await store.grant(math.ceil(100 * 86400))
        await park_when_possible(registry, Parking(MACHINE, STATES, math.inf, granted))
        item = await store.get(registry.key(MACHINES, ID))
        assert item is not None
        assert item.lease == granted
        await store.revoke(granted)
        lease = await store.grant(10)
        await store.transact([], [registry.put(MACHINE, ID, lease=lease)])
        assert await park_when_possible(registry, Parking(MACHINE, STATES, math.inf, granted))
        assert await is_parked_with_all(registry)

    scenario(body)


def test_a_machine_taken_for_dead_is_not_brought_back() -> None:
    async def body(store: FaultyStore, registry: Registry) -> None:
        await store.transact([], [Delete(registry.key(MACHINES, ID)), Delete(registry.key(SYNCED, ID))])
        assert not await park_when_possible(registry, Parking(MACHINE, STATES, math.inf))
        assert await registry.machines() == {}

    scenario(body)


def test_a_machine_rebooted_since_is_left_alone() -> None:
    async def body(store: FaultyStore, registry: Registry) -> None:
        lease = await store.grant(10)
        await store.transact([], [registry.put(Machine(ID, session="s2", boot_id="boot-2"), ID, lease=lease)])
        assert not await park_when_possible(registry, Parking(MACHINE, STATES, math.inf))
        assert (await registry.machines())[ID].mode is MachineMode.READY

    scenario(body)


def test_a_machine_that_ends_while_it_is_parked_leaves_no_lease() -> None:
    async def body(store: FaultyStore, registry: Registry) -> None:
        store.away = 1
        parking = asyncio.create_task(park_when_possible(registry, Parking(MACHINE, STATES, math.inf)))
        await asyncio.sleep(0.5)
        await store.transact([], [Delete(registry.key(MACHINES, ID)), Delete(registry.key(SYNCED, ID))])
        before = await store.grant(1)
        assert not await parking
        assert await store.time_to_live(before - 1) is None

    scenario(body)
