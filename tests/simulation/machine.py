"""One simulated machine: its systemd, its network, its disk, its fleetd, and their faults.

fleetd is the real Node of process/node.py: agent, election, membership, API. actions.py decides what
happens when.
"""

import asyncio
import contextvars
import logging
import math
import shutil
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from fleetd.agent.ledger import Ledger
from fleetd.api import schema
from fleetd.api.http import Request, Response
from fleetd.api.routes import LEAVE
from fleetd.config.config import Config
from fleetd.config.options import Address
from fleetd.membership.parking import Parking, park_when_possible
from fleetd.model.certificate import WORKER
from fleetd.model.confinement import NO_LIMITS
from fleetd.model.machine import Capability, Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.process.unit_locks import take_locks_by_servers
from fleetd.process.worker_store import open_worker_store, reconnect_when_distrusted
from fleetd.registry.records import MACHINE_IDENTITIES
from fleetd.registry.registry import Registry
from fleetd.store.embedded import inline
from fleetd.store.protocol import Store
from fleetd.testing.scripted_fetcher import ScriptedFetcher
from fleetd.testing.simulated_systemd import SYSTEM_UNITS
from fleetd.trust.sealing_process import Sealing
from fleetd.trust.worker import WorkerTrust
from tests.actors import ADMIN
from tests.simulation.disk import WatchedLedger
from tests.simulation.machine_systemd import MachineSystemd
from tests.simulation.machine_trust import MachineTrust
from tests.simulation.sealing import seal
from tests.simulation.server import StoreServer
from tests.simulation.watched_prober import WatchedProber
from tests.simulation.wire import IsFatal, Link, Observer, Wire
from tests.simulation.worker_line import Breakable, Connection, LineHooks, WorkerLine

OWN_UNIT = "fleet.service"
RESTART_S = 1.0  # the delay after which systemd starts a killed fleetd
BOOT_S = 15.0
LEAVE_POLL_S = 1.0
JOIN_RETRY_S = 1.0
HANG_S = 60.0
EPOCH_S = 1_700_000_000.0
WORKERS_PORT = 7443

# the machine whose log lines these are
speaker: contextvars.ContextVar[str] = contextvars.ContextVar("speaker", default="")
log = logging.getLogger("fleetd.simulated")


def address_of(name: str, number: int) -> str:
    """The address of machine number `number`."""
    return f"10.0.{number}.{name[1:]}"


def _no_tls() -> ssl.SSLContext:
    raise AssertionError("no worker of the simulator uses TLS")


async def _park(store: Store, parking: Parking) -> bool:
    try:
        return await park_when_possible(Registry(store), parking)
    finally:
        await store.close()


class WorldHooks(msgspec.Struct, frozen=True):
    """What a machine needs of the world: fleet.conf, the store, observers of its writes, of its calls to systemd
    (machine, verb, units) and of failures of fleetd (machine, text), a source of ids, a decision whether its fleetd
    dies just before or just after a write (machine, moment), and what is between workers and servers."""

    config: Config
    server: StoreServer
    on_write: Observer
    on_call: Callable[[str, str, Sequence[str]], None]
    on_failure: Callable[[str, BaseException], None]
    new_id: Callable[[], str]
    is_fatal: Callable[[str, str], bool]
    servers: tuple[str, ...]  # the URLs that workers ask; () if there are no workers
    line: LineHooks
    life_s: float  # of certificates; 0: there are none, and workers are believed
    fail: Callable[[str, str], None]


