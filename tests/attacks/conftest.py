"""A cluster to attack: a server that leads and serves workers over TLS, a worker, and what only others may know."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.server import Server
from fleetd.config.config import Config, parse_config
from fleetd.config.options import Address
from fleetd.model.certificate import WORKER
from fleetd.model.machine import Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.unit import TargetState, Unit
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.records import encode
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import Put
from fleetd.store.worker import WorkerStore
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.api.served import LOOPBACK, Client, ask
from tests.attacks.target import authority, fleet, other_authority, target
from tests.certificates import TestAuthority, TestTrust

__all__ = ["authority", "fleet", "other_authority", "target"]

LEADER, VICTIM, BAD = "a" * 32, "b" * 32, "b" * 31 + "c"
MARK = "only-the-victim-may-read-this"
RECORDED = MachineIdentity(WORKER, "10.0.0.7", {"zone": "a"}, ("ssh-ed25519 GOOD",))
PATIENCE_S = 60.0


def unit(machine: str, mark: str) -> str:
    return f"[Service]\nExecStart=/bin/sleep infinity\nEnvironment=A={mark}\n[X-Fleet]\nMachineID={machine}\n"


class Attacked:
    """The cluster. The victim's worker runs; the bad one is whoever has its certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = TestAuthority(folder)
        self.trust = TestTrust(self.authority)
        self.address = Address(host=LOOPBACK, port=free_port(), tls=True)
        self.store = EmbeddedStore(":memory:", cluster_id="c")
        self.registry = Registry(self.store)
        self.certificates = {id_: self.authority.machine(id_, WORKER) for id_ in (VICTIM, BAD)}
        self.nodes: list[Node] = []

    async def start(self) -> "Attacked":
        known = [Put(f"/fleet/trust/machines/{id_}", encode(RECORDED)) for id_ in (VICTIM, BAD)]
        await self.store.transact([], [*known, Put("/fleet-authority/1", MARK.encode())])
        config = parse_config("agent_ttl=5s", "the test", {}, {})[0]
        config = msgspec.structs.replace(config, listen=(self.address,))
        self.leader = self.run(LEADER, config, self.store)
        self.server = Server(self.leader.api, trust=self.trust)
        await self.server.start([self.address], insecure=False)
        await self.until(lambda: self.leader.election.term is not None)
        worker = parse_config(f"agent_ttl=5s\nrole=worker\nservers={self.url}", "the test", {}, {})[0]
        context = self.authority.client_context(self.certificates[VICTIM])
        self.victim_systemd = SimulatedSystemd()
        store = WorkerStore([self.url], lambda: context, request_timeout_s=5)
        self.victim = self.run(VICTIM, worker, store, self.victim_systemd)
        await self.until(self.victim.membership.registered.is_set)
        await self.registry.write_unit(Unit("v.service", unit(VICTIM, MARK), TargetState.LAUNCHED), None)
        await self.until(lambda: bool(self.victim_systemd.processes()))
        return self

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.address.port}"

    def run(self, id_: str, config: Config, store: Any, systemd: SimulatedSystemd | None = None) -> Node:
        machine = Machine(id_, session=id_[-1], address="10.66.66.66", metadata={"role": "db"}, boot_id="boot")
        node = Node(config, store, systemd or SimulatedSystemd(), machine, HostEnvironment(self.folder / id_))
        self.nodes.append(node)
        node.start()
        return node

    def client(self, certificate: Path | None = None) -> Client:
        """A connection of the bad worker, or with another certificate."""
        return Client(self.address, self.authority.client_context(certificate or self.certificates[BAD]))

    async def send(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        response, body = await ask(self.client(), method, path, **options)
        return response.status, body

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for node in reversed(self.nodes):
            await node.close()
        await self.server.stop()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Attacked]:
    made = await Attacked(tmp_path).start()
    yield made
    await made.stop()
