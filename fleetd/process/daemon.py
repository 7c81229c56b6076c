"""The daemon process: its store, its systemd, its sockets and its signals.

A Node (node.py) is everything that runs under one configuration. A reload closes one Node and opens another, on the
same sockets; units are not affected.
"""

import asyncio
import fcntl
import logging
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from fleetd import __version__
from fleetd.agent.agent import Agent
from fleetd.agent.fetcher import HostFetcher
from fleetd.agent.ledger import Ledger
from fleetd.agent.prober import HostProber
from fleetd.aio import first_of
from fleetd.api.connection_limits import ConnectionLimiter
from fleetd.api.peer import PeerRights, resolve_groups
from fleetd.api.server import Server
from fleetd.api.sockets import ListenError, inherited_sockets
from fleetd.config.config import Config, ConfigError, Notice, load_config
from fleetd.model.decoding import UNREADABLE
from fleetd.model.machine import Capability, Machine
from fleetd.model.user_instance import user_boot_id, user_machine_id
from fleetd.process import deferred_parking, identity, log_format, sdnotify
from fleetd.process.directories import runtime_directory, state_directory, trust_directory
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.host_keys import HostKeys
from fleetd.process.journal_entry import JournalEntries
from fleetd.process.node import Node
from fleetd.registry.records import KeySpace
from fleetd.store.etcd import EtcdStore
from fleetd.store.etcd_tls import EtcdTls
from fleetd.store.instrumented import InstrumentedStore
from fleetd.store.protocol import Store, StoreError
from fleetd.systemd.dbus_manager import SystemdOverDBus
from fleetd.systemd.inspector import Inspector
from fleetd.systemd.protocol import ManagerUnavailable
from fleetd.trust.sealing_process import TPMS, Sealing

if TYPE_CHECKING:
    from fleetd.api.peer_streams import PeerListener

log = logging.getLogger(__name__)

OWN_UNIT = "fleet.service"
FLEETLOCK_CONNECTIONS = 256
FLEETLOCK_BYTES = 16 * 1024 * 1024


class AlreadyRunning(Exception):
    """Another fleetd runs on this machine. The cluster would take both for one, and they would undo each other's
    work."""


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
    """Run the daemon until it is told to end. Returns its exit status."""
    try:
        asyncio.run(Daemon(config, config_path, overrides).serve(notices))
    except _REFUSALS as error:
        log.critical("cannot run: %s", error)
        return 1
    return 0


def park(task: Path) -> int:
    """Park this machine for a fleetd that ended while the store was unavailable. Returns the exit status."""
    try:
        asyncio.run(deferred_parking.run(task, _open_store))
    except (OSError, StoreError, *UNREADABLE) as error:
        log.error("cannot park this machine: %s", error)
        return 1
    return 0


