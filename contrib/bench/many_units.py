"""`python -m contrib.bench.many_units [--units N] [--store NAME]`: what the API and fleetctl cost in a large cluster.

The API is served over a store that is filled by hand: no machine is booted, no leader decides, so what is measured is
the API, its store and fleetctl alone. Beside it stands the floor: the same keys read raw, and their JSON parsed.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from contrib.bench.process import observe_etcd
from contrib.testbed import OWN_TIMEOUTS, EtcdServer
from fleetd.api import schema
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.model.machine import Machine
from fleetd.model.placement import Decision
from fleetd.model.reason import BEST
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unitfile import UnitFile, hash_unit_file
from fleetd.registry.records import STATES, UNITS, Kind, Record
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.etcd import EtcdStore
from fleetd.store.protocol import MAX_OPERATIONS, Store

TEXT = UnitFile.parse("[Unit]\nDescription=One of many\n\n[Service]\nExecStart=/bin/sleep infinity\n").text
PAGE = 100
STARTED = 500
Row = tuple[str, float, float, float, float, str]


class CountingStore:
    """Any store, with its requests, and the bytes of the keys and values that they carry, counted by kind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.requests: dict[str, int] = {}
        self.bytes = 0

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._store, name)

        async def counted(*arguments: Any, **options: Any) -> Any:
            answer = await operation(*arguments, **options)
            self.requests[name] = self.requests.get(name, 0) + 1
            for part in (*getattr(answer, "items", ()), *(arguments[1] if name == "transact" else ())):
                self.bytes += len(part.key) + len(getattr(part, "value", b""))
            return answer

        return counted

    def take(self) -> tuple[str, int]:
        """What was counted since this was asked last."""
        told = " ".join(f"{count} {name}" for name, count in sorted(self.requests.items())), self.bytes
        self.requests, self.bytes = {}, 0
        return told


