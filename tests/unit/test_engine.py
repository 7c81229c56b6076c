"""What a leader does when what it knows is late."""

import asyncio
from collections import Counter

from fleetd.core.machine import Machine
from fleetd.engine import SMALL_PLAN
from fleetd.store.protocol import Delete
from tests.unit.leading_node import MACHINE, Node
from tests.virtual_time import run_virtually

OTHER = "b" * 32


async def _homes(node: Node) -> Counter[str]:
    """How many units are decided to be on each machine."""
    decisions = await node.registry.read("decisions")
    return Counter(decision.machine for decision in decisions.values())


def test_a_machine_that_is_back_before_its_units_are_moved_keeps_them() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        there = node.registry.put(Machine(OTHER, session="s2"), OTHER)
        await node.store.transact([], [there])
        for number in range(2 * SMALL_PLAN + 4):  # so many that the loop goes on while a plan is made
            await node.add(f"u{number}.service")
        await asyncio.sleep(2 * node.engine.ttl_s)
        assert await _homes(node) == {MACHINE: SMALL_PLAN + 2, OTHER: SMALL_PLAN + 2}
        await node.store.transact([], [Delete(there.key)])
        await asyncio.sleep(0.5)  # its absence is known
        node.may_plan.clear()
        await asyncio.sleep(3.0)  # it is taken for dead
        await node.store.transact([], [there])
        node.may_plan.set()
        await asyncio.sleep(1.0)
        assert await _homes(node) == {MACHINE: SMALL_PLAN + 2, OTHER: SMALL_PLAN + 2}
        await node.store.transact([], [Delete(there.key)])
        await asyncio.sleep(3 * node.engine.ttl_s)
        assert await _homes(node) == {MACHINE: 2 * SMALL_PLAN + 4}  # and when it is gone for good, it does not
        await node.stop()

    run_virtually(scenario())
