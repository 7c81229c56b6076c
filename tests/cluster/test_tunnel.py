"""Every command at every kind of endpoint, and the failures of an API behind an SSH bastion."""

import re
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.remote_operator import RemoteOperator

API_PORT = 49153
METRICS_PORT = 49154
HTTP = f"http://127.0.0.1:{API_PORT}"
GREETER = "[Service]\nExecStart=/bin/sh -c 'echo hello from %n; exec sleep infinity'\n"
GLOBAL = GREETER + "[X-Fleet]\nGlobal=true\n"
SLOW = "[Service]\nType=oneshot\nExecStart=/bin/sleep 300\n"


@pytest.fixture(scope="module")
def tunnelled_cluster() -> Iterator[Cluster]:
    """Three machines that root can log in to and whose API is also on a TCP port of loopback."""
    config = {"listen": f"127.0.0.1:{API_PORT}", "insecure": "true", "metrics_listen": f":{METRICS_PORT}"}
    with Cluster(machines=3, ssh=True, config=config) as cluster:
        yield cluster


@pytest.fixture
def operator(tunnelled_cluster: Cluster, tmp_path: Path) -> Iterator[RemoteOperator]:
    """An operator who reaches the unix socket of the bastion. The units are destroyed afterwards."""
    operator = RemoteOperator(tunnelled_cluster, tmp_path)
    operator.install_key()
    operator.write_known_hosts()
    operator.reach_by_tunnel()
    yield operator
    tunnelled_cluster.destroy_all_units()


@pytest.mark.covers("3.3.7", "3.4.1", "3.4.2", "3.10.4")
@pytest.mark.parametrize("endpoint", ["", HTTP])
def test_every_command_works_through_the_tunnel(operator: RemoteOperator, endpoint: str) -> None:
    if endpoint:
        operator.environment["FLEETCTL_ENDPOINT"] = endpoint
    try_every_command(operator)


@pytest.mark.covers("3.4.1")
def test_every_command_works_at_a_unix_socket(operator: RemoteOperator) -> None:
    del operator.environment["FLEETCTL_TUNNEL"]
    operator.reach_by_socket()
    try_every_command(operator)


@pytest.mark.covers("3.4.2")
def test_every_command_works_at_an_api_on_tcp(operator: RemoteOperator) -> None:
    del operator.environment["FLEETCTL_TUNNEL"]
    with operator.forwarded_port(API_PORT) as port:
        operator.environment["FLEETCTL_ENDPOINT"] = f"http://127.0.0.1:{port}"
        try_every_command(operator)


def try_every_command(operator: RemoteOperator) -> None:
    """Run each command once, on a unit and on a global one."""
    unit = str(operator.home / "web.service")
    (operator.home / "web.service").write_text(GREETER)
    (operator.home / "all.service").write_text(GLOBAL)

    def output_of(*arguments: str, status: int = 0) -> str:
        done = operator.fleetctl(*arguments)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done.stdout

    assert output_of("version").startswith("fleetctl version ")
    assert output_of("list-machines", "--no-legend").count("\n") == 3
    assert output_of("submit", unit) == "Unit web.service inactive\n"
    assert output_of("cat", "web") == GREETER
    assert output_of("load", "web").startswith("Unit web.service loaded on ")
    assert (
        output_of("start", unit, str(operator.home / "all.service"))
        .splitlines()[-1]
        .startswith("Unit web.service launched")
    )
    operator.cluster.wait_until("all of them active", lambda: output_of("list-units").count("\tactive\t") == 4)
    assert output_of("list-unit-files", "--no-legend").count("\tlaunched\t") == 2
    (machine,) = operator.machines_of("web.service")
    assert f"Main PID: {machine.main_pid('web.service')}\n" in output_of("status", "web")
    assert output_of("status", "all").count("Active: active (running)") == 3
    assert "hello from web.service\n" in output_of("journal", "--output=cat", "web")
    assert output_of("ssh", "web", "hostname; exit 6", status=6) == f"{machine.name}\n"
    assert output_of("restart", "web").count("\n") == 1
    assert output_of("restart", "--machine", machine.id[:6], "all").startswith("Unit all.service restarted on ")
    assert output_of("stop", "web").startswith("Unit web.service loaded on ")
    assert output_of("status", "web", status=3)
    assert output_of("unload", "web") == "Unit web.service inactive\n"
    assert output_of("destroy", "web", "all") == "Destroyed web.service\nDestroyed all.service\n"
    assert output_of("list-units", "--no-legend") == ""


