"""Wall clocks that jump a day forward and back: whole fleetds on a virtual clock, each with its own wall clock."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fleetd.config.config import parse_config
from fleetd.model.machine import Machine
from fleetd.model.unit import TargetState, Unit
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.virtual_time import run_virtually

CONFIG = parse_config("", "the test", {}, {})[0]
TTL_S = CONFIG.agent_ttl_s
EPOCH_S = 1_700_000_000.0
DAY_S = 86_400.0
UNITS = [f"u{number}.service" for number in range(4)]
SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"


class SharedStore(EmbeddedStore):
    """A store that outlives a fleetd that ends."""

    async def close(self) -> None:
        """One user of the store has ended."""

    async def end(self) -> None:
        await super().close()


class Cluster:
    """Two machines on one store. `days`: how far each machine's wall clock is off."""

    def __init__(self, directory: Path) -> None:
        self.store = SharedStore(":memory:", offload=inline, cluster_id="test")
        self.registry = Registry(self.store)
        self.days = {"a": 0, "b": 0}
        self.systemds = {name: SimulatedSystemd() for name in self.days}
        self.nodes = {name: self._node(name, directory) for name in self.days}

    def _node(self, name: str, directory: Path) -> Node:
        loop = asyncio.get_running_loop()
        surroundings = HostEnvironment(
            runtime=directory / name,
            unix_now=lambda: EPOCH_S + loop.time() + self.days[name] * DAY_S,
            new_id=lambda: f"{name}-{loop.time()}",
            offload=inline,
        )
        machine = Machine(id=name * 32, session=name, address=name)
        return Node(CONFIG, self.store, self.systemds[name], machine, surroundings)

    def processes(self) -> dict[str, dict[str, int]]:
        """Machine → unit → process."""
        return {name: dict(systemd.processes()) for name, systemd in self.systemds.items()}

    def leader(self) -> str:
        (name,) = [name for name, node in self.nodes.items() if node.election.term]
        return name


def scenario(directory: Path, body: Callable[[Cluster], Awaitable[None]]) -> None:
    """Run a scenario on two machines that run two units each."""

    async def run() -> None:
        cluster = Cluster(directory)
        for node in cluster.nodes.values():
            node.start()
        await asyncio.sleep(2 * TTL_S)
        for unit in UNITS:
            await cluster.registry.write_unit(Unit(unit, SLEEPER, TargetState.LAUNCHED), None)
        await asyncio.sleep(TTL_S)
        try:
            assert [len(found) for found in cluster.processes().values()] == [2, 2]
            await body(cluster)
        finally:
            for node in cluster.nodes.values():
                await node.close()
            await cluster.store.end()

    run_virtually(run())


@pytest.mark.covers("S.8")
def test_a_clock_that_jumps_a_day_on_any_machine_changes_nothing(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        before, leader = cluster.processes(), cluster.leader()
        revision = await cluster.store.revision()
        for machine in cluster.days:
            for day in (1, 0, -1, 0):
                cluster.days[machine] = day
                await asyncio.sleep(3 * TTL_S)
                assert cluster.processes() == before
                assert cluster.leader() == leader
        assert await cluster.store.revision() == revision

    scenario(tmp_path, body)


def test_the_loss_of_a_machine_is_noticed_on_time_while_a_clock_jumps(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        survivor = cluster.leader()
        (lost,) = [name for name in cluster.nodes if name != survivor]
        moved = cluster.processes()[lost]
        await cluster.nodes.pop(lost).close()
        cluster.days[survivor] = 1
        await asyncio.sleep(TTL_S / 2)
        assert not cluster.processes()[survivor].keys() & moved.keys()
        cluster.days[survivor] = -1
        await asyncio.sleep(TTL_S)
        assert cluster.processes()[survivor].keys() >= moved.keys()

    scenario(tmp_path, body)
