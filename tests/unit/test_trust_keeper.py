"""Servers keep their certificates, whatever becomes of the store."""

import asyncio
import stat

import pytest

from fleetd.model.certificate import (
    CertificateIdentity,
    TrustedAuthority,
    fingerprint,
    is_revoked,
    parse_peer_certificate,
    split_pem,
)
from fleetd.registry.registry import Registry
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import CannotSign
from tests.unit.trusting_server import (
    DAY_S,
    LIVES,
    Servers,
    TrustingServer,
    authority_of,
    forget,
    open_store,
    running,
    unix_now,
)
from tests.virtual_time import run_virtually


@pytest.fixture
def server(tmp_path):
    return Servers(tmp_path)


def test_servers_that_start_together_have_one_authority(server):
    async def scenario():
        servers = [server(f"m{number}") for number in range(3)]
        async with running(*servers):
            assert [each.keeper.own.subject for each in servers] == ["machine/m0", "machine/m1", "machine/m2"]
            assert {authority_of(each) for each in servers} == {1}
            assert all(each.keeper.server_context() is not None for each in servers)
            keys = [item.key for item in (await server.store.range("/fleet")).items]
            assert keys == ["/fleet-authority/1", "/fleet/trust/authorities/1"]

    run_virtually(scenario())


def test_what_is_on_the_disk_is_for_root_alone(server):
    async def scenario():
        one = server("m1")
        async with running(one):
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in one.directory.iterdir()}
            assert modes == dict.fromkeys(("machine.key", "machine.pem", "authorities.pem", "known.json"), 0o600)
            assert stat.S_IMODE(one.directory.stat().st_mode) == 0o700

    run_virtually(scenario())


def test_a_certificate_is_renewed_at_two_thirds_of_its_life_in_place(server):
    async def scenario():
        one = server("m1")
        async with running(one):
            first, context = one.keeper.own, one.keeper.server_context()
            key = TrustFiles(one.directory).read_key()
            await asyncio.sleep(20 * DAY_S - 10)
            assert one.keeper.own == first
            await asyncio.sleep(60)
            assert one.keeper.own.issued_at_s >= first.issued_at_s + 20 * DAY_S
            assert one.keeper.expires_at_s >= first.expires_at_s + 20 * DAY_S
            assert one.keeper.server_context() is context
            assert TrustFiles(one.directory).read_key() == key

    run_virtually(scenario())


def test_a_certificate_is_made_again_when_names_change(server):
    async def scenario():
        names = ["10.0.0.1"]
        one = server("m1", find_names=lambda: tuple(names))
        async with running(one):
            first = one.keeper.own
            names.append("m1.example")
            await asyncio.sleep(3700)
            assert one.keeper.own.serial != first.serial
            second = one.keeper.own
            await asyncio.sleep(DAY_S)
            assert one.keeper.own == second

    run_virtually(scenario())


def test_at_rest_nothing_is_written(server):
    async def scenario():
        servers = [server("m1"), server("m2")]
        async with running(*servers):
            before = await server.store.revision()
            await asyncio.sleep(10 * DAY_S)
            assert await server.store.revision() == before

    run_virtually(scenario())


def test_a_server_that_starts_again_serves_at_once_what_it_had(server):
    async def scenario():
        one = server("m1")
        async with running(one):
            first = one.keeper.own
        await asyncio.sleep(DAY_S)
        one.start()
        assert one.keeper.server_context() is not None
        await asyncio.sleep(1)
        assert one.keeper.own == first
        await one.stop()

    run_virtually(scenario())


@pytest.mark.parametrize("damage", ["machine.pem", "machine.key", "known.json", "authorities.pem"])
def test_a_file_that_is_lost_or_broken_is_made_again(server, damage):
    async def scenario():
        one = server("m1")
        async with running(one):
            pass
        for text in (None, "", "{"):
            path = one.directory / damage
            path.unlink() if text is None else path.write_text(text)
            async with running(one):
                assert one.keeper.own.subject == "machine/m1"
                assert one.keeper.server_context() is not None

    run_virtually(scenario())


def test_after_a_rotation_all_have_certificates_of_the_new_authority_and_trust_both_for_one_life(server):
    async def scenario():
        servers = [server(f"m{number}") for number in range(3)]
        async with running(*servers):
            made = await servers[0].keeper.rotate("ann")
            await asyncio.sleep(1)
            assert (made.number, made.by) == (2, "ann")
            assert {authority_of(each) for each in servers} == {2}
            for each in servers:
                assert len(split_pem(await each.keeper.authorities())) == 2
                assert len(split_pem((each.directory / "machine.pem").read_text())) == 2  # with the cross-certificate
            before = servers[1].keeper.client_context()
            await asyncio.sleep(LIVES.machine_s)
            assert [split_pem(await each.keeper.authorities()) for each in servers] == [(made.certificate,)] * 3
            assert servers[1].keeper.client_context() is not before

    run_virtually(scenario())


