"""The phases of a run, and what each took of time, processor and store."""

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import msgspec

from contrib.bench import process
from contrib.bench.api import Api, are_active
from contrib.bench.observer import Observer
from contrib.bench.scale.request_counts import Counts, difference, total
from contrib.bench.scale.trust import LOOPBACK, make_authority
from contrib.bench.scale.worker import Task, Used, machine_id
from contrib.bench.scale.workers import Workers
from contrib.testbed.etcd import free_port
from fleetd.model.unit_option import UnitOption

LEADER, FRONT = "leader", "API"  # processes of one machine each: the one leads, the other serves the API
OPTIONS = (
    UnitOption("Unit", "Description", "One of many"),
    UnitOption("Service", "ExecStart", "/usr/bin/sleep infinity"),
)
JOIN = "all machines join"
REST = "at rest"
START = "all units submitted and active"
ONE = "one unit (the median), with its echo"
LOSE_ONE = "one machine lost"
LOSE_TENTH = "a tenth of the machines lost"
LOSE_LEADER = "the leader's machine lost"
ONE_BY_ONE = 3
POLL_ONE_S = 0.005
PATIENCE_S = 600.0


def server_name(number: int) -> str:
    """The process of one more server."""
    return f"server {number}"


Say = Callable[[str], None]  # reports progress


class Size(msgspec.Struct, frozen=True):
    """How many machines and units there are, and for how long they are observed at rest. The first `servers` machines
    are servers, the others their workers (0: all machines reach etcd)."""

    machines: int
    units: int
    ttl_s: float
    rest_s: float
    processes: int
    servers: int = 0

    @property
    def first_agent(self) -> int:
        """The first machine that shares its process with others."""
        return max(2, self.servers)


class Phase(msgspec.Struct, frozen=True):
    """One phase: seconds on the clock; processor seconds of etcd, the leader's process, the API's, and all others
    together; requests by kind; MiB on etcd's wire. `took_s` is what the phase is about, `lasted_s` what the rest was
    measured over."""

    name: str
    took_s: float
    lasted_s: float
    etcd_cpu_s: float
    leader_cpu_s: float
    api_cpu_s: float
    agents_cpu_s: float
    counts: Counts
    received_mib: float
    sent_mib: float


class Memory(msgspec.Struct, frozen=True):
    """MiB resident at the end of the start; `etcd_alone_mib` before anybody had come."""

    etcd_alone_mib: float
    etcd_mib: float
    database_mib: float
    leader_mib: float
    api_mib: float
    agents_mib: float


class _Reading(msgspec.Struct, frozen=True):
    at_s: float
    etcd: process.EtcdUsage
    used: dict[str, Used]