class Bench:
    """One store, filled, with the API over it on a unix socket."""

    def __init__(self, store: CountingStore, etcd: EtcdServer | None, directory: Path, units: int) -> None:
        self.store = store
        self.registry = Registry(store)
        self.socket = directory / "fleet.sock"
        self.rows: list[Row] = []
        self._etcd = etcd
        self._directory = directory
        self._names = [f"u{number:05}.service" for number in range(units)]

    async def fill(self, machines: int) -> None:
        """Units, each decided for and active on its machine."""
        hash_ = hash_unit_file(TEXT)
        puts = [
            self.registry.put(
                Machine(f"{number:032x}", address=f"10.0.{number // 250}.{number % 250}"), f"{number:032x}"
            )
            for number in range(machines)
        ]
        for number, name in enumerate(self._names):
            machine = f"{number % machines:032x}"
            state = UnitState("loaded", "active", "running", hash_, TargetState.LAUNCHED, number + 1)
            puts.append(self.registry.put(Unit(name, TEXT, TargetState.LAUNCHED), name))
            puts.append(self.registry.put(Decision(name, 2**40, machine, since=1e9, reason=BEST), name))
            puts.append(self.registry.put(state, machine, name))
        for start in range(0, len(puts), MAX_OPERATIONS):
            await self.store.transact([], puts[start : start + MAX_OPERATIONS])
        self.store.take()

    def _cpu_s(self) -> tuple[float, float, float]:
        """The processor time of the API with its store's client (this process), of ended fleetctls, of etcd."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            time.process_time(),
            children.ru_utime + children.ru_stime,
            observe_etcd(self._etcd.client_url).cpu_s if self._etcd else 0.0,
        )

    async def measure(self, what: str, work: Any) -> None:
        """Do this, and note what it took."""
        self.store.take()
        before, began = self._cpu_s(), time.monotonic()
        await work
        took = time.monotonic() - began
        server, client, etcd = (after - earlier for after, earlier in zip(self._cpu_s(), before, strict=True))
        requests, size = self.store.take()
        self.rows.append((what, took, client, server, etcd, f"{requests or '-'}, {size / 1024:.0f} KiB"))

    async def fleetctl(self, *arguments: str) -> None:
        """Run a command to its end."""
        program = [sys.executable, "-m", "fleetctl.cli", f"--endpoint=unix://{self.socket}", "--request-timeout=60"]
        process = await asyncio.create_subprocess_exec(
            *program, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{arguments[:3]} ended with {process.returncode}: {said.decode()[-500:]}")

    async def get(self, session: aiohttp.ClientSession, path: str) -> Any:
        async with session.get(path, raise_for_status=True) as response:
            return msgspec.json.decode(await response.read())

    async def pages(self, session: aiohttp.ClientSession, path: str) -> None:
        """Every page of a listing, of the size that a client gets who does not ask for another."""
        token, joint = "", "&" if "?" in path else "?"
        while True:
            page = await self.get(
                session, f"{path}{joint}limit={PAGE}" + (f"&nextPageToken={quote(token)}" if token else "")
            )
            token = page.get("nextPageToken", "")
            if not token:
                return

    async def raw(self, kind: Kind[Record]) -> None:
        """The floor: the keys of a kind, read in one range, and the JSON in them parsed."""
        for item in (await self.store.range(self.registry.key(kind) + "/")).items:
            msgspec.json.decode(item.value)

    def _write_files(self) -> list[str]:
        names = [f"new{number:03}.service" for number in range(STARTED)]
        for name in names:
            (self._directory / name).write_text(TEXT)
        return [str(self._directory / name) for name in names]

    async def run(self) -> None:
        """All measures, in turn."""
        files = self._write_files()
        names = [Path(file).name for file in files]
        some = "&".join(f"name={name}" for name in self._names[:100])
        async with aiohttp.ClientSession("http://fleet", connector=aiohttp.UnixConnector(str(self.socket))) as http:
            await self.measure("floor: range of states", self.raw(STATES))
            await self.measure("floor: range of units", self.raw(UNITS))
            await self.measure("fleetctl list-units", self.fleetctl("list-units"))
            await self.measure("fleetctl list-unit-files", self.fleetctl("list-unit-files"))
            await self.measure("fleetctl list-machines", self.fleetctl("list-machines"))
            await self.measure("one page of 100 units", self.get(http, f"{schema.V1}/units?limit={PAGE}"))
            await self.measure("all units, pages of 100", self.pages(http, f"{schema.V1}/units"))
            await self.measure("one page of 100 states", self.get(http, f"{schema.V1}/state?limit={PAGE}"))
            await self.measure("all states, pages of 100", self.pages(http, f"{schema.V1}/state"))
            machine = f"{7:032x}"
            await self.measure("states of one machine", self.get(http, f"{schema.V1}/state?machineID={machine}"))
            await self.measure("states of one unit", self.get(http, f"{schema.V1}/state?unitName={self._names[7]}"))
            await self.measure("state of one unit", self.get(http, f"{schema.V1}/state/{self._names[7]}"))
            await self.measure("report on one unit", self.get(http, f"{schema.V2}/units?name={self._names[7]}"))
            await self.measure("report on 100 units", self.get(http, f"{schema.V2}/units?{some}"))
            await self.measure(f"fleetctl submit {STARTED} files", self.fleetctl("submit", *files))
            await self.measure(f"fleetctl start {STARTED}", self.fleetctl("start", "--no-block", *files))
            await self.measure(f"fleetctl stop {STARTED}", self.fleetctl("stop", "--no-block", *names))
            await self.measure(f"fleetctl destroy {STARTED}", self.fleetctl("destroy", "--no-block", *names))
            await self.measure(f"fleetctl start {STARTED} new files", self.fleetctl("start", "--no-block", *files))
            await self.measure("fleetctl cat of one unit", self.fleetctl("cat", self._names[7]))


@asynccontextmanager
async def open_store(kind: str, directory: Path) -> AsyncIterator[tuple[Store, EtcdServer | None]]:
    """A new store of this kind."""
    store: Store
    if kind == "embedded":
        store, etcd = EmbeddedStore(str(directory / "store.db")), None
    else:
        etcd = EtcdServer(directory / "etcd", extra_args=OWN_TIMEOUTS).start()
        store = EtcdStore([etcd.client_url], request_timeout_s=30.0)
    try:
        yield store, etcd
    finally:
        await store.close()
        if etcd:
            etcd.kill()


def render(rows: Sequence[Row]) -> Iterator[str]:
    """The table, one line a measure."""
    yield f"{'':32}{'wall':>9}{'client':>9}{'server':>9}{'etcd':>9}  store requests"
    for what, wall, client, server, etcd, requests in rows:
        yield f"{what:32}" + "".join(f"{took:>8.3f}s" for took in (wall, client, server, etcd)) + f"  {requests}"


async def measure_store(kind: str, units: int, machines: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with open_store(kind, Path(directory)) as (store, etcd):
            bench = Bench(CountingStore(store), etcd, Path(directory), units)
            await bench.fill(machines)
            server = Server(Api(bench.registry))
            await server.start([Address(path=str(bench.socket))], insecure=False)
            try:
                await bench.run()
            finally:
                print(f"\n{units} units on {machines} machines, {kind}:", *render(bench.rows), sep="\n", flush=True)
                await server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.many_units", description=__doc__)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--machines", type=int, default=1_000)
    parser.add_argument("--store", action="append", choices=("etcd", "embedded"), help="only this; may be repeated")
    arguments = parser.parse_args()
    for kind in arguments.store or ("etcd", "embedded"):
        asyncio.run(measure_store(kind, arguments.units, arguments.machines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
