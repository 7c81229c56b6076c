"""The only place that wires the parts: which store, which systemd, what starts after what, and what a signal does.

A Node is all that runs under one configuration; a reload ends one and begins another, on the same sockets and without
a word to the units. Nothing is decided here that another module could decide.
"""

import asyncio
import fcntl
import logging
import os
import re
import signal
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from fleetd import __version__, identity, journal, metrics, notify
from fleetd.agent import Agent
from fleetd.agent.ledger import Ledger
from fleetd.api import schema
from fleetd.api.handlers import Api
from fleetd.api.server import ListenError, Server, inherited_sockets
from fleetd.config import Config, ConfigError, Notice, load_config
from fleetd.core.departure import Departure, plan_departure
from fleetd.core.machine import Machine, MachineMode
from fleetd.engine import Engine, Offload
from fleetd.membership import Membership
from fleetd.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.etcd import EtcdStore
from fleetd.store.etcd_gateway import tls_context
from fleetd.store.measured import MeasuredStore
from fleetd.store.protocol import Store, StoreError
from fleetd.systemd.dbus import SystemdOverDBus
from fleetd.systemd.protocol import ManagerUnavailable, ServiceManager

log = logging.getLogger(__name__)

OWN_UNIT = "fleet.service"
PARK_TIMEOUT_S = 10.0
LEAVE_POLL_S = 0.2
ADDRESS_CHECK_S = 60.0
HANDOVER_S = 5.0


class AlreadyRunning(Exception):
    """Another fleetd works for this machine. Two of them would be taken for one, and undo each other's work."""


_REFUSALS = (
    AlreadyRunning,
    identity.IdentityError,
    ListenError,
    ConfigError,
    ManagerUnavailable,
    StoreError,
    OSError,
)


def run(config: Config, config_path: str | None, overrides: Mapping[str, str], notices: Sequence[Notice]) -> int:
    """Run the daemon until it is told to end; its exit status."""
    try:
        asyncio.run(Daemon(config, config_path, overrides).serve(notices))
    except _REFUSALS as error:
        log.critical("cannot run: %s", error)
        return 1
    return 0


