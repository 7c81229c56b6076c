"""A server fetches the key of an authority that another server has made, over https."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.routes import Api
from fleetd.config.options import Address
from fleetd.model.machine import Machine
from fleetd.registry.registry import Registry
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import Lives
from fleetd.trust.signing import Signer
from tests.api.served import LOOPBACK, serving
from tests.unit.trusting_server import TrustingServer, open_store

LIVES = Lives(machine_s=60)
PATIENCE_S = 120.0  # each certificate is made by a process


async def start(stack, store, directory, name, authority):
    """A server that has the authority's key in a file, and serves https."""
    server = TrustingServer(name, store, directory, time.time, lives=LIVES, signer=Signer())
    if authority is not None:
        TrustFiles(server.directory).write_key(authority)
    address = Address(host=LOOPBACK, port=free_port(), tls=True)
    registry = Registry(store)
    machine = Machine(name, address=LOOPBACK, https=f":{address.port}")
    await store.transact([], [registry.put(machine, name)])
    server.start()
    stack.push_async_callback(server.stop)
    await stack.enter_async_context(serving(Api(registry, trust=server.keeper), address, trust=server.keeper))
    return server


async def until(holds):
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 (files do not say that they have changed)
            await asyncio.sleep(0.1)


def keys(server) -> list[int]:
    return [each.number for each in TrustFiles(server.directory).read_keys()]


async def test_the_key_of_a_new_authority_reaches_all_servers(tmp_path):
    store, authority = open_store(), x509.make_authority(1, time.time())
    async with AsyncExitStack() as stack:
        servers = [await start(stack, store, tmp_path, name, authority) for name in ("m1", "m2", "m3")]
        await until(lambda: all(server.keeper.own for server in servers))
        await servers[0].keeper.rotate("ann")
        await until(lambda: all(keys(server) == [1, 2] for server in servers))
        second = TrustFiles(servers[0].directory).read_keys()[1]
        for server in servers:
            assert TrustFiles(server.directory).read_keys()[1] == second
            files = TrustFiles(server.directory)
            await until(lambda files=files: x509.is_signed_by(files.read_certificate(), second.certificate))
        assert not (await store.range("/fleet-authority/")).items


async def test_a_server_that_was_removed_gets_no_key(tmp_path, caplog):
    store, authority = open_store(), x509.make_authority(1, time.time())
    async with AsyncExitStack() as stack:
        one, two = [await start(stack, store, tmp_path, name, authority) for name in ("m1", "m2")]
        await until(lambda: one.keeper.own and two.keeper.own)
        await one.keeper.revoke("machine/m2", "ann")
        await one.keeper.rotate("ann")
        await until(lambda: "cannot fetch it" in caplog.text)
        assert keys(two) == [1]
        assert "was removed" in caplog.text or "revoked" in caplog.text


@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_file_of_another_cluster_with_the_same_number_is_not_overwritten(tmp_path, is_ours):
    store, authority = open_store(), x509.make_authority(1, time.time())
    async with AsyncExitStack() as stack:
        one, two = [await start(stack, store, tmp_path, name, authority) for name in ("m1", "m2")]
        await until(lambda: one.keeper.own and two.keeper.own)
        foreign = x509.make_authority(2, time.time())
        if not is_ours:
            TrustFiles(two.directory).write_key(foreign)
        await one.keeper.rotate("ann")
        if is_ours:
            await until(lambda: keys(two) == [1, 2])
        else:
            await asyncio.sleep(2)
            assert TrustFiles(two.directory).read_keys()[1] == foreign


async def test_the_key_of_a_rotation_that_was_interrupted_is_no_obstacle_for_the_next(tmp_path):
    store, authority = open_store(), x509.make_authority(1, time.time())
    async with AsyncExitStack() as stack:
        one, two = [await start(stack, store, tmp_path, name, authority) for name in ("m1", "m2")]
        await until(lambda: one.keeper.own and two.keeper.own)
        interrupted = x509.make_authority(2, time.time())
        TrustFiles(two.directory).write_pending_key(interrupted)
        assert keys(two) == [1]
        await one.keeper.rotate("ann")
        await until(lambda: keys(two) == [1, 2])
        assert interrupted not in TrustFiles(two.directory).read_keys()
        assert not list(two.directory.glob("pending-*"))


def test_a_pending_key_counts_once_the_store_has_its_authority_and_waits_until_then(tmp_path):
    files, made = TrustFiles(tmp_path, sync=lambda descriptor: None), x509.make_authority(2, time.time())
    files.write_pending_key(made)
    files.settle_keys({"another": 1})
    assert (files.read_keys(), len(list(tmp_path.iterdir()))) == ((), 1)
    files.settle_keys({"another": 1, made.certificate: 2})
    assert files.read_keys() == (made,)
    assert not list(tmp_path.glob("pending-*"))
