"""Every command at every kind of endpoint; and the API through an SSH bastion, and every way that can break."""

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
from tests.cluster.remote_operator import RemotePerson

API_PORT = 49153
HTTP = f"http://127.0.0.1:{API_PORT}"
GREETER = "[Service]\nExecStart=/bin/sh -c 'echo hello from %n; exec sleep infinity'\n"
GLOBAL = GREETER + "[X-Fleet]\nGlobal=true\n"
SLOW = "[Service]\nType=oneshot\nExecStart=/bin/sleep 300\n"


@pytest.fixture(scope="module")
def tunnelled_cluster() -> Iterator[Cluster]:
    """Three machines that root can log in to; their API is on a TCP port too."""
    with Cluster(machines=3, ssh=True, config={"listen": f":{API_PORT}", "insecure": "true"}) as cluster:
        yield cluster


@pytest.fixture
def person(tunnelled_cluster: Cluster, tmp_path: Path) -> Iterator[RemotePerson]:
    """Somebody who reaches the unix socket of the bastion. Their units are gone afterwards."""
    person = RemotePerson(tunnelled_cluster, tmp_path)
    person.has_the_key()
    person.knows()
    person.reach_by_tunnel()
    yield person
    tunnelled_cluster.destroy_all_units()


@pytest.mark.covers("3.3.7", "3.4.1", "3.4.2", "3.10.4")
@pytest.mark.parametrize("endpoint", ["", HTTP])
def test_every_command_works_through_the_tunnel(person: RemotePerson, endpoint: str) -> None:
    if endpoint:
        person.environment["FLEETCTL_ENDPOINT"] = endpoint
    try_every_command(person)


@pytest.mark.covers("3.4.1")
def test_every_command_works_at_a_socket_of_this_machine(person: RemotePerson) -> None:
    del person.environment["FLEETCTL_TUNNEL"]
    person.reach_by_socket()
    try_every_command(person)


@pytest.mark.covers("3.4.2")
def test_every_command_works_at_an_api_on_the_network(person: RemotePerson) -> None:
    del person.environment["FLEETCTL_TUNNEL"]
    person.environment["FLEETCTL_ENDPOINT"] = f"http://{person.bastion.address}:{API_PORT}"
    try_every_command(person)


def try_every_command(person: RemotePerson) -> None:
    """Each command once, on one unit and on a global one."""
    unit = str(person.home / "web.service")
    (person.home / "web.service").write_text(GREETER)
    (person.home / "all.service").write_text(GLOBAL)

    def said(*arguments: str, status: int = 0) -> str:
        done = person.fleetctl(*arguments)
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done.stdout

    assert said("version").startswith("fleetctl version ")
    assert said("list-machines", "--no-legend").count("\n") == 3
    assert said("submit", unit) == "Unit web.service inactive\n"
    assert said("cat", "web") == GREETER
    assert said("load", "web").startswith("Unit web.service loaded on ")
    assert (
        said("start", unit, str(person.home / "all.service")).splitlines()[-1].startswith("Unit web.service launched")
    )
    person.cluster.wait_until("all of them active", lambda: said("list-units").count("\tactive\t") == 4)
    assert said("list-unit-files", "--no-legend").count("\tlaunched\t") == 2
    (machine,) = person.places("web.service")
    assert f"Main PID: {machine.main_pid('web.service')} " in said("status", "web")
    assert said("status", "all").count("Active: active (running)") == 3
    assert "hello from web.service\n" in said("journal", "--output=cat", "web")
    assert said("ssh", "web", "hostname; exit 6", status=6) == f"{machine.name}\n"
    assert said("restart", "web").count("\n") == 1
    assert said("restart", "--machine", machine.id[:6], "all").startswith("Unit all.service restarted on ")
    assert said("stop", "web").startswith("Unit web.service loaded on ")
    assert said("status", "web", status=3)
    assert said("unload", "web") == "Unit web.service inactive\n"
    assert said("destroy", "web", "all") == "Destroyed web.service\nDestroyed all.service\n"
    assert said("list-units", "--no-legend") == ""


@pytest.mark.covers("3.4.5")
def test_the_agent_is_enough(person: RemotePerson) -> None:
    (person.home / ".ssh/id_ed25519").unlink()
    refused = person.fleetctl("list-machines")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith(
        "Unable to initialize client: failed initializing SSH client: unable to authenticate: "
        f"root@{person.bastion.address} port 22 was offered no key"
    )
    with person.has_an_agent():
        assert person.fleetctl("list-machines", "--no-legend").stdout.count("\n") == 3
        machine = person.cluster.machines[0]
        assert person.fleetctl("ssh", machine.id[:6], "hostname").stdout == f"{machine.name}\n"


class Listing(BaseHTTPRequestHandler):
    """An API that knows one machine, and no units."""

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
        """Say nothing."""


@pytest.fixture
def tls_endpoint(person: RemotePerson, tmp_path: Path) -> Iterator[str]:
    """An https endpoint that the bastion reaches; its certificate is `ca.pem`."""
    address = person.cluster.network.address
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


def test_tls_goes_through_the_tunnel_end_to_end_over_one_connection(
    person: RemotePerson, tls_endpoint: str, tmp_path: Path
) -> None:
    person.environment["FLEETCTL_ENDPOINT"] = tls_endpoint
    trusted = f"--ca-file={tmp_path / 'ca.pem'}"
    assert person.fleetctl("list-machines", "--no-legend", trusted).stdout == "01234567...\t192.0.2.1\t-\n"
    assert person.fleetctl("list-units", "--no-legend", trusted).returncode == 0
    assert len(Listing.connections) == 2  # one a command, though list-units makes two requests
    untrusted = person.fleetctl("list-machines")
    assert (untrusted.returncode, untrusted.stdout, untrusted.stderr.count("\n")) == (1, "", 1)
    assert "self-signed certificate; --ca-file names the authority that signed its certificate" in untrusted.stderr


@pytest.mark.covers("3.3.7")
@pytest.mark.parametrize(
    ("tunnel", "complaint"),
    [
        ("{bastion}:23", "cannot connect to root@{bastion} port 23: connection refused; check that an SSH server"),
        (f"{{bastion}}:{API_PORT}", f"root@{{bastion}} port {API_PORT} does not complete the SSH handshake: "),
        ("nonesuch.invalid", "cannot connect to root@nonesuch.invalid port 22: "),
        ("[::1", '"[::1" is not a host: write HOST, HOST:PORT or [ADDRESS]:PORT'),
    ],
)
def test_a_bastion_that_is_not_there_is_one_line(person: RemotePerson, tunnel: str, complaint: str) -> None:
    person.environment["FLEETCTL_TUNNEL"] = tunnel.format(bastion=person.bastion.address)
    refused = person.fleetctl("list-machines")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    wanted = complaint.format(bastion=person.bastion.address)
    assert refused.stderr.startswith(f"Unable to initialize client: failed initializing SSH client: {wanted}")


@pytest.mark.covers("3.3.9", "3.10.5")
def test_an_sshd_that_does_not_answer_is_given_up_in_time(person: RemotePerson) -> None:
    daemon = person.bastion.main_pid("ssh.service")
    person.bastion.run(["kill", "-STOP", str(daemon)])
    try:
        begun = time.monotonic()
        refused = person.fleetctl("--ssh-timeout=1.5", "list-machines")
        took_s = time.monotonic() - begun
    finally:
        person.bastion.run(["kill", "-CONT", str(daemon)])
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "timed out while initiating SSH connection to root@" in refused.stderr
    assert took_s < 6


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
def test_an_api_that_is_not_there_is_told_from_a_bastion_that_is_not(
    person: RemotePerson, endpoint: str, complaint: str
) -> None:
    person.environment["FLEETCTL_ENDPOINT"] = endpoint
    refused = person.fleetctl("list-machines")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith("Error retrieving list of active machines from fleet API (cannot reach fleetd at")
    assert complaint in refused.stderr