class Daemon:
    """The daemon from start to end: sockets, signals, and one Node at a time."""

    def __init__(self, config: Config, config_path: str | None, overrides: Mapping[str, str]) -> None:
        self.config = config
        self._config_path = config_path
        self._overrides = overrides
        self._ended = asyncio.Event()
        self._reload = asyncio.Event()

    async def serve(self, notices: Sequence[Notice]) -> None:
        """Serve until a signal ends it. Raises one of _REFUSALS if it cannot start."""
        _log_notices(notices)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        systemctl = "systemctl --user" if self.config.systemd_user else "systemctl"
        lock = claim_machine(runtime_directory(self.config), systemctl)
        deferred_parking.cancel(runtime_directory(self.config))
        node = await open_node(self.config)
        server = Server(node.api, peer_rights=await _find_peer_rights(self.config), trust=node.trust)
        _watch_revocations(node, server)
        fleetlock = _serve_fleetlock(node)
        peers = _listen_for_peers(node)
        try:
            await server.start(
                self.config.listen,
                self.config.insecure,
                inherited_sockets(os.environ, os.getpid()),
                self.config.metrics_listen,
            )
            if fleetlock is not None:
                await fleetlock.start(self.config.fleetlock_listen, insecure=False, for_anybody=True)
            if peers is not None:
                peers.start(self.config.peer_listen)
        except ListenError:
            await server.stop()
            await node.close()
            raise
        node.start()
        loop.add_signal_handler(signal.SIGUSR1, lambda: show_state(node.agent))
        sdnotify.notify(sdnotify.READY)
        log.info("fleetd %s started", __version__, extra={"machine": node.membership.machine.id})
        watchdog = asyncio.create_task(_ping_watchdog())
        try:
            while await self._wait(node):
                node = await self._replace(node, server, fleetlock, peers)
        finally:
            watchdog.cancel()
            sdnotify.notify(sdnotify.STOPPING)
            if not node.failure:
                await node.shut_down()
            await node.close()
            await asyncio.gather(*(each.stop() for each in (server, fleetlock, peers) if each is not None))
            lock.close()
        if node.failure:
            raise node.failure

    async def _wait(self, node: Node) -> bool:
        """Wait until a reload is requested (True), or the daemon is to end (False)."""
        await first_of(*(event.wait() for event in (self._ended, self._reload, node.finished)))
        return not (self._ended.is_set() or node.finished.is_set())

    async def _replace(
        self, node: Node, server: Server, fleetlock: Server | None, peers: "PeerListener | None"
    ) -> Node:
        """Read the configuration again and replace the Node. An invalid configuration changes nothing."""
        self._reload.clear()
        sdnotify.notify(sdnotify.reloading())
        try:
            config, notices = load_config(self._config_path, os.environ, self._overrides)
            check_config(config)
        except (ConfigError, identity.IdentityError, StoreError) as error:
            log.error("reload failed, keeping the former configuration: %s", error)
        else:
            _log_notices(notices)
            if _listening(config) != _listening(self.config):
                log.warning(
                    "%s and %s take effect when fleetd is restarted", ", ".join(_LISTENING[:-1]), _LISTENING[-1]
                )
                # Until then fleetd needs what its listeners need: certificates, for example.
                config = msgspec.structs.replace(config, **dict(zip(_LISTENING, _listening(self.config), strict=True)))
            log_format.setup(config.verbosity)
            if config.metadata != self.config.metadata:
                for unit, reason in (await node.predict_evictions(config.metadata)).items():
                    log.warning("%s will move to another machine because of the new metadata: %s", unit, reason)
            self.config = config
            former_lease = node.membership.lease
            await node.close()
            node = await open_node(config, former_lease)
            server.api = node.api
            if node.trust is not None:
                server.trust = node.trust
                _watch_revocations(node, server)
            if fleetlock is not None:
                fleetlock.api = node.make_fleetlock()
            if peers is not None and node.peers is not None:
                peers.streams = node.peers
            server.peer_rights = await _find_peer_rights(config)
            node.start()
            log.info("reloaded")
        sdnotify.notify(sdnotify.READY)
        return node


_LISTENING = ("listen", "insecure", "metrics_listen", "peer_listen", "fleetlock_listen")


def _listening(config: Config) -> tuple[object, ...]:
    return tuple(getattr(config, name) for name in _LISTENING)


def _watch_revocations(node: Node, server: Server) -> None:
    """Have connections end whose certificate is revoked, or of an authority that is not trusted any more."""
    if node.trust is None:
        return

    def close_revoked(_: str = "") -> None:
        server.close_revoked()
        if node.peers is not None:
            node.peers.close_revoked()

    node.trust.on_revoked = close_revoked
    node.trust.on_distrusted = close_revoked


def _serve_fleetlock(node: Node) -> Server | None:
    """The server of the FleetLock protocol, not started yet; None if it is not to be served."""
    if not node.config.fleetlock_listen:
        return None
    from fleetd.api.fleetlock import render_refusal  # few clusters use it

    limiter = ConnectionLimiter(FLEETLOCK_CONNECTIONS, FLEETLOCK_BYTES)
    return Server(node.make_fleetlock(), limiter=limiter, render_error=render_refusal)