def test_connections_end_when_an_authority_is_not_trusted_any_more(server):
    async def scenario():
        one = server("m1")
        ended = []
        async with running(one):
            one.keeper.on_distrusted = lambda: ended.append(unix_now())
            await one.keeper.rotate("ann")
            await asyncio.sleep(29 * DAY_S)
            assert ended == []
            await asyncio.sleep(2 * DAY_S)
            assert len(ended) == 1

    run_virtually(scenario())


def test_a_server_that_was_off_at_the_rotation_gets_a_new_certificate(server):
    async def scenario():
        one, two = server("m1"), server("m2")
        async with running(one, two):
            pass
        async with running(one):
            await one.keeper.rotate("ann")
            await asyncio.sleep(100 * DAY_S)
            async with running(two):
                assert authority_of(two) == 2

    run_virtually(scenario())


def test_a_revocation_reaches_every_server(server):
    async def scenario():
        one, two = server("m1"), server("m2")
        async with running(one, two):
            ann = CertificateIdentity("person", "ann", issued_at_s=unix_now() - 1)
            assert not two.keeper.is_revoked(ann)
            await one.keeper.revoke("person/ann", "bob")
            await asyncio.sleep(0.1)
            assert one.keeper.is_revoked(ann)
            assert two.keeper.is_revoked(ann)
            assert (one.revoked, two.revoked) == (["person/ann"], ["person/ann"])
            _, request = x509.make_request()
            again = await two.keeper.sign(request, ann, now_s=unix_now())
            assert not one.keeper.is_revoked(parse_peer_certificate(x509.describe(again)))

    run_virtually(scenario())


def test_a_server_that_cannot_sign_learns_of_a_revocation_as_soon(server):
    async def scenario():
        one, two = server("m1"), server("m2", refuse_store="there is no key")
        async with running(one, server("m2")):
            pass
        async with running(one, two):
            await asyncio.sleep(200)
            with pytest.raises(CannotSign):
                await two.keeper.fingerprint()
            await asyncio.sleep(7)
            await one.keeper.revoke("person/ann", "bob")
            await asyncio.sleep(1)
            assert "person/ann" in two.revoked

    run_virtually(scenario())


def test_a_server_that_starts_says_that_it_does_not_know_revocations_until_it_has_read_the_store(server):
    """It was off while one was made: nobody is to be let in with such a certificate for a moment."""

    async def scenario():
        one, two = server("m1"), server("m2")
        async with running(one, two):
            await two.stop()
            await one.keeper.revoke("person/ann", "bob")
            ann = CertificateIdentity("person", "ann", issued_at_s=unix_now())
            two.start()
            assert not two.keeper.is_revoked(ann)
            assert two.keeper.why_unsure().startswith("this server has not read yet which certificates were revoked")
            while two.keeper.why_unsure():  # noqa: ASYNC110 (no event says it)
                await asyncio.sleep(0)
            assert two.keeper.is_revoked(ann)

    run_virtually(scenario())


def test_a_server_that_was_removed_makes_itself_no_other_certificate(server, caplog):
    async def scenario():
        one, two = server("m1"), server("m2")
        async with running(one, two):
            first = two.keeper.own
            await one.keeper.revoke("machine/m2", "bob")
            await asyncio.sleep(40 * DAY_S)
            assert two.keeper.own == first
            assert two.keeper.is_revoked(first)

    run_virtually(scenario())
    assert "this machine was removed from the cluster by bob; add it again" in caplog.text


def test_a_store_that_was_restored_gets_back_what_it_has_lost(server):
    async def scenario():
        one, two = server("m1"), server("m2")
        async with running(one, two):
            await one.keeper.rotate("ann")
            await one.keeper.revoke("person/ann", "bob")
            await asyncio.sleep(1)
            before = {item.key: item.value for item in (await server.store.range("/fleet")).items}
            await forget(server.store, "trust/authorities/2", "revocations", "-authority/2")
            await asyncio.sleep(1)
            assert {item.key: item.value for item in (await server.store.range("/fleet")).items} == before
            await forget(server.store, "")
            await asyncio.sleep(1)
            assert {item.key: item.value for item in (await server.store.range("/fleet")).items} == before

    run_virtually(scenario())


