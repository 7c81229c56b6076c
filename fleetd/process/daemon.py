"""fleetd as a process: which store and which systemd it works with, its sockets, and what a signal does.

A Node (node.py) is all that runs under one configuration; a reload ends one and begins another, on the same sockets and
without a word to the units. Nothing is decided here that another module could decide.
"""

import asyncio
import fcntl
import logging
import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from fleetd import __version__
from fleetd.agent import Agent
from fleetd.aio import first_of
from fleetd.api.server import Server
from fleetd.api.sockets import ListenError, inherited_sockets
from fleetd.config.config import Config, ConfigError, Notice, load_config
from fleetd.model.decoding import UNREADABLE
from fleetd.model.machine import Machine
from fleetd.process import deferred_parking, identity, log_format, sdnotify
from fleetd.process.node import HostEnvironment, Node
from fleetd.registry.records import KeySpace
from fleetd.store.etcd import EtcdStore
from fleetd.store.etcd_tls import EtcdTls
from fleetd.store.instrumented import MeasuredStore
from fleetd.store.protocol import Store, StoreError
from fleetd.systemd.dbus import SystemdOverDBus
from fleetd.systemd.protocol import ManagerUnavailable

log = logging.getLogger(__name__)

OWN_UNIT = "fleet.service"


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


def park(task: Path) -> int:
    """Finish what a fleetd that has ended could not: park its machine; the exit status."""
    try:
        asyncio.run(deferred_parking.succeed(task, _open_store))
    except (OSError, StoreError, *UNREADABLE) as error:
        log.error("cannot park this machine: %s", error)
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
        deferred_parking.dismiss(runtime_directory(self.config))
        node = await open_node(self.config)
        server = Server(node.api)
        try:
            await server.start(
                self.config.listen,
                self.config.insecure,
                inherited_sockets(os.environ, os.getpid()),
                self.config.metrics_listen,
            )
        except ListenError:
            await node.close()
            raise
        node.start()
        loop.add_signal_handler(signal.SIGUSR1, lambda: show_state(node.agent))
        sdnotify.notify(sdnotify.READY)
        log.info("fleetd %s runs", __version__, extra={"machine": node.membership.machine.id})
        watchdog = asyncio.create_task(_pat_watchdog())
        try:
            while await self._wait(node):
                node = await self._replace(node, server)
        finally:
            watchdog.cancel()
            sdnotify.notify(sdnotify.STOPPING)
            if not node.failed:
                await node.depart()
            await node.close()
            await server.stop()
            lock.close()
        node.raise_failure()

    async def _wait(self, node: Node) -> bool:
        """Until a reload is asked for (True), or the end (False)."""
        await first_of(*(event.wait() for event in (self._ended, self._reload, node.finished)))
        return not (self._ended.is_set() or node.finished.is_set())

    async def _replace(self, node: Node, server: Server) -> Node:
        """Read the configuration again and work by it; one that cannot be used changes nothing."""
        self._reload.clear()
        sdnotify.notify(sdnotify.reloading())
        try:
            config, notices = load_config(self._config_path, os.environ, self._overrides)
            check(config)
        except (ConfigError, identity.IdentityError, StoreError) as error:
            log.error("goes on with the former configuration: %s", error)
        else:
            _log_notices(notices)
            if _listening(config) != _listening(self.config):
                log.warning("listen, insecure and metrics_listen take effect when fleetd is restarted")
            log_format.setup(config.verbosity)
            if config.metadata != self.config.metadata:
                for unit, reason in (await node.predict_evictions(config.metadata)).items():
                    log.warning("%s will stop here, and start where it fits, for the new metadata: %s", unit, reason)
            self.config = config
            former_lease = node.membership.lease
            await node.close()
            node = await open_node(config, former_lease)
            server.api = node.api
            node.start()
            log.info("reloaded")
        sdnotify.notify(sdnotify.READY)
        return node


def _listening(config: Config) -> tuple[object, ...]:
    return config.listen, config.insecure, config.metrics_listen


def check(config: Config) -> None:
    """Raises IdentityError or StoreError for what would keep a Node from opening."""
    identity.read_machine_id()
    _tls(config)


async def open_node(config: Config, former_lease: int = 0) -> Node:
    """Reach systemd, and make ready; nothing is asked of the store yet."""
    unit = own_unit() if "INVOCATION_ID" in os.environ else ""
    runtime = runtime_directory(config)
    surroundings = HostEnvironment(
        runtime=runtime,
        own_unit=unit,
        find_address=identity.find_address if not config.public_ip else lambda: config.public_ip,
    )
    if unit and not (config.standalone or config.systemd_user):
        park_later = partial(deferred_parking.appoint, config, runtime, unit)
        surroundings = msgspec.structs.replace(surroundings, park_later=park_later)
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
    return Node(config, MeasuredStore(_open_store(config)), systemd, machine, surroundings, former_lease)


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
    os.fchmod(lock.fileno(), 0o600)  # who may read it may lock it
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
        from fleetd.store.embedded import EmbeddedStore  # here, for it needs SQLite, which clusters have no use for

        Path(config.standalone_path).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            os.chmod(
                config.standalone_path, 0o600
            )  # an earlier fleetd left it open to all; what SQLite adds follows it
        return EmbeddedStore(config.standalone_path)
    return EtcdStore(
        config.etcd_servers,
        request_timeout_s=config.etcd_request_timeout_s,
        username=config.etcd_username,
        password=config.etcd_password,
        tls=_tls(config),
        identity_key=KeySpace(config.etcd_key_prefix).identity_key,
    )


def _tls(config: Config) -> EtcdTls | None:
    """How etcd is spoken to over TLS, or None where no server asks for it. Raises StoreError."""
    if not any(server.startswith("https:") for server in config.etcd_servers):
        return None
    return EtcdTls(config.etcd_cafile, config.etcd_certfile, config.etcd_keyfile)


def _log_notices(notices: Sequence[Notice]) -> None:
    for notice in notices:
        log.warning("%s", notice)


async def _pat_watchdog() -> None:
    """Tell systemd, as often as it wants, that the loop turns."""
    interval_s = sdnotify.watchdog_interval_s()
    while interval_s:
        sdnotify.notify(sdnotify.WATCHDOG)
        await asyncio.sleep(interval_s)
