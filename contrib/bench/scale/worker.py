"""A process full of machines: real Nodes (fleetd/process/node.py) over the real etcd, each with a simulated systemd.

Its first line of input says which machines (Task), each further one asks for something; each is answered by one line.
"""

import asyncio
import logging
import os
import resource
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from contrib.bench.scale.request_counts import Counts, RequestCounts
from contrib.bench.scale.trust import LOOPBACK, Certificates
from fleetd.api.server import Server
from fleetd.config.config import parse_config
from fleetd.config.options import Address
from fleetd.model.machine import Machine
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.process.worker_store import servers_in_turn
from fleetd.registry.records import KeySpace
from fleetd.store.etcd import EtcdStore
from fleetd.store.instrumented import InstrumentedStore
from fleetd.store.protocol import Store
from fleetd.store.worker import WorkerStore
from fleetd.systemd.protocol import UnitStatus
from fleetd.testing.simulated_systemd import SimulatedSystemd

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LINE_LIMIT = 1 << 20
JOINING = 10  # machines at a time: more would only queue up at the processor that they share here, and miss their beats


class Task(msgspec.Struct, frozen=True):
    """Be the machines numbered `first` and so on. `directory` is where they keep their ledgers and this process its
    log; `socket` is where the first machine's API is served, '' for nowhere. With `port` the first machine is a server
    of workers there (0: it is none); with `servers`, URLs, all are workers of these."""

    etcd_url: str
    first: int
    count: int
    ttl_s: float
    directory: str
    socket: str = ""
    port: int = 0
    servers: tuple[str, ...] = ()


class Cut(msgspec.Struct, frozen=True, tag=True):
    """These machines lose their power."""

    machines: tuple[int, ...]


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Say what this process has used."""


Request = Cut | Tell


class Used(msgspec.Struct, frozen=True):
    """What the process has used since its start: processor time in seconds, requests to the store; and the memory that
    it holds now."""

    cpu_s: float
    resident_mib: float
    counts: Counts


class ScaleSystemd(SimulatedSystemd):
    """A simulated systemd that remembers nothing of what it was asked: there are many, for long."""

    async def observe(self, names: Collection[str]) -> Mapping[str, UnitStatus]:
        self.calls.clear()
        return await super().observe(names)


def machine_id(number: int) -> str:
    """Machines have ids of 32 hexadecimal digits, and the first few tell them apart in lists."""
    return f"{number:08x}" + "c" * 24


class SimulatedMachines:
    """The machines of one process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._counts = RequestCounts()
        self._nodes: dict[int, Node] = {}
        self._server: Server | None = None
        # Without workers no certificate is made.
        self._certificates = Certificates(Path(task.directory)) if task.port or task.servers else None

    async def join(self) -> None:
        """Switch on all machines, wait until they are registered, and serve the API of the first if it is to be."""
        joining = asyncio.Semaphore(JOINING)
        numbers = range(self._task.first, self._task.first + self._task.count)
        await asyncio.gather(*(self._join_one(number, joining) for number in numbers))
        task = self._task
        addresses = [Address(path=task.socket)] if task.socket else []
        addresses += [Address(host=LOOPBACK, port=task.port, tls=True)] if task.port else []
        if addresses:
            trust = self._certificates.server(machine_id(task.first)) if self._certificates else None
            self._server = Server(self._nodes[task.first].api, trust=trust)
            await self._server.start(addresses, insecure=False)

    async def _join_one(self, number: int, joining: asyncio.Semaphore) -> None:
        async with joining:
            node = self._nodes[number] = self._start(number)
            await node.membership.registered.wait()

    async def answer(self, request: Request) -> Used:
        if isinstance(request, Cut):
            await asyncio.gather(*(self._cut(number) for number in request.machines))
        return self._tell()

    def _start(self, number: int) -> Node:
        task = self._task
        role = f"role=worker\nservers={','.join(task.servers)}" if task.servers else ""
        config = msgspec.structs.replace(parse_config(role, "scale", {}, {})[0], agent_ttl_s=task.ttl_s)
        if task.port:
            config = msgspec.structs.replace(config, listen=(Address(host=LOOPBACK, port=task.port, tls=True),))
        id_ = machine_id(number)
        store = self._open_store(config.etcd_key_prefix, id_)
        surroundings = HostEnvironment(runtime=Path(task.directory, f"m{number}"))
        machine = Machine(id=id_, session=surroundings.new_id(), address=f"10.{number >> 8}.{number & 255}.1")
        node = Node(config, InstrumentedStore(store, self._counts.observe), ScaleSystemd(), machine, surroundings)
        node.start()
        return node

    def _open_store(self, prefix: str, id_: str) -> Store:
        # No shorter timeout: an answer that many machines in one process keep waiting is not late for want of etcd.
        task = self._task
        if task.servers and self._certificates:
            context = self._certificates.client(id_)
            return WorkerStore(servers_in_turn(task.servers, id_), lambda: context, request_timeout_s=task.ttl_s)
        key = KeySpace(prefix).identity_key
        return EtcdStore([task.etcd_url], request_timeout_s=task.ttl_s, identity_key=key)

    async def _cut(self, number: int) -> None:
        """The machine says nothing to anybody, and nothing of it is left."""
        await self._nodes.pop(number).close()

    def _tell(self) -> Used:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Used(usage.ru_utime + usage.ru_stime, pages * PAGE_BYTES / 2**20, self._counts.counts)


async def serve() -> None:
    """Do what standard input asks for, until it ends."""
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    task = msgspec.json.decode(await reader.readline(), type=Task)
    logging.basicConfig(filename=Path(task.directory, f"from-m{task.first}.log"), level=logging.INFO)
    machines = SimulatedMachines(task)
    await machines.join()
    _say(await machines.answer(Tell()))
    while line := await reader.readline():
        _say(await machines.answer(msgspec.json.decode(line, type=Request)))


def _say(used: Used) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(used) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(serve())
