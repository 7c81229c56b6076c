"""Three servers and a worker with certificates that live for seconds, over real TLS: nobody is ever locked out."""

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.routes import Api
from fleetd.config.options import Address
from fleetd.model.certificate import CertificateIdentity, split_pem
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Delete
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import Lives
from fleetd.trust.worker import WorkerTrust
from tests.api.served import LOOPBACK, Client, serving
from tests.unit.trusting_server import TrustingServer, open_store

pytestmark = pytest.mark.long

LIFE_S = 30.0  # a third of it is for processes that sign on a busy machine
PATIENCE_S = 120.0


class Cluster:
    """Servers that serve their API over https, and a worker."""

    def __init__(self, directory):
        self.store = open_store()
        self.addresses = [Address(host=LOOPBACK, port=free_port(), tls=True) for _ in range(3)]
        self.servers = [
            TrustingServer(f"m{number}", self.store, directory, time.time, lives=Lives(machine_s=LIFE_S))
            for number in range(3)
        ]
        self.files = TrustFiles(directory / "w1")
        self.urls = [f"https://{LOOPBACK}:{address.port}" for address in self.addresses]
        self.worker = WorkerTrust(self.files, lambda: self.urls, life_s=LIFE_S)
        self.answers: list[int] = []  # what the worker got of every server, one after the other

    @asynccontextmanager
    async def running(self):
        for server in self.servers:
            server.start()
        await until(lambda: all(server.keeper.own for server in self.servers))
        keeper = self.servers[0].keeper
        key, request = x509.make_request()
        identity = CertificateIdentity("machine", "w1", "worker")
        self.files.write_certificate(key, await keeper.sign(request, identity, now_s=time.time()))
        self.files.write_authorities(split_pem(await keeper.authorities()))
        self.worker.open()
        async with serving_all(self):
            tasks = [asyncio.create_task(self.worker.run()), asyncio.create_task(self.keep_asking())]
            try:
                await until(lambda: self.worker.own)
                yield
                for task in tasks:
                    assert not task.done(), task.exception()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for server in self.servers:
                    await server.stop()

    async def keep_asking(self):
        """Ask each server, as a worker whose certificate counts: it is told that the API is for people (403)."""
        while True:
            for address in self.addresses:
                self.answers.append(await asyncio.to_thread(ask, address, self.worker.client_context()))
            await asyncio.sleep(0.2)

    def check(self) -> int:
        """All answers since the last check were those for a certificate that counts. Returns how many."""
        answers, self.answers = self.answers, []
        assert set(answers) == {403}
        return len(answers)

    def used_authority(self) -> int:
        """The number of the authority that has signed the worker's certificate."""
        own = self.files.read_certificate()
        known = self.servers[0].keeper._known.authorities
        return next(each.number for each in known if x509.is_signed_by(own, each.certificate))


async def until(holds):
    """Wait for what processes do, of which each takes seconds on a busy machine."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 (no event says it)
            await asyncio.sleep(0.1)


async def until_one_is_trusted(server):
    """Wait until the authority that was replaced is not trusted any more."""
    async with asyncio.timeout(PATIENCE_S):
        while len(split_pem(await server.keeper.authorities())) > 1:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.1)


def ask(address, context) -> int:
    client = Client(address, context)
    try:
        client.request("GET", "/fleet/v1/machines")
        return client.getresponse().status
    finally:
        client.close()


@asynccontextmanager
async def serving_all(cluster):
    apis = [Api(Registry(cluster.store), trust=server.keeper) for server in cluster.servers]
    pairs = zip(cluster.servers, cluster.addresses, apis, strict=True)
    async with AsyncExitStack() as stack:
        for server, address, api in pairs:
            await stack.enter_async_context(serving(api, address, trust=server.keeper))
        yield


@pytest.mark.covers("R.14")
async def test_renewals_a_rotation_and_a_restored_store_lock_nobody_out(tmp_path):
    cluster = Cluster(tmp_path)
    async with cluster.running():
        await asyncio.sleep(LIFE_S / 3)
        first, of_server = cluster.worker.own, cluster.servers[1].keeper.own
        await asyncio.sleep(LIFE_S * 0.7)  # they have expired by now
        await until(lambda: cluster.worker.own.serial != first.serial)
        await until(lambda: cluster.servers[1].keeper.own.serial != of_server.serial)
        assert cluster.check() > 10

        await cluster.servers[2].keeper.rotate("ann")
        assert cluster.used_authority() == 1
        await asyncio.sleep(LIFE_S * 1.2)
        for server in cluster.servers:
            await until_one_is_trusted(server)
        await until(lambda: cluster.used_authority() == 2)
        assert cluster.check() > 10

        found = await cluster.store.range("/fleet")
        await cluster.store.transact([], [Delete(item.key) for item in found.items])
        await asyncio.sleep(LIFE_S)
        assert cluster.used_authority() == 2
        assert cluster.check() > 10


async def test_a_worker_that_was_off_while_the_authority_was_replaced_is_renewed_by_who_it_has_never_seen(tmp_path):
    cluster = Cluster(tmp_path)
    async with cluster.running():
        off = TrustFiles(tmp_path / "w2")
        key, request = x509.make_request()
        keeper = cluster.servers[0].keeper
        identity = CertificateIdentity("machine", "w2", "worker")
        off.write_certificate(key, await keeper.sign(request, identity, now_s=time.time(), life_s=1))
        off.write_authorities(split_pem(await keeper.authorities()))
        await keeper.rotate("ann")
        await asyncio.sleep(2)  # its certificate has expired, and the servers have those of another authority
        worker = WorkerTrust(off, lambda: ["https://127.0.0.1:1", *cluster.urls], life_s=LIFE_S)
        worker.open()
        task = asyncio.create_task(worker.run())
        await until(lambda: len(off.read_authorities()) == 2 and worker.own.expires_at_s > time.time())
        assert await asyncio.to_thread(ask, cluster.addresses[1], worker.client_context()) == 403
        task.cancel()


@pytest.mark.covers("R.13")
async def test_a_worker_that_was_removed_is_told_so_and_gets_nothing(tmp_path, caplog):
    cluster = Cluster(tmp_path)
    async with cluster.running():
        context = cluster.worker.client_context()
        await cluster.servers[0].keeper.revoke("machine/w1", "bob")
        await asyncio.sleep(1)
        cluster.answers.clear()
        for address in cluster.addresses:
            assert await asyncio.to_thread(ask, address, context) in (401, 403)
        first = cluster.worker.own
        await until(lambda: "removed from the cluster" in caplog.text)
        assert cluster.worker.own is first


@pytest.mark.covers("R.13")
async def test_nobody_takes_the_certificates_of_another_cluster(tmp_path):
    one, other = Cluster(tmp_path / "one"), Cluster(tmp_path / "other")
    async with one.running(), other.running():
        with pytest.raises(OSError, match="certificate verify failed"):
            await asyncio.to_thread(ask, one.addresses[0], other.worker.client_context())