def _listen_for_peers(node: Node) -> "PeerListener | None":
    """What takes the streams of other machines, not started yet; None if none are to be taken."""
    if node.peers is None:
        return None
    from fleetd.api.peer_streams import PeerListener  # few machines are asked for logs

    return PeerListener(node.peers)


def check_config(config: Config) -> None:
    """Raise IdentityError or StoreError if a Node could not be opened with this configuration."""
    read_machine_id(config)
    if config.is_worker:
        from fleetd.process.worker_store import load_own_certificate

        load_own_certificate(trust_directory(config))
    else:
        _tls(config)


async def open_node(config: Config, former_lease: int = 0) -> Node:
    """Connect to systemd and make a Node. The store is not used yet."""
    unit = unit_of_process() if "INVOCATION_ID" in os.environ else ""
    runtime = runtime_directory(config)
    boot_id = identity.read_boot_id()
    machine_id = read_machine_id(config)
    systemd = SystemdOverDBus(Path(config.units_directory), user=config.systemd_user)
    await systemd.connect()
    if config.systemd_user:
        runtime /= "ledger"
        boot_id = user_boot_id(boot_id, await systemd.started_us())
        identity.begin_boot(runtime, boot_id)
    environment = _make_environment(config, runtime, unit)
    machine = _describe_machine(config, environment, machine_id, boot_id)
    trust = worker_trust = locks = None
    if config.is_worker:
        from fleetd.process.unit_locks import take_locks_by_servers
        from fleetd.process.worker_store import open_worker_trust, reconnect_when_distrusted

        worker_trust = open_worker_trust(config, trust_directory(config))
        of_worker = _open_store(config, worker_trust.client_context)
        reconnect_when_distrusted(worker_trust, of_worker)
        store = InstrumentedStore(of_worker)
        locks = take_locks_by_servers(of_worker)
    else:
        store = InstrumentedStore(_open_store(config))
    if config.peer_listen or any(address.tls for address in config.listen):
        from fleetd.process.trusting import find_served, open_trust  # few machines serve https

        machine = msgspec.structs.replace(machine, https=find_served(config.listen))
        trust = open_trust(config, machine, store, environment.find_address)
    return Node(config, store, systemd, machine, environment, former_lease, trust, worker_trust, locks)


def _make_environment(config: Config, runtime: Path, unit: str) -> HostEnvironment:
    """What this machine gives a Node. `unit` is fleetd's own unit, '' if systemd does not run it."""
    environment = HostEnvironment(
        runtime=runtime,
        own_unit=unit,
        audit=JournalEntries().write,
        find_address=identity.find_address if not config.public_ip else lambda: config.public_ip,
        find_host_keys=HostKeys().find,
        host_name=socket.gethostname(),
        sealing=_find_sealing(config),
        boot_now=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        prober=HostProber(unit, user=config.systemd_user),
        inspector=Inspector(user=config.systemd_user, auth_file=config.registry_auth_file),
        fetcher=HostFetcher(state_directory(config), user=config.systemd_user, auth_file=config.registry_auth_file),
    )
    if not config.systemd_user:  # a user can reboot no machine
        environment = msgspec.structs.replace(
            environment, find_reboot_need=identity.find_reboot_need, is_own_host=identity.is_own_host
        )
    if unit and not (config.standalone or config.systemd_user):
        park_later = partial(deferred_parking.schedule, config, runtime, unit)
        environment = msgspec.structs.replace(environment, park_later=park_later)
    return environment


