"""The API over https on real machines: a login over the socket of one, its certificate on both, and its revocation."""

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from fleetctl.logins import find_logins
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from tests.cluster.remote_operator import RemoteOperator

PORT = 7443
TRUST = "/var/lib/fleet/trust"


class Operator:
    """Runs fleetctl on this host, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def fleetctl(self, endpoint: str, *arguments: str, status: int = 0) -> str:
        """What it prints, on both streams."""
        done = subprocess.run(
            [f"{sys.prefix}/bin/fleetctl", f"--endpoint={endpoint}", *arguments],
            env={**os.environ, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def connect(self, machine: Machine) -> ssl.SSLSocket:
        """A connection with the certificate of the login, over which a request has been answered."""
        (login,) = find_logins(str(self.home / ".fleetctl/certificates"))
        client = login.context().wrap_socket(socket.create_connection((machine.address, PORT), timeout=10))
        client.sendall(f"GET /fleet/v2/whoami HTTP/1.1\r\nHost: {machine.address}\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        return client


def over_https(machine: Machine) -> str:
    return f"https://{machine.address}:{PORT}"


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Two servers that have the key of their authority in a file, as `fleetctl cluster init` makes it."""
    return serve_https(new_cluster([{"listen": f"https://:{PORT}"}] * 2))


def serve_https(cluster: Cluster) -> Cluster:
    authority = x509.make_authority(1, time.time())
    for machine in cluster.machines:
        TrustFiles(machine.path(TRUST)).write_key(authority)
        machine.run(["systemctl", "restart", "fleet.service"])
    cluster.wait_ready()
    return cluster


def test_a_login_on_one_server_counts_on_each_until_it_is_revoked(cluster: Cluster, tmp_path: Path) -> None:
    first, second = cluster.machines
    ann = Operator(tmp_path)
    for machine in cluster.machines:
        cluster.wait_until(
            "it has a certificate",
            lambda m=machine: "no certificate yet" not in ann.fleetctl(over_https(m), "list-machines", status=1),
        )
    assert "the authority of its certificate is not known here" in ann.fleetctl(
        over_https(second), "list-machines", status=1
    )
    ann.fleetctl(cluster.endpoint(first), "login")
    for machine in cluster.machines:
        cluster.wait_until("both list both", lambda m=machine: len(_machines(ann, m)) == 2)
    unit = tmp_path / "web.service"
    unit.write_text("[Service]\nExecStart=/bin/sleep infinity\n")
    assert "launched on" in ann.fleetctl(over_https(second), "start", str(unit))
    assert (
        "FLEET_ACTOR=person/root@"
        in second.run(["journalctl", "-o", "export", "ACTION=submit", "+", "ACTION=start"]).stdout
    )

    open_at_second = ann.connect(second)
    cluster.fleetctl("login", "--revoke=root", on=first)
    open_at_second.settimeout(30.0)  # a second, and what a busy machine takes
    with suppress(ConnectionError):
        assert open_at_second.recv(4096) == b""
    for machine in cluster.machines:
        refused = ann.fleetctl(over_https(machine), "list-units", status=1)
        assert "Error 403: the certificate of person/root was revoked" in refused

    ann.fleetctl(cluster.endpoint(second), "login")
    assert "web.service" in ann.fleetctl(over_https(first), "list-units")
    for machine in cluster.machines:
        machine.run(["systemctl", "restart", "fleet.service"])
    cluster.wait_ready()
    assert "web.service" in ann.fleetctl(over_https(first), "list-units")
    assert first.run(["stat", "-c", "%a", "/var/lib/fleet/trust"]).stdout == "700\n"


def test_a_login_through_ssh_needs_no_ssh_afterwards(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = serve_https(new_cluster([{"listen": f"https://:{PORT}"}] * 3, ssh=True))
    operator = RemoteOperator(cluster, tmp_path)
    operator.install_key()
    operator.write_known_hosts()
    operator.reach_by_tunnel()
    cluster.wait_until("they have certificates", lambda: operator.fleetctl("login").returncode == 0)
    del operator.environment["FLEETCTL_TUNNEL"]
    operator.environment["FLEETCTL_ENDPOINT"] = over_https(operator.bastion)
    who = operator.fleetctl("whoami")
    assert (who.returncode, who.stdout.splitlines()[:2]) == (0, ["root (person/root)", "may do everything"])
    assert operator.fleetctl("list-machines", "--no-legend").stdout.count("\n") == 3
    operator.environment["FLEETCTL_TUNNEL"] = operator.bastion.address
    assert operator.fleetctl("whoami").returncode == 0  # https through the tunnel


def _machines(operator: Operator, machine: Machine) -> list[str]:
    return operator.fleetctl(over_https(machine), "list-machines", "--no-legend").splitlines()
