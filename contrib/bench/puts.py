"""`python -m contrib.bench.puts [--units N] [--clients N] [--machines N]`: units handed in one by one, by many clients.

Version 1 of the API takes a request for each unit, and that is what its clients send. Asked is a fleetd in a process of
its own, over a real etcd, with a systemd that is simulated: `api` alone, or a whole `node`, which also decides about
the units, starts them and publishes their states. Beside it stands the floor: bare transactions of the same etcd, one
for each unit, by as many clients. Processor time is told besides, which a busy machine does not change.
"""

import argparse
import asyncio
import cProfile
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec

from contrib.bench import floor
from contrib.bench.observer import Observer
from contrib.bench.process import cpu_s, observe_etcd
from contrib.bench.scale.worker import ScaleSystemd
from contrib.testbed import OWN_TIMEOUTS, Cluster, EtcdServer
from fleetd.api import schema
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.config import parse_config
from fleetd.config.options import Address
from fleetd.model.machine import Machine
from fleetd.model.unit_option import UnitOption
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.registry import Registry
from fleetd.store.etcd import EtcdStore
from fleetd.store.instrumented import InstrumentedStore
from fleetd.store.protocol import CreatedAt, Put

PATIENCE_S = 120.0
OPTIONS = (
    UnitOption("Unit", "Description", "One of many"),
    UnitOption("Service", "ExecStart", "/bin/sleep infinity"),
)
TEXT = "[Unit]\nDescription=One of many\n[Service]\nExecStart=/bin/sleep infinity\n"
VALUE = b"x" * 150  # about what a unit's record takes
KINDS = ("api", "node")
SHOWN = 45
MACHINE = "1" * 32
MADE, DONE = 201, 204


class Used(msgspec.Struct, frozen=True):
    """What the asked process says at its end: processor time while it was asked, in seconds, and transactions."""

    cpu_s: float
    transactions: int


class CountingStore(EtcdStore):
    """An etcd store that counts its transactions."""

    transactions = 0

    async def transact(self, *arguments: object) -> int:
        self.transactions += 1
        return await super().transact(*arguments)  # type: ignore[arg-type]


