"""This machine's registration in the cluster: its key, the lease it is on, and the heartbeats that keep the lease.

Membership registers the machine, adopts the registration of an earlier fleetd, registers again when the key vanishes,
refuses to share an id with another machine, and leaves. parking.py parks it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

import msgspec

from fleetd import metrics
from fleetd.aio import first_of
from fleetd.model.machine import Machine, MachineMode
from fleetd.registry.records import MACHINES, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.scheduler.machine_loss import HeartbeatHistory
from fleetd.store.protocol import (
    Compacted,
    Conflict,
    KeyValue,
    LeaseNotFound,
    RangeResult,
    StoreError,
    Unavailable,
    Unchanged,
)

log = logging.getLogger(__name__)

RETRY_S = 1.0


class Duplicate(Exception):
    """Another machine with this machine-id is alive. The message names both addresses and the remedy."""


class Registration:
    """The registration as it stands, shared by Membership, which changes it, and the agent, which publishes on it.

    `session` identifies this run of fleetd. `lease` is 0 while the machine is not registered. `lost` is set when the
    store was found to have the lease no longer. `boot_now` is the machine's boot clock, which goes on while it is
    suspended; `heard_s` is when the last request was sent, by that clock, in answer to which the store granted or
    renewed the lease.
    """

    def __init__(self, session: str, now: Callable[[], float], boot_now: Callable[[], float] | None = None) -> None:
        self.session = session
        self.lease = 0
        self.lost = asyncio.Event()
        self.boot_now = boot_now or now
        self.heard_s = -math.inf
        self._now = now
        self._certain_until_s = now()

    @property
    def is_certain(self) -> bool:
        """True if the lease was renewed within its time to live. Otherwise it may be gone, and another machine with
        this id be registered."""
        return self._now() < self._certain_until_s

    def renew(self, begun_s: float, ttl_s: float, sent_s: float) -> None:
        """The store granted or renewed the lease, in answer to a request sent at `begun_s`, `sent_s` by the boot
        clock."""
        self._certain_until_s = begun_s + ttl_s
        self.heard_s = sent_s


class Membership:
    """Registers this machine and keeps it registered.

    `publish(lease)` writes the states of all units here on a lease. It is called before the machine's key is written,
    so that units that already run count from the start. `heard(revision)` is called with the store's revision at each
    heartbeat. `former_lease` is one that this process held before a reload of its configuration. A worker is known
    by its certificate, and its record has the address that was recorded when it joined. `unix_now` is the wall clock.
    """

    def __init__(
        self,
        machine: Machine,
        registry: Registry,
        registration: Registration,
        *,
        ttl_s: float,
        now: Callable[[], float],
        publish: Callable[[int], Awaitable[None]],
        heard: Callable[[int], None],
        former_lease: int = 0,
        is_worker: bool = False,
        unix_now: Callable[[], float] = time.time,
    ) -> None:
        self.machine = machine
        self.registry = registry
        self.store = registry.store
        self.ttl_s = ttl_s
        self.registration = registration
        self.registered = asyncio.Event()
        self.refusal = ""  # why it is not, for operators
        self.attempted = asyncio.Event()  # it is registered, or `refusal` says why not
        self.beats = HeartbeatHistory.begin(now())
        self.disturbed_s: float | None = None
        self.heard_revision = 0  # the store's, as of the last heartbeat
        self._now = now
        self._publish = publish
        self._heard = heard
        self._former_lease = former_lease
        self._is_worker = is_worker
        self._no_store = "" if is_worker else "fleet server unable to communicate with etcd: "
        self._unix_now = unix_now

    @property
    def lease(self) -> int:
        """The registration's lease; 0 while this machine is not registered."""
        return self.registration.lease

    @property
    def interval_s(self) -> float:
        """The time between two heartbeats."""
        return self.ttl_s / 3

    @property
    def key(self) -> str:
        """This machine's key."""
        return self.registry.key(MACHINES, self.machine.id)

    async def run(self) -> None:
        """Register, send heartbeats, and register again whenever the registration is lost; until cancelled."""
        while True:
            revision = await self._register()
            await first_of(self._beat(), self._watch(revision), self.registration.lost.wait())
            self.disturbed_s = self._now()
            self.beats = self.beats.failed(self._now())
            log.warning("this machine's registration is gone from the store; registering again")

    async def announce(self, mode: MachineMode | None = None, **facts: object) -> None:
        """Change fields of the machine's record (mode, metadata, address); written at once if it is registered."""
        if mode is not None:
            facts["mode"] = mode
        self.machine = msgspec.structs.replace(self.machine, **facts)
        if self.lease:
            await self.store.transact([], [self.registry.put(self.machine, self.machine.id, lease=self.lease)])

    async def deregister(self) -> None:
        """Take this machine out of the cluster: revoke its lease, and with it its key and states."""
        lease, self.registration.lease = self.registration.lease, 0
        if lease:
            await self.store.revoke(lease)

    # Registering.

    async def _register(self) -> int:
        """Write this machine's key; retries until done. Returns the revision it was written at."""
        self.registration.lease = 0
        self.registered.clear()
        self.attempted.clear()
        complaint = ""
        while True:
            try:
                lease, revision = await self._try_to_register()
                break
            except (Conflict, LeaseNotFound) as error:
                log.debug("registering again: %s", error)
                pause_s = 0.0
            except Duplicate as error:
                self.refusal, pause_s = str(error), self.ttl_s
            except StoreError as error:
                self.refusal, pause_s = f"{self._no_store}{error}", RETRY_S
            if self.refusal != complaint:
                complaint = self.refusal
                log.error("cannot register this machine, retrying: %s", complaint)
            if complaint:
                self.attempted.set()
            await asyncio.sleep(pause_s)
        self.refusal = ""
        self.registration.lease = self._former_lease = lease
        self.registration.lost.clear()
        self.registered.set()
        self.attempted.set()
        metrics.REGISTRATIONS.inc()
        self._hear(revision)
        log.info("registered", extra={"machine": self.machine.id, "address": self.machine.address})
        return revision

    async def _try_to_register(self) -> tuple[int, int]:
        """Publish the states, then write the key. Returns the key's lease and the revision it was written at."""
        begun_s, sent_s = self._now(), self.registration.boot_now()
        item = await self.store.get(self.key)
        lease = await self._adoptable_lease(item) if item else 0
        surplus = item.lease if item and lease != item.lease else 0
        fresh = 0 if lease else await self.store.grant(self.ttl_s)
        try:
            await self._publish(lease or fresh)
            self.machine = msgspec.structs.replace(self.machine, since=self._since(item))
            put = self.registry.put(self.machine, self.machine.id, lease=lease or fresh)
            revision = await self.store.transact([Unchanged(self.key, item.mod_revision if item else 0)], [put])
        except (Conflict, LeaseNotFound):
            if fresh:
                await self.store.revoke(fresh)
            raise
        if surplus:
            await self.store.revoke(surplus)
        self.registration.renew(begun_s, self.ttl_s, sent_s)
        return lease or fresh, revision

    def _since(self, item: KeyValue | None) -> float:
        """Since when this machine takes part without a break (Unix time): as long as the key that is there says, if
        that is of this boot."""
        other = decode_machine(item) if item else None
        goes_on = other is not None and other.boot_id == self.machine.boot_id
        return (other.since if other is not None and goes_on else 0.0) or self._unix_now()

    async def _adoptable_lease(self, item: KeyValue) -> int:
        """Return the lease of the existing key if it is this machine's and has the right TTL; otherwise 0.

        Raises Duplicate if another machine that is alive holds it.
        """
        if not item.lease:
            return 0
        other = decode_machine(item)
        same = other.boot_id == self.machine.boot_id and (self._is_worker or other.address == self.machine.address)
        if not (same or item.lease == self._former_lease):
            await self._wait_for_former_self(item, other)
        try:
            beat = await self.store.keep_alive(item.lease)
        except LeaseNotFound:
            raise Conflict("the lease of this machine's previous registration has just expired") from None
        return item.lease if math.ceil(self.ttl_s) == math.ceil(beat.ttl_s) else 0

    async def _wait_for_former_self(self, item: KeyValue, other: Machine) -> None:
        """Find out whether the key is from an earlier boot or from another machine with this id: only the latter renews
        the lease. Raises Duplicate or Conflict."""
        wait_s = self.interval_s + 1
        before_s = await self.store.time_to_live(item.lease)
        log.info(
            "this machine is already registered; checking whether another machine with its id is alive",
            extra={"address": other.address},
        )
        await asyncio.sleep(wait_s)
        after_s = await self.store.time_to_live(item.lease)
        if before_s is not None and after_s is not None and after_s > before_s - wait_s / 2:
            raise Duplicate(
                f"another machine with machine-id {self.machine.id} is alive at {other.address or 'an unknown address'}"
                f" (this one is at {self.machine.address or 'an unknown address'}); give one of them an id of its own:"
                " rm /etc/machine-id; systemd-machine-id-setup; reboot"
            )
        await self.store.revoke(item.lease)
        raise Conflict("the registration from before this machine's reboot was revoked")

    # Staying registered.

    async def _beat(self) -> None:
        """Send heartbeats; returns when the lease is gone."""
        pause_s = self.interval_s
        while True:
            await asyncio.sleep(pause_s)
            begun_s, sent_s = self._now(), self.registration.boot_now()
            try:
                beat = await self.store.keep_alive(self.lease)
            except LeaseNotFound:
                metrics.BEATS.labels("lease_gone").inc()
                return
            except Unavailable as error:
                log.debug("a heartbeat was not answered, retrying: %s", error)
                metrics.BEATS.labels("failed").inc()
                self.beats = self.beats.failed(self._now())
                pause_s = self.interval_s / 4
                continue
            metrics.BEATS.labels("answered").inc()
            self.registration.renew(begun_s, self.ttl_s, sent_s)
            self.beats = self.beats.answered(self._now(), self.interval_s)
            pause_s = self.interval_s
            self._hear(beat.revision)

    def _hear(self, revision: int) -> None:
        self.heard_revision = revision
        self._heard(revision)

    async def _watch(self, revision: int) -> None:
        """Watch this machine's key; returns when it is gone, or was written by another session."""
        while True:
            try:
                async for changes in self.store.watch(self.key, revision):
                    for event in changes.events:
                        if event.key == self.key and not self._is_ours(event.item):
                            return
                return  # the store was closed
            except Compacted:
                seen = await self._read_own_key()
                if not self._is_ours(next(iter(seen.items), None)):
                    return
                revision = seen.revision  # not the key's mod_revision, which may be compacted

    async def _read_own_key(self) -> RangeResult:
        while True:
            try:
                return await self.store.get_many([self.key])
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    def _is_ours(self, item: KeyValue | None) -> bool:
        return item is not None and decode_machine(item).session == self.machine.session


def decode_machine(item: KeyValue) -> Machine:
    """Return the record of a machine's key; one that cannot be decoded is of an unknown machine."""
    try:
        return MACHINES.decode(item)
    except MalformedRecord:
        return Machine(id="")