def _describe_machine(config: Config, environment: HostEnvironment, machine_id: str, boot_id: str) -> Machine:
    """This machine as it registers, but for what only some machines have."""
    return Machine(
        id=machine_id,
        session=environment.new_id(),
        address=environment.find_address(),
        metadata=config.metadata,
        version=__version__,
        boot_id=boot_id,
        capabilities={
            "GRPC": False,
            "DISABLE_ENGINE": not config.may_lead,
            **dict.fromkeys(Capability, True),
        },
        configured=config.of_cluster,
        host_keys=environment.find_host_keys(),
        seal_key=environment.sealing.find_public() if environment.sealing else "",
        accept=config.accept,
        confine=config.confine,
    )


def _find_sealing(config: Config) -> Sealing | None:
    """What seals secrets with the key of this machine; None for a fleetd that systemd has given no directory for it."""
    has_directory = "STATE_DIRECTORY" in os.environ and not config.systemd_user
    return Sealing(trust_directory(config), tpms=TPMS) if has_directory else None


async def _find_peer_rights(config: Config) -> PeerRights:
    """What local users may do. Groups are looked up here alone: the name service may take its time."""
    found, missing = await asyncio.to_thread(resolve_groups, config.roles, config.systemd_user)
    for name in missing:
        log.warning("role.%s has no effect: this machine has no such group; reload fleetd once it has", name)
    return found


def show_state(agent: Agent) -> None:
    """Print the agent's state as one line of JSON, in answer to SIGUSR1."""
    print(msgspec.json.encode(agent.describe()).decode(), flush=True)  # noqa: T201


def read_machine_id(config: Config) -> str:
    """Return the id of this machine, or that of its user with systemd_user: fleetds that run beside each other never
    share one. Raises IdentityError."""
    machine_id = identity.read_machine_id()
    return user_machine_id(machine_id, os.getuid()) if config.systemd_user else machine_id


def claim_machine(directory: Path, systemctl: str = "systemctl") -> IO[str]:
    """Lock this machine for this fleetd, until the returned file is closed. Raises AlreadyRunning, which says to ask
    `systemctl`, and OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / "lock").open("a+")
    os.fchmod(lock.fileno(), 0o600)  # any user who can read it could lock it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip() or "unknown"
        lock.close()
        raise AlreadyRunning(
            f"another fleetd (process {pid}) runs on this machine; see {systemctl} status fleet"
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def unit_of_process(cgroups: str | None = None) -> str:
    """Return the systemd unit that this process belongs to, by its cgroup."""
    text = Path("/proc/self/cgroup").read_text() if cgroups is None else cgroups
    names = re.findall(r"/([^/\n]+\.service)(?:/[^/\n]*)*$", text, re.MULTILINE)
    return names[-1] if names else OWN_UNIT


def _open_store(config: Config, context: Callable[[], ssl.SSLContext] | None = None) -> Store:
    """The store. `context` is the TLS of a worker's connections to servers, None: that of its files."""
    if config.is_worker:
        from fleetd.process.worker_store import load_own_certificate, open_worker_store  # servers need no certificates

        seen = Ledger(runtime_directory(config)).store
        directory = trust_directory(config)
        context = context or load_own_certificate(directory)
        return open_worker_store(config, read_machine_id(config), seen, context, directory)
    if config.standalone:
        from fleetd.store.embedded import EmbeddedStore  # here: clusters do not need SQLite in memory

        Path(config.standalone_path).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            # An earlier fleetd created it readable to all; SQLite's other files copy its mode.
            os.chmod(config.standalone_path, 0o600)
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
    """Return the TLS settings for etcd, None if no server uses https. Raises StoreError."""
    if not any(server.startswith("https:") for server in config.etcd_servers):
        return None
    return EtcdTls(config.etcd_cafile, config.etcd_certfile, config.etcd_keyfile)


def _log_notices(notices: Sequence[Notice]) -> None:
    for notice in notices:
        log.warning("%s", notice)


async def _ping_watchdog() -> None:
    """Send systemd's watchdog its keep-alives, as long as the event loop runs."""
    interval_s = sdnotify.watchdog_interval_s()
    while interval_s:
        sdnotify.notify(sdnotify.WATCHDOG)
        await asyncio.sleep(interval_s)