@pytest.mark.covers("3.4.5")
def test_the_agents_key_is_enough(operator: RemoteOperator) -> None:
    (operator.home / ".ssh/id_ed25519").unlink()
    refused = operator.fleetctl("list-machines")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith(
        "Unable to initialize client: failed initializing SSH client: unable to authenticate: "
        f"root@{operator.bastion.address} port 22 was offered no key"
    )
    with operator.ssh_agent():
        assert operator.fleetctl("list-machines", "--no-legend").stdout.count("\n") == 3
        machine = operator.cluster.machines[0]
        assert operator.fleetctl("ssh", machine.id[:6], "hostname").stdout == f"{machine.name}\n"


class Listing(BaseHTTPRequestHandler):
    """An API with one machine and no units."""

    protocol_version = "HTTP/1.1"
    connections: ClassVar[set[object]] = set()

    def do_GET(self) -> None:
        self.connections.add(self.connection)
        machines = b'{"machines": [{"id": "0123456789abcdef0123456789abcdef", "primaryIP": "192.0.2.1"}]}'
        body = machines if self.path.startswith("/fleet/v1/machines") else b"{}"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


@pytest.fixture
def tls_endpoint(operator: RemoteOperator, tmp_path: Path) -> Iterator[str]:
    """An https endpoint that the bastion reaches; its CA is `ca.pem`."""
    address = operator.cluster.network.address
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out ca.pem -days 2 -subj /CN=api -addext"
    subprocess.run([*command.split(), f"subjectAltName=IP:{address}"], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    Listing.connections.clear()
    with ThreadingHTTPServer((address, 0), Listing) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://{address}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_tls_passes_the_tunnel_end_to_end_on_one_connection(
    operator: RemoteOperator, tls_endpoint: str, tmp_path: Path
) -> None:
    operator.environment["FLEETCTL_ENDPOINT"] = tls_endpoint
    trusted = f"--ca-file={tmp_path / 'ca.pem'}"
    assert operator.fleetctl("list-machines", "--no-legend", trusted).stdout == "01234567...\t192.0.2.1\t-\n"
    assert operator.fleetctl("list-units", "--no-legend", trusted).returncode == 0
    assert len(Listing.connections) == 2  # one for the command, though list-units makes two requests
    untrusted = operator.fleetctl("list-machines")
    assert (untrusted.returncode, untrusted.stdout, untrusted.stderr.count("\n")) == (1, "", 1)
    assert "the authority of its certificate is not known here; --ca-file names the authority" in untrusted.stderr


@pytest.mark.covers("3.3.7")
@pytest.mark.parametrize(
    ("tunnel", "complaint"),
    [
        ("{bastion}:23", "cannot connect to root@{bastion} port 23: connection refused; check that an SSH server"),
        (f"{{bastion}}:{METRICS_PORT}", f"root@{{bastion}} port {METRICS_PORT} does not complete the SSH handshake: "),
        ("nonesuch.invalid", "cannot connect to root@nonesuch.invalid port 22: "),
        ("[::1", '"[::1" is not a host: write HOST, HOST:PORT or [ADDRESS]:PORT'),
    ],
)
def test_an_unreachable_bastion_is_one_line(operator: RemoteOperator, tunnel: str, complaint: str) -> None:
    operator.environment["FLEETCTL_TUNNEL"] = tunnel.format(bastion=operator.bastion.address)
    refused = operator.fleetctl("list-machines")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    wanted = complaint.format(bastion=operator.bastion.address)
    assert refused.stderr.startswith(f"Unable to initialize client: failed initializing SSH client: {wanted}")


@pytest.mark.covers("3.3.9", "3.10.5")
def test_an_sshd_that_does_not_answer_times_out(operator: RemoteOperator) -> None:
    daemon = operator.bastion.main_pid("ssh.service")
    operator.bastion.run(["kill", "-STOP", str(daemon)])
    try:
        begun = time.monotonic()
        refused = operator.fleetctl("--ssh-timeout=1.5", "list-machines")
        took_s = time.monotonic() - begun
    finally:
        operator.bastion.run(["kill", "-CONT", str(daemon)])
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "timed out while initiating SSH connection to root@" in refused.stderr
    assert took_s < 10  # which is the time without the option


