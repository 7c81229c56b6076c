"""Writes what this machine announces: only changes, and on no lease.

A machine that was judged dead has nothing announced any more. So that a write that was late in the network does not
bring a name back, each one that announces something compares `synced/<machine>`, which the leader deletes with that
judgement; what takes a name back need not compare anything.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from fleetd.aio import Backoff, Pace
from fleetd.membership.registration import Registration
from fleetd.model.announcement import ServiceRecord
from fleetd.registry.records import SERVICES, SYNCED, MalformedRecord, Synced, encode
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.store.protocol import Conflict, Delete, HasValue, KeyValue, Operation, Refused, StoreError

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0
WRITE_PERIOD_S = 0.03  # between the batches of a burst
LATE_WRITE_S = 10.0  # a request that timed out has reached the store by then, or never will
KEYS_AT_ONCE = 100

Records = Mapping[str, ServiceRecord]  # by name of the service
Key = tuple[str, str]  # (service, unit)


class AnnouncementWriter:
    """Keeps the records of this machine in the store as last `set`. `known` are the keys that an earlier fleetd may
    have left there (None: nobody knows, so all records are read once), which stay until something is set of their unit;
    `remember` is called with all keys before they are written. `on_settled` is called with each unit of which the store
    now has what was set."""

    def __init__(
        self,
        registry: Registry,
        machine_id: str,
        registration: Registration,
        known: tuple[Key, ...] | None,
        remember: Callable[[tuple[Key, ...]], None],
        on_settled: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._machine_id = machine_id
        self._registration = registration
        self._remember = remember
        self._on_settled = on_settled
        self._wanted: dict[Key, ServiceRecord] = {}
        self._stored: dict[Key, ServiceRecord | None] = dict.fromkeys(known or ())  # None: some record, or none
        self._undecided = dict.fromkeys(unit for _, unit in known or ())  # of which nothing was set yet
        self._reads_all = known is None
        self._is_used = bool(known)  # a machine whose units announce nothing asks the store for nothing
        self._compares = True
        self._lease = 0  # of the registration for which the store was compared last
        self._unsettled: dict[str, None] = {}
        self._has_work = asyncio.Event()
        self._pace = Pace(WRITE_PERIOD_S, longest_rest_s=0.05)

    def set(self, unit: str, records: Records) -> None:
        """Have these records of the unit, and no others, in the store."""
        if unit in self._undecided:
            self._decide(unit)
        if not self._is_used:
            self._is_used = True
            self._has_work.set()
        keys = [key for key in self._wanted if key[1] == unit]
        if {key[0]: self._wanted[key] for key in keys} == records:
            return
        for key in keys:
            del self._wanted[key]
        self._wanted |= {(service, unit): record for service, record in records.items()}
        self._unsettled[unit] = None
        self._has_work.set()

    def decide_rest(self, except_for: Collection[str]) -> None:
        """The other units of which nothing was set yet are not announced."""
        for unit in [each for each in self._undecided if each not in except_for]:
            self._decide(unit)

    def _decide(self, unit: str) -> None:
        del self._undecided[unit]
        self._unsettled[unit] = None
        self._has_work.set()

    def is_settled(self, unit: str) -> bool:
        """True if the store has what was set of this unit."""
        return unit not in self._unsettled and self._keys_of(unit, self._stored) == self._keys_of(unit, self._wanted)

    def announced_units(self) -> dict[str, None]:
        """The units of which the store has, or may have, or will have a record that announces something."""
        found = {unit: None for (_, unit), record in self._stored.items() if record is None or not record.failing}
        return found | {unit: None for (_, unit), record in self._wanted.items() if not record.failing}

    @staticmethod
    def _keys_of(unit: str, records: Mapping[Key, ServiceRecord | None]) -> Mapping[Key, ServiceRecord | None]:
        return {key: record for key, record in records.items() if key[1] == unit}

    def wake(self) -> None:
        """The machine may be registered, or the leader may have acknowledged it."""
        is_behind = self._lease != self._registration.lease or self._stored.keys() != self._wanted.keys()
        if self._is_used and (self._unsettled or is_behind):
            self._has_work.set()

    def read_all(self) -> None:
        """The store was restored: what it holds may be old records of this machine, also if nothing is announced now
        and no earlier fleetd has left anything."""
        self._reads_all = True
        self._is_used = True
        self._unsettled |= dict.fromkeys(unit for _, unit in self._wanted)
        self._has_work.set()

    async def wait_until_used(self) -> None:
        """Wait until there is anything to write, or to take back."""
        await self._has_work.wait()

    async def run(self) -> None:
        """Write while the machine is registered, until cancelled. Retries while the store is unavailable."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            await self._has_work.wait()
            await self._pace.wait()
            self._has_work.clear()
            lease = self._registration.lease
            if not lease or not self._registration.is_certain:
                continue  # the next heartbeat wakes
            try:
                await self._write(lease)
                self._pace.done()
                backoff.reset()
            except Conflict:
                log.debug("the leader has not acknowledged this machine; its units are announced once it has")
            except StoreError as error:
                if backoff.is_first:
                    log.warning("cannot write what the units here announce, retrying: %s", error)
                self._compares = True
                asyncio.get_running_loop().call_later(LATE_WRITE_S, self._compare_again)
                await asyncio.sleep(backoff.next_s())
                self._has_work.set()

    def _compare_again(self) -> None:
        """Check whether a late write has overwritten a newer one."""
        self._compares = True
        self._has_work.set()

    async def _write(self, lease: int) -> None:
        if self._compares or self._reads_all or lease != self._lease:
            await self._read()
            self._compares, self._reads_all, self._lease = False, False, lease
        wanted = dict(self._wanted)
        changed = {key: record for key, record in wanted.items() if self._stored.get(key) != record}
        gone = [key for key in self._stored if key not in wanted and key[1] not in self._undecided]
        self._remember(tuple(dict.fromkeys((*self._stored, *wanted))))
        failing = [key for key, record in changed.items() if record.failing]
        await self._transact(dict.fromkeys(gone))
        if changed:
            try:
                await self._transact(changed, guarded=True)
            except Conflict:
                taken_back = [key for key in failing if key in self._stored]
                await self._transact(dict.fromkeys(taken_back))
                self._settle()
                raise
            except Refused:
                self._settle()
                raise
        if gone:
            self._remember(tuple(self._stored))
        self._settle()

    def _settle(self) -> None:
        unsettled, self._unsettled = self._unsettled, {}
        for unit in unsettled:
            if self._keys_of(unit, self._stored) != self._keys_of(unit, self._wanted):
                self._unsettled[unit] = None
        for unit in unsettled:
            if unit not in self._unsettled:
                self._on_settled(unit)

    async def _transact(self, records: Mapping[Key, ServiceRecord | None], *, guarded: bool = False) -> None:
        """Write these records, or delete them (None), and note that they are stored. Raises Refused for one that is
        refused, after the others were written: it may be of a unit whose placement has changed meanwhile."""
        keys = list(records)
        batches = [keys[first : first + KEYS_AT_ONCE] for first in range(0, len(keys), KEYS_AT_ONCE)]
        refusal: Refused | None = None
        for some in batches:  # which grows
            try:
                await self._transact_batch({key: records[key] for key in some}, guarded)
            except Refused as error:
                if len(some) == 1:
                    refusal = error
                else:
                    batches += [[key] for key in some]
        if refusal is not None:
            raise refusal

    async def _transact_batch(self, records: Mapping[Key, ServiceRecord | None], guarded: bool) -> None:
        synced = self._registry.key(SYNCED, self._machine_id)
        guard = (HasValue(synced, encode(Synced(self._registration.session))),) if guarded else ()
        operations: list[Operation] = [self._operation(key, record) for key, record in records.items()]
        self._stored |= dict.fromkeys(records)
        for transaction in cut_into_transactions([WriteSet(guard, tuple(operations))]):
            await self._registry.store.transact(transaction.comparisons, transaction.operations)
        for key, record in records.items():
            if record is None:
                del self._stored[key]
            else:
                self._stored[key] = record

    def _operation(self, key: Key, record: ServiceRecord | None) -> Operation:
        names = (key[0], self._machine_id, key[1])
        return self._registry.put(record, *names) if record else Delete(self._registry.key(SERVICES, *names))

    async def _read(self) -> None:
        """Find out what the store has of this machine."""
        store, prefix = self._registry.store, self._registry.key(SERVICES) + "/"
        found: list[KeyValue] = []
        if self._reads_all:
            found += (await store.range(prefix)).items
        else:
            keys = [self._registry.key(SERVICES, service, self._machine_id, unit) for service, unit in self._keys()]
            for first in range(0, len(keys), KEYS_AT_ONCE):
                found += (await store.get_many(keys[first : first + KEYS_AT_ONCE])).items
        stored: dict[Key, ServiceRecord | None] = {}
        for item in found:
            parsed = self._registry.parse_key(item.key)
            if parsed is not None and parsed.names[1] == self._machine_id:
                stored[parsed.names[0], parsed.names[2]] = _decode(item)
        self._stored = stored
        self._unsettled |= dict.fromkeys(unit for _, unit in self._wanted)

    def _keys(self) -> tuple[Key, ...]:
        return tuple(dict.fromkeys((*self._stored, *self._wanted)))


def _decode(item: KeyValue) -> ServiceRecord | None:
    try:
        return SERVICES.decode(item)
    except MalformedRecord as error:
        log.warning("what this machine announces cannot be read, and is written again: %s", error)
        return None
