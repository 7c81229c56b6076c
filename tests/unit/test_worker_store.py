"""The certificate of a worker, as its disk has it."""

import ssl
from pathlib import Path

import pytest

from fleetd.process.worker_store import load_own_certificate
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


def _join(folder: Path) -> None:
    """Leave the files that `fleetd join` leaves."""
    authority = TestAuthority(folder)
    text = authority.machine("w", role="worker").read_text()
    begin = text.index("-----BEGIN PRIVATE KEY-----") if "BEGIN PRIVATE KEY" in text else text.index("-----BEGIN EC")
    (folder / "machine.pem").write_text(text[:begin])
    (folder / "machine.key").write_text(text[begin:])
    (folder / "authorities.pem").write_text(authority.authority.certificate)