@pytest.mark.covers("3.4.1", "3.4.2", "10.3.10")
@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        (
            "unix:///nonesuch",
            "says: Failed dialing remote address: dial unix /nonesuch: no such file or directory; check",
        ),
        ("http://127.0.0.1:9", "cannot connect on to 127.0.0.1 port 9: connect failed"),
        ("http://127.0.0.1:22", "cannot reach fleetd at http://127.0.0.1:22: "),
    ],
)
def test_a_missing_api_is_told_from_a_missing_bastion(operator: RemoteOperator, endpoint: str, complaint: str) -> None:
    operator.environment["FLEETCTL_ENDPOINT"] = endpoint
    refused = operator.fleetctl("list-machines")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith("Error retrieving list of active machines from fleet API (cannot reach fleetd at")
    assert complaint in refused.stderr


@pytest.mark.covers("3.4.1")
def test_a_bastion_without_fleetctl_is_reported(operator: RemoteOperator) -> None:
    program = operator.bastion.path("/usr/bin/fleetctl")
    target = program.readlink()
    program.unlink()
    try:
        refused = operator.fleetctl("list-machines")
    finally:
        program.symlink_to(target)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "fleetctl: command not found; fleetctl must be installed there" in refused.stderr


@pytest.mark.covers("10.3.10")
def test_a_tunnel_that_dies_in_use_is_one_error(operator: RemoteOperator) -> None:
    (operator.home / "slow.service").write_text(SLOW)
    process = operator.spawn("start", str(operator.home / "slow.service"))
    operator.cluster.wait_until(
        "the unit starts", lambda: "\tactivating\t" in operator.cluster.fleetctl("list-units").stdout
    )
    kill_sessions(operator.bastion)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "Unit slow.service inactive\n")
    assert stderr.count("\n") == 1
    assert stderr.startswith(
        f"Error waiting for units: the connection to root@{operator.bastion.address} port 22 was lost"
    )


@pytest.mark.covers("3.10.22")
def test_a_session_that_dies_in_use_is_one_error(operator: RemoteOperator) -> None:
    operator.start(web=GREETER)
    (machine,) = operator.machines_of("web.service")
    for arguments, begun, failed in (
        (["ssh", machine.id[:6], "echo begun; sleep 300"], "begun\n", "Failed running command over SSH"),
        (["journal", "-f", "--ssh-port=22", "--output=cat", "-n1", "web"], "", "Unable to SSH to remote host"),
    ):
        process = operator.spawn(*arguments)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == begun or not begun
        kill_sessions(machine)
        _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr.count("\n")) == (255, 1)
        assert stderr.startswith(f"{failed}: the connection to root@{machine.address} port 22 (through root@")


def kill_sessions(machine: Machine) -> None:
    """Kill the processes of sshd that serve a session, not the one that listens."""
    rows = machine.run(["ps", "-eo", "pid,args"]).stdout.splitlines()
    sessions = [row.split()[0] for row in rows if re.search(r"\d sshd: root", row)]
    assert sessions
    machine.run(["kill", "-KILL", *sessions], check=False)  # it may have ended by itself


def test_a_restarting_fleetd_is_waited_for(operator: RemoteOperator) -> None:
    (operator.home / "slow.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/sleep 4\n")
    process = operator.spawn("start", str(operator.home / "slow.service"))
    operator.cluster.wait_until(
        "the unit starts", lambda: "\tactivating\t" in operator.cluster.fleetctl("list-units").stdout
    )
    operator.bastion.run(["systemctl", "restart", "fleet.service"])
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1].startswith("Unit slow.service launched on ")


def test_ctrl_c_through_the_tunnel_exits_with_130(operator: RemoteOperator) -> None:
    (operator.home / "slow.service").write_text(SLOW)
    process = operator.spawn("start", str(operator.home / "slow.service"))
    operator.cluster.wait_until(
        "the unit starts", lambda: "\tactivating\t" in operator.cluster.fleetctl("list-units").stdout
    )
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "\n")


@pytest.mark.covers("3.10.4", "10.3.6")
def test_a_machine_behind_the_bastion_is_checked_by_its_own_host_key(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    operator.write_known_hosts(operator.bastion)
    operator.wait_for_published_keys()
    published = operator.fleetctl("ssh", machine.id[:6], "true")
    assert (published.returncode, published.stderr) == (0, "")
    with operator.unpublished_keys():
        _check_by_known_hosts(operator, machine)


def _check_by_known_hosts(operator: RemoteOperator, machine: Machine) -> None:
    refused = operator.fleetctl("ssh", machine.id[:6], "true")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert (
        f"unauthorized host: the ssh-ed25519 key of root@{machine.address} port 22 "
        f"(through root@{operator.bastion.address} port 22) "
    ) in refused.stderr
    operator.write_known_hosts(operator.bastion, machine)
    assert operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
