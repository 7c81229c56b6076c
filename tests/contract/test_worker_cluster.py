"""A worker among servers as they are: https, certificates, permissions, and the records that they keep for it."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.http import Request, StreamedResponse
from fleetd.api.peer_streams import PeerListener
from fleetd.api.server import Server
from fleetd.config.config import parse_config
from fleetd.config.options import Address
from fleetd.model.actor import Actor
from fleetd.model.certificate import WORKER
from fleetd.model.machine import Capability, Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.permission import EVERY_RIGHT
from fleetd.model.unit import TargetState, Unit
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.records import MACHINES, UNITS
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Put, Unavailable
from fleetd.store.worker import Forbidden, WorkerStore
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.api.served import LOOPBACK
from tests.certificates import TestAuthority, TestTrust
from tests.contract.test_worker_node import PATIENCE_S, STATE, UNIT, SharedStore, W
from tests.scripted_inspector import ScriptedInspector, entry

SERVER = parse_config("agent_ttl=3s\nlisten=https://:7443", "the test", {}, {})[0]
WORKER_CONFIG = parse_config("agent_ttl=3s\nrole=worker\nservers=https://a", "the test", {}, {})[0]
RECORDED = MachineIdentity(WORKER, "192.0.2.7", {"zone": "a"}, ())


class Cluster:
    """Two servers, and a worker with a certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = TestAuthority(folder)
        self.store = SharedStore(":memory:", cluster_id="c")
        self.registry = Registry(self.store)
        self.systemd = SimulatedSystemd()
        self.trusts: dict[str, TestTrust] = {}
        self.servers: dict[str, Server] = {}
        self.nodes: dict[str, Node] = {}
        self.urls: list[str] = []
        self.stores: list[WorkerStore] = []

    async def start(self) -> "Cluster":
        await self.store.transact([], [self.registry.put(RECORDED, W)])
        for name in "ac":
            address = Address(host=LOOPBACK, port=free_port(), tls=True)
            machine = Machine(id=name * 32, session=name, address="10.0.0.1", https=f"{LOOPBACK}:{address.port}")
            environment = HostEnvironment(self.folder / name)
            node = self.nodes[name] = Node(SERVER, self.store, SimulatedSystemd(), machine, environment)
            self.trusts[name] = TestTrust(self.authority)
            self.servers[name] = Server(node.api, trust=self.trusts[name])
            await self.servers[name].start([address], insecure=False)
            self.urls.append(f"https://{LOOPBACK}:{address.port}")
            node.start()
        self.worker = self.new_worker(self.authority.machine(W, WORKER))
        await self.registry.write_unit(Unit("u.service", UNIT, TargetState.LAUNCHED), None)
        await self.wait_for_key(STATE)
        return self

    def new_store(self, certificate: Path) -> WorkerStore:
        context = self.authority.client_context(certificate)
        store = WorkerStore(self.urls, lambda: context, request_timeout_s=1.0)
        self.stores.append(store)
        return store

    def new_worker(self, certificate: Path) -> Node:
        machine = Machine(id=W, session="w", address="10.0.0.9", metadata={"zone": "b"}, boot_id="b", https="evil:1")
        environment = HostEnvironment(self.folder / "w")
        node = self.nodes["w"] = Node(WORKER_CONFIG, self.new_store(certificate), self.systemd, machine, environment)
        node.start()
        return node

    async def wait(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(0.02)

    async def wait_for_key(self, key: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.store.get(key) is None:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for store in self.stores:
            await store.close()
        for node in self.nodes.values():
            await node.close()
        for server in self.servers.values():
            await server.stop()
        await self.store.end()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield await made.start()
    finally:
        await made.stop()


async def test_a_worker_runs_its_units_and_says_nothing_of_itself_that_counts(cluster: Cluster) -> None:
    record = (await cluster.registry.read(MACHINES))[W,]
    assert (record.session, record.address, record.metadata, record.https) == ("w", "192.0.2.7", {"zone": "a"}, "")
    unit = (await cluster.registry.read(UNITS))["u.service",]
    await cluster.registry.write_unit(msgspec.structs.replace(unit, target=TargetState.LOADED), unit)
    await cluster.wait(lambda: not cluster.systemd.processes())


async def test_a_worker_stays_registered_when_the_server_that_it_asks_leaves(cluster: Cluster) -> None:
    lease = cluster.worker.membership.lease
    for name in "ac":
        await cluster.servers[name].stop()
        await cluster.nodes[name].close()
        await asyncio.sleep(5)  # longer than the lease lives without a heartbeat
        assert cluster.worker.membership.lease == lease
        assert await cluster.store.get(STATE) is not None
        if name == "a":
            unit = (await cluster.registry.read(UNITS))["u.service",]
            await cluster.registry.write_unit(msgspec.structs.replace(unit, target=TargetState.LOADED), unit)
            await cluster.wait(lambda: not cluster.systemd.processes())
            break


async def test_a_worker_learns_which_servers_there_are(cluster: Cluster) -> None:
    learned: list[str] = []
    context = cluster.authority.client_context(cluster.authority.machine(W, WORKER))
    store = WorkerStore(cluster.urls[:1], lambda: context, on_servers=learned.extend)
    cluster.stores.append(store)
    await store.cluster_id()
    assert sorted(learned) == sorted(cluster.urls)
    await cluster.servers["a"].stop()
    await store.cluster_id()
    assert sorted(learned) == sorted(cluster.urls)


async def test_a_worker_asks_only_for_what_is_its_own(cluster: Cluster) -> None:
    store = cluster.new_store(cluster.authority.machine(W, WORKER))
    keys = {item.key for item in (await store.range("/fleet/")).items}
    assert keys
    assert all(W in key or key in ("/fleet/cluster", "/fleet/history") for key in keys), keys
    with pytest.raises(Forbidden, match="a worker reads only what is of its own machine"):
        await store.get("/fleet/units/u.service")
    with pytest.raises(Forbidden, match="may write only its own machine"):
        await store.transact([], [Put("/fleet/history", b"x")])


async def test_a_worker_that_starts_again_adopts_its_registration(cluster: Cluster) -> None:
    lease, pids = cluster.worker.membership.lease, dict(cluster.systemd.processes())
    await cluster.worker.close()
    again = cluster.new_worker(cluster.authority.machine(W, WORKER))
    await cluster.wait(again.membership.registered.is_set)
    assert (again.membership.lease, dict(cluster.systemd.processes())) == (lease, pids)


async def test_a_worker_at_rest_has_two_connections_and_asks_for_nothing_but_its_lease(cluster: Cluster) -> None:
    busy = cluster.servers["a"]
    seen: list[str] = []
    workers = cluster.nodes["a"].workers
    assert workers is not None
    handle = busy.api.handle

    class Counting:
        async def handle(self, request: object) -> object:
            seen.append(request.path)  # type: ignore[attr-defined]
            return await handle(request)  # type: ignore[arg-type]

    busy.api = Counting()  # type: ignore[assignment]
    for _ in range(10):  # a busy machine takes a while to come to rest
        seen.clear()
        await asyncio.sleep(5)
        if set(seen) == {"/fleet/worker/v1/keep-alive"}:
            break
    assert set(seen) == {"/fleet/worker/v1/keep-alive"}, seen
    assert len(seen) <= 6


@pytest.mark.parametrize(
    ("age_s", "said"),
    [(7200.0, "it refuses this machine: .*expired"), (-3600.0, "")],
    ids=["expired", "made-by-a-clock-that-is-an-hour-ahead"],
)
async def test_a_certificate_out_of_its_time_is_refused_in_words(cluster: Cluster, age_s: float, said: str) -> None:
    store = cluster.new_store(cluster.authority.machine(W, WORKER, age_s=age_s))
    if not said:
        assert await store.cluster_id()
        return
    with pytest.raises(Unavailable, match=said):
        await store.cluster_id()


async def test_a_revoked_machine_is_told_so_and_keeps_its_units(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = dict(cluster.systemd.processes())
    for name, trust in cluster.trusts.items():
        trust.revoke(f"machine/{W}")
        cluster.servers[name].close_revoked()
    await cluster.wait(lambda: "it refuses this machine" in caplog.text)
    await asyncio.sleep(2)
    assert "revoked" in caplog.text
    assert dict(cluster.systemd.processes()) == before
    with pytest.raises(Unavailable, match=r"refuses this machine: .*revoked"):
        await cluster.stores[0].cluster_id()


async def test_a_certificate_of_another_cluster_gets_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = TestAuthority(tmp_path / "other")
    own = other.machine(W, WORKER)
    for trusted, said in (
        (other, "certificate verify failed: self-signed certificate in certificate chain"),
        (cluster.authority, "it does not know the authority that signed this machine's certificate"),
    ):
        context = trusted.client_context(own)
        store = WorkerStore(cluster.urls, lambda context=context: context, request_timeout_s=1.0)  # type: ignore[misc]
        with pytest.raises(Unavailable, match=said):
            await store.cluster_id()
        await store.close()


async def test_a_server_cannot_be_played_by_a_worker(cluster: Cluster, tmp_path: Path) -> None:
    """Its certificate does not serve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cluster.authority.machine("x", WORKER))
    server = await asyncio.start_server(lambda reader, writer: None, LOOPBACK, 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    own = cluster.authority.client_context(cluster.authority.machine(W, WORKER))
    store = WorkerStore([f"https://{LOOPBACK}:{port}"], lambda: own, request_timeout_s=1.0)
    with pytest.raises(Unavailable, match="unsuitable certificate purpose"):
        await store.cluster_id()
    await store.close()
    server.close()


class Own(TestTrust):
    """The certificates of a member that listens for its peers, or dials them."""

    __test__ = False

    def __init__(self, authority: TestAuthority, certificate: Path) -> None:
        super().__init__(authority)
        self._context = authority.client_context(certificate)
        self.expires_at_s = 1.0

    def client_context(self) -> ssl.SSLContext:
        return self._context

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def follow(self, registry: Registry) -> None:
        await asyncio.Event().wait()


async def follow(asked: Node, request: Request, first: str) -> AsyncGenerator[bytes, None]:
    """The stream of a log behind its first line. On a busy machine the worker may lose its lease, or answer late: then
    it is asked again."""
    while True:
        response = await asked.api.handle(request)
        if isinstance(response, StreamedResponse):
            if json.loads(await anext(response.chunks)).get("MESSAGE") == first:
                return response.chunks
            await response.chunks.aclose()
        await asyncio.sleep(0.1)


async def test_a_worker_streams_its_log_to_the_server_that_asks_for_it(cluster: Cluster) -> None:
    port = free_port()
    config = parse_config(f"agent_ttl=3s\nlisten=https://:7443\npeer_listen=127.0.0.1:{port}", "the test", {}, {})[0]
    trust = Own(cluster.authority, cluster.authority.machine("m1"))  # the name in the certificate of TestTrust
    machine = Machine(id="m1", session="m1", address="127.0.0.1")
    asked = cluster.nodes["m1"] = Node(
        config,
        cluster.store,
        SimulatedSystemd(),
        machine,
        HostEnvironment(cluster.folder / "m1"),
        trust=trust,  # type: ignore[arg-type]
    )
    asked.start()
    assert asked.peers is not None
    listener = PeerListener(asked.peers)
    listener.start(config.peer_listen)
    await cluster.worker.close()
    certificate = cluster.authority.machine(W, WORKER)
    inspector = ScriptedInspector(entry(1, "u.service", "first"))
    worker = cluster.nodes["w"] = Node(
        WORKER_CONFIG,
        cluster.new_store(certificate),
        cluster.systemd,
        Machine(id=W, session="w2", boot_id="b", capabilities={Capability.ANSWERS: True}),
        HostEnvironment(cluster.folder / "w", inspector=inspector),
        worker_trust=Own(cluster.authority, certificate),  # type: ignore[arg-type]
    )
    worker.start()
    await cluster.wait(worker.membership.registered.is_set)
    await cluster.wait(asked.membership.registered.is_set)
    query = (("unit", "u.service"), ("machine", W), ("follow", "true"))
    request = Request("GET", "/fleet/v2/journal", query, actor=Actor(rights=EVERY_RIGHT), local=True)
    async with asyncio.timeout(PATIENCE_S), aclosing(await follow(asked, request, "first")) as chunks:
        await cluster.wait(lambda: inspector.following == 1)
        inspector.later.put_nowait(entry(2, "u.service", "later"))
        while not (line := await anext(chunks)).strip():
            pass  # a sign of life
        assert json.loads(line)["MESSAGE"] == "later"
    await cluster.wait(lambda: not inspector.following)
    await listener.stop()
