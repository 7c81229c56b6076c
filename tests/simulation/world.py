"""A whole simulated cluster: machines, their connections, the store, operators, and the checkers.

Everything that happens is in one log; two equal runs have the same digest of it. actions.py makes things happen,
convergence.py checks the end.
"""

import asyncio
import hashlib
import itertools
import math
import shutil
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from fleetd.config.config import parse_config
from fleetd.model.certificate import CertificateIdentity
from fleetd.model.placement import Placement
from fleetd.registry.records import PLACEMENTS
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Comparison, Event, Operation
from tests.simulation.invariants import CHECKERS
from tests.simulation.machine import WORKERS_PORT, SimulatedMachine, WorldHooks, address_of
from tests.simulation.operators import Operators
from tests.simulation.server import StoreServer
from tests.simulation.store_model import StoreModel
from tests.simulation.wire import Link
from tests.simulation.worker_line import LineHooks

LATELY_S = 30.0
UNSURE = "has not read yet"  # in a refusal: it is that of the server, and not of the certificate
_READING = ("connect", "observe", "details", "explain", "reload-needed", "pending-job", "machine-is-stopping")


class Failure(msgspec.Struct, frozen=True):
    """The first failure: the broken rule, how, and when."""

    rule: str
    what: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.at_s:.3f} {self.rule}: {self.what}"


