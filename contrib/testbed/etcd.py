"""One real etcd server that can be stopped, killed, frozen, wiped and restored from a snapshot.

It runs for an ordinary user on loopback, or on a testbed's bridge. Its timeouts are a quarter of etcd's defaults, so
that elections and the shortest lease take a second. OWN_TIMEOUTS are the defaults, for measurements of etcd's cost:
with the short ones it uses twice as much processor time at rest.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_READY = "ready to serve client requests"
START_TIMEOUT_S = 20.0
PORTS = range(20_000, 32_768)  # below the ports of outgoing connections (net.ipv4.ip_local_port_range)
OWN_TIMEOUTS = ("--heartbeat-interval", "100", "--election-timeout", "1000")


def etcd_is_installed() -> bool:
    return shutil.which("etcd") is not None


def _random_port() -> int:
    return secrets.choice(PORTS)


def free_port(address: str = "127.0.0.1", choose: Callable[[], int] = _random_port) -> int:
    """A TCP port that no process listens on, outside the range of outgoing connections. No other call returns it, in
    any process and for any address, until this process has ended."""
    while True:
        port = choose()
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((address, port))
            _reserve(port)
            return port


def _reserve(port: int) -> None:
    """Reserve a port for this process. Raises OSError if it is reserved.

    An abstract unix socket name (unix(7)) has one owner in a network namespace, as a port does, and the kernel releases
    it when the process ends.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name:
        name.bind(f"\0fleet-testbed-port-{port}")
        name.detach()  # it stays open until the process ends


class EtcdServer:
    """One member of etcd. It keeps its ports and data over stop and start; its log is beside the data. As a context
    manager it runs within the block.

    `members`: name → peer URL, for a cluster of several members. `extra_args` are passed to etcd.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        name: str = "default",
        address: str = "127.0.0.1",
        client_port: int = 0,
        peer_port: int = 0,
        client_scheme: str = "http",
        members: Mapping[str, str] | None = None,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.address = address
        self.data_dir = data_dir
        self.log_file = data_dir.with_name(data_dir.name + ".log")
        self.client_url = f"{client_scheme}://{address}:{client_port or free_port(address)}"
        self.peer_url = f"http://{address}:{peer_port or free_port(address)}"
        self._members = members
        self._extra_args = tuple(extra_args)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_read_from = 0

    def __enter__(self) -> "EtcdServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    def command(self) -> list[str]:
        members = self._members or {self.name: self.peer_url}
        return [
            "etcd",
            *("--name", self.name),
            *("--data-dir", str(self.data_dir)),
            *("--listen-client-urls", self.client_url),
            *("--advertise-client-urls", self.client_url),
            *("--listen-peer-urls", self.peer_url),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", ",".join(f"{name}={url}" for name, url in members.items())),
            *("--heartbeat-interval", "50"),
            *("--election-timeout", "250"),
            *self._extra_args,
        ]

    def start(self) -> "EtcdServer":
        """Start it and wait until it serves."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        """Start it without waiting: members of a cluster become ready only together."""
        self._log_read_from = self.log_file.stat().st_size if self.log_file.exists() else 0
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is not for etcd, which is ended by its owner
            )

    def wait_until_ready(self) -> None:
        process = self._running()
        deadline = time.monotonic() + START_TIMEOUT_S
        while _READY not in (log := self._log_of_this_run()):
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"etcd does not become ready:\n{log[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Send SIGTERM and wait. Does nothing if it is stopped."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Freeze it until thaw(): connections stay open, and it does not answer."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        # One of its threads takes the signal when it gets a processor; until then the others still answer.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Delete its data, membership included."""
        shutil.rmtree(self.data_dir)

    def save(self, snapshot: Path) -> None:
        """Write a snapshot to a file, as a backup does."""
        self.etcdctl("snapshot", "save", str(snapshot))

    def restore(self, snapshot: Path) -> None:
        """Restore a snapshot: stop, replace the data, start. Afterwards revisions repeat."""
        self.stop()
        self.wipe()
        member = (f"--name={self.name}", f"--initial-cluster={self.name}={self.peer_url}")
        place = (f"--data-dir={self.data_dir}", f"--initial-advertise-peer-urls={self.peer_url}")
        self.etcdctl("snapshot", "restore", str(snapshot), *member, *place)
        self.start()

    def etcdctl(self, *arguments: str) -> str:
        """Run etcdctl against it. Return its standard output. Raises RuntimeError with its errors."""
        environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self.client_url}
        done = subprocess.run(["etcdctl", *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"etcdctl {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def revision(self) -> int:
        """The store's revision: it rises by one with each write."""
        return int(json.loads(self.etcdctl("get", "revision", "--write-out=json"))["header"]["revision"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"etcd {self.name} was not started")
        return self._process

    def _log_of_this_run(self) -> str:
        return self.log_file.read_bytes()[self._log_read_from :].decode("utf-8", "replace")

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
            self._process.send_signal(signal.SIGCONT)  # a frozen process takes no SIGTERM
        self._process.wait(START_TIMEOUT_S)
        self._process = None