def test_a_new_store_has_the_authority_of_the_servers_disks(server, tmp_path):
    async def scenario():
        one = server("m1")
        async with running(one):
            await one.keeper.revoke("person/ann", "bob")
            first = await one.keeper.authorities()
        empty = open_store()
        again = TrustingServer("m1", empty, tmp_path, unix_now)
        other = TrustingServer("m9", empty, tmp_path, unix_now)
        async with running(again, other):
            assert await again.keeper.authorities() == first
            assert (authority_of(again), authority_of(other)) == (1, 1)
            assert [each.subject for each in other.keeper.revocations()] == ["person/ann"]

    run_virtually(scenario())


def test_an_authority_that_was_made_after_a_restore_stands_beside_the_one_that_was_lost(server, tmp_path):
    """m2 was off when the store was restored, and has seen an authority 2 that nobody else knows."""

    async def scenario():
        one, two = server("m1"), server("m2")
        async with running(one, two):
            pass
        async with running(two):
            lost = await two.keeper.rotate("ann")
            await two.keeper.revoke("person/ann", "ann")
            await asyncio.sleep(1)
        await forget(server.store, "trust/authorities/2", "trust/revocations", "-authority/2")
        async with running(one):
            made = await one.keeper.rotate("bob")
            await one.keeper.revoke("person/eve", "bob")
            await asyncio.sleep(1)
            async with running(two):
                for each in (one, two):
                    numbers = {authority.certificate: authority.number for authority in each.keeper._known.authorities}
                    assert numbers[made.certificate] == 2
                    assert numbers[lost.certificate] == 3
                    assert {revocation.subject for revocation in each.keeper.revocations()} == {
                        "person/ann",
                        "person/eve",
                    }
                assert authority_of(one) == authority_of(two) or authority_of(two) == 3

    run_virtually(scenario())


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_clocks_an_hour_apart_do_no_harm(server, ahead_s):
    async def scenario():
        one, two = server("m1"), server("m2", ahead_s=ahead_s)
        async with running(one, two):
            _, request = x509.make_request()
            ann = CertificateIdentity("person", "ann")
            text = await two.keeper.sign(request, ann, now_s=unix_now() + ahead_s)
            made = parse_peer_certificate(x509.describe(text))
            await asyncio.sleep(2)
            await one.keeper.revoke("person/ann", "bob")
            await asyncio.sleep(1)
            assert two.keeper.is_revoked(made)
            await one.keeper.rotate("bob")
            await asyncio.sleep(1)
            assert authority_of(two) == 2

    run_virtually(scenario())


@pytest.mark.parametrize(
    "text", ["", "certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\xe9"]
)
def test_an_authority_without_a_certificate_is_passed_over(server, text, caplog):
    async def scenario():
        one = server("m1")
        async with running(one):
            put = Registry(server.store).put(TrustedAuthority(2, text, at_s=unix_now()), "2")
            await server.store.transact([], [put])
            await asyncio.sleep(1)
            assert authority_of(one) == 1
        async with running(one):
            assert authority_of(one) == 1
            with pytest.raises(CannotSign, match=r"trust/authorities/2 in the store .* cannot be read"):
                await one.keeper.rotate("ann")

    run_virtually(scenario())
    assert "authority 2 in the store has no certificate" in caplog.text


# What others ask.


def test_a_renewal_needs_a_trusted_authority_and_the_same_key(server):
    async def scenario():
        one = server("m1")
        async with running(one):
            worker = CertificateIdentity("machine", "w1", "worker")
            key, request = x509.make_request()
            certificate = await one.keeper.sign(request, worker, now_s=unix_now())
            await asyncio.sleep(100 * DAY_S)  # it has expired
            found = await one.keeper.read_renewal(certificate, x509.make_request(key)[1])
            assert (found.subject, found.role) == ("machine/w1", "worker")
            assert not is_revoked(found, one.keeper.revocations())
            with pytest.raises(ValueError, match="not made with the key"):
                await one.keeper.read_renewal(certificate, x509.make_request()[1])
            await one.keeper.rotate("ann")
            await one.keeper.read_renewal(certificate, request)
            await asyncio.sleep(31 * DAY_S)
            with pytest.raises(ValueError, match="not of an authority that this cluster trusts now"):
                await one.keeper.read_renewal(certificate, request)

    run_virtually(scenario())


def test_the_fingerprint_is_that_of_the_authority_that_signs(server):
    async def scenario():
        one = server("m1")
        async with running(one):
            assert await one.keeper.fingerprint() == fingerprint(await one.keeper.authorities())

    run_virtually(scenario())
