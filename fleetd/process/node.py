"""A Node: everything in fleetd that runs under one configuration, over a given store and systemd.

It wires the parts, starts and stops them, and takes the machine out of the cluster in the way plan_shutdown decides.
daemon.py, the simulator and the benchmarks each build Nodes.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from fleetd import metrics
from fleetd.agent.agent import Agent
from fleetd.agent.answers import Answers
from fleetd.agent.ledger import Ledger
from fleetd.agent.unit_locks import TakesLocks
from fleetd.api import schema
from fleetd.api.connection_limits import reserve_read, wait_for_listing_slot
from fleetd.api.locking import Locking
from fleetd.api.routes import Api
from fleetd.config.config import Config
from fleetd.leader.election import Election
from fleetd.membership.parking import Parking, park_when_possible
from fleetd.membership.registration import Membership, Registration
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.announcement import ZONE
from fleetd.model.confinement import Limits
from fleetd.model.machine import Machine, MachineMode, MachineSettings, dialled_address, effective_metadata
from fleetd.model.quota import Usage
from fleetd.model.reason import render_rejection
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.machine_facts import MachineFacts
from fleetd.process.seal_key import publish_seal_key
from fleetd.process.unit_locks import ServerLocks
from fleetd.reconciler.shutdown import ShutdownMode, plan_shutdown
from fleetd.registry.records import SETTINGS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.scheduler.eviction_forecast import predict_evictions
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.reboot_policy import RebootPolicy
from fleetd.store.protocol import Store, StoreError
from fleetd.systemd.protocol import ManagerUnavailable, ServiceManager

if TYPE_CHECKING:
    from fleetd.agent.answer_streams import Dial
    from fleetd.api.fleetlock import FleetLock
    from fleetd.api.peer_streams import PeerStreams
    from fleetd.api.worker.server import WorkerApi
    from fleetd.process.name_writer import NameWriter
    from fleetd.trust.keeper import TrustKeeper
    from fleetd.trust.worker import WorkerTrust

log = logging.getLogger(__name__)

PARK_TIMEOUT_S = 2.0  # `systemctl stop` has to end within three seconds, even without the store
CLOSE_S = 0.5  # for the parts to end by themselves before the store is closed
LEAVE_POLL_S = 0.2
SETTINGS_TIMEOUT_S = 1.0
HANDOVER_S = 5.0
READY_TIMEOUT_S = 3.0
NAMES_FILE = "names"  # in the runtime directory: what fleet-dns answers from


class Node:
    """The parts that run under one configuration: store, systemd, membership, agent, election, API."""

    def __init__(
        self,
        config: Config,
        store: Store,
        systemd: ServiceManager,
        machine: Machine,
        environment: HostEnvironment,
        former_lease: int = 0,
        trust: "TrustKeeper | None" = None,
        worker_trust: "WorkerTrust | None" = None,
        locks: TakesLocks | None = None,
    ) -> None:
        """`trust` keeps the certificate of a server, None for one that needs none; `worker_trust` that of a worker,
        which takes `locks` of its units by its servers."""
        self.config = config
        self.trust = trust
        self._own_trust = trust or worker_trust
        self._worker_trust = worker_trust
        self._environment = environment
        self.store = store
        self._locks = locks
        self.systemd = systemd
        self.finished = asyncio.Event()  # a part has ended unexpectedly: a bug
        self.failure: BaseException | None = None  # the error with which it ended
        self._tasks: list[asyncio.Task[None]] = []
        self._optional: list[asyncio.Task[None]] = []  # those of them that being a member of the cluster does not need
        self._leaving: asyncio.Task[None] | None = None
        loop_time = asyncio.get_running_loop().time
        registry = Registry(store, config.etcd_key_prefix)
        registration = Registration(machine.session, loop_time, environment.boot_now)
        ledger = environment.open_ledger(environment.runtime)
        self._epoch = StoreEpoch(
            registry,
            machine.id,
            ledger.store.cluster_id,
            ledger.store.revision,
            is_worker=config.is_worker,
            now=loop_time,
        )
        self.agent = self._make_agent(machine, registry, ledger, registration)
        self.membership = Membership(
            machine,
            registry,
            registration,
            ttl_s=config.agent_ttl_s,
            now=loop_time,
            publish=self.agent.publish_all,
            heard=self._heartbeat_answered,
            former_lease=former_lease,
            is_worker=config.is_worker,
            unix_now=environment.unix_now,
        )
        self._facts = self._make_facts()
        self.election = self._make_election(machine.id, registry, loop_time)
        self.workers = self._make_worker_api(loop_time) if any(address.tls for address in config.listen) else None
        self.peers = self._make_peer_streams() if config.peer_listen else None
        self.api = self._make_api(loop_time)

    def _make_agent(self, machine: Machine, registry: Registry, ledger: Ledger, registration: Registration) -> Agent:
        return Agent(
            machine.id,
            registry,
            self.systemd,
            ledger,
            self._epoch,
            registration,
            machine.boot_id,
            on_refused_reboot=lambda: self._facts.wake(),
            credentials_directory=self._environment.runtime / "credentials" if self._environment.sealing else None,
            find_seal_key=self._find_seal_key,
            limits=Limits(self.config.accept, self.config.confine),
            prober=self._environment.prober,
            place=self._find_place,
            fetcher=self._environment.fetcher,
            locks=self._locks if self.config.is_worker else ServerLocks(self._make_locking(registry), machine.id),
        )

    def _make_locking(self, registry: Registry) -> Locking:
        return Locking(registry, self._epoch, asyncio.get_running_loop().time, self._environment.unix_now)

    def _find_seal_key(self) -> str:
        """The public half of the key that opens secrets here, '' if nothing can open any."""
        sealing = self._environment.sealing
        return "" if sealing is None or sealing.awaits_tpm() else self.membership.machine.seal_key

    def _find_place(self, settings: MachineSettings | None) -> tuple[str, str]:
        """The address and the zone at which units here are announced."""
        machine = self.membership.machine
        return machine.address, effective_metadata(machine, settings).get(ZONE, "")

    def _make_facts(self) -> MachineFacts:
        environment = self._environment
        return MachineFacts(
            self.membership,
            find_address=environment.find_address,
            find_host_keys=environment.find_host_keys,
            find_reboot_need=environment.find_reboot_need,
            find_refusal=lambda: self.agent.reboot_refusal,
            find_certificate_end=self._find_certificate_end,
            is_own_host=environment.is_own_host,
        )

    def _find_certificate_end(self) -> float:
        """When this machine's certificate expires, as a Unix time; 0 without one."""
        return self._own_trust.expires_at_s if self._own_trust else 0.0

    def _make_election(self, machine: str, registry: Registry, now: Callable[[], float]) -> Election:
        config, environment = self.config, self._environment
        return Election(
            machine,
            registry,
            self.membership,
            self._epoch,
            ttl_s=config.agent_ttl_s,
            failover=FailoverPolicy(config.failover_delay_s, config.rerun_after_failover, config.handover_timeout_s),
            reboots=RebootPolicy(config.reboot_window, config.reboot_slots, config.reboot_when_required),
            compact=config.etcd_compact,
            now=now,
            unix_now=environment.unix_now,
            new_id=environment.new_id,
            offload=environment.offload,
            sealing=environment.sealing,
            seal_key=lambda: self.membership.machine.seal_key,
        )

    def _make_api(self, now: Callable[[], float]) -> Api:
        config = self.config
        return Api(
            # A registry of its own: reads for clients are limited.
            Registry(self.store, config.etcd_key_prefix, wait_for_turn=wait_for_listing_slot, note_read=reserve_read),
            token_limit=config.token_limit,
            shadows=self.systemd.shadows,
            not_ready=self._not_ready,
            wait_until_ready=self._wait_until_ready,
            trouble=lambda: self.election.term.trouble if self.election.term else "",
            leave=self._report_leaving,
            metrics=self._render_metrics,
            allowed_usage=Usage(config.max_units, config.max_units_bytes),
            now=now,
            unix_now=self._environment.unix_now,
            new_id=self._environment.new_id,
            machine=lambda: self.membership.machine,
            offload=self._environment.offload,
            audit=self._environment.audit,
            trust=self.trust,
            servers=config.servers,
            allowed_hosts={*config.allowed_hosts, config.public_ip.lower(), self._environment.host_name.lower()},
            workers=self.workers,
            sealing=self._environment.sealing,
            peers=self.peers,
            epoch=self._epoch,
            agent_ttl_s=config.agent_ttl_s,
        )

    def _make_peer_streams(self) -> "PeerStreams":
        from fleetd.api.peer_streams import PeerStreams  # few machines are asked for logs

        assert self.trust is not None, "peer_listen= needs certificates"
        first = self.config.peer_listen[0]
        return PeerStreams(
            self.trust,
            lambda: dialled_address(self.membership.machine, first.host, first.port),
            self._environment.unix_now,
        )

    def _make_dial(self) -> "Dial | None":
        """What connects to other servers with this machine's certificate; None for a machine that has none."""
        own = self._own_trust
        if own is None:
            return None
        from fleetd.trust.dialing import dial

        is_revoked = self.trust.is_revoked if self.trust else lambda identity: False
        return lambda address, machine: dial(own, is_revoked, address, machine)

    def _make_name_writer(self) -> "NameWriter":
        from fleetd.process.name_writer import NameWriter  # few machines answer questions

        return NameWriter(
            Registry(self.store, self.config.etcd_key_prefix),
            self._environment.runtime / NAMES_FILE,
            listen=self.config.dns_listen,
            domain=self.config.dns_domain,
            machine=lambda: self.membership.machine,
            set_back=self._epoch.set_back,
            is_worker=self.config.is_worker,
        )

    def _make_worker_api(self, now: Callable[[], float]) -> "WorkerApi":
        from fleetd.api.worker.server import WorkerApi  # most daemons have no workers

        registry = Registry(self.store, self.config.etcd_key_prefix)
        locking = self._make_locking(registry)
        return WorkerApi(registry, not_ready=self._not_ready, now=now, epoch=lambda: self._epoch.name, locking=locking)

    def make_fleetlock(self) -> "FleetLock":
        """What answers the FleetLock protocol, over the same store as the API."""
        from fleetd.api.fleetlock import FleetLock  # few clusters use it

        registry = Registry(self.store, self.config.etcd_key_prefix, note_read=reserve_read)
        return FleetLock(registry, self._not_ready, self._environment.unix_now, self._environment.new_id)

    def start(self) -> None:
        """Start the parts."""
        optional = [self._facts.run(), *([self._run_election()] if self.config.may_lead else [])]
        optional += [self._own_trust.run()] if self._own_trust else []
        if self._worker_trust is not None:
            optional.append(self._worker_trust.follow(Registry(self.store, self.config.etcd_key_prefix)))
        sealing = self._environment.sealing
        if sealing is not None and (not self.membership.machine.seal_key or sealing.may_be_bound()):
            optional.append(publish_seal_key(sealing, self.membership))
        if self.config.dns_listen:
            optional.append(self._make_name_writer().run())
        else:
            with suppress(OSError):  # fleet-dns, which answers from it, ends then
                (self._environment.runtime / NAMES_FILE).unlink()
        if self._environment.inspector is not None:
            answers = Answers(
                self.membership.machine.id,
                Registry(self.store, self.config.etcd_key_prefix),
                self._environment.inspector,
                self.systemd.shadows,
                self._make_dial(),
            )
            optional.append(answers.run())
        self._optional = [asyncio.create_task(part) for part in optional]
        self._tasks = [asyncio.create_task(part) for part in (self.membership.run(), self.agent.run())]
        self._tasks += self._optional
        for task in self._tasks:
            task.add_done_callback(self._note_end)

    async def close(self) -> None:
        """Stop the parts. The units and this machine's registration stay as they are."""
        if self._leaving:
            self._leaving.cancel()
        if self.workers is not None:
            self.workers.close()
        if self.peers is not None:
            self.peers.close()
        self._end_parts()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        await self.store.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.systemd.close()

    async def shut_down(self) -> None:
        """Stay, park or leave, as plan_shutdown decides; in bounded time, whatever the store does."""
        mode = await self._plan_shutdown()
        log.info("shutting down", extra={"mode": mode})
        try:
            if mode is ShutdownMode.PARK and self._leaving is None:
                await self._park()
            elif mode is ShutdownMode.LEAVE and self.membership.lease:
                async with asyncio.timeout(self.config.shutdown_timeout_s):
                    await self.leave(shuts_down=True)
        except TimeoutError:
            log.warning(
                "units still run here after shutdown_timeout, leaving without them: %s",
                ", ".join(await self._remaining()),
            )
            with suppress(StoreError):
                await self.membership.deregister()
        except StoreError as error:
            log.warning("cannot tell the cluster that fleetd ends here: %s", error)

    async def _park(self) -> None:
        """Park the machine within PARK_TIMEOUT_S; if that fails, have it parked when the store is back."""
        for task in self._optional:  # let another machine lead at once, and write no address into the key any more
            task.cancel()
        parking = Parking(self.membership.machine, {}, self.config.parked_ttl_s)
        with suppress(TimeoutError):
            if self.membership.lease:
                async with asyncio.timeout(PARK_TIMEOUT_S):
                    await self.agent.stop_publishing()
                    parking.states = self.agent.states
                    await park_when_possible(self.membership.registry, parking)
                return
        log.warning("the store does not answer; this machine will be parked when the store is back")
        parking.states = self.agent.states
        await self._environment.park_later(parking)

    async def predict_evictions(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """Return the units that would have to leave this machine with this metadata, each with the reason."""
        machine, registry = self.membership.machine, self.membership.registry
        settings = None
        try:
            async with asyncio.timeout(SETTINGS_TIMEOUT_S):
                item = await registry.store.get(registry.key(SETTINGS, machine.id))
            settings = SETTINGS.decode(item) if item else None
        except (StoreError, MalformedRecord, TimeoutError) as error:
            log.info("cannot read the settings of this machine; predicting without them: %s", error)
        changed = msgspec.structs.replace(machine, metadata=dict(metadata))
        evicted = predict_evictions(changed, effective_metadata(changed, settings), self.agent.placements)
        return {unit: render_rejection(rejection) for unit, rejection in evicted.items()}

    async def leave(self, *, shuts_down: bool = False) -> None:
        """Have every unit placed elsewhere, then leave the cluster once the last has stopped here. If the machine shuts
        down, units with FailoverDelay= wait for it to come back instead."""
        if self.membership.machine.mode is not MachineMode.LEAVING:
            await self.membership.announce(MachineMode.LEAVING, shuts_down=shuts_down)
            log.info("leaving the cluster; the units here move to other machines")
        while await self._remaining():  # noqa: ASYNC110 (no event says "nothing runs")
            await asyncio.sleep(LEAVE_POLL_S)
        if not (shuts_down and self.agent.is_to_reboot):  # what is still placed here waits for this machine
            with suppress(TimeoutError):
                async with asyncio.timeout(HANDOVER_S):  # without a leader nobody takes the units over
                    await self.agent.wait_until_unassigned()
        self._end_parts()
        await self.membership.deregister()
        log.info("left the cluster")

    def _end_parts(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _remaining(self) -> tuple[str, ...]:
        """Return the units that still run here; none if systemd cannot be reached."""
        with suppress(ManagerUnavailable):
            return tuple(await self.agent.running_units())
        return ()

    async def _plan_shutdown(self) -> ShutdownMode:
        own_unit = self._environment.own_unit
        try:
            job = await self.systemd.pending_job(own_unit) if own_unit else ""
            stopping = await self.systemd.machine_is_stopping()
        except ManagerUnavailable as error:
            log.warning("cannot ask systemd why fleetd is stopped; keeping units and registration: %s", error)
            return ShutdownMode.STAY
        return plan_shutdown(job=job, machine_is_stopping=stopping, supervised=own_unit != "")

    async def _report_leaving(self) -> schema.Leaving:
        """Begin to leave, and return the progress; `fleetd leave` polls this.

        A machine that has left stays idle until fleetd is restarted. If fleetd ended, the next connection to its socket
        would make systemd start it, and the machine would join again.
        """
        if self._leaving is None or (self._leaving.done() and self._leaving.exception()):
            self._leaving = asyncio.create_task(self.leave())
        left = self._leaving.done()
        return schema.Leaving(left=left, waiting_for=() if left else await self._remaining())

    def _heartbeat_answered(self, revision: int) -> None:
        self.agent.heartbeat_answered(revision)
        self._facts.wake()

    async def _run_election(self) -> None:
        await self.membership.registered.wait()
        await self.election.run()

    def _render_metrics(self) -> bytes:
        metrics.REGISTERED.set(self.membership.registered.is_set())
        metrics.CERTIFICATE_EXPIRES.set(self._find_certificate_end())
        if self.election.term:
            self.election.term.show_metrics()
        else:
            metrics.show_following()
        return metrics.render()

    def _not_ready(self) -> str:
        if self._leaving is not None and self._leaving.done():
            return "this machine has left the cluster; systemctl restart fleet.service makes it join again"
        if self.membership.registered.is_set():
            return ""
        return self.membership.refusal or "this machine is not registered yet"

    async def _wait_until_ready(self) -> None:
        """Wait for the first attempt to register, but READY_TIMEOUT_S at most.

        So no request fails because fleetd restarts or reloads: what came meanwhile is answered before the registration.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self.membership.attempted.wait()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.failure = self.failure or task.exception()
            if self.failure:
                log.critical("a part of fleetd failed; fleetd ends, and systemd restarts it", exc_info=self.failure)
            self.finished.set()
