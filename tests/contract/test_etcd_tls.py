"""TLS to etcd, and a client certificate that is renewed on disk, with real certificates and a real etcd."""

import asyncio
import logging
import os
import ssl
import subprocess
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import pytest

from contrib.testbed.etcd import EtcdServer
from fleetd import metrics
from fleetd.store.etcd_tls import EtcdTls, read_validity
from fleetd.store.protocol import StoreError, Unavailable
from tests.contract.test_etcd import NewEtcd, next_of, put, store_on, until_it_answers

DAY_S = 86400.0


def openssl(command: str, directory: Path) -> str:
    done = subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout


def sign(directory: Path, name: str, days: int = 2) -> None:
    """Have the CA sign a certificate of this name, with a new key."""
    openssl(
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem -days {days} "
        f"-subj /CN={name} -CA ca.pem -CAkey ca.key -addext subjectAltName=IP:127.0.0.1 "
        "-addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth,clientAuth",
        directory,
    )


def ends(directory: Path, name: str) -> float:
    """The end of the certificate's validity in Unix time, as OpenSSL says."""
    text = openssl(f"x509 -noout -enddate -dateopt iso_8601 -in {name}.pem", directory)
    return datetime.fromisoformat(text.partition("=")[2].strip()).timestamp()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory with ca.pem, and server and client certificates signed by it (.pem and .key)."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl(f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca", tmp_path)
    for name in ("server", "client"):
        sign(tmp_path, name)
    return tmp_path


def start_with_tls(new_etcd: NewEtcd, certificates: Path) -> EtcdServer:
    files = [f"--cert-file={certificates}/server.pem", f"--key-file={certificates}/server.key"]
    ca = [f"--trusted-ca-file={certificates}/ca.pem", "--client-cert-auth"]
    return new_etcd(client_scheme="https", extra_args=[*files, *ca]).start()


def files(certificates: Path) -> tuple[str, str, str]:
    return f"{certificates}/ca.pem", f"{certificates}/client.pem", f"{certificates}/client.key"


@pytest.mark.covers("5.3.4", "10.1.9")
async def test_tls_uses_the_given_ca_and_the_client_certificate(new_etcd: NewEtcd, certificates: Path) -> None:
    server = start_with_tls(new_etcd, certificates)
    ca, *own = files(certificates)
    async with store_on(server.client_url, tls=EtcdTls(ca, *own)) as store:
        start = await store.revision()
        async with aclosing(store.watch("/tls/", start)) as watch:
            revision = await put(store, "/tls/a")
            assert (await next_of(watch)).revision == revision
    async with store_on(server.client_url, tls=EtcdTls("", *own)) as store:
        with pytest.raises(Unavailable, match=r"(?i)certificate.verify.failed"):
            await store.revision()
    async with store_on(server.client_url, tls=EtcdTls(ca)) as store:
        with pytest.raises(Unavailable):
            await store.revision()


@pytest.mark.covers("5.3.4")
def test_unusable_tls_files_are_reported(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path}/none.pem"):
        EtcdTls(f"{tmp_path}/none.pem")
    (tmp_path / "not.pem").write_text("hello")
    with pytest.raises(StoreError, match=r"not\.pem"):
        EtcdTls(str(tmp_path / "not.pem"))


async def test_a_certificate_renewed_on_disk_is_used_after_the_next_keep_alive(
    new_etcd: NewEtcd, certificates: Path
) -> None:
    """etcd no longer trusts the CA of the old one, so the new one must be in use."""
    server = start_with_tls(new_etcd, certificates)
    async with store_on(server.client_url, tls=EtcdTls(*files(certificates)), request_timeout_s=2.0) as store:
        lease = await store.grant(60)
        key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        openssl(f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=new-ca", certificates)
        for name in ("server", "client"):
            sign(certificates, name)
        await store.keep_alive(lease)
        await asyncio.to_thread(server.restart)
        assert await until_it_answers(store)


def test_an_incomplete_pair_of_files_changes_nothing_until_it_is_complete(
    certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = EtcdTls(*files(certificates))
    before = metrics.REGISTRY.get_sample_value("fleet_etcd_certificate_not_after_timestamp_seconds")
    assert before == ends(certificates, "client")
    sign(certificates, "other", days=5)
    with caplog.at_level(logging.INFO):
        os.replace(certificates / "other.pem", certificates / "client.pem")
        tls.refresh()
        tls.refresh()
        assert caplog.text.count("keeping the old ones") == 1
        assert handshake_works(tls, certificates)
        os.replace(certificates / "other.key", certificates / "client.key")
        tls.refresh()
        assert "loaded the changed TLS files for etcd" in caplog.text
    assert handshake_works(tls, certificates)
    after = metrics.REGISTRY.get_sample_value("fleet_etcd_certificate_not_after_timestamp_seconds")
    assert after == ends(certificates, "client") > before


def handshake_works(tls: EtcdTls, certificates: Path) -> bool:
    """Whether a server that requires a certificate of this CA accepts the client."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    server_context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    server_context.verify_mode = ssl.CERT_REQUIRED
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.context.wrap_bio(back, there, server_hostname="127.0.0.1")
    server = server_context.wrap_bio(there, back, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(6):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return len(done) == 2


@pytest.mark.parametrize(
    ("days", "left_s", "warning"),
    [
        (90, 60 * DAY_S, ""),
        (90, 13 * DAY_S, "expires in 13.0 days"),
        (90, -DAY_S, "has expired"),
        (2, DAY_S, ""),  # half of its lifetime: a short-lived one is renewed late
        (2, 0.3 * DAY_S, "expires in 0.3 days"),
    ],
)
def test_an_expiring_certificate_is_warned_about_once(
    certificates: Path, caplog: pytest.LogCaptureFixture, days: int, left_s: float, warning: str
) -> None:
    sign(certificates, "client", days)
    now_s = ends(certificates, "client") - days * DAY_S
    tls = EtcdTls(*files(certificates), unix_now=lambda: now_s)
    tls.refresh()
    assert "certificate" not in caplog.text
    now_s = ends(certificates, "client") - left_s
    for _ in range(3):
        tls.refresh()
    assert caplog.text.count("the client certificate for etcd") == (1 if warning else 0)
    assert warning in caplog.text


def test_validity_is_read_as_openssl_reads_it_also_beyond_2050(certificates: Path) -> None:
    for days in (1, 30, 20000):
        sign(certificates, "client", days)
        begins, until = read_validity((certificates / "client.pem").read_text())
        assert until == ends(certificates, "client")
        assert until - begins == days * DAY_S


@pytest.mark.parametrize("change", [lambda text: "", lambda text: text.replace("BEGIN", "NO"), lambda text: text[:200]])
def test_data_that_are_no_certificate_have_no_validity(certificates: Path, change: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match="certificate"):
        read_validity(change((certificates / "client.pem").read_text()))
