"""Fixtures of the contract suites: one etcd for all of them, and each implementation of a protocol under its name."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from contrib.testbed.etcd import EtcdServer
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.etcd import EtcdStore
from fleetd.store.protocol import Store
from fleetd.store.worker import WorkerStore
from fleetd.systemd.protocol import ServiceManager
from tests.contract.served_workers import ServedWorkers
from tests.contract.systemd_harness import Harness, open_harness
from tests.requirements import require_etcd
from tests.virtual_time import VirtualLoop


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One etcd for every test that leaves it running and its keys alone."""
    require_etcd()
    server = EtcdServer(tmp_path_factory.mktemp("etcd") / "data").start()
    yield server
    server.stop()


@pytest.fixture
def new_etcd(tmp_path: Path) -> Iterator[Callable[..., EtcdServer]]:
    """Make etcd servers that one test may stop or break, each with data of its own."""
    require_etcd()
    servers: list[EtcdServer] = []

    def make(**options: object) -> EtcdServer:
        server = EtcdServer(tmp_path / f"etcd{len(servers)}", **options)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.kill()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests of any store on each implementation. The embedded one gets a virtual clock, so no lease takes real
    time."""
    if "store" in getattr(item, "fixturenames", ()):
        return {"embedded": VirtualLoop, "etcd": asyncio.new_event_loop, "worker": _WorkerLoop}
    return {"real": asyncio.new_event_loop}


class _WorkerLoop(asyncio.SelectorEventLoop):
    """The loop of tests of a worker's store."""


class _Worker(WorkerStore):
    """A worker's store. What only servers do is done at theirs."""

    def __init__(self, servers: Sequence[str], behind: Store) -> None:
        super().__init__(servers, None, request_timeout_s=5)
        self._behind = behind

    async def compact(self, revision: int) -> None:
        await self._behind.compact(revision)


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """The implementation of the store's protocol for this loop."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualLoop):
        made: Store = EmbeddedStore(str(tmp_path / "store.db"), offload=inline)
        yield made
        await made.close()
        return
    etcd = EtcdStore([request.getfixturevalue("shared_etcd").client_url], request_timeout_s=5)
    if isinstance(loop, _WorkerLoop):
        server = await ServedWorkers(etcd).start()
        made = _Worker([server.url], etcd)
        yield made
        await made.close()
        await server.stop()
    else:
        yield etcd
    await etcd.close()


@pytest.fixture
def below(request: pytest.FixtureRequest) -> str:
    """A key prefix of this test alone."""
    return f"/{request.node.name}/"


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    async with open_harness() as opened:
        yield opened


@pytest.fixture
def manager(harness: Harness) -> ServiceManager:
    return harness.manager