class World:
    """The cluster, in `directory` (empty at first). `metadata`: machine name → metadata, in order, and
    `role=worker` for a worker; `config`: the lines
    of fleet.conf; `is_fatal` decides whether a machine's fleetd dies at this moment (Surrounds). Certificates live for
    `life_s`; with 0 there are none, and workers are believed."""

    def __init__(
        self,
        directory: Path,
        seed: int,
        metadata: Mapping[str, Mapping[str, str]],
        config: Sequence[str] = (),
        is_fatal: Callable[[str, str], bool] = lambda machine, moment: False,
        life_s: float = 0.0,
    ) -> None:
        self.life_s = life_s
        self.loop = asyncio.get_running_loop()
        self.began_s = self.loop.time()
        self.seed = seed
        self.random = Random(seed)
        self.failure: Failure | None = None
        self.failed = asyncio.Event()
        self.lines: list[str] = []
        self.processes: dict[tuple[str, str], int] = {}  # (machine, unit) → PID
        self.first_pids: dict[str, int] = {}  # by unit, the start of its first process
        self.drained: dict[str, None] = {}  # units that a drain, or a machine's limits, told to leave it
        self.had_wrong_clocks = False  # of any machine
        self.restore_lost_writes = False  # the last one
        self.lease_owners: dict[int, str] = {}  # lease of a worker → its id
        self._ways: dict[tuple[str, str], float] = {}  # (worker, server) → since when it is open; inf: it is not
        self._refused_s: dict[str, float] = {}  # when a worker's certificate was refused last
        self._ended: dict[tuple[str, str], float] = {}  # when its last process was seen
        self._ids = itertools.count(1)
        self._digest = hashlib.sha256()
        self._endings: dict[str, Callable[[], Awaitable[None] | None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._directory = directory
        self._is_fatal = is_fatal
        self.config = parse_config("\n".join(config), "the simulator", {}, {})[0]
        self.ttl_s = self.config.agent_ttl_s
        self.last_write_s = 0.0
        self.server = StoreServer(directory / "store", self._see_events)
        self.registry = Registry(self.server.store)
        self.records = StoreModel(self.registry)
        self.machines: dict[str, SimulatedMachine] = {}
        servers = [name for name, offer in metadata.items() if offer.get("role") != "worker"]
        numbers = {name: number for number, name in enumerate(metadata, start=1)}
        urls = tuple(f"https://{address_of(name, numbers[name])}:{WORKERS_PORT}" for name in servers)
        self._servers = urls if len(servers) < len(metadata) else ()  # that workers ask
        for name, offer in metadata.items():
            self.machines[name] = self._make(name, numbers[name], offer)
        self.operators = Operators([each for each in self.machines.values() if not each.is_worker], self.say)
        self.checkers = [checker(self) for checker in CHECKERS]
        self.loop.at_rest = self._see_rest  # type: ignore[attr-defined]

    def _make(self, name: str, number: int, offer: Mapping[str, str]) -> SimulatedMachine:
        metadata = {key: value for key, value in offer.items() if key != "role"}
        return SimulatedMachine(
            name,
            number,
            offer.get("role") == "worker",
            metadata,
            ["local.service"] if name == "m2" else [],
            Link(Random(f"{self.random.random()} {name}")),
            self._directory / name,
            WorldHooks(
                self.config,
                self.server,
                self._see_request,
                self._see_call,
                self._see_failure,
                lambda: f"id-{next(self._ids)}",
                self._is_fatal,
                self._servers,
                LineHooks(
                    self._find_server,
                    self._is_parted,
                    self._see_answer,
                    self._see_served,
                    self._see_refused,
                    self._see_failure,
                ),
                self.life_s,
                self.fail,
            ),
        )

    def add_clone(self, name: str, of: str) -> SimulatedMachine:
        """Another machine with this one's id, switched off; the existing one of that name, if there is one."""
        if name in self.machines:
            return self.machines[name]
        original = self.machines[of]
        role = {"role": "worker"} if original.is_worker else {}
        clone = self._make(name, int(original.id[0]), {**original.metadata, **role})
        self.machines[name] = clone
        if self.life_s and (self._directory / f"{of}-state").exists():
            shutil.copytree(self._directory / f"{of}-state", self._directory / f"{name}-state")
        return clone

    def _find_server(self, url: str) -> SimulatedMachine | None:
        host = url.removeprefix("https://").partition(":")[0]
        return next((machine for machine in self.machines.values() if machine.address == host), None)

    def part(self, worker: str, server: str) -> None:
        """The worker does not reach this server until `join`."""
        self._ways[worker, server] = math.inf

    def join(self, worker: str, server: str) -> None:
        """It does."""
        self._ways[worker, server] = self.loop.time()

    def _is_parted(self, worker: str, server: str) -> bool:
        return self._ways.get((worker, server)) == math.inf

    def way_is_open_for_s(self, worker: str, server: str) -> float:
        """For how long the worker has reached this server, as far as the way between them is concerned."""
        return max(0.0, self.loop.time() - self._ways.get((worker, server), 0.0))

    def counts_for_s(self, worker: str) -> float:
        """For how long no server has refused the worker's certificate. WorkersAreLetIn bounds how long one may."""
        return max(0.0, self.loop.time() - self._refused_s.get(worker, 0.0))

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self.loop.time() - self.began_s

    @property
    def digest(self) -> str:
        """The digest of the log."""
        return self._digest.hexdigest()

    def say(self, line: str) -> None:
        """Write a line to the log."""
        text = f"{self.now_s:.6f} {line}"
        self.lines.append(text)
        self._digest.update(f"{text}\n".encode())

    def fail(self, rule: str, what: str) -> None:
        """A rule is broken; the first failure counts."""
        if self.failure is None:
            self.failure = Failure(rule, what, self.now_s)
            self.say(f"FAILED {rule}: {what}")
            self.failed.set()

    def machine(self, id_: str) -> SimulatedMachine:
        """The machine of this id."""
        return next(machine for machine in self.machines.values() if machine.id == id_)

    def registered(self, id_: str) -> SimulatedMachine | None:
        """The machine that is registered under this id: a clone has another address."""
        record = self.records.machines.get(id_)
        found = (machine for machine in self.machines.values() if machine.id == id_)
        return next((machine for machine in found if record is not None and machine.address == record.address), None)

    # Faults, and their end.

    def begin(self, name: str, for_s: float | None, end: Callable[[], Awaitable[None] | None]) -> None:
        """Begin a fault of this name: `end` ends it, after `for_s` or when all faults end."""
        if timer := self._timers.pop(name, None):
            timer.cancel()
        self._endings[name] = end
        if for_s is not None:
            self._timers[name] = self.loop.call_later(for_s, self.end_fault, name)

    def end_fault(self, name: str) -> None:
        """End the fault of this name now, if there is one."""
        if timer := self._timers.pop(name, None):
            timer.cancel()
        end = self._endings.pop(name, None)
        if end is not None:
            self.say(f"end of {name}")
            ending = end()
            if ending is not None:
                self.spawn(ending)

    def end_faults(self) -> None:
        """End all faults."""
        for name in list(self._endings):
            self.end_fault(name)

    def spawn(self, work: Awaitable[None]) -> None:
        """Run something in the background."""
        task = asyncio.ensure_future(work)
        self._tasks[task] = None
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        if not task.cancelled() and task.exception() is not None:
            self._see_failure("the simulator", task.exception())  # type: ignore[arg-type]

    async def restore_store(self) -> None:
        """Set the store back to its snapshot."""
        before_revision = self.server.store.latest_revision
        await self.server.restore()
        self.restore_lost_writes = self.server.store.latest_revision < before_revision
        before = dict(self.records.placements)
        self.records.forget()
        snapshot = await self.server.store.range("")
        for item in snapshot.items:
            self.records.apply(Event(item.key, item, item.mod_revision))
        self.operators.learn(self.records.units)
        for checker in self.checkers:
            checker.see_restore(before)

    async def close(self) -> None:
        """End everything."""
        self.loop.at_rest = lambda: None  # type: ignore[attr-defined]
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        self.server.thaw()
        for machine in self.machines.values():
            machine.link.awake.set()
        for machine in self.machines.values():
            with suppress(Exception):
                await machine.power_cut()
        await self.server.crash()

    # What is seen.

    def ran_lately(self) -> list[tuple[str, str]]:
        """(machine, unit) of all processes, and of those that ended within LATELY_S."""
        recent = [allocation for allocation, at_s in self._ended.items() if at_s > self.now_s - LATELY_S]
        return [*self.processes, *(allocation for allocation in recent if allocation not in self.processes)]

    def _see_events(self, events: tuple[Event, ...]) -> None:
        self.last_write_s = self.now_s
        seen = [(path, event) for event in events if (path := self.records.path(event.key)) is not None]
        placements = [path.names for path, _ in seen if path.kind is PLACEMENTS]
        before: dict[tuple[str, str], Placement] = {
            allocation: self.records.placements[allocation]
            for allocation in placements
            if allocation in self.records.placements
        }
        for event in events:
            value = hashlib.sha256(event.item.value).hexdigest()[:16] if event.item else "gone"
            self.say(f"{event.revision} {event.key} {value} {event.item.lease if event.item else 0}")
            self.records.apply(event)
        for checker in self.checkers:
            checker.see_events(seen, before)

    def _see_request(self, writer: str, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
        for checker in self.checkers:
            checker.see_request(writer, comparisons, operations)

    def _see_answer(self, worker: str, call: str, body: bytes) -> None:
        for checker in self.checkers:
            checker.see_answer(worker, call, body)

    def _see_served(self, worker: str, server: str, certificate: CertificateIdentity) -> None:
        for checker in self.checkers:
            checker.see_served(worker, server, certificate)

    def _see_refused(self, worker: str, server: str, why: str) -> None:
        self.say(f"{server} and {worker} do not connect: {why}")
        if UNSURE not in why:
            self._refused_s[worker] = self.loop.time()
        for checker in self.checkers:
            checker.see_refused(worker, server, why)

    def _see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        if verb in _READING:
            return
        self.say(f"{machine} {verb} {' '.join(names)}")
        for checker in self.checkers:
            checker.see_call(machine, verb, names)

    def _see_failure(self, who: str, error: BaseException) -> None:
        self.fail("Nothing fails by itself", f"{who}: {''.join(traceback.format_exception(error))}")

    def _see_rest(self) -> None:
        found = {
            (machine.name, name): pid
            for machine in self.machines.values()
            for name, pid in machine.systemd.processes().items()
        }
        if found != self.processes:
            self._note_processes(found)
        for checker in self.checkers:
            checker.see_rest()

    def _note_processes(self, found: dict[tuple[str, str], int]) -> None:
        for allocation, pid in self.processes.items():
            if found.get(allocation) != pid:
                self._ended[allocation] = self.now_s
                self.say(f"{allocation[0]} {allocation[1]} process {pid} ended")
        for allocation, pid in found.items():
            if self.processes.get(allocation) != pid:
                self.first_pids.setdefault(allocation[1], pid)
                self.say(f"{allocation[0]} {allocation[1]} process {pid} began")
        self.processes = found
