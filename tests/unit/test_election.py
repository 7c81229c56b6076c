"""What a leader does when what it knows is late."""

import asyncio
from collections import Counter

import pytest

from fleetd.leader.term import SMALL_PLAN, PlanAbandoned
from fleetd.model.machine import Machine
from fleetd.model.quota import Usage
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import DECISIONS
from fleetd.store.protocol import Delete
from tests.metrics import exported
from tests.unit.leading_node import MACHINE, Node
from tests.virtual_time import run_virtually

OTHER = "b" * 32


async def _homes(node: Node) -> Counter[str]:
    """How many units are decided to be on each machine."""
    decisions = await node.registry.read(DECISIONS)
    return Counter(decision.machine for decision in decisions.values())


def test_a_machine_that_is_back_before_its_units_are_moved_keeps_them() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        there = node.registry.put(Machine(OTHER, session="s2"), OTHER)
        await node.store.transact([], [there])
        for number in range(2 * SMALL_PLAN + 4):  # so many that the loop goes on while a plan is made
            await node.add(f"u{number}.service")
        await asyncio.sleep(2 * node.membership.ttl_s)
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
        await asyncio.sleep(3 * node.membership.ttl_s)
        assert await _homes(node) == {MACHINE: 2 * SMALL_PLAN + 4}  # and when it is gone for good, it does not
        await node.stop()

    run_virtually(scenario())


def test_a_machine_that_is_back_while_the_plan_for_its_units_is_on_its_way_keeps_them() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        there = node.registry.put(Machine(OTHER, session="s2"), OTHER)
        await node.store.transact([], [there])
        for number in range(4):
            await node.add(f"u{number}.service")
        await asyncio.sleep(2 * node.membership.ttl_s)
        assert await _homes(node) == {MACHINE: 2, OTHER: 2}
        node.store.overtaking = there
        await node.store.transact([], [Delete(there.key)])
        await asyncio.sleep(3 * node.membership.ttl_s)
        assert node.store.overtaking is None
        assert await _homes(node) == {MACHINE: 2, OTHER: 2}
        await node.stop()

    run_virtually(scenario())


def test_a_plan_that_takes_longer_than_two_beats_is_no_reason_to_read_everything_again() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        reads = node.store.full_reads
        node.may_plan.clear()
        units = [Unit(f"u{number}.service", "", TargetState.LAUNCHED) for number in range(SMALL_PLAN + 2)]
        await node.store.transact([], [node.registry.put(unit, unit.name) for unit in units])
        for number in range(10):  # what is written meanwhile is heard of, but not looked at
            await node.add(f"late{number}.service")
            await asyncio.sleep(node.election.leader_ttl_s / 3)
        assert not await _homes(node)
        node.may_plan.set()
        await asyncio.sleep(0.5)
        assert await _homes(node) == {MACHINE: SMALL_PLAN + 12}
        assert node.store.full_reads == reads
        await node.stop()

    run_virtually(scenario())


def test_a_leader_whose_last_write_was_lost_in_a_restore_hears_of_it_by_its_next_beat() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        node.store.is_about_to_be_restored = True
        await node.add("web.service")
        assert not node.store.is_about_to_be_restored
        assert not await _homes(node)
        await asyncio.sleep(2 * node.election.leader_ttl_s)
        assert await _homes(node) == {MACHINE: 1}
        await node.stop()

    run_virtually(scenario())


def test_the_leader_writes_down_how_much_the_cluster_holds_when_that_changes_and_not_else() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        await node.add("a.service")
        await node.add("b.service")
        await asyncio.sleep(1.0)
        units = await node.registry.units()
        size = sum(len(unit.text) for unit in units.values())
        there, counted, counted_at = await node.registry.usage()
        assert (there, counted) == (2, Usage(2, size))
        await asyncio.sleep(2 * node.membership.ttl_s)
        assert (await node.registry.usage())[2] == counted_at
        await node.registry.write(node.registry.unit_write_set("a.service", units["a.service"], None))
        await asyncio.sleep(1.0)
        assert (await node.registry.usage())[:2] == (1, Usage(1, size - len(units["a.service"].text)))
        await node.stop()

    run_virtually(scenario())


def test_a_leader_that_cannot_read_the_cluster_says_so_once_and_that_it_can_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        node = Node()
        node.store.is_too_large = True
        await node.start()
        await asyncio.sleep(20.0)
        assert node.election.term is not None
        why = "this machine leads, but cannot read the cluster: the store does not answer"
        assert node.election.term.trouble == why
        node.election.term.show_metrics()
        assert exported()[("fleet_engine_blind", ())] == 1
        node.store.is_too_large = False
        await asyncio.sleep(2.0)
        assert node.election.term.trouble == ""
        node.election.term.show_metrics()
        assert exported()[("fleet_engine_blind", ())] == 0
        await node.add("web.service")
        assert (await _homes(node))[MACHINE] == 1
        await node.stop()

    run_virtually(scenario())
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "cannot read the cluster; nothing is placed or moved until it can: the store does not answer",
        "the cluster can be read again",
    ]


def test_a_plan_that_is_being_made_ends_with_the_term() -> None:
    async def scenario() -> None:
        node = Node()
        node.may_plan.clear()
        await node.start()
        [plan] = node.plans
        plan()
        await node.stop()
        with pytest.raises(PlanAbandoned):
            plan()

    run_virtually(scenario())
