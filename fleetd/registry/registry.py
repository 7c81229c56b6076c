"""Typed reads from any store, and the writes that the API makes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from typing import Generic, TypeVar, cast

import msgspec

from fleetd import metrics
from fleetd.aio import paused_collector
from fleetd.model.cluster_settings import ClusterSettings
from fleetd.model.event import ClusterEvent
from fleetd.model.group import group_of
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.names import is_template, template_of
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.events import EventLog
from fleetd.registry.records import (
    CLUSTER_SETTINGS,
    DECISIONS,
    DEFAULT_PREFIX,
    MACHINES,
    PLACEMENTS,
    REBOOT_REQUESTS,
    REBOOTS,
    SETTINGS,
    STATES,
    SYNCED,
    UNITS,
    USAGE,
    KeySpace,
    Kind,
    MalformedRecord,
    Names,
    Record,
)
from fleetd.registry.transactions import RecordEvents, WriteSet
from fleetd.store.protocol import MAX_OPERATIONS, Conflict, Delete, KeyValue, RangeResult, Store, Unchanged

SLICE_BYTES = 2 * 1024 * 1024  # decoded without a break: about ten milliseconds
RECORD_BYTES = 1000  # to decode a small record takes as long as this many bytes of a large one
MAX_KEYS_BY_NAME = 16 * MAX_OPERATIONS  # for more keys, reading the whole kind is cheaper
MAX_GROUPS_BY_NAME = 32  # for more groups, reading all units is cheaper
_LARGE: Collection[Kind[Record]] = {UNITS, DECISIONS, PLACEMENTS, STATES}  # there may be tens of thousands of each

R = TypeVar("R", bound=Record)
N = TypeVar("N", bound=Names)


def _size_of(items: Iterable[KeyValue]) -> int:
    return sum(len(item.value) for item in items)


class RecordPage(msgspec.Struct, Generic[R], frozen=True):
    """Records of one kind at one revision, by name, in key order, without malformed ones. `last` is the end of the last
    key that was read, `has_more` is true if other keys follow it."""

    records: dict[Names, R]
    last: str
    has_more: bool
    revision: int


class Reader(KeySpace):
    """Typed reads below one key prefix of a store. Every method raises what the store's raise.

    Malformed records are left out, so that one of them does not fail a whole listing.
    """

    def __init__(
        self,
        store: Store,
        prefix: str = DEFAULT_PREFIX,
        *,
        wait_for_turn: Callable[[], Awaitable[None]] | None = None,
        note_read: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`wait_for_turn` is awaited before a large kind is read whole, `note_read` is called with the bytes read; a
        negative number gives some back."""
        super().__init__(prefix)
        self.store = store
        self._wait_for_turn = wait_for_turn
        self._note_read = note_read
        self._stays_at_revision = False  # that of the first read
        self._revision = 0  # of the next read; 0: the latest

    async def read(self, kind: Kind[R], *names: str) -> dict[Names, R]:
        """All records of a kind, or those below `names`: names → record, in key order."""
        return (await self.read_page(kind, *names)).records

    async def read_page(self, kind: Kind[R], *names: str, after: str = "", limit: int = 0) -> RecordPage[R]:
        """The same, but only keys that end after `after` ('': from the first), and at most `limit` (0: all)."""
        prefix = self.key(kind, *names) + "/"
        start = prefix + after if after else ""
        if kind in _LARGE and not limit and self._wait_for_turn:
            await self._wait_for_turn()
        with metrics.registry_operation("get_all") if kind is UNITS else nullcontext():
            asked = limit + 1 if limit else 0
            found = self._note(await self.store.range(prefix, after=start, limit=asked, revision=self._revision))
        items = deque(found.items[:limit] if limit else found.items)
        last = items[-1].key.removeprefix(prefix) if items else ""
        has_more, revision = len(items) < len(found.items), found.revision
        del found
        return RecordPage(await self._decode_all(kind, drain(items)), last, has_more, revision)

    async def get_many(self, kind: Kind[R], wanted: Sequence[N]) -> dict[N, R]:
        """The records of a kind with these names, of those that exist: names → record."""
        if len(wanted) > MAX_KEYS_BY_NAME:
            every = await self.read(kind)
            return {names: every[names] for names in wanted if names in every}
        keys = [self.key(kind, *names) for names in wanted]
        found: dict[Names, R] = {}
        async for items in self._get_items(keys):
            found |= await self._decode_all(kind, items)
        return cast(dict[N, R], found)

    async def _get_items(self, keys: Sequence[str]) -> AsyncIterator[Sequence[KeyValue]]:
        """Those of these keys that exist, as many at a time as the store reads in one request."""
        for start in range(0, len(keys), MAX_OPERATIONS):
            some = keys[start : start + MAX_OPERATIONS]
            yield self._note(await self.store.get_many(some, revision=self._revision)).items

    async def read_keys(self, prefix: str, after: str, limit: int, revision: int) -> tuple[KeyValue, ...]:
        """The first `limit` keys with this prefix after the key `after`, as they were at this revision. They count as
        read until `give_back`."""
        items = (await self.store.range(prefix, after=after, limit=limit, revision=revision)).items
        self._note_read(_size_of(items))
        return items

    def give_back(self, items: Iterable[KeyValue]) -> None:
        """These keys are not held any more."""
        self._note_read(-_size_of(items))

    def _note(self, found: RangeResult) -> RangeResult:
        self._note_read(_size_of(found.items))
        if self._stays_at_revision:
            self._revision = found.revision
        return found

    async def everything(self) -> RangeResult:
        """All that is below the prefix, at one revision (snapshots.py makes a snapshot of it)."""
        if self._wait_for_turn:
            await self._wait_for_turn()
        return self._note(await self.store.range(self.prefix, revision=self._revision))

    async def range_of(self, kind: Kind[R]) -> RangeResult:
        """The items of a kind, undecoded, for those who decode them in a thread."""
        if kind in _LARGE and self._wait_for_turn:
            await self._wait_for_turn()
        return self._note(await self.store.range(self.key(kind) + "/", revision=self._revision))

    async def items_of(self, kind: Kind[R], wanted: Iterable[Names]) -> list[KeyValue]:
        """The same, but those with these names, of those that exist."""
        keys = [self.key(kind, *names) for names in wanted]
        return [item async for items in self._get_items(keys) for item in items]

    async def states_of(self, units: Collection[str], machines: Collection[str]) -> dict[tuple[str, str], UnitState]:
        """The states of these units on these machines: (machine, unit) → state, in that order. `machines` must be all
        there are: for many units, all states are read, which is cheaper than one key for each machine and unit."""
        if len(units) * len(machines) > MAX_KEYS_BY_NAME:
            named = frozenset(units)
            return {names: state for names, state in (await self.states()).items() if names[1] in named}
        return await self.get_many(STATES, [(machine, unit) for machine in sorted(machines) for unit in sorted(units)])

    async def _decode_all(self, kind: Kind[R], items: Iterable[KeyValue]) -> dict[Names, R]:
        """Decode in slices and yield to the event loop between them, so that heartbeats do not wait for a listing."""
        records: dict[Names, R] = {}
        names_of, left = self.names_in(kind), iter(items)
        while True:
            with paused_collector():
                is_last = _decode_slice(kind, left, names_of, records)
            if is_last:
                return records
            await asyncio.sleep(0)

    async def units(self) -> dict[str, Unit]:
        """All units, by name, in order."""
        return {name: unit for (name,), unit in (await self.read(UNITS)).items()}

    async def group(self, template: str) -> dict[str, Unit]:
        """The instances of a template and the template itself, by name, of those that exist."""
        prefix = self.key(UNITS, template.partition("@")[0] + "@")
        found = self._note(await self.store.range(prefix, revision=self._revision))
        units = await self._decode_all(UNITS, drain(deque(found.items)))
        return {name: unit for (name,), unit in units.items() if template_of(name) == template}

    async def units_of_groups(self, groups: Collection[str]) -> dict[str, Unit]:
        """The units of these groups, with their templates, by name."""
        if len(groups) > MAX_GROUPS_BY_NAME:
            return {name: unit for name, unit in (await self.units()).items() if group_of(name) in groups}
        alone = [(group,) for group in groups if not is_template(group)]
        found = {name: unit for (name,), unit in (await self.get_many(UNITS, alone)).items()}
        for template in filter(is_template, groups):
            found |= await self.group(template)
        return found

    async def decisions(self) -> dict[str, Decision]:
        """All decisions, by unit."""
        return {name: decision for (name,), decision in (await self.read(DECISIONS)).items()}

    async def machines(self) -> dict[str, Machine]:
        """All registered machines, by id, in order."""
        return {id_: machine for (id_,), machine in (await self.read(MACHINES)).items()}

    async def settings(self) -> dict[str, MachineSettings]:
        """The settings made through the API, by machine."""
        return {id_: settings for (id_,), settings in (await self.read(SETTINGS)).items()}

    async def states(self, machine: str = "") -> dict[tuple[str, str], UnitState]:
        """The states that all machines, or this one, report: (machine, unit) → state."""
        found = await self.read(STATES, *([machine] if machine else []))
        return cast(dict[tuple[str, str], UnitState], found)

    async def placements(self, machine: str = "") -> dict[tuple[str, str], Placement]:
        """The placements on all machines, or on this one: (machine, unit) → placement."""
        found = await self.read(PLACEMENTS, *([machine] if machine else []))
        return cast(dict[tuple[str, str], Placement], found)

    async def known_machines(self, ids: Collection[str]) -> set[str]:
        """Those of these machines that are registered, have settings or a synced session, or are to be rebooted."""
        kinds: tuple[Kind[Record], ...] = (MACHINES, SETTINGS, SYNCED, REBOOT_REQUESTS, REBOOTS)
        keys = {self.key(kind, id_): id_ for kind in kinds for id_ in ids}
        return {keys[item.key] async for items in self._get_items(list(keys)) for item in items}

    async def unit_and_decision(self, name: str) -> tuple[Unit | None, Decision | None]:
        """One unit and the decision about it. Raises MalformedRecord."""
        unit_key, decision_key = self.key(UNITS, name), self.key(DECISIONS, name)
        with metrics.registry_operation("get"):
            page = self._note(await self.store.get_many([unit_key, decision_key], revision=self._revision))
        found = {item.key: item for item in page.items}
        unit = UNITS.decode(found[unit_key]) if unit_key in found else None
        decision = DECISIONS.decode(found[decision_key]) if decision_key in found else None
        return unit, decision


