"""Certificates that live a minute, on three servers and a worker: renewal, another authority, and an etcd that is
restored from before it leave nobody locked out."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from fleetd.model.certificate import CertificateIdentity, parse_peer_certificate
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from tests.cluster.tampering import tamper
from tests.cluster.test_workers import SERVER, Workers

LIFE_S = 60
TRUST = "/var/lib/fleet/trust"
OWN = ("--cert", f"{TRUST}/machine.pem", "--key", f"{TRUST}/machine.key", "--cacert", f"{TRUST}/authorities.pem")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with Cluster(machines=[SERVER, SERVER, SERVER, {}], config={"agent_ttl": "3s"}) as cluster:
        for machine in cluster.machines:
            tamper(machine, "short_lives", LIFE=str(LIFE_S))
        made = Workers(cluster, tmp_path)
        made.give_authority()
        made.join()
        yield made


def ask(asks: Machine, asked: Machine) -> str:
    """The HTTP status that a machine gets with its certificate: 000 if it does not take that of the other."""
    request = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "5", *OWN]
    return asks.run([*request, f"https://{asked.address}:7443/fleet/v2/authority-keys"], check=False).stdout


def is_told_of_its_removal(worker: Machine, server: Machine) -> bool:
    url = f"https://{server.address}:7443/fleet/v2/whoami"
    return "revoked" in worker.run(["curl", "--silent", "--max-time", "5", *OWN, url], check=False).stdout


def certificate_of(machine: Machine) -> CertificateIdentity:
    return parse_peer_certificate(x509.describe(TrustFiles(machine.path(TRUST)).read_certificate()))


def check_all(workers: Workers) -> None:
    """Each machine takes the certificate of each server, and each server that of each machine."""
    for server in workers.servers:
        assert [ask(each, server) for each in workers.servers] == ["200"] * 3
        assert ask(workers.worker, server) == "403"  # it is not a server
        assert not is_told_of_its_removal(workers.worker, server)
    assert workers.worker.id in workers.listed()


def key_numbers(machine: Machine) -> list[int]:
    return [each.number for each in TrustFiles(machine.path(TRUST)).read_keys()]


def check_for(workers: Workers, seconds: float) -> None:
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        check_all(workers)
        time.sleep(2)


@pytest.mark.covers("R.14")
def test_nobody_is_locked_out(workers: Workers, tmp_path: Path) -> None:
    cluster, etcd, snapshot = workers.cluster, workers.cluster.etcd, tmp_path / "snapshot"
    m1, _, m3 = workers.servers
    machines = [*workers.servers, workers.worker]
    first = {machine.name: certificate_of(machine).serial for machine in machines}
    check_for(workers, LIFE_S * 1.2)
    assert all(certificate_of(machine).serial != first[machine.name] for machine in machines)

    etcd.save(snapshot)
    m3.run(["systemctl", "stop", "fleet.service"])
    said = workers.fleetctl("cluster", "rotate-ca", on=m1)
    assert said.stdout.startswith("Authority 2 signs from now on")
    m3.run(["systemctl", "start", "fleet.service"])
    cluster.wait_until(
        "all servers have the new key", lambda: all(key_numbers(each) == [1, 2] for each in workers.servers)
    )
    cluster.wait_until("m3 serves", lambda: ask(m1, m3) == "200")
    check_for(workers, LIFE_S * 1.2)
    new = TrustFiles(m1.path(TRUST)).read_keys()[1]
    for machine in machines:
        assert x509.is_signed_by(TrustFiles(machine.path(TRUST)).read_certificate(), new.certificate)
    for server in workers.servers:
        assert TrustFiles(server.path(TRUST)).read_authorities() == (new.certificate,)

    cluster.fleetctl("machine", "remove", "--force", workers.worker.id, on=m1)
    cluster.wait_until("the worker is refused", lambda: is_told_of_its_removal(workers.worker, m1))
    etcd.restore(snapshot)
    time.sleep(LIFE_S * 0.8)
    for server in workers.servers:
        assert [ask(each, server) for each in workers.servers] == ["200"] * 3
        assert is_told_of_its_removal(workers.worker, server)
    kept = etcd.etcdctl("get", "--prefix", "--keys-only", "/fleet/trust/").split()
    assert {"/fleet/trust/authorities/1", "/fleet/trust/authorities/2", "/fleet/trust/revocations/1"} <= set(kept)