class SimulatedMachine:
    """Machine number `number` (its id is made of that digit), called `name` in scenarios. It begins switched off."""

    def __init__(
        self,
        name: str,
        number: int,
        is_worker: bool,
        metadata: Mapping[str, str],
        own_units: Sequence[str],
        link: Link,
        directory: Path,
        hooks: WorldHooks,
    ) -> None:
        self.name = name
        self.id = str(number) * 32
        self.is_worker = is_worker
        self.address = address_of(name, number)
        self.metadata = dict(metadata)
        self.link = link
        self.limits = NO_LIMITS  # in its fleet.conf
        self.limits_in_force = NO_LIMITS  # those that its fleetd was started with
        self.is_up = False
        self.clock_offset_s = 0.0
        self._troubles: dict[str, None] = {}  # reasons why it could look dead
        self._last_trouble_s = 0.0
        system_units = SYSTEM_UNITS | {own: f"/lib/systemd/system/{own}" for own in own_units}
        self.systemd = MachineSystemd(
            system_units, link, lambda verb, names: hooks.on_call(name, verb, names), self._is_fatal
        )
        self.systemd.on_reboot = self._begin_reboot
        self.node: Node | None = None
        self.wire: Wire | WorkerLine | None = None
        self.connections: dict[Breakable, None] = {}  # of workers, with its fleetd
        self._hooks = hooks
        self._directory = directory
        self.prober = WatchedProber(lambda check: self.failing_check)
        self.failing_check: str | None = ""  # why all checks fail here, '' if they pass, None if they hang
        self.fetcher = ScriptedFetcher(lambda download: self.failing_downloads, takes_s=3.0)
        self.lost_downloads_s = -math.inf  # when somebody last removed what was downloaded here
        self.failing_downloads = ""  # why all downloads fail here, '' if they succeed
        self._own_state = directory.with_name(f"{name}-state")  # what outlives a boot
        self.trust: MachineTrust | None = None
        if hooks.life_s and hooks.servers:
            line = WorkerLine(self, hooks.line, lambda moment: False)
            self.trust = MachineTrust(
                self, self._own_state, hooks.life_s, line, hooks.new_id, partial(hooks.fail, "Certificates")
            )
        self._registry = Registry(hooks.server.store)
        self.boots = 0
        self._is_dying = False  # fleetd is dead, only its clean-up still runs
        self._watcher: asyncio.Task[None] | None = None
        self._cuts = 0  # power cuts
        self._errand: asyncio.Task[None] | None = None
        self._parker: asyncio.Task[bool] | None = None
        self._has_ended = asyncio.Event()  # set when the last fleetd has ended, so that systemd may start the next one
        self._has_ended.set()
        self._starting = asyncio.Lock()  # systemd starts one fleetd, whoever asks for it

    # The machine.

    def begin_trouble(self, what: str) -> None:
        """From now on it may be taken for dead for this reason."""
        self._troubles[what] = None

    def end_trouble(self, what: str) -> None:
        """End this reason."""
        if what in self._troubles:
            del self._troubles[what]
            self._last_trouble_s = asyncio.get_running_loop().time()

    @property
    def well_for_s(self) -> float:
        """Since when it has had no reason to look dead."""
        return 0.0 if self._troubles else asyncio.get_running_loop().time() - self._last_trouble_s

    async def boot(self) -> None:
        """Power is on: the machine boots, and fleetd starts. A machine that is still shutting down finishes that first;
        if a power cut interrupts it, the end of the cut switches it on."""
        cuts = self._cuts
        await self._finish_errand()
        if self.is_up or self._cuts != cuts:
            return
        self.is_up = True
        self.boots += 1
        shutil.rmtree(self._directory, ignore_errors=True)
        self.end_trouble("power")
        if self.is_worker:
            await self._join()
        if self.is_worker and self.trust is not None and not self.trust.has_joined:
            self.run_errand(self.join())  # servers may have no authority yet
        else:
            await self.start_fleetd()

    async def _join(self) -> None:
        """Have a server record what the machine is, as when it joins the cluster: once. A clone has joined already."""
        if self.boots == 1:
            await self._record()

    async def _record(self) -> None:
        key = self._registry.key(MACHINE_IDENTITIES, self.id)
        if self._hooks.server.is_up and await self._hooks.server.store.get(key) is None:
            recorded = MachineIdentity(WORKER, self.address, self.metadata)
            await self._hooks.server.store.transact([], [self._registry.put(recorded, self.id)])

    async def join(self) -> None:
        """`fleetd join`: as soon as a server can make a certificate."""
        assert self.trust is not None
        while not await self.trust.join_one(self._hooks.line.find_server(url) for url in self._hooks.servers):  # noqa: ASYNC110
            await asyncio.sleep(JOIN_RETRY_S)
        await self._record()
        await self.kill_fleetd()
        self.end_trouble("revocation")
        await self.start_fleetd()

    def unix_now(self) -> float:
        """The wall clock."""
        return EPOCH_S + asyncio.get_running_loop().time() + self.clock_offset_s

    async def power_cut(self) -> None:
        """Everything ends at once; /run is emptied."""
        self.begin_trouble("power")
        self.is_up = False
        self._cuts += 1
        await self._end_errand()
        await self._end_parker()
        await self.kill_fleetd()
        self.systemd.reboot()

    def pause(self) -> None:
        """fleetd gets no processor time; units do."""
        self.begin_trouble("pause")
        self.link.awake.clear()

    def wake(self) -> None:
        """fleetd continues as if nothing had happened."""
        self.link.awake.set()
        self.end_trouble("pause")

    # fleetd.

    @property
    def directory(self) -> Path:
        """What a reboot empties."""
        return self._directory

    @property
    def serves(self) -> bool:
        """True if this machine's API would answer soon."""
        return self.node is not None and self.link.awake.is_set()

    async def start_fleetd(self) -> None:
        """systemctl start fleet."""
        await self._finish_errand()
        async with self._starting:
            await self._has_ended.wait()
            if self.is_up and self.node is None:
                await self._start()

    async def _start(self) -> None:
        await self._end_parker()
        token = speaker.set(self.name)
        hooks = self._hooks
        self._is_dying = False
        self.limits_in_force = self.limits
        worker_trust = self._open_worker_trust(self._is_fatal)
        self.wire, store = self._connect(self._is_fatal, worker_trust)
        await self.systemd.close()
        machine = Machine(
            id=self.id,
            session=self._hooks.new_id(),
            address=self.address,
            metadata=self.metadata,
            boot_id=f"{self.name}-boot-{self.boots}",
            capabilities=dict.fromkeys(Capability, True),
            seal_key=f"key of {self.name}",
            accept=self.limits.accept,
            confine=self.limits.confine,
            https=f":{WORKERS_PORT}" if hooks.servers and not self.is_worker else "",
        )
        environment = HostEnvironment(
            runtime=self._directory,
            open_ledger=partial(WatchedLedger, self._is_fatal),
            own_unit=OWN_UNIT,
            unix_now=self.unix_now,
            new_id=self._hooks.new_id,
            offload=inline,
            park_later=self._park_later,
            sealing=Sealing(self._directory, seal),
            prober=self.prober,
            fetcher=self.fetcher,
        )
        trust = None if self.trust is None or self.is_worker else self.trust.open_server(store, self._is_fatal)
        locks = take_locks_by_servers(store) if self.is_worker else None
        self.node = Node(self._config(), store, self.systemd, machine, environment, 0, trust, worker_trust, locks)
        if trust is not None:
            trust.on_revoked = trust.on_distrusted = self._close_revoked
        self.node.start()
        self._watcher = asyncio.create_task(self._watch_over(self.node))
        self.end_trouble("fleetd")
        speaker.reset(token)

    def _is_fatal(self, moment: str) -> bool:
        """True if fleetd is dead. If it has just died, systemd will start it again."""
        if not self._is_dying and self._hooks.is_fatal(self.name, moment):
            self._is_dying = True
            assert self.wire
            self.wire.cut()
            self.systemd.hang_up()
            self.run_errand(self.restart_fleetd(kill=True))
        return self._is_dying

    def _config(self) -> Config:
        limits, servers = self.limits, self._hooks.servers
        config = msgspec.structs.replace(
            self._hooks.config, metadata=self.metadata, accept=limits.accept, confine=limits.confine
        )
        if self.is_worker:
            return msgspec.structs.replace(config, role=WORKER, servers=servers)
        listen = (Address(port=WORKERS_PORT, tls=True),) if servers else config.listen
        return msgspec.structs.replace(config, listen=listen)

    def _connect(self, is_fatal: IsFatal, trust: WorkerTrust | None) -> tuple[Wire | WorkerLine, Store]:
        """A connection to the store, or of a worker to servers; and the store at its end."""
        hooks = self._hooks
        if not self.is_worker:
            wire = Wire(self.name, hooks.server, self.link, hooks.on_write, hooks.on_failure, is_fatal)
            return wire, wire
        line = WorkerLine(self, hooks.line, is_fatal)
        seen = Ledger(self._directory).store
        self._own_state.mkdir(exist_ok=True)
        tls = _no_tls if trust is None else trust.client_context
        store = open_worker_store(self._config(), self.id, seen, tls, self._own_state, line.make_gateway)
        if trust is not None:
            reconnect_when_distrusted(trust, store)
        return line, store

    def _open_worker_trust(self, is_fatal: IsFatal) -> WorkerTrust | None:
        if self.trust is None or not self.is_worker:
            return None
        return self.trust.open_worker(is_fatal, self._hooks.servers)

    def _close_revoked(self, _: str = "") -> None:
        """As the server of the API does it (api/server.py)."""
        trust = self.node.trust if self.node else None
        for each in list(self.connections):
            if trust is not None and isinstance(each, Connection) and each.client and each.client.certificate:
                is_former = each.server_context is not trust.server_context()
                if is_former or trust.is_revoked(each.client.certificate):
                    each.break_off()

    async def kill_fleetd(self) -> None:
        """kill -9: fleetd sends nothing more, and the units run on."""
        node, self.node = self.node, None
        if node is None:
            return
        self.begin_trouble("fleetd")
        self._has_ended.clear()
        assert self.wire
        await self.wire.close()
        for connection in list(self.connections):
            connection.break_off()
        await self.systemd.close()
        self.wake()
        if self._watcher:
            self._watcher.cancel()
        try:
            async with asyncio.timeout(HANG_S):
                await node.close()
        except TimeoutError as error:
            self._hooks.on_failure(f"{self.name}, whose fleetd does not end", error)
        finally:
            self._has_ended.set()

    async def _watch_over(self, node: Node) -> None:
        await node.finished.wait()
        if node.failure:
            self._hooks.on_failure(self.name, node.failure)

    # Errands take time. One is done at a time; a power cut ends it.

    def run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        """Begin an errand, unless one is in progress."""
        if self._errand is not None and not self._errand.done():
            errand.close()
            return
        self._errand = asyncio.create_task(errand)

    async def _end_errand(self) -> None:
        errand, self._errand = self._errand, None
        if errand is not None and errand is not asyncio.current_task():
            errand.cancel()
            await asyncio.gather(errand, return_exceptions=True)

    async def _finish_errand(self) -> None:
        if self._errand is not None and self._errand is not asyncio.current_task():
            await asyncio.wait([self._errand])

    async def restart_fleetd(self, *, kill: bool = False) -> None:
        """systemctl restart fleet; or fleetd is killed, and systemd starts it again."""
        if kill:
            await self.kill_fleetd()
            await asyncio.sleep(RESTART_S)
        else:
            await self._depart("restart")
        await self.start_fleetd()

    async def stop_fleetd(self) -> None:
        """systemctl stop fleet."""
        await self._depart("stop")

    async def shut_down(self) -> None:
        """systemctl poweroff."""
        if not self.is_up:
            return
        self.begin_trouble("power")
        self.systemd.begin_shutdown()
        await self._end_parker()
        await self._depart("stop")
        self.is_up = False
        self.systemd.reboot()

    def _begin_reboot(self) -> None:
        """systemctl reboot, as fleetd asks for it. It comes after what is done to the machine already."""
        self._errand = asyncio.create_task(self._reboot(self._errand))

    async def _reboot(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        await self.shut_down()
        await asyncio.sleep(BOOT_S)
        await self.boot()

    async def _park_later(self, parking: Parking) -> None:
        """The transient unit that runs after the end of fleetd, until fleetd is started again."""
        _, store = self._connect(lambda _: False, self._open_worker_trust(lambda _: False))
        self._parker = asyncio.create_task(_park(store, parking))

    async def _end_parker(self) -> None:
        parker, self._parker = self._parker, None
        if parker is not None:
            parker.cancel()
            await asyncio.gather(parker, return_exceptions=True)

    async def leave(self) -> None:
        """`fleetd leave`: asked repeatedly until the machine has left."""
        self.begin_trouble("fleetd")
        while self.node is not None:
            response = await self.answer(Request("POST", LEAVE, local=True))
            if response.status == 200 and msgspec.json.decode(response.body, type=schema.Leaving).left:
                return
            await asyncio.sleep(LEAVE_POLL_S)

    async def rejoin(self) -> None:
        """Restart the fleetd of a machine that was told to leave, unless it goes down: it stays, or joins again."""
        if self.systemd.stopping or not self.is_up:
            return
        await self._end_errand()
        await self.restart_fleetd()

    async def _depart(self, job: str) -> None:
        """Send SIGTERM to fleetd while systemd has this job for it."""
        node = self.node
        if node is None:
            return
        self.begin_trouble("fleetd")
        self.systemd.set_pending_job(OWN_UNIT, job)
        try:
            await node.shut_down()
        finally:
            self.systemd.set_pending_job(OWN_UNIT, "")
            if self.node is node:
                await self.kill_fleetd()

    async def answer(self, request: Request) -> Response:
        """The answer of this machine's API."""
        assert self.node
        return await self.node.api.handle(msgspec.structs.replace(request, actor=ADMIN))