class Registry(Reader):
    """Typed reads and writes below one key prefix of a store. Every method raises what the store's raise."""

    _events: EventLog | None = None

    def record_events(self, events: EventLog) -> None:
        """From now on, make a record of the events of each write set that is written."""
        self._events = events

    @property
    def record(self) -> RecordEvents | None:
        """What makes the record of a transaction's events, for Batch and cut_into_transactions; None: nothing does."""
        return self._events.write_set if self._events else None

    def at_one_revision(self) -> Reader:
        """A reader for one answer that takes several reads, one after another: all are at the revision of the first."""
        reader = copy(self)
        reader._stays_at_revision = True
        return reader

    @property
    def archive(self) -> "Registry":
        """The registry of what is kept for people, below its own prefix."""
        archive = copy(self)
        archive.prefix = self.archive_prefix
        return archive

    async def usage(self) -> tuple[int, Usage, int]:
        """The number of units now, the usage that the leader wrote last, and its revision (0: none was written)."""
        units, item = await asyncio.gather(self.store.digest(self.key(UNITS) + "/"), self.store.get(self.key(USAGE)))
        return units.count, USAGE.decode(item) if item else Usage(), item.mod_revision if item else 0

    # Writes. Each is guarded by what was read, and raises Conflict if that has changed since.

    async def write_unit(self, unit: Unit, before: Unit | None) -> int:
        """Write a unit that was read as `before` (None: it did not exist). Returns its new generation."""
        return await self.write(self.unit_write_set(unit.name, before, unit))

    def unit_write_set(self, name: str, before: Unit | None, after: Unit | None, *events: ClusterEvent) -> WriteSet:
        """The write set that writes or (None) deletes the unit of this name, which was read as `before`, and what that
        means."""
        key = self.key(UNITS, name)
        guard = Unchanged(key, before.generation if before else 0)
        return WriteSet((guard,), (self.put(after, name) if after else Delete(key),), events)

    async def write(self, write_set: WriteSet) -> int:
        """Write units in one transaction, with the record of its events. Returns the revision after it."""
        if write_set.events and self._events:
            recorded = self._events.write_set(write_set.events)
            operations = (*write_set.operations, *recorded.operations)
            write_set = WriteSet((*write_set.comparisons, *recorded.comparisons), operations)
        with metrics.registry_operation("set"):
            return await self.store.transact(write_set.comparisons, write_set.operations)

    async def cluster_settings(self) -> ClusterSettings:
        """The settings of the cluster. Raises MalformedRecord."""
        item = await self.store.get(self.key(CLUSTER_SETTINGS))
        return CLUSTER_SETTINGS.decode(item) if item else ClusterSettings()

    async def change_cluster_settings(
        self, change: Callable[[ClusterSettings], ClusterSettings], *events: ClusterEvent
    ) -> None:
        """Write the settings of the cluster that `change` makes of the present ones, and the `events` that this means.
        Retries on conflicts. Raises MalformedRecord."""
        key = self.key(CLUSTER_SETTINGS)
        while True:
            item = await self.store.get(key)
            before = CLUSTER_SETTINGS.decode(item) if item else ClusterSettings()
            after = change(before)
            if after == before:
                return
            operation = self.put(after) if after != ClusterSettings() else Delete(key)
            try:
                guard = Unchanged(key, item.mod_revision if item else 0)
                await self.write(WriteSet((guard,), (operation,), events))
            except Conflict:
                continue
            return

    async def change_settings(
        self,
        machine: str,
        change: Callable[[MachineSettings, Machine | None], MachineSettings],
        *events: ClusterEvent,
    ) -> None:
        """Write the settings of a machine that `change` makes of the present ones and of the machine's record (None: it
        is not registered), and the `events` that this means. Retries on conflicts. Settings that set nothing are
        deleted."""
        key, machine_key = self.key(SETTINGS, machine), self.key(MACHINES, machine)
        while True:
            found = {item.key: item for item in (await self.store.get_many([key, machine_key])).items}
            before = SETTINGS.decode(found[key]) if key in found else MachineSettings()
            registered = await self._decode_all(MACHINES, [found[machine_key]] if machine_key in found else [])
            after = change(before, registered.get((machine,)))
            if after == before:
                return
            operation = self.put(after, machine) if after != MachineSettings() else Delete(key)
            try:
                guard = Unchanged(key, found[key].mod_revision if key in found else 0)
                await self.write(WriteSet((guard,), (operation,), events))
            except Conflict:
                continue
            return


def _decode_slice(
    kind: Kind[R], left: Iterator[KeyValue], names_of: Callable[[str], Names | None], records: dict[Names, R]
) -> bool:
    """Add the next records to these, without malformed ones. Returns whether there are no more."""
    size = 0
    while size <= SLICE_BYTES:
        item = next(left, None)
        if item is None:
            return True
        size += len(item.value) + RECORD_BYTES
        names = names_of(item.key)
        if names is None:
            continue
        try:
            records[names] = kind.decode(item, names)
        except MalformedRecord:
            continue
    return False


def drain(items: deque[KeyValue]) -> Iterator[KeyValue]:
    """The items in order, each dropped from the deque before it is decoded: all together may be hundreds of MB."""
    while items:
        yield items.popleft()
