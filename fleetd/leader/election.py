"""The leader election: all machines campaign for one key.

The leader holds the key on a lease of its own; the others wait until the key is gone. term.py is what the leader does.
"""

import asyncio
import logging
import zlib
from collections.abc import Callable
from contextlib import suppress

from fleetd.aio import Backoff, Offload
from fleetd.leader.term import Term, TermSettings
from fleetd.leader.timers import HeartbeatSource
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.registry.records import LEADER, Leader, encode
from fleetd.registry.registry import Registry
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.reboot_policy import ONE_AT_A_TIME, RebootPolicy
from fleetd.store.protocol import (
    Compacted,
    Comparison,
    Conflict,
    CreatedAt,
    Delete,
    HasValue,
    KeyValue,
    Put,
    StoreError,
    Unchanged,
)
from fleetd.trust.sealing_process import Sealing

log = logging.getLogger(__name__)

MIN_LEADER_TTL_S = 2.0  # etcd grants no shorter lease
RETRY_S = 1.0
NEWER_RECORD_S = 60.0  # before it campaigns again, after a record that it cannot read because it is older
LONGEST_NEWER_RECORD_S = 3600.0
CANNOT_OPEN_S = 5.0  # before it campaigns again, so that a machine that can open the secrets leads
CANDIDACY_S = 0.3  # candidates spread over this time when the leader is gone


class Election:
    """Campaigns for leadership as long as it runs, and leads while it holds it."""

    def __init__(
        self,
        machine: str,
        registry: Registry,
        membership: HeartbeatSource,
        epoch: StoreEpoch,
        *,
        ttl_s: float,
        failover: FailoverPolicy,
        reboots: RebootPolicy = ONE_AT_A_TIME,
        compact: bool,
        now: Callable[[], float],
        unix_now: Callable[[], float],
        new_id: Callable[[], str],
        offload: Offload,
        sealing: Sealing | None = None,
        seal_key: Callable[[], str] = lambda: "",
    ) -> None:
        self.machine = machine
        self.registry = registry
        self.store = registry.store
        self.membership = membership
        self.leader_ttl_s = max(MIN_LEADER_TTL_S, ttl_s / 2)
        self.new_id = new_id
        self._settings = TermSettings(
            registry,
            membership,
            ttl_s=ttl_s,
            leader_ttl_s=self.leader_ttl_s,
            failover=failover,
            reboots=reboots,
            compact=compact,
            now=now,
            unix_now=unix_now,
            offload=offload,
            sealing=sealing,
            seal_key=seal_key,
        )
        self.term: Term | None = None
        self._epoch = epoch
        self._stale_key: bytes | None = None  # the leader's key, left by a former fleetd here; None: not read yet
        self._delay_s = CANDIDACY_S * zlib.crc32(machine.encode()) / 2**32

    async def run(self) -> None:
        """Campaign and lead until cancelled. Retries while the store does not answer."""
        newer = Backoff(NEWER_RECORD_S, LONGEST_NEWER_RECORD_S)
        while True:
            try:
                lease, guards = await self._campaign()
            except StoreError as error:
                log.debug("cannot campaign: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            epoch_name = self._epoch.name
            self.term = term = Term(self._settings, lease, guards)
            log.info("this machine leads the cluster")
            try:
                await term.lead()
            finally:
                self.term = None
                await self._revoke(lease)
            log.info("this machine no longer leads the cluster")
            if term.met_newer_record:  # let a fleetd that can read it lead
                await asyncio.sleep(newer.next_s())
            elif term.cannot_open:
                await asyncio.sleep(CANNOT_OPEN_S)
            if term.fall is not None:
                self._epoch.note_set_back(epoch_name)

    async def _campaign(self) -> tuple[int, tuple[Comparison, ...]]:
        """Wait until no machine leads, and become the leader. Returns the lease, and the guards of every write."""
        key = self.registry.key(LEADER)
        while True:
            seen = await self.store.get_many([key])
            item = next(iter(seen.items), None)
            if self._stale_key is None:
                self._stale_key = self._find_stale_key(item)
            if item is None:
                value = self._stale_key = encode(Leader(self.machine, self.new_id()))
                lease = await self.store.grant(self.leader_ttl_s)
                try:
                    revision = await self.store.transact([Unchanged(key, 0)], [Put(key, value, lease)])
                except StoreError as error:
                    await self._revoke(lease)
                    if not isinstance(error, Conflict):
                        raise
                    continue
                return lease, (CreatedAt(key, revision), HasValue(key, value))
            if item.value == self._stale_key:
                await self._delete_key(key, item.value)
            else:
                await self._wait_for_vacancy(item, seen.revision)
                await asyncio.sleep(self._delay_s)  # all machines notice at the same time: only a few should try

    def _find_stale_key(self, item: KeyValue | None) -> bytes:
        """The value of the leader's key if an earlier fleetd on this machine left it, else b"". Only a key from before
        this fleetd's first look counts: a later one with this machine's id is from a live machine with the same id."""
        return item.value if item is not None and b'"' + self.machine.encode() + b'"' in item.value else b""

    async def _delete_key(self, key: str, value: bytes) -> None:
        with suppress(Conflict):
            await self.store.transact([HasValue(key, value)], [Delete(key)])

    async def _wait_for_vacancy(self, leader: KeyValue, revision: int) -> None:
        """Wait until the leader's key, as it was at this revision, has changed or is gone. The watch may miss that
        without an error, so the key is also read now and then, if the store has changed at all."""
        heard = self.membership.heard_revision
        watching = asyncio.create_task(self._watch_for_vacancy(leader.key, revision))
        try:
            while not watching.done():
                await asyncio.wait([watching], timeout=2 * self.leader_ttl_s)
                if self.membership.heard_revision != heard:
                    heard = self.membership.heard_revision
                    if await self.store.get(leader.key) != leader:
                        return
        finally:
            watching.cancel()

    async def _watch_for_vacancy(self, key: str, revision: int) -> None:
        with suppress(Compacted):
            async for changes in self.store.watch(key, revision):
                if any(event.key == key and event.item is None for event in changes.events):
                    return

    async def _revoke(self, lease: int) -> None:
        try:
            await self.store.revoke(lease)
        except StoreError as error:
            log.debug("cannot revoke the leader's lease, which will expire: %s", error)
