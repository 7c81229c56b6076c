"""One real etcd server, and what can happen to it: stopped, killed, frozen, restored from a snapshot.

Works for an ordinary user on loopback as well as on a testbed's bridge. It knows nothing of machines.
"""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


class EtcdServer:
    """An etcd with one member. Its data stay in `directory` from one start to the next; its ports stay the same."""

    def __init__(self, directory: Path, *, address: str = "127.0.0.1", arguments: Sequence[str] = ()) -> None:
        self.directory = directory
        self.address = address
        self.arguments = tuple(arguments)
        self.client_port, self._peer_port = _free_ports(address, 2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where clients find it, such as http://127.0.0.1:2379."""
        return f"http://{self.address}:{self.client_port}"

    @property
    def log_path(self) -> Path:
        return self.directory / "etcd.log"

    def start(self) -> None:
        """Start it, and return when it serves. Raises TimeoutError with the end of its log."""
        assert self._process is None, "this etcd runs already"
        self.directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_healthy()

    def stop(self) -> None:
        """End it in order (SIGTERM); to stop one that does not run is no error."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop its clock: connections stay open and nothing answers, until thaw()."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._running().pid, signal.SIGCONT)

    def ctl(self, *arguments: str, timeout_s: float = 10.0) -> str:
        """Run etcdctl on it; its standard output. Raises CalledProcessError."""
        return _etcdctl("--endpoints", self.endpoint, *arguments, timeout_s=timeout_s)

    def save(self, snapshot: Path) -> None:
        """Write what it holds to a file, as a backup does."""
        self.ctl("snapshot", "save", str(snapshot))

    def restore(self, snapshot: Path) -> None:
        """Go back to a snapshot: stop, put the data in place, start. The cluster id stays, revisions repeat."""
        self.stop()
        self._data.rename(self.directory / f"data.before-restore.{time.monotonic_ns()}")
        peer = f"http://{self.address}:{self._peer_port}"
        member = ("--name=testbed", f"--initial-cluster=testbed={peer}", f"--initial-advertise-peer-urls={peer}")
        _etcdctl("snapshot", "restore", str(snapshot), f"--data-dir={self._data}", *member)
        self.start()

    def __enter__(self) -> "EtcdServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _command(self) -> list[str]:
        peer = f"http://{self.address}:{self._peer_port}"
        return [
            "etcd",
            "--name=testbed",
            f"--data-dir={self._data}",
            f"--listen-client-urls={self.endpoint}",
            f"--advertise-client-urls={self.endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=testbed={peer}",
            *self.arguments,
        ]

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "this etcd does not run"
        return self._process

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)  # a frozen process acts on SIGTERM only once it goes on
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _wait_until_healthy(self) -> None:
        # No proxy: a proxy of this environment must not be asked for an address of this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._running().poll() is None:
            try:
                with opener.open(f"{self.endpoint}/health", timeout=2.0) as answer:
                    if b"true" in answer.read():
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        self.kill()
        log = self.log_path.read_text(errors="replace").splitlines()
        raise TimeoutError(f"etcd did not come up at {self.endpoint}; the end of its log:\n" + "\n".join(log[-10:]))


def _etcdctl(*arguments: str, timeout_s: float = 10.0) -> str:
    environment = {**os.environ, "ETCDCTL_API": "3"}
    command = ["etcdctl", *arguments]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=timeout_s
    ).stdout


def _free_ports(address: str, count: int) -> list[int]:
    """Ports that nobody holds just now. All are held at once while asking, so that no two are the same."""
    sockets = [socket.create_server((address, 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports
