"""The API in a process of its own, whose memory and descriptors can be read from outside and whose clock can be moved
forward.

`python -m tests.api.served_process ADDRESS MAX_CONNECTIONS UNITS` serves UNITS units until it is killed. Each SIGUSR1
moves its clock forward by STEP_S.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contrib.testbed.etcd import free_port
from fleetd.api.connection_limits import ConnectionLimiter
from fleetd.api.routes import Api
from fleetd.api.server import CLIENT_TIMEOUT_S, Server
from fleetd.config.values import parse_address
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from tests.api.served import LOOPBACK

START_S = 20.0
STEP_S = CLIENT_TIMEOUT_S / 2
_SERVING = "serving"
_PASSED = "time has passed"


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved forward."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    def pass_time(self) -> None:
        self.ahead_s += STEP_S
        print(_PASSED, flush=True)


async def _serve(path: str, max_connections: int, units: int) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    loop.add_signal_handler(signal.SIGUSR1, loop.pass_time)
    store = EmbeddedStore(":memory:", offload=inline)
    registry = Registry(store)
    for number in range(units):
        await registry.write_unit(Unit(f"u{number:05}.service", f"[A]\nB={'x' * 1000}\n", TargetState.LAUNCHED), None)
    server = Server(Api(registry), limiter=ConnectionLimiter(max_connections) if max_connections else None)
    await server.start([parse_address(path)], insecure=True)
    print(_SERVING, flush=True)
    await asyncio.Event().wait()


class ServedProcess:
    """A running process that serves the API."""

    def __init__(self, process: subprocess.Popen[bytes], path: str, log: Path) -> None:
        self.path = path
        self._pid = process.pid
        self._log = log

    @property
    def memory_mib(self) -> float:
        """Its resident memory in bytes."""
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

    @property
    def descriptors(self) -> int:
        """The number of its open descriptors."""
        return len(os.listdir(f"/proc/{self._pid}/fd"))

    @property
    def log(self) -> str:
        """Its output so far."""
        return self._log.read_text()

    def pass_time(self) -> None:
        """Move its clock forward by STEP_S."""
        before = self.log.count(_PASSED)
        os.kill(self._pid, signal.SIGUSR1)
        began = time.monotonic()
        while self.log.count(_PASSED) == before:
            assert time.monotonic() - began < START_S
            time.sleep(0.005)


@contextmanager
def served_process(
    folder: Path,
    max_connections: int = 2048,
    *,
    over_tcp: bool = False,
    max_descriptors: int = 4096,
) -> Iterator[ServedProcess]:
    """Start one for a test, and end it afterwards. `max_connections` 0 leaves the bound to it."""
    path = f"{LOOPBACK}:{free_port()}" if over_tcp else str(folder / "fleet.sock")
    log, units = folder / "log", 300
    arguments = [path, str(max_connections), str(units)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["prlimit", f"--nofile={max_descriptors}", sys.executable, "-m", "tests.api.served_process", *arguments],
            stdout=output,
            stderr=output,
        )
    try:
        began = time.monotonic()
        while _SERVING not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - began < START_S
            time.sleep(0.02)
        yield ServedProcess(process, path, log)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(_serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
