"""An operator who uses fleetctl over SSH, with keys, known hosts, an SSH agent and a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine

FLEETCTL = f"{sys.prefix}/bin/fleetctl"
TIMEOUT_S = 60

Done = subprocess.CompletedProcess[str]


def is_open(port: int) -> bool:
    """True if something listens on this port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class RemoteOperator:
    """An operator with a directory of known hosts, SSH configuration and keys, and a way to reach the cluster."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.cluster = cluster
        self.home = home
        (home / ".ssh").mkdir()
        self.environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        self.environment |= {"HOME": str(home), "TERM": "xterm", "FLEETCTL_SSH_USERNAME": "root"}
        self.reach_by_socket()

    @property
    def bastion(self) -> Machine:
        return self.cluster.machines[2]

    def reach_by_socket(self) -> None:
        """A machine's API, through its unix socket."""
        self.environment["FLEETCTL_ENDPOINT"] = f"unix://{self.cluster.machines[0].path('/run/fleet.sock')}"

    def reach_by_tunnel(self, endpoint: str = "") -> None:
        """The bastion's API: its unix socket, unless another endpoint is given."""
        self.environment.pop("FLEETCTL_ENDPOINT")
        self.environment["FLEETCTL_TUNNEL"] = self.bastion.address
        if endpoint:
            self.environment["FLEETCTL_ENDPOINT"] = endpoint

    def write_known_hosts(self, *machines: Machine, text: str = "") -> Path:
        """Write known_hosts: the output of ssh-keyscan for these machines (default: all), or a text."""
        path = self.home / ".fleetctl" / "known_hosts"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        addresses = [machine.address for machine in machines or self.cluster.machines]
        path.write_text(
            text or subprocess.run(["ssh-keyscan", *addresses], check=True, capture_output=True, text=True).stdout
        )
        return path

    def wait_for_published_keys(self) -> None:
        """Wait until every machine publishes host keys."""
        self.cluster.wait_until(
            "all host keys published", lambda: len(self._publishing()) == len(self.cluster.machines)
        )

    @contextmanager
    def unpublished_keys(self) -> Iterator[None]:
        """Machines that publish no host keys: fleetd reads the public files, sshd does not need them."""
        for machine in self.cluster.machines:
            machine.run(["sh", "-c", "mkdir /etc/ssh/kept && mv /etc/ssh/ssh_host_*_key.pub /etc/ssh/kept"])
        self.cluster.wait_until("no host keys published", lambda: not self._publishing())
        yield
        for machine in self.cluster.machines:
            machine.run(["sh", "-c", "mv /etc/ssh/kept/* /etc/ssh && rmdir /etc/ssh/kept"])
        self.wait_for_published_keys()

    def _publishing(self) -> list[object]:
        """The host keys of each machine that publishes some."""
        url = "http://fleet/fleet/v2/host-keys"
        ask = ["curl", "-s", "-f", "--unix-socket", "/run/fleet.sock", url]
        found: list[object] = json.loads(self.cluster.machines[0].run(ask).stdout)["hostKeys"]
        return found

    def install_key(self) -> None:
        """The path of the key that logs in, where keys usually are."""
        (self.home / ".ssh/id_ed25519").write_bytes(self.cluster.ssh_key.read_bytes())
        (self.home / ".ssh/id_ed25519").chmod(0o600)

    @contextmanager
    def ssh_agent(self, key: Path | None = None) -> Iterator[None]:
        """Start an SSH agent that holds a key (default: the one that logs in)."""
        path = self.home / "agent.sock"
        said = subprocess.run(["ssh-agent", "-s", "-a", path], check=True, capture_output=True, text=True).stdout
        self.environment["SSH_AUTH_SOCK"] = str(path)
        try:
            subprocess.run(
                ["ssh-add", "-q", key or self.cluster.ssh_key], check=True, capture_output=True, env=self.environment
            )
            yield
        finally:
            self.environment.pop("SSH_AUTH_SOCK", None)
            os.kill(int(said.partition("SSH_AGENT_PID=")[2].partition(";")[0]), signal.SIGTERM)

    @contextmanager
    def forwarded_port(self, there: int) -> Iterator[int]:
        """A port of this host that ssh forwards to one of the bastion's loopback."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            here = free.getsockname()[1]
        options = ["-i", self.cluster.ssh_key, "-o", f"UserKnownHostsFile={self.home}/.fleetctl/known_hosts"]
        forward = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{here}:127.0.0.1:{there}"]
        with subprocess.Popen(["ssh", *options, *forward, f"root@{self.bastion.address}"]) as ssh:
            try:
                self.cluster.wait_until("the port is forwarded", lambda: is_open(here))
                yield here
            finally:
                ssh.terminate()

    def write_ssh_config(self, text: str) -> None:
        (self.home / ".ssh/config").write_text(text)

    def fleetctl(self, *arguments: str, stdin: str = "", timeout_s: float = TIMEOUT_S) -> Done:
        """Run the command without a terminal."""
        return subprocess.run(
            [FLEETCTL, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            start_new_session=True,
            check=False,
        )

    def spawn(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start the command without a terminal."""
        return subprocess.Popen(
            [FLEETCTL, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, **units: str) -> None:
        """Start units, named without `.service`; `web_1` stands for web@1.service of the template web@."""
        for name, text in units.items():
            unit = name.replace("_", "@")
            (self.home / f"{unit.rstrip('0123456789')}.service").write_text(text)
            done = self.fleetctl("start", str(self.home / f"{unit}.service"))
            assert done.returncode == 0, done.stderr
        self.cluster.wait_until("all of them active", self._all_active)

    def _all_active(self) -> bool:
        states = self.fleetctl("list-units", "--no-legend", "--fields=active").stdout.split()
        return bool(states) and set(states) == {"active"}

    def machines_of(self, unit: str) -> list[Machine]:
        rows = self.fleetctl("list-units", "--no-legend", "--full", "--fields=unit,machine").stdout.splitlines()
        found = [row.split()[1].partition("/")[0] for row in rows if row.split()[0] == unit]
        return [self.cluster.machine(machine) for machine in sorted(found)]


class Terminal:
    """A terminal that fleetctl runs in."""

    def __init__(self, operator: RemoteOperator, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(FLEETCTL, ["fleetctl", *arguments], operator.environment)
        self.resize(rows, columns)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str, timeout_s: float = 20.0) -> str:
        """Read until the pattern appears. Return what was read up to its end."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.search(pattern, self.seen)):
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.fd], [], [], left_s)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def status(self) -> int:
        """The exit status, after the program has ended."""
        while True:
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # how a terminal reports that no process has it open
                os.close(self.fd)
                return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