class Daemon:
    """fleetd from its start to its end: sockets, signals, and one Node at a time."""

    def __init__(self, config: Config, config_path: str | None, overrides: Mapping[str, str]) -> None:
        self.config = config
        self._config_path = config_path
        self._overrides = overrides
        self._ended = asyncio.Event()
        self._reload = asyncio.Event()

    async def serve(self, notices: Sequence[Notice]) -> None:
        """Serve until a signal ends it. Raises what keeps it from starting."""
        _log_notices(notices)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        lock = claim_machine(runtime_directory(self.config))
        node = await Node.open(self.config)
        server = Server(node.api)
        try:
            await server.start(self.config.listen, self.config.insecure, inherited_sockets(os.environ, os.getpid()))
        except ListenError:
            await node.close()
            raise
        node.start()
        loop.add_signal_handler(signal.SIGUSR1, lambda: show_state(node.agent))
        notify.notify(notify.READY)
        log.info("fleetd %s runs", __version__, extra={"machine": node.membership.machine.id})
        watchdog = asyncio.create_task(_pat_watchdog())
        try:
            while await self._wait(node):
                node = await self._replace(node, server)
        finally:
            watchdog.cancel()
            notify.notify(notify.STOPPING)
            if not node.failed:
                await node.depart()
            await node.close()
            await server.stop()
            lock.close()
        node.raise_failure()

    async def _wait(self, node: "Node") -> bool:
        """Until a reload is asked for (True), or the end (False)."""
        waits = [asyncio.create_task(event.wait()) for event in (self._ended, self._reload, node.finished)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return not (self._ended.is_set() or node.finished.is_set())

    async def _replace(self, node: "Node", server: Server) -> "Node":
        """Read the configuration again and work by it; one that cannot be used changes nothing."""
        self._reload.clear()
        notify.notify(notify.reloading())
        try:
            config, notices = load_config(self._config_path, os.environ, self._overrides)
            Node.check(config)
        except (ConfigError, identity.IdentityError, StoreError) as error:
            log.error("goes on with the former configuration: %s", error)
        else:
            _log_notices(notices)
            if (config.listen, config.insecure) != (self.config.listen, self.config.insecure):
                log.warning("listen and insecure take effect when fleetd is restarted")
            journal.setup(config.verbosity)
            self.config = config
            former_lease = node.membership.lease
            await node.close()
            node = await Node.open(config, former_lease)
            server.api = node.api
            node.start()
            log.info("reloaded")
        notify.notify(notify.READY)
        return node


class Surroundings(msgspec.Struct, frozen=True):
    """What a Node has from the process that it runs in; the simulator gives it all of this by itself.

    `runtime` is the directory that a reboot empties. `own_unit` is the systemd unit of fleetd, '' where systemd does
    not supervise it. `find_address` tells the address as it is now, '' where it is not to be followed or there is none.
    `unix_now` is the wall clock in seconds, `new_id` makes what is unique.
    """

    runtime: Path
    own_unit: str = ""
    find_address: Callable[[], str] = lambda: ""
    unix_now: Callable[[], float] = time.time
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    offload: Offload = asyncio.to_thread

    @staticmethod
    def of_this_process(config: Config) -> "Surroundings":
        return Surroundings(
            runtime=runtime_directory(config),
            own_unit=own_unit() if "INVOCATION_ID" in os.environ else "",
            find_address=identity.find_address if not config.public_ip else lambda: config.public_ip,
        )


class Node:
    """All that runs under one configuration: store, systemd, membership, agent, engine, API."""

    def __init__(
        self,
        config: Config,
        store: Store,
        systemd: ServiceManager,
        machine: Machine,
        surroundings: Surroundings,
        former_lease: int = 0,
    ) -> None:
        self.config = config
        self._own_unit = surroundings.own_unit
        self._find_address = surroundings.find_address
        self.store = store
        self.systemd = systemd
        self.finished = asyncio.Event()  # a part has ended for good: a bug was met
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving: asyncio.Task[None] | None = None
        loop_time = asyncio.get_running_loop().time
        registry = Registry(store, config.etcd_key_prefix)
        self.membership = Membership(
            machine,
            registry,
            ttl_s=config.agent_ttl_s,
            parked_ttl_s=config.parked_ttl_s,
            now=loop_time,
            publish=lambda lease: self.agent.publish_all(lease),
            heard=lambda revision: self.agent.check(revision),
            former_lease=former_lease,
        )
        ledger = Ledger(surroundings.runtime, logging.getLogger("fleetd.agent.ledger"))
        self.agent = Agent(machine.id, registry, systemd, ledger, self.membership, logging.getLogger("fleetd.agent"))
        self.engine = Engine(
            machine.id,
            registry,
            self.membership,
            ttl_s=config.agent_ttl_s,
            handover_timeout_s=config.handover_timeout_s,
            compact=config.etcd_compact,
            now=loop_time,
            unix_now=surroundings.unix_now,
            new_id=surroundings.new_id,
            offload=surroundings.offload,
        )
        self.api = Api(
            registry,
            token_limit=config.token_limit,
            shadows=systemd.shadows,
            not_ready=self._not_ready,
            leave=self._report_leaving,
            metrics=self._render_metrics,
        )

    @staticmethod
    def check(config: Config) -> None:
        """Raises IdentityError or StoreError for what would keep a Node from opening."""
        identity.read_machine_id()
        _tls(config)

    @classmethod
    async def open(cls, config: Config, former_lease: int = 0) -> "Node":
        """Reach systemd, and make ready; nothing is asked of the store yet."""
        surroundings = Surroundings.of_this_process(config)
        machine = Machine(
            id=identity.read_machine_id(),
            session=surroundings.new_id(),
            address=surroundings.find_address(),
            metadata=config.metadata,
            version=__version__,
            boot_id=identity.read_boot_id(),
            capabilities={"GRPC": False, "DISABLE_ENGINE": config.disable_engine},
        )
        systemd = SystemdOverDBus(Path(config.units_directory), user=config.systemd_user)
        await systemd.connect()
        return cls(config, MeasuredStore(_open_store(config)), systemd, machine, surroundings, former_lease)

    def start(self) -> None:
        """Set everything going."""
        parts = [self.membership.run(), self.agent.run(), self._follow_address()]
        if not self.config.disable_engine:
            parts.append(self._run_engine())
        for part in parts:
            task = asyncio.create_task(part)
            task.add_done_callback(self._note_end)
            self._tasks.append(task)

    async def close(self) -> None:
        """Stop working. The units and this machine's registration stay as they are."""
        if self._leaving:
            self._leaving.cancel()
        self._end_parts()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.agent.close()
        await self.store.close()
        await self.systemd.close()

    @property
    def failed(self) -> bool:
        """Whether a part has ended by an error."""
        return any(task.done() and not task.cancelled() and task.exception() for task in self._tasks)

    def raise_failure(self) -> None:
        """Raise the error that ended a part, if one did: a bug, and loud."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def depart(self) -> None:
        """Go in the way that the moment asks for; in bounded time, whatever the store does."""
        departure = await self._plan_departure()
        log.info("ends", extra={"units": departure})
        try:
            if not self.membership.lease:
                return
            if departure is Departure.PARK:
                async with asyncio.timeout(PARK_TIMEOUT_S):
                    await self.membership.park()
            elif departure is Departure.LEAVE:
                async with asyncio.timeout(self.config.shutdown_timeout_s):
                    await self.leave()
        except TimeoutError:
            log.warning("units still run here, and fleetd waits no longer: %s", ", ".join(await self._remaining()))
            with suppress(StoreError):
                await self.membership.depart()
        except StoreError as error:
            log.warning("the cluster could not be told: %s", error)

    async def leave(self) -> None:
        """Have every unit placed elsewhere, and go when the last has stopped here."""
        if self.membership.machine.mode is not MachineMode.LEAVING:
            await self.membership.announce(MachineMode.LEAVING)
            log.info("leaves the cluster: its units go elsewhere")
        while await self._remaining():  # noqa: ASYNC110 (no event says "nothing runs")
            await asyncio.sleep(LEAVE_POLL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER_S):  # a cluster without a leader takes nothing over
                await self.agent.wait_until_unordered()
        self._end_parts()
        await self.membership.depart()
        log.info("has left the cluster")

    def _end_parts(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _remaining(self) -> tuple[str, ...]:
        """The units that still run here."""
        with suppress(ManagerUnavailable):
            return tuple(await self.agent.running_units())
        return ()

    async def _plan_departure(self) -> Departure:
        try:
            job = await self.systemd.pending_job(self._own_unit) if self._own_unit else ""
            stopping = await self.systemd.machine_is_stopping()
        except ManagerUnavailable as error:
            log.warning("systemd does not say why fleetd is to end: %s", error)
            return Departure.STAY
        return plan_departure(job=job, machine_is_stopping=stopping, supervised=self._own_unit != "")

    async def _report_leaving(self) -> schema.Leaving:
        """What `fleetd leave` asks, again and again: begin to leave, and say how far it is.

        A machine that has left stays idle until fleetd is restarted: were fleetd to end, the next person who looks at
        its socket would make systemd start it, and the machine join again.
        """
        if self._leaving is None or (self._leaving.done() and self._leaving.exception()):
            self._leaving = asyncio.create_task(self.leave())
        left = self._leaving.done()
        return schema.Leaving(left=left, waiting_for=() if left else await self._remaining())

    async def _follow_address(self) -> None:
        """Tell the cluster of another address, as DHCP may give this machine one. The kernel alone is asked."""
        told = self.membership.machine.address
        while True:
            await asyncio.sleep(ADDRESS_CHECK_S)
            address = self._find_address()
            if address in ("", told):
                continue
            try:
                await self.membership.announce(address=address)
            except StoreError as error:
                log.warning("the cluster could not be told of the address %s, trying on: %s", address, error)
            else:
                told = address
                log.info("has another address", extra={"address": address})

    async def _run_engine(self) -> None:
        await self.membership.registered.wait()
        await self.engine.run()

    def _render_metrics(self) -> bytes:
        metrics.REGISTERED.set(self.membership.registered.is_set())
        if self.engine.leadership:
            self.engine.leadership.show_metrics()
        else:
            metrics.show_following()
        return metrics.render()

    def _not_ready(self) -> str:
        if self._leaving is not None and self._leaving.done():
            return "this machine has left the cluster; systemctl restart fleet.service makes it join again"
        if self.membership.registered.is_set():
            return ""
        return self.membership.refusal or "this machine is not registered yet"

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            if task.exception():
                log.critical("a part of fleetd has failed", exc_info=task.exception())
            self.finished.set()


def show_state(agent: Agent) -> None:
    """Write one line of JSON to stdout, for whoever asks by SIGUSR1 what this fleetd has in mind."""
    print(msgspec.json.encode(agent.describe()).decode(), flush=True)  # noqa: T201


def runtime_directory(config: Config) -> Path:
    """Where what is started is written down: emptied by a reboot, and by nothing else."""
    return Path(os.environ["XDG_RUNTIME_DIR"], "fleet") if config.systemd_user else Path("/run/fleet")


def claim_machine(directory: Path) -> IO[str]:
    """Be the only fleetd here, as long as the file that is returned is open. Raises AlreadyRunning, OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise AlreadyRunning(
            f"another fleetd (process {pid}) works for this machine; see systemctl status fleet"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def own_unit(cgroups: str | None = None) -> str:
    """The systemd unit that this process runs in, by its cgroup."""
    text = Path("/proc/self/cgroup").read_text() if cgroups is None else cgroups
    names = re.findall(r"/([^/\n]+\.service)(?:/[^/\n]*)*$", text, re.MULTILINE)
    return names[-1] if names else OWN_UNIT


def _open_store(config: Config) -> Store:
    if config.standalone:
        Path(config.standalone_path).parent.mkdir(parents=True, exist_ok=True)
        return EmbeddedStore(config.standalone_path)
    return EtcdStore(
        config.etcd_servers,
        request_timeout_s=config.etcd_request_timeout_s,
        username=config.etcd_username,
        password=config.etcd_password,
        tls=_tls(config),
        identity_key=Registry.identity_key(config.etcd_key_prefix),
    )


def _tls(config: Config) -> ssl.SSLContext | None:
    """How etcd is spoken to over TLS, or None where no server asks for it. Raises StoreError."""
    if not any(server.startswith("https:") for server in config.etcd_servers):
        return None
    return tls_context(config.etcd_cafile, config.etcd_certfile, config.etcd_keyfile)


def _log_notices(notices: Sequence[Notice]) -> None:
    for notice in notices:
        log.warning("%s", notice)


async def _pat_watchdog() -> None:
    """Tell systemd, as often as it wants, that the loop turns."""
    interval_s = notify.watchdog_interval_s()
    while interval_s:
        notify.notify(notify.WATCHDOG)
        await asyncio.sleep(interval_s)
