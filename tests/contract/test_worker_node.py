"""A whole worker: the parts of a fleetd over the store of workers, beside a server that leads."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from fleetd.api.asking import Asking
from fleetd.config.config import parse_config
from fleetd.model.machine import Capability, Machine
from fleetd.model.machine_request import JournalQuery, MachineRequest
from fleetd.model.unit import TargetState, Unit
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.records import MACHINES, STATES, UNITS
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import Put
from fleetd.store.worker import WorkerStore
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.contract.worker_server import WorkerServer
from tests.scripted_inspector import ScriptedInspector, entry

SERVER = parse_config("agent_ttl=3s", "the test", {}, {})[0]
WORKER = parse_config("agent_ttl=3s\nrole=worker\nservers=https://a", "the test", {}, {})[0]
W = "b" * 32  # the worker
UNIT = f"[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nMachineID={W}\n"
STATE = f"/fleet/states/{W}/u.service"
PATIENCE_S = 120.0


class SharedStore(EmbeddedStore):
    """A store that outlives a fleetd that ends."""

    async def close(self) -> None:
        """One user of the store has ended."""

    async def end(self) -> None:
        await super().close()


class Cluster:
    """A server that leads, two that workers ask, and a worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SharedStore(":memory:", cluster_id="c")
        self.registry = Registry(self.store)
        self.servers = [WorkerServer(self.store), WorkerServer(self.store)]
        self.systemd = SimulatedSystemd()
        self.nodes: list[Node] = []

    async def start(self) -> "Cluster":
        for server in self.servers:
            await server.start()
        surroundings = HostEnvironment(self.folder / "s")
        machine = Machine(id="a" * 32, session="s", address="10.0.0.1")
        self.leader = Node(SERVER, self.store, SimulatedSystemd(), machine, surroundings)
        self.worker = self.new_worker("w1")
        self.nodes = [self.leader, self.worker]
        for node in self.nodes:
            node.start()
        await self.wait(lambda: self.worker.membership.registered.is_set() and self.leader.election.term is not None)
        await self.registry.write_unit(Unit("u.service", UNIT, TargetState.LAUNCHED), None)
        await self.wait(lambda: bool(self.systemd.processes()))
        return self

    def new_worker(self, session: str) -> Node:
        store = WorkerStore([server.url for server in self.servers], None, request_timeout_s=0.3)
        able: dict[str, bool] = {Capability.ANSWERS: True}
        machine = Machine(id=W, session=session, address="10.0.0.9", boot_id="b", capabilities=able)
        environment = HostEnvironment(self.folder / "w", inspector=ScriptedInspector(entry(1, "u.service", "said")))
        return Node(WORKER, store, self.systemd, machine, environment)

    async def wait(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(0.02)

    async def wait_for_key(self, store: EmbeddedStore, key: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await store.get(key) is None:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.02)

    async def wait_for_session(self, session: str) -> None:
        """The worker is registered, with this session: on a busy machine it may lose its lease once more."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = (await self.registry.read(MACHINES)).get((W,))
                if found is not None:
                    assert found.session == session
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for node in self.nodes:
            await node.close()
        for server in self.servers:
            await server.stop()
        await self.store.end()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = await Cluster(tmp_path).start()
    yield made
    await made.stop()


async def test_a_worker_runs_units_and_never_leads(cluster: Cluster) -> None:
    await cluster.wait_for_key(cluster.store, STATE)
    assert (await cluster.registry.read(STATES, W))[W, "u.service"].active == "active"
    assert cluster.worker.election.term is None
    await cluster.leader.close()
    await asyncio.sleep(3)
    assert cluster.worker.election.term is None


async def test_units_keep_running_while_all_servers_are_away(cluster: Cluster) -> None:
    before = dict(cluster.systemd.processes())
    for server in cluster.servers:
        await server.stop()
    async with asyncio.timeout(PATIENCE_S):
        while (W,) in await cluster.registry.read(MACHINES):  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    assert dict(cluster.systemd.processes()) == before
    await cluster.servers[1].start()
    session = cluster.worker.membership.machine.session
    await cluster.wait_for_key(cluster.store, STATE)
    await cluster.wait_for_session(session)
    assert dict(cluster.systemd.processes()) == before


async def test_a_unit_that_is_stopped_while_a_server_is_away_stops(cluster: Cluster) -> None:
    await cluster.servers[0].stop()
    unit = (await cluster.registry.read(UNITS))["u.service",]
    await cluster.registry.write_unit(msgspec.structs.replace(unit, target=TargetState.LOADED), unit)
    await cluster.wait(lambda: not cluster.systemd.processes())


async def test_a_worker_answers_what_its_units_log(cluster: Cluster) -> None:
    await cluster.wait_for_key(cluster.store, STATE)
    asking = Asking(cluster.registry, lambda: cluster.leader.membership.machine, lambda: "r1", time.monotonic)
    asked = MachineRequest(asking.asker, JournalQuery(("u.service",)), ("u.service",))
    for server in cluster.servers:  # the second one answers when the first one is away
        async with asyncio.timeout(PATIENCE_S):
            # It may be busy, or not have reconnected yet.
            while (answer := (await asking.ask({W: asked}))[W]).failure:  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(0.1)
        assert [bytes(each) for each in answer.entries] == [entry(1, "u.service", "said")]
        assert [each.unit for each in answer.units] == ["u.service"]
        if server is cluster.servers[0]:
            await server.stop()


async def test_a_restored_store_stops_nothing(cluster: Cluster) -> None:
    before = dict(cluster.systemd.processes())
    await cluster.leader.close()
    restored = SharedStore(":memory:", cluster_id="c")
    for server in cluster.servers:
        server.restore(restored, "c")
        await server.stop()
        await server.start()
    await asyncio.sleep(2)
    assert dict(cluster.systemd.processes()) == before
    await restored.transact([], [Put(cluster.registry.history_key, b"s-9-1-0")])
    for server in cluster.servers:
        server.restore(restored, "c/s-9-1-0")
    await cluster.wait_for_key(restored, f"/fleet/machines/{W}")
    await asyncio.sleep(1)
    assert dict(cluster.systemd.processes()) == before
    await restored.end()


async def test_a_worker_adopts_its_registration_although_the_record_has_another_address(cluster: Cluster) -> None:
    lease = cluster.worker.membership.lease
    recorded = (await cluster.registry.read(MACHINES))[W,]
    put = cluster.registry.put(msgspec.structs.replace(recorded, address="192.0.2.9"), W, lease=lease)
    await cluster.store.transact([], [put])
    await cluster.worker.close()
    cluster.nodes.remove(cluster.worker)
    again = cluster.new_worker("w2")
    cluster.nodes.append(again)
    again.start()
    await cluster.wait(again.membership.registered.is_set)
    assert again.membership.lease == lease