@pytest.mark.covers("3.4.1")
def test_a_bastion_without_fleetctl_is_told_so(person: RemotePerson) -> None:
    program = person.bastion.path("/usr/bin/fleetctl")
    target = program.readlink()
    program.unlink()
    try:
        refused = person.fleetctl("list-machines")
    finally:
        program.symlink_to(target)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "fleetctl: command not found; fleetctl must be installed there" in refused.stderr


@pytest.mark.covers("10.3.10")
def test_a_tunnel_that_dies_in_the_middle_is_one_error(person: RemotePerson) -> None:
    (person.home / "slow.service").write_text(SLOW)
    process = person.spawn("start", str(person.home / "slow.service"))
    person.cluster.wait_until(
        "the unit starts", lambda: "\tactivating\t" in person.cluster.fleetctl("list-units").stdout
    )
    kill_sessions(person.bastion)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (1, "Unit slow.service inactive\n")
    assert stderr.count("\n") == 1
    assert stderr.startswith(
        f"Error waiting for units: the connection to root@{person.bastion.address} port 22 was lost"
    )


@pytest.mark.covers("3.10.22")
def test_a_session_that_dies_in_the_middle_is_one_error(person: RemotePerson) -> None:
    person.starts(web=GREETER)
    (machine,) = person.places("web.service")
    for arguments, begun, failed in (
        (["ssh", machine.id[:6], "echo begun; sleep 300"], "begun\n", "Failed running command over SSH"),
        (["journal", "-f", "--output=cat", "-n1", "web"], "", "Unable to SSH to remote host"),
    ):
        process = person.spawn(*arguments)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == begun or not begun
        kill_sessions(machine)
        _, stderr = process.communicate(timeout=20)
        assert (process.returncode, stderr.count("\n")) == (255, 1)
        assert stderr.startswith(f"{failed}: the connection to root@{machine.address} port 22 (through root@")


def kill_sessions(machine: Machine) -> None:
    """Kill the processes of sshd that serve somebody, not the one that listens."""
    rows = machine.run(["ps", "-eo", "pid,args"]).stdout.splitlines()
    sessions = [row.split()[0] for row in rows if re.search(r"\d sshd: root", row)]
    assert sessions
    machine.run(["kill", "-KILL", *sessions], check=False)  # one of them may end by itself before its turn


def test_a_fleetd_that_is_restarted_is_waited_for(person: RemotePerson) -> None:
    (person.home / "slow.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/sleep 4\n")
    process = person.spawn("start", str(person.home / "slow.service"))
    person.cluster.wait_until(
        "the unit starts", lambda: "\tactivating\t" in person.cluster.fleetctl("list-units").stdout
    )
    person.bastion.run(["systemctl", "restart", "fleet.service"])
    stdout, stderr = process.communicate(timeout=40)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.splitlines()[-1].startswith("Unit slow.service launched on ")


def test_ctrl_c_through_the_tunnel_ends_with_130(person: RemotePerson) -> None:
    (person.home / "slow.service").write_text(SLOW)
    process = person.spawn("start", str(person.home / "slow.service"))
    person.cluster.wait_until(
        "the unit starts", lambda: "\tactivating\t" in person.cluster.fleetctl("list-units").stdout
    )
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (130, "\n")


@pytest.mark.covers("3.10.4", "10.3.6")
def test_a_machine_behind_the_bastion_is_checked_by_its_own_key(person: RemotePerson) -> None:
    machine = person.cluster.machines[0]
    person.knows(person.bastion)
    refused = person.fleetctl("ssh", machine.id[:6], "true")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert (
        f"unauthorized host: the ssh-ed25519 key of root@{machine.address} port 22 "
        f"(through root@{person.bastion.address} port 22) "
    ) in refused.stderr
    person.knows(person.bastion, machine)
    assert person.fleetctl("ssh", machine.id[:6], "true").returncode == 0
