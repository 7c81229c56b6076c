"""A term of the leader: machines that return late, long plans, a restored store, an unreadable store."""

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


async def _units_by_machine(node: Node) -> Counter[str]:
    """The number of units assigned to each machine."""
    decisions = await node.registry.read(DECISIONS)
    return Counter(decision.machine for decision in decisions.values())


def test_a_machine_back_before_the_plan_is_made_keeps_its_units() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        there = node.registry.put(Machine(OTHER, session="s2"), OTHER)
        await node.store.transact([], [there])
        for number in range(2 * SMALL_PLAN + 4):  # enough for the plan to be made off the event loop
            await node.add(f"u{number}.service")
        await asyncio.sleep(2 * node.membership.ttl_s)
        assert await _units_by_machine(node) == {MACHINE: SMALL_PLAN + 2, OTHER: SMALL_PLAN + 2}
        await node.store.transact([], [Delete(there.key)])
        await asyncio.sleep(0.5)  # its absence is recorded
        node.may_plan.clear()
        await asyncio.sleep(3.0)  # it is judged dead
        await node.store.transact([], [there])
        node.may_plan.set()
        await asyncio.sleep(1.0)
        assert await _units_by_machine(node) == {MACHINE: SMALL_PLAN + 2, OTHER: SMALL_PLAN + 2}
        await node.store.transact([], [Delete(there.key)])
        await asyncio.sleep(3 * node.membership.ttl_s)
        assert await _units_by_machine(node) == {MACHINE: 2 * SMALL_PLAN + 4}  # it stayed away
        await node.stop()

    run_virtually(scenario())


def test_a_machine_back_before_the_plan_is_written_keeps_its_units() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        there = node.registry.put(Machine(OTHER, session="s2"), OTHER)
        await node.store.transact([], [there])
        for number in range(4):
            await node.add(f"u{number}.service")
        await asyncio.sleep(2 * node.membership.ttl_s)
        assert await _units_by_machine(node) == {MACHINE: 2, OTHER: 2}
        node.store.overtaking = there
        await node.store.transact([], [Delete(there.key)])
        await asyncio.sleep(3 * node.membership.ttl_s)
        assert node.store.overtaking is None
        assert await _units_by_machine(node) == {MACHINE: 2, OTHER: 2}
        await node.stop()

    run_virtually(scenario())


def test_a_plan_longer_than_two_heartbeats_does_not_cause_a_full_read() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        reads = node.store.full_reads
        node.may_plan.clear()
        units = [Unit(f"u{number}.service", "", TargetState.LAUNCHED) for number in range(SMALL_PLAN + 2)]
        await node.store.transact([], [node.registry.put(unit, unit.name) for unit in units])
        for number in range(10):  # written while the plan is made
            await node.add(f"late{number}.service")
            await asyncio.sleep(node.election.leader_ttl_s / 3)
        assert not await _units_by_machine(node)
        node.may_plan.set()
        await asyncio.sleep(0.5)
        assert await _units_by_machine(node) == {MACHINE: SMALL_PLAN + 12}
        assert node.store.full_reads == reads
        await node.stop()

    run_virtually(scenario())


def test_a_leader_learns_by_heartbeat_that_a_restore_lost_its_last_write() -> None:
    async def scenario() -> None:
        node = Node()
        await node.start()
        node.store.is_about_to_be_restored = True
        await node.add("web.service")
        assert not node.store.is_about_to_be_restored
        assert not await _units_by_machine(node)
        await asyncio.sleep(2 * node.election.leader_ttl_s)
        assert await _units_by_machine(node) == {MACHINE: 1}
        await node.stop()

    run_virtually(scenario())


def test_the_leader_writes_the_usage_only_when_it_changes() -> None:
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


def test_a_leader_that_cannot_read_the_cluster_logs_it_once_and_its_recovery(
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
        assert (await _units_by_machine(node))[MACHINE] == 1
        await node.stop()

    run_virtually(scenario())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "cannot read the cluster; nothing is placed or moved until it can: the store does not answer",
        "the cluster can be read again",
    ]


def test_a_plan_that_is_being_made_is_abandoned_when_the_term_ends() -> None:
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
