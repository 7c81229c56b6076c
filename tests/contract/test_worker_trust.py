"""A worker that knows which servers do not count any more, over real TLS."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.server import Server
from fleetd.config.config import parse_config
from fleetd.config.options import Address
from fleetd.model.authorities import REVOKED_AHEAD_S
from fleetd.model.certificate import Revocation, TrustedAuthority
from fleetd.model.machine import Machine
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.process.worker_store import reconnect_when_distrusted
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Delete, Unavailable
from fleetd.store.worker import WorkerStore
from fleetd.testing.simulated_systemd import SimulatedSystemd
from fleetd.trust.files import TrustFiles
from fleetd.trust.worker import WorkerTrust
from tests.api.served import LOOPBACK
from tests.certificates import LIFE_S, TestAuthority, TestTrust
from tests.contract.test_worker_node import PATIENCE_S, SharedStore, W
from tests.unit.trusting_server import signer

SERVER = parse_config("agent_ttl=1s\nlisten=https://:7443", "the test", {}, {})[0]
REVOKED = Revocation(3, "machine/m1", time.time() + 3600.0, "ann")  # the server, as TestTrust has its certificate


class Pair:
    """A server, and the keeper and the store of a worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = TestAuthority(folder)
        self.shared = SharedStore(":memory:", cluster_id="c")
        self.registry = Registry(self.shared)
        address = Address(host=LOOPBACK, port=free_port(), tls=True)
        self.address, self.url = address, f"https://{LOOPBACK}:{address.port}"
        machine = Machine(id="a" * 32, session="a", address="10.0.0.1", https=f"{LOOPBACK}:{address.port}")
        self.node = Node(SERVER, self.shared, SimulatedSystemd(), machine, HostEnvironment(folder / "a"))
        self.ahead_s = 0.0  # of the server's clock
        self.server = Server(
            self.node.api, trust=TestTrust(self.authority), unix_now=lambda: time.time() + self.ahead_s
        )
        self.files = TrustFiles(folder / "w", sync=lambda descriptor: None)
        self.stores: list[WorkerStore] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> "Pair":
        self.write_certificate(LIFE_S)
        self.files.write_authorities([self.authority.authority.certificate])
        await self.server.start([self.address], insecure=False)
        self.node.start()
        self.trust, self.store = self.open_worker()
        return self

    def write_certificate(self, life_s: float) -> None:
        """Have another certificate of the worker on its disk."""
        made = self.authority.machine(W, "worker", life_s=life_s).read_text()
        certificate, key = made.split("-----BEGIN PRIVATE", 1)
        self.files.write_certificate("-----BEGIN PRIVATE" + key, certificate)

    def open_worker(self) -> tuple[WorkerTrust, WorkerStore]:
        """The worker's, as its disk is now."""
        trust = WorkerTrust(self.files, lambda: [self.url], signer=signer())
        trust.open()
        store = WorkerStore([self.url], trust.client_context, request_timeout_s=1.0)
        reconnect_when_distrusted(trust, store)
        self.stores.append(store)
        self.tasks.append(asyncio.create_task(trust.follow(Registry(store))))
        return trust, store

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for store in self.stores:
            await store.close()
        await self.node.close()
        await self.server.stop()
        await self.shared.end()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield await made.start()
    finally:
        await made.stop()


async def wait_until_served(store: WorkerStore) -> None:
    """The server has registered."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):
                await store.cluster_id()
                return
            await asyncio.sleep(0.05)


async def wait_until_refused(store: WorkerStore, why: str) -> None:
    """The server is not spoken to, for this reason: connections that end say another one before."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await store.cluster_id()
            except Unavailable as error:
                if why in str(error):
                    return
            await asyncio.sleep(0.05)


async def test_a_worker_with_another_certificate_uses_no_connection_that_was_made_with_the_former_one(
    pair: Pair,
) -> None:
    await wait_until_served(pair.store)
    pair.write_certificate(10 * LIFE_S)
    pair.trust._contexts.load(pair.files.certificate, pair.files.key)
    pair.ahead_s = 2 * LIFE_S
    await wait_until_served(pair.store)


async def test_a_worker_leaves_a_server_that_was_revoked_and_takes_it_back_neither_after_a_restart_nor_a_restore(
    pair: Pair,
) -> None:
    await wait_until_served(pair.store)
    await pair.shared.transact([], [pair.registry.put(REVOKED, "3")])
    await wait_until_refused(pair.store, "machine/m1 was removed from the cluster by ann")
    assert pair.files.read_known().known.revocations == (REVOKED,)

    await pair.shared.transact([], [Delete(pair.registry.put(REVOKED, "3").key)])
    _, store = pair.open_worker()
    await wait_until_refused(store, "machine/m1 was removed from the cluster by ann")


async def test_no_server_has_a_worker_refuse_another_one_for_good(pair: Pair) -> None:
    await wait_until_served(pair.store)
    for_good = Revocation(3, "machine/m1", time.time() + 10 * REVOKED_AHEAD_S, "ann")
    await pair.shared.transact([], [pair.registry.put(for_good, "3")])
    await wait_until_refused(pair.store, "machine/m1 was removed from the cluster by ann")
    (known,) = pair.files.read_known().known.revocations
    assert known.before_s <= time.time() + REVOKED_AHEAD_S


async def test_the_watch_of_a_worker_ends_when_its_server_is_revoked(pair: Pair) -> None:
    await wait_until_served(pair.store)
    assert pair.node.workers
    async with asyncio.timeout(PATIENCE_S):
        while not pair.node.workers._limits.streaming:  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0.02)
    await pair.shared.transact([], [pair.registry.put(REVOKED, "3")])
    async with asyncio.timeout(PATIENCE_S):
        while pair.node.workers._limits.streaming:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.02)


async def test_a_worker_drops_an_authority_that_was_replaced_a_life_ago(pair: Pair) -> None:
    other = TestAuthority(pair.folder, 2)
    await wait_until_served(pair.store)
    old = TrustedAuthority(1, pair.authority.authority.certificate)
    new = TrustedAuthority(2, other.authority.certificate, at_s=time.time() - 40 * 86400.0)
    await pair.shared.transact([], [pair.registry.put(old, "1"), pair.registry.put(new, "2")])
    await wait_until_refused(pair.store, "certificate verify failed")
    assert pair.files.read_authorities() == (other.authority.certificate,)
