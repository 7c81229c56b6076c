"""All of fleetd that runs under one configuration, over whatever store and systemd it is given: a Node.

It wires the parts, starts and ends them, and has the machine go from the cluster in the way that the moment asks for.
Which store and which systemd it is, and what the process is told by signals, is daemon.py's matter; the simulator and
the benchmarks build Nodes of their own. Nothing is decided here that another module could decide.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from fleetd import metrics
from fleetd.agent import Agent
from fleetd.agent.ledger import Ledger
from fleetd.api import schema
from fleetd.api.admission import reserve_read, wait_for_listing_slot
from fleetd.api.routes import Api
from fleetd.config.config import Config
from fleetd.leader.election import Election
from fleetd.leader.term import Offload
from fleetd.membership.parking import Parking
from fleetd.membership.registration import Membership, Registration
from fleetd.model.machine import Machine, MachineMode, effective_metadata
from fleetd.model.quota import Usage
from fleetd.model.reason import render_rejection
from fleetd.reconciler.shutdown import ShutdownMode, plan_shutdown
from fleetd.registry.records import SETTINGS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.scheduler.failover import FailoverPolicy
from fleetd.scheduler.forecast import predict_evictions
from fleetd.store.protocol import Store, StoreError
from fleetd.systemd.protocol import ManagerUnavailable, ServiceManager

log = logging.getLogger(__name__)

PARK_TIMEOUT_S = 2.0  # `systemctl stop` is to end within three seconds, be the store there or not
CLOSE_S = 0.5  # for the parts to end by themselves, before the store is closed under them
LEAVE_POLL_S = 0.2
SETTINGS_TIMEOUT_S = 1.0
ADDRESS_CHECK_S = 60.0
HANDOVER_S = 5.0


async def _leave_unparked(parking: Parking) -> None:
    """Nobody is there to park the machine later."""


class HostEnvironment(msgspec.Struct, frozen=True):
    """What a Node has from the process that it runs in; the simulator gives it all of this by itself.

    `runtime` is the directory that a reboot empties. `own_unit` is the systemd unit of fleetd, '' where systemd does
    not supervise it. `park_later` has somebody who outlives this process park the machine when the store answers again
    (parking.py). `find_address` tells the address as it is now, '' where it is not to be followed or there is none.
    `unix_now` is the wall clock in seconds, `new_id` makes what is unique.
    """

    runtime: Path
    own_unit: str = ""
    find_address: Callable[[], str] = lambda: ""
    unix_now: Callable[[], float] = time.time
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    offload: Offload = asyncio.to_thread
    park_later: Callable[[Parking], Awaitable[None]] = _leave_unparked


class Node:
    """All that runs under one configuration: store, systemd, membership, agent, engine, API."""

    def __init__(
        self,
        config: Config,
        store: Store,
        systemd: ServiceManager,
        machine: Machine,
        surroundings: HostEnvironment,
        former_lease: int = 0,
    ) -> None:
        self.config = config
        self._own_unit = surroundings.own_unit
        self._find_address = surroundings.find_address
        self._park_later = surroundings.park_later
        self.store = store
        self.systemd = systemd
        self.finished = asyncio.Event()  # a part has ended for good: a bug was met
        self._tasks: list[asyncio.Task[None]] = []
        self._leading: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        loop_time = asyncio.get_running_loop().time
        registry = Registry(store, config.etcd_key_prefix)
        registration = Registration(machine.session, loop_time)
        ledger = Ledger(surroundings.runtime, logging.getLogger("fleetd.agent.ledger"))
        self.agent = Agent(machine.id, registry, systemd, ledger, registration, logging.getLogger("fleetd.agent"))
        self.membership = Membership(
            machine,
            registry,
            registration,
            ttl_s=config.agent_ttl_s,
            parked_ttl_s=config.parked_ttl_s,
            now=loop_time,
            publish=self.agent.publish_all,
            heard=self.agent.check,
            former_lease=former_lease,
        )
        self.election = Election(
            machine.id,
            registry,
            self.membership,
            ttl_s=config.agent_ttl_s,
            handover_timeout_s=config.handover_timeout_s,
            failover=FailoverPolicy(config.failover_delay_s, config.rerun_after_failover),
            compact=config.etcd_compact,
            now=loop_time,
            unix_now=surroundings.unix_now,
            new_id=surroundings.new_id,
            offload=surroundings.offload,
        )
        self.api = Api(
            # Of its own, for what is read for clients is bounded.
            Registry(store, config.etcd_key_prefix, wait_for_turn=wait_for_listing_slot, note_read=reserve_read),
            token_limit=config.token_limit,
            shadows=systemd.shadows,
            not_ready=self._not_ready,
            trouble=lambda: self.election.term.trouble if self.election.term else "",
            leave=self._report_leaving,
            metrics=self._render_metrics,
            allowed_usage=Usage(config.max_units, config.max_units_bytes),
            now=loop_time,
            allowed_hosts={*config.allowed_hosts, config.public_ip.lower()},
        )

    def start(self) -> None:
        """Set everything going."""
        parts = [self.membership.run(), self.agent.run(), self._follow_address()]
        self._tasks = [asyncio.create_task(part) for part in parts]
        if not self.config.disable_engine:
            self._leading = asyncio.create_task(self._run_engine())
            self._tasks.append(self._leading)
        for task in self._tasks:
            task.add_done_callback(self._note_end)

    async def close(self) -> None:
        """Stop working. The units and this machine's registration stay as they are."""
        if self._leaving:
            self._leaving.cancel()
        self._end_parts()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        await self.store.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.agent.close()
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
            if departure is ShutdownMode.PARK and self._leaving is None:
                await self._park()
            elif departure is ShutdownMode.LEAVE and self.membership.lease:
                async with asyncio.timeout(self.config.shutdown_timeout_s):
                    await self.leave(shuts_down=True)
        except TimeoutError:
            log.warning("units still run here, and fleetd waits no longer: %s", ", ".join(await self._remaining()))
            with suppress(StoreError):
                await self.membership.depart()
        except StoreError as error:
            log.warning("the cluster could not be told: %s", error)

    async def _park(self) -> None:
        """Park the machine, in a time that a person who stops fleetd does not mind; else when the store is back."""
        if self._leading:
            self._leading.cancel()  # the others need not wait for the end of the lead as well
        with suppress(TimeoutError):
            if self.membership.lease:
                async with asyncio.timeout(PARK_TIMEOUT_S):
                    await self.membership.park()
                return
        log.warning("the store does not answer: this machine cannot be parked yet, and will be when the store is back")
        member = self.membership
        await self._park_later(
            Parking(member.machine, self.agent.states, self.config.parked_ttl_s, member.parked_lease)
        )

    async def predict_evictions(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """The units here that would have to go if the machine were configured with this metadata, with the reasons."""
        machine, registry = self.membership.machine, self.membership.registry
        settings = None
        try:
            async with asyncio.timeout(SETTINGS_TIMEOUT_S):
                item = await registry.store.get(registry.key(SETTINGS, machine.id))
            settings = SETTINGS.decode(item) if item else None
        except (StoreError, MalformedRecord, TimeoutError) as error:
            log.info("what people have set on this machine is not known: %s", error)
        told = msgspec.structs.replace(machine, metadata=dict(metadata))
        evicted = predict_evictions(told, effective_metadata(told, settings), self.agent.placements)
        return {unit: render_rejection(rejection) for unit, rejection in evicted.items()}

    async def leave(self, *, shuts_down: bool = False) -> None:
        """Have every unit placed elsewhere (of a machine that shuts down, those that do not wait for it to come back),
        and go when the last has stopped here."""
        if self.membership.machine.mode is not MachineMode.LEAVING:
            await self.membership.announce(MachineMode.LEAVING, shuts_down=shuts_down)
            log.info("leaves the cluster: its units go elsewhere")
        while await self._remaining():  # noqa: ASYNC110 (no event says "nothing runs")
            await asyncio.sleep(LEAVE_POLL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(HANDOVER_S):  # a cluster without a leader takes nothing over
                await self.agent.wait_until_unassigned()
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

    async def _plan_departure(self) -> ShutdownMode:
        try:
            job = await self.systemd.pending_job(self._own_unit) if self._own_unit else ""
            stopping = await self.systemd.machine_is_stopping()
        except ManagerUnavailable as error:
            log.warning("systemd does not say why fleetd is to end: %s", error)
            return ShutdownMode.STAY
        return plan_shutdown(job=job, machine_is_stopping=stopping, supervised=self._own_unit != "")

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
        await self.election.run()

    def _render_metrics(self) -> bytes:
        metrics.REGISTERED.set(self.membership.registered.is_set())
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

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            if task.exception():
                log.critical("a part of fleetd has failed", exc_info=task.exception())
            self.finished.set()