async def serve(kind: str, etcd_url: str, directory: Path, profile: bool) -> None:
    """Be the asked process: say when it serves; when a line comes, measure from there; when input ends, say what was
    used."""
    store = CountingStore([etcd_url], request_timeout_s=30.0)
    node = None
    if kind == "node":
        config = parse_config("", "bench", {}, {})[0]
        surroundings = HostEnvironment(runtime=directory / "run")
        node = Node(config, InstrumentedStore(store), ScaleSystemd(), Machine(MACHINE, session="s"), surroundings)
        node.start()
        await node.membership.registered.wait()
    server = Server(node.api if node else Api(Registry(InstrumentedStore(store))))
    await server.start([Address(path=str(directory / "fleet.sock"))], insecure=False)
    loop, profiler = asyncio.get_running_loop(), cProfile.Profile(time.process_time)
    await asyncio.sleep(1 if node else 0)  # until a machine leads
    print("serves", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    store.transactions, before = 0, _cpu_s()
    with profiler if profile else nullcontext():
        await loop.run_in_executor(None, sys.stdin.read)
    used = Used(_cpu_s() - before, store.transactions)
    if profile:
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(SHOWN)
    print(msgspec.json.encode(used).decode(), flush=True)
    await server.stop()
    if node:
        await node.close()
    else:
        await store.close()


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def put_all(socket: Path, names: Iterator[str]) -> None:
    """One client: a connection, and one request after the other, by hand, which costs the machine little."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    for name in names:
        body = msgspec.json.encode(schema.Unit(name, OPTIONS, desired_state="launched"))
        head = f"PUT {schema.V1}/units/{name} HTTP/1.1\r\nHost: fleet\r\nContent-Type: {schema.JSON_TYPE}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if int(answer.split()[1]) not in (MADE, DONE):
            raise RuntimeError(f"{name} is refused: {answer.decode()}")
    writer.close()


async def time_clients(clients: int, names: list[str], client: Callable[[Iterator[str]], Awaitable[None]]) -> float:
    """How long so many clients take who share the work, in seconds."""
    shared = iter(names)
    began = time.monotonic()
    await asyncio.gather(*(client(shared) for _ in range(clients)))
    return time.monotonic() - began


async def measure_floor(etcd_url: str, clients: int, names: list[str]) -> float:
    store = EtcdStore([etcd_url], request_timeout_s=30.0)

    async def transact_all(names: Iterator[str]) -> None:
        for name in names:
            await store.transact([CreatedAt(f"/floor/{name}", 0)], [Put(f"/floor/{name}", VALUE)])

    try:
        await transact_all(iter(["first"]))
        return await time_clients(clients, names, transact_all)
    finally:
        await store.close()


async def measure(kind: str, etcd: EtcdServer, directory: Path, arguments: argparse.Namespace) -> str:
    """One line on a new fleetd of this kind."""
    names = [f"{kind}-{number:04}.service" for number in range(arguments.units)]
    command = [sys.executable, "-m", "contrib.bench.puts", "--serve", kind, "--etcd", etcd.client_url]
    command += ["--directory", str(directory), *(["--profile"] if arguments.profile else [])]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    if await process.stdout.readline() != b"serves\n":
        raise RuntimeError("it does not serve")
    before = observe_etcd(etcd.client_url).cpu_s
    async with Observer(etcd.client_url) as observer:
        process.stdin.write(b"go\n")
        began = time.monotonic()
        took_s = await time_clients(arguments.clients, names, lambda each: put_all(directory / "fleet.sock", each))
        active_s = await observer.until_active(names, PATIENCE_S) - began if kind == "node" else None
    process.stdin.close()
    used = msgspec.json.decode(await process.stdout.readline(), type=Used)
    await process.wait()
    etcd_s = observe_etcd(etcd.client_url).cpu_s - before
    return render(kind, took_s, active_s, used.cpu_s, etcd_s, used.transactions)


async def measure_machines(arguments: argparse.Namespace) -> None:
    """The same of real machines, by the API of the first; systemd alone on them is the floor of what comes after."""
    with Cluster(machines=arguments.machines) as cluster:
        etcd, names = cluster.etcd, [f"put-{number:04}.service" for number in range(arguments.units)]
        alone_s = floor.start_alone(cluster.machines, [f"alone-{name}" for name in names], TEXT)
        print(render("systemd", None, alone_s, None, 0.0, 0), flush=True)
        before = observe_etcd(etcd.client_url).cpu_s, sum(map(cpu_s, cluster.machines))
        async with Observer(etcd.client_url) as observer:
            began = time.monotonic()
            socket = cluster.machines[0].path("/run/fleet.sock")
            took_s = await time_clients(arguments.clients, names, lambda each: put_all(socket, each))
            active_s = await observer.until_active(names, PATIENCE_S) - began
        fleetd_s = sum(map(cpu_s, cluster.machines)) - before[1]
        etcd_s = observe_etcd(etcd.client_url).cpu_s - before[0]
        print(render("machines", took_s, active_s, fleetd_s, etcd_s, 0), flush=True)


def render(
    what: str, took_s: float | None, active_s: float | None, fleetd_s: float | None, etcd_s: float, writes: int
) -> str:
    """A line of the table."""
    times = (took_s, active_s, fleetd_s, etcd_s)
    return f"{what:12}" + "".join(f"{'':>11}" if each is None else f"{each:>9.3f} s" for each in times) + f"{writes:>8}"


async def measure_all(arguments: argparse.Namespace) -> None:
    print(f"{arguments.units} units, {arguments.clients} clients; wall clock, then processor time")
    print(f"{'':12}{'accepted':>11}{'active':>11}{'fleetd':>11}{'etcd':>11}  writes", flush=True)
    # fleetd keeps its ledger in memory, below /run; etcd writes to a disk
    with tempfile.TemporaryDirectory() as data, tempfile.TemporaryDirectory(dir="/dev/shm") as runtime:
        directory = Path(runtime)
        with EtcdServer(Path(data, "etcd"), extra_args=OWN_TIMEOUTS) as etcd:
            names = [f"{number:04}" for number in range(arguments.units)]
            before = observe_etcd(etcd.client_url).cpu_s
            took_s = await measure_floor(etcd.client_url, arguments.clients, names)
            etcd_s = observe_etcd(etcd.client_url).cpu_s - before
            print(render("bare etcd", took_s, None, None, etcd_s, arguments.units), flush=True)
            for kind in arguments.kind or KINDS:
                print(await measure(kind, etcd, directory, arguments), flush=True)
    if arguments.machines:
        await measure_machines(arguments)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.puts", description=__doc__)
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this; may be repeated")
    parser.add_argument("--machines", type=int, default=0, help="ask real machines too, so many of them; takes root")
    parser.add_argument("--profile", action="store_true", help="show on what the asked process spends its time")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--etcd", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.serve, arguments.etcd, arguments.directory, arguments.profile))
    else:
        asyncio.run(measure_all(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
