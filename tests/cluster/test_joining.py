"""Machines that join a cluster with a token, and are removed from it, on real machines over https."""

import stat
import time
from collections.abc import Callable

import pytest

from contrib.testbed import Cluster, Machine
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles

TRUST = "/var/lib/fleet/trust"
PINNED = "[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nMachineMetadata=disk=ssd\n"


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """A server that serves https, with the key of its authority in a file, as `fleetctl cluster init` makes it."""
    cluster = new_cluster([{"listen": "https://:7443"}])
    (server,) = cluster.machines
    TrustFiles(server.path(TRUST)).write_key(x509.make_authority(1, time.time()))
    server.run(["systemctl", "restart", "fleet.service"])
    cluster.wait_until("it serves https", lambda: cluster.fleetctl("machine", "token", check=False).returncode == 0)
    return cluster


def token(cluster: Cluster, *options: str) -> str:
    return cluster.fleetctl("machine", "token", *options).stdout.strip()


def url(cluster: Cluster) -> str:
    return f"https://{cluster.machines[0].address}:7443"


def lists(cluster: Cluster, machine: Machine) -> bool:
    listed = cluster.fleetctl("list-machines", "--fields=machine", "--full", "--no-legend", on=cluster.machines[0])
    return machine.id in listed.stdout


def files_of(machine: Machine) -> dict[str, bytes]:
    folders = ("/etc/fleet", "/var/lib/fleet")
    found = [path for folder in folders for path in machine.path(folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.covers("R.11")
def test_a_bare_machine_joins_runs_units_is_removed_and_joins_again(cluster: Cluster) -> None:
    worker = cluster.add_bare_machine({"metadata": "disk=ssd"})
    other = cluster.add_bare_machine()
    first = token(cluster)

    joined = worker.run(["fleetd", "join", url(cluster), first])
    assert joined.stdout == f"this machine is a worker of the cluster of {url(cluster)} now\n"
    cluster.wait_until("it is listed", lambda: lists(cluster, worker))
    assert {stat.S_IMODE(path.stat().st_mode) for path in worker.path(TRUST).iterdir()} == {0o600}
    unit = worker.path("/tmp/pinned.service")
    unit.write_text(PINNED)
    cluster.fleetctl("start", str(unit), on=cluster.machines[0])
    assert worker.show("pinned.service", "ActiveState") == "active"
    pid = worker.main_pid("pinned.service")

    again = worker.run(["fleetd", "join", url(cluster), "-"], stdin=first)
    assert "its certificate is renewed" in again.stdout
    cluster.wait_until("it is back", lambda: lists(cluster, worker))
    assert worker.main_pid("pinned.service") == pid

    before = files_of(other)
    refused = other.run(["fleetd", "join", url(cluster), first], check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"refused: machine {worker.id} has used this token" in refused.stderr
    assert files_of(other) == before

    in_use = cluster.fleetctl("machine", "remove", worker.id, check=False)
    assert "units run there: pinned.service; " in in_use.stderr
    assert cluster.fleetctl("machine", "remove", "--force", worker.id).stdout.startswith("Removed machine ")
    assert not lists(cluster, worker)
    cluster.wait_until("it says so", lambda: "revoked" in worker.journal("fleet.service"))
    time.sleep(5)
    assert not lists(cluster, worker)
    assert worker.main_pid("pinned.service") == pid  # nobody can tell it to stop

    unbound = worker.run(["fleetd", "join", url(cluster), token(cluster)], check=False)
    assert unbound.returncode == 0, unbound.stderr  # it is not known any more
    cluster.wait_until("it is listed again", lambda: lists(cluster, worker))
