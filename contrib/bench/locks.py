"""How long a lock takes from one holder to the next: `python -m contrib.bench.locks`, beside etcdctl in the same run.

Each holder is a process (`fleetctl lock`, `etcdctl lock`) that runs `cat` on a FIFO; the clock runs from the end of
that to the first output of the command of the one that waited. So it includes what both programs take to see the end of
a command, to release the lock, and to start a command.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from contrib.testbed.etcd import EtcdServer
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.registry.registry import Registry
from fleetd.store.etcd import EtcdStore

SETTLED_S = 1.0  # for a process to stand in line
LOCK = "bench"


async def measure(command: Sequence[str], environment: Mapping[str, str], directory: Path, rounds: int) -> list[float]:
    """Seconds of each hand-over of the lock that the command takes."""
    took_s = []
    before = await _start(command, environment, directory / "fifo0")
    await _held(before)
    for number in range(1, rounds + 1):
        after = await _start(command, environment, directory / f"fifo{number}")
        await asyncio.sleep(SETTLED_S)
        began_s = time.monotonic()
        _end(directory / f"fifo{number - 1}")
        await _held(after)
        took_s.append(time.monotonic() - began_s)
        await before.wait()
        before = after
    _end(directory / f"fifo{rounds}")
    await before.wait()
    return took_s


async def _start(command: Sequence[str], environment: Mapping[str, str], fifo: Path) -> Process:
    with suppress(FileNotFoundError):
        fifo.unlink()
    os.mkfifo(fifo)
    words = (*command, "--", "sh", "-c", f"echo held; cat {fifo}")
    environment = {**os.environ, **environment}
    return await asyncio.create_subprocess_exec(*words, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)


async def _held(process: Process) -> None:
    assert process.stdout is not None
    if await process.stdout.readline() != b"held\n":
        raise RuntimeError("a process that waits for the lock has ended")


def _end(fifo: Path) -> None:
    with fifo.open("w"):
        pass


async def run(rounds: int) -> None:
    """Measure both, and print it."""
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        etcd = EtcdServer(directory / "etcd").start()
        store = EtcdStore([etcd.client_url], request_timeout_s=10)
        try:
            registry = Registry(store)
            now = asyncio.get_running_loop().time
            epoch = StoreEpoch(registry, "bench", now=now)
            epoch.accept(await epoch.check(0, await store.revision()))
            server = Server(Api(registry, epoch=epoch, now=now))
            await server.start([Address(path=str(directory / "fleet.sock"))], insecure=False)
            etcdctl = ("etcdctl", f"--endpoints={etcd.client_url}", "lock", f"/{LOCK}")
            fleetctl = (sys.executable, "-m", "fleetctl.cli", f"--endpoint=unix://{directory}/fleet.sock", "lock", LOCK)
            theirs = await measure(etcdctl, {"ETCDCTL_API": "3"}, directory, rounds)
            ours = await measure(fleetctl, {}, directory, rounds)
            await server.stop()
        finally:
            await store.close()
            etcd.stop()
    for name, took_s in (("etcdctl lock", theirs), ("fleetctl lock", ours)):
        print(f"{name}: median {statistics.median(took_s) * 1000:.1f} ms, longest {max(took_s) * 1000:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.locks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="hand-overs of each program (20)")
    asyncio.run(run(parser.parse_args().rounds))
