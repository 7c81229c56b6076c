"""Where the private keys of authorities are: in files of the servers, or in the store."""

import asyncio
import json

import pytest

from fleetd.model.certificate import (
    CertificateIdentity,
    split_pem,
)
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import CannotSign
from fleetd.trust.signing import Signer
from tests.unit.trusting_server import (
    DAY_S,
    Servers,
    answer_here,
    authority_of,
    forget,
    running,
    unix_now,
)
from tests.virtual_time import run_virtually


@pytest.fixture
def server(tmp_path):
    return Servers(tmp_path)


def give_key_files(server, authority) -> None:
    TrustFiles(server.directory).write_key(authority)


def test_an_authority_in_files_is_published_without_its_key(server):
    async def scenario():
        authority = x509.make_authority(1, unix_now())
        one, two = server("m1"), server("m2")
        for each in (one, two):
            give_key_files(each, authority)
        async with running(one, two):
            assert await one.keeper.authorities() == await two.keeper.authorities() == authority.certificate
            assert [item.key for item in (await server.store.range("/fleet")).items] == ["/fleet/trust/authorities/1"]
            known = json.loads((one.directory / "known.json").read_text())
            assert "keys" not in known

    run_virtually(scenario())


def test_after_a_rotation_in_files_the_others_go_on_until_they_have_the_key(server, caplog):
    async def scenario():
        one, two = server("m1"), server("m2")
        for each in (one, two):
            give_key_files(
                each, x509.make_authority(1, unix_now()) if each is one else TrustFiles(one.directory).read_keys()[0]
            )
        async with running(one, two):
            await one.keeper.rotate("ann")
            await asyncio.sleep(1)
            assert (authority_of(one), authority_of(two)) == (2, 1)
            assert await one.keeper.authorities() == await two.keeper.authorities()
            give_key_files(two, TrustFiles(one.directory).read_keys()[1])
            await asyncio.sleep(3700)
            assert (authority_of(one), authority_of(two)) == (2, 2)
            assert [item.key for item in (await server.store.range("/fleet-authority/")).items] == []

    run_virtually(scenario())


@pytest.mark.parametrize("in_files", [True, False])
def test_two_rotations_at_once_on_one_server_leave_it_the_keys_of_both(server, in_files):
    async def slow(call):
        await asyncio.sleep(1)
        return await answer_here(call)

    async def scenario():
        one = server("m1", signer=Signer(slow))
        if in_files:
            give_key_files(one, x509.make_authority(1, unix_now()))
        async with running(one):
            await asyncio.sleep(5)
            made = await asyncio.gather(one.keeper.rotate("ann"), one.keeper.rotate("bob"))
            assert sorted(each.number for each in made) == [2, 3]
            assert {each.certificate for each in one.keeper._keys} >= {each.certificate for each in made}
            await asyncio.sleep(10)
            assert authority_of(one) == 3

    run_virtually(scenario())


def test_a_server_without_the_key_says_what_to_do(server, caplog):
    async def scenario():
        one, two = server("m1"), server("m2")
        give_key_files(one, x509.make_authority(1, unix_now()))
        async with running(one, two):
            assert two.keeper.server_context() is None
            with pytest.raises(CannotSign, match=r"authority-1.key and .pem from the server that has them"):
                await two.keeper.sign(x509.make_request()[1], CertificateIdentity("person", "ann"), now_s=unix_now())
            give_key_files(two, TrustFiles(one.directory).read_keys()[0])
            await asyncio.sleep(60)
            assert authority_of(two) == 1

    run_virtually(scenario())
    assert caplog.text.count("cannot look after the certificate of this machine") == 1


def test_a_lost_key_of_the_authority_is_replaced_by_a_rotation(server):
    async def scenario():
        one = server("m1")
        give_key_files(one, x509.make_authority(1, unix_now()))
        async with running(one):
            TrustFiles(one.directory).forget_key(1)
            made = await one.keeper.rotate("ann")
            assert made.cross == ""
            assert [each.number for each in TrustFiles(one.directory).read_keys()] == [2]
            assert not (await server.store.range("/fleet-authority/")).items
            await asyncio.sleep(26 * DAY_S)  # workers have renewed theirs by now, and know both
            assert authority_of(one) == 1
            await asyncio.sleep(2 * DAY_S)
            assert authority_of(one) == 2

    run_virtually(scenario())


@pytest.mark.parametrize("in_files", [True, False])
def test_an_authority_that_is_deleted_on_all_servers_and_in_the_store_is_forgotten(server, in_files):
    """As docs/operations.md says for a key that is in other hands."""

    async def scenario():
        servers = [server("m1"), server("m2")]
        authority = x509.make_authority(1, unix_now())
        for each in servers if in_files else ():
            give_key_files(each, authority)
        async with running(*servers):
            await servers[0].keeper.rotate("ann")
            if in_files:
                give_key_files(servers[1], TrustFiles(servers[0].directory).read_keys()[1])
            await asyncio.sleep(3700)
        for each in servers:
            for name in ("known.json", "authorities.pem", "authority-1.key", "authority-1.pem"):
                (each.directory / name).unlink(missing_ok=True)
        await forget(server.store, "trust/authorities/1", "-authority/1")
        async with running(*servers):
            for each in servers:
                assert len(split_pem(await each.keeper.authorities())) == 1
                assert authority_of(each) == 2
                assert [number.number for number in each.keeper._known.authorities] == [2]

    run_virtually(scenario())


def test_the_key_of_another_clusters_authority_is_not_used(server, caplog):
    async def scenario():
        one, two = server("m1"), server("m2")
        async with running(one):
            give_key_files(two, x509.make_authority(7, unix_now()))
            async with running(two):
                assert authority_of(two) == 1

    run_virtually(scenario())
    assert "authority-7.key is of another cluster" in caplog.text


def test_no_key_is_made_in_a_store_that_others_can_read(server):
    async def scenario():
        one = server("m1", refuse_store="etcd is not encrypted")
        async with running(one):
            assert one.keeper.server_context() is None
            with pytest.raises(CannotSign, match="etcd is not encrypted"):
                await one.keeper.fingerprint()
            with pytest.raises(CannotSign, match="etcd is not encrypted"):
                await one.keeper.rotate("ann")
            assert (await server.store.range("/fleet")).items == ()

    run_virtually(scenario())