class Play:
    """The machines of a run on one etcd, in `directory` (empty at first)."""

    def __init__(
        self, size: Size, etcd_url: str, directory: Path, workers: Workers, observer: Observer, say: Say
    ) -> None:
        self._size = size
        self._etcd_url = etcd_url
        self._directory = directory
        self._workers = workers
        self._observer = observer
        self._say = say
        self._names = [f"scale-{number:05}.service" for number in range(size.units)]
        self._ports = [free_port() for _ in range(size.servers)]
        if size.servers:
            make_authority(directory)
        self.phases: dict[str, Phase] = {}
        self.submitted_s = 0.0
        self.memory = Memory(0, 0, 0, 0, 0, 0)

    async def run(self) -> None:
        """All phases, in the order in which they make sense."""
        alone_mib = process.observe_etcd(self._etcd_url).resident_mib
        await self._join()
        await self._rest(f"{REST}, without units")
        async with Api(self._directory / "api.sock") as api:
            await self._start(api)
            self.memory = await self._observe_memory(alone_mib)
            await self._rest(f"{REST}, with all units")
            await self._start_one(api)
        await self._lose(LOSE_ONE, 1)
        await self._lose(LOSE_TENTH, max(1, self._size.machines // 10))
        await self._lose_leader()

    async def _join(self) -> None:
        before, began = await self._read(), time.monotonic()
        await self._workers.start({LEADER: self._task(0, 1)})
        leads = await self._observer.until("a machine leads", lambda: self._observer.leader != "", PATIENCE_S)
        assert self._observer.leader == machine_id(0)
        tasks = {FRONT: self._task(1, 1, str(self._directory / "api.sock"))}
        tasks |= {server_name(number): self._task(number, 1) for number in range(2, self._size.servers)}
        await self._workers.start(tasks)
        tasks = {}
        rest = range(self._size.first_agent, self._size.machines)
        share = -(-len(rest) // self._size.processes)
        for first in rest[::share]:
            tasks[f"m{first}"] = self._task(first, min(share, self._size.machines - first))
        await self._workers.start(tasks)
        joined = await self._observer.until(
            "all machines have joined", lambda: len(self._observer.machines) == self._size.machines, PATIENCE_S
        )
        await self._note(JOIN, joined - leads, before, began)

    def _task(self, first: int, count: int, socket: str = "") -> Task:
        port = self._ports[first] if first < len(self._ports) else 0
        servers = tuple(f"https://{LOOPBACK}:{each}" for each in self._ports) if not port else ()
        return Task(self._etcd_url, first, count, self._size.ttl_s, str(self._directory), socket, port, servers)

    async def _rest(self, name: str) -> None:
        await asyncio.sleep(self._size.ttl_s)  # the first beats after a change ask whether a watch has missed it
        before, began = await self._read(), time.monotonic()
        await asyncio.sleep(self._size.rest_s)
        await self._note(name, time.monotonic() - began, before, began)

    async def _start(self, api: Api) -> None:
        before, began = await self._read(), time.monotonic()
        submitting = asyncio.create_task(api.start_all(self._names, OPTIONS))
        active = asyncio.create_task(self._observer.until_active(self._names, PATIENCE_S))
        await submitting
        self.submitted_s = time.monotonic() - began
        await self._note(START, await active - began, before, began)

    async def _start_one(self, api: Api) -> None:
        """One unit, again and again; and what the others do because of it, until their next beats but one."""
        before, began = await self._read(), time.monotonic()
        samples = []
        for number in range(ONE_BY_ONE):
            name = f"one-{number}.service"
            asked = time.monotonic()
            await api.start(name, OPTIONS)
            samples.append(await api.wait(partial(are_active, names=[name]), POLL_ONE_S, name) - asked)
            await asyncio.sleep(self._size.ttl_s * 2 / 3)
        await self._note(ONE, sorted(samples)[ONE_BY_ONE // 2], before, began)

    async def _lose(self, name: str, count: int) -> None:
        """Their power is cut; until all that they ran is active elsewhere. Spread over all processes."""
        agents = range(self._size.first_agent, self._size.machines)
        here = [number for number in agents if machine_id(number) in self._observer.machines]
        victims = here[:: max(1, len(here) // count)][:count]
        before, began = await self._read(), time.monotonic()
        lost = self._observer.active_on(ids := [machine_id(number) for number in victims])
        await self._workers.cut(victims)
        await self._note(name, await self._until_elsewhere(lost, ids) - began, before, began)

    async def _lose_leader(self) -> None:
        before, began = await self._read(), time.monotonic()
        lost = self._observer.active_on([machine_id(0)])
        await self._workers.kill(LEADER)
        took_s = await self._until_elsewhere(lost, [machine_id(0)]) - began
        assert self._observer.leader != machine_id(0), "the machine that is gone cannot have moved its own units"
        await self._note(LOSE_LEADER, took_s, before, began)

    async def _until_elsewhere(self, units: Collection[str], machines: Collection[str]) -> float:
        if not units:
            raise RuntimeError("the machines to be lost run nothing: to lose them would measure nothing")
        return await self._observer.until_active(units, PATIENCE_S, besides=machines)

    async def _read(self) -> _Reading:
        used = await self._workers.used()
        return _Reading(time.monotonic(), await asyncio.to_thread(process.observe_etcd, self._etcd_url), used)

    async def _note(self, name: str, took_s: float, before: _Reading, began: float) -> None:
        """The phase is over: keep what it has cost. What a killed process used in it is not known."""
        after = await self._read()

        def cpu_s(which: Collection[str]) -> float:
            began_s = {worker: used.cpu_s for worker, used in before.used.items()}
            return sum(after.used[name].cpu_s - began_s.get(name, 0.0) for name in which if name in after.used)

        counts = [used.counts for worker, used in after.used.items() if self._reaches_etcd(worker)]
        earlier = [
            used.counts for worker, used in before.used.items() if worker in after.used and self._reaches_etcd(worker)
        ]
        phase = Phase(
            name,
            took_s,
            after.at_s - began,
            after.etcd.cpu_s - before.etcd.cpu_s,
            cpu_s([LEADER]),
            cpu_s([FRONT]),
            cpu_s(set(after.used) - {LEADER, FRONT}),
            difference(total(counts), total(earlier)),
            after.etcd.received_mib - before.etcd.received_mib,
            after.etcd.sent_mib - before.etcd.sent_mib,
        )
        self.phases[name] = phase
        self._say(f"{name}: {took_s:.1f} s")

    def _reaches_etcd(self, worker: str) -> bool:
        servers = (LEADER, FRONT, *map(server_name, range(2, self._size.servers)))
        return not self._size.servers or worker in servers

    async def _observe_memory(self, etcd_alone_mib: float) -> Memory:
        now = await self._read()
        others = [used.resident_mib for name, used in now.used.items() if name not in (LEADER, FRONT)]
        leader, api = (now.used[name].resident_mib for name in (LEADER, FRONT))
        return Memory(etcd_alone_mib, now.etcd.resident_mib, now.etcd.database_mib, leader, api, sum(others))
