"""The certificate of a worker, as its disk has it."""

import itertools
import ssl
from pathlib import Path

import pytest

from fleetd.process.worker_store import LearnedServers, load_own_certificate, servers_in_turn
from fleetd.store.protocol import StoreError
from tests.certificates import TestAuthority


def test_a_worker_that_has_not_joined_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"no certificate in {tmp_path}: have it join its cluster with `fleetd join`"):
        load_own_certificate(tmp_path)


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    _join(tmp_path)
    (tmp_path / "machine.key").write_text("no key")
    with pytest.raises(StoreError, match=f"cannot use the certificate of this machine \\({tmp_path}/machine.pem\\)"):
        load_own_certificate(tmp_path)


def test_a_worker_trusts_its_authority_and_shows_its_certificate(tmp_path: Path) -> None:
    _join(tmp_path)
    context = load_own_certificate(tmp_path)()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert len(context.get_ca_certs()) == 1


def test_workers_spread_over_the_servers_and_over_those_that_remain() -> None:
    servers = [f"https://10.0.0.{number}:7443" for number in (1, 2, 3)]
    orders = [servers_in_turn(servers, f"{number:032x}") for number in range(600)]
    assert {frozenset(order) for order in orders} == {frozenset(servers)}
    assert servers_in_turn(reversed(servers), f"{5:032x}") == orders[5]
    for order in itertools.permutations(servers):
        assert 70 < orders.count(order) < 130


def test_learned_servers_are_kept_and_a_broken_file_is_none(tmp_path: Path) -> None:
    servers = LearnedServers(tmp_path)
    assert servers.read() == ()
    servers.write(("https://a:1", "https://b:2"))
    assert LearnedServers(tmp_path).read() == ("https://a:1", "https://b:2")
    (tmp_path / "servers.json").write_text("{")
    assert servers.read() == ()
    LearnedServers(tmp_path / "missing").write(("https://a:1",))  # it is logged


def _join(folder: Path) -> None:
    """Leave the files that `fleetd join` leaves."""
    authority = TestAuthority(folder)
    text = authority.machine("w", role="worker").read_text()
    begin = text.index("-----BEGIN PRIVATE KEY-----") if "BEGIN PRIVATE KEY" in text else text.index("-----BEGIN EC")
    (folder / "machine.pem").write_text(text[:begin])
    (folder / "machine.key").write_text(text[begin:])
    (folder / "authorities.pem").write_text(authority.authority.certificate)
