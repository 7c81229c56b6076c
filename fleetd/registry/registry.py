"""The keys, and typed records over any store.

Here stands which key holds what (design: "Keys"), how a record becomes bytes and comes back, and the reads and writes
that the API makes. What the leader and the agents write in batches is cut into transactions here too. Nothing here
decides anything, and nothing here knows which store it talks to.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import msgspec

from fleetd import metrics
from fleetd.model.decoding import UNREADABLE
from fleetd.model.machine import Machine, MachineSettings, is_address, overlay_metadata
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.unit import Unit, UnitState
from fleetd.scheduler.planner import Plan
from fleetd.scheduler.unit_plan import UnitPlan
from fleetd.store.limits import size_of
from fleetd.store.protocol import (
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    Comparison,
    Conflict,
    Delete,
    KeyValue,
    Operation,
    Put,
    Store,
    Unchanged,
)

DEFAULT_PREFIX = "/fleet/"
STEP_OPERATIONS = 100  # of one unit in one step
STEP_BYTES = 600_000
SLICE_BYTES = 2 * 1024 * 1024  # that are decoded in one go, in some ten milliseconds
RECORD_BYTES = 1000  # what a small record takes as long as, to be decoded
_MANY = ("units", "decisions", "placements", "states")  # kinds of which there may be tens of thousands
MAX_KEYS_BY_NAME = 16 * MAX_OPERATIONS  # keys asked for by name; a whole kind costs as much as tens of such requests


class Leader(msgspec.Struct, frozen=True):
    """Who leads. `term` is unique to this time in office: after a restore, revisions repeat."""

    machine: str
    term: str


class Synced(msgspec.Struct, frozen=True):
    """The session of a machine that the leader has taken in and planned for."""

    session: str


Record = Unit | MachineSettings | Machine | Placement | Decision | Synced | UnitState | Leader | Usage

KINDS: dict[str, type] = {
    "units": Unit,
    "settings": MachineSettings,
    "machines": Machine,
    "placements": Placement,
    "decisions": Decision,
    "synced": Synced,
    "states": UnitState,
    "leader": Leader,
    "usage": Usage,
}
_KIND_OF = {record: kind for kind, record in KINDS.items()}
_REVISION_FIELD = {"units": "generation", "decisions": "revision"}  # filled from the store, never stored
_NAMES = {
    "placements": 2,
    "states": 2,
    "leader": 0,
    "usage": 0,
}  # how many names follow a kind in a key; where nothing is said: one
# Which fields of a record say once more what stands in its key.
_IDENTITY: dict[str, tuple[str, ...]] = {
    "units": ("name",),
    "machines": ("id",),
    "placements": ("machine", "unit"),
    "decisions": ("unit",),
}
# Which fields of a record hold one of a few words, so that a leader, which keeps all records, keeps each word once.
_REPEATED: dict[str, tuple[str, ...]] = {
    "decisions": ("machine",),
    "states": ("load", "active", "sub"),
}
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[str, Any] = {kind: msgspec.json.Decoder(record) for kind, record in KINDS.items()}


class MalformedRecord(ValueError):
    """A value in the store that is not what its key promises: written by something else than fleet."""


class RecordKey(msgspec.Struct, frozen=True):
    """A key taken apart: its kind, and the names that follow ('' where a kind has fewer)."""

    kind: str
    first: str = ""
    second: str = ""


class Change(msgspec.Struct, frozen=True):
    """One change of one record; None where it is gone (or is no record, and so counts as gone)."""

    path: RecordKey
    record: Any
    revision: int
    create_revision: int = 0
    lease: int = 0


class RecordPage(msgspec.Struct, frozen=True):
    """Records of one kind as of one revision: names → record, in key order. Malformed ones are left out. `last` is the
    end of the last key that was read, `has_more` says whether others follow it."""

    records: dict[tuple[str, ...], Any]
    last: str
    has_more: bool
    revision: int


class WriteSet(msgspec.Struct, frozen=True):
    """Operations that belong together (all those of one unit), with what must hold for them."""

    comparisons: tuple[Comparison, ...]
    operations: tuple[Operation, ...]


def encode(record: Record) -> bytes:
    """The stored form of a record."""
    field = _REVISION_FIELD.get(_KIND_OF[type(record)])
    if field:
        record = msgspec.structs.replace(record, **{field: 0})
    return _ENCODER.encode(record)


def decode(kind: str, item: KeyValue) -> Any:
    """The record of this kind that the key holds. Raises MalformedRecord."""
    try:
        record = _DECODERS[kind].decode(item.value)
    except UNREADABLE as error:
        raise MalformedRecord(f"{item.key} holds no {kind} record: {error}") from error
    identity = tuple(getattr(record, field) for field in _IDENTITY.get(kind, ()))
    if identity and tuple(item.key.split("/")[-len(identity) :]) != identity:
        raise MalformedRecord(f"{item.key} holds a {kind} record of another name: {'/'.join(identity)}")
    if kind == "units" and "." not in record.name:
        raise MalformedRecord(f"{item.key} holds a unit whose name has no suffix")
    if kind == "machines" and record.address and not is_address(record.address):
        msgspec.structs.force_setattr(
            record, "address", ""
        )  # it is there, and its units with it: but nobody goes there
    for field in _REPEATED.get(kind, ()):
        msgspec.structs.force_setattr(record, field, _once(getattr(record, field)))
    revision_field = _REVISION_FIELD.get(kind)
    if revision_field:
        msgspec.structs.force_setattr(record, revision_field, item.mod_revision)
    return record


@lru_cache(maxsize=4096)
def _once(word: str) -> str:
    """This word, the same object for all that say it."""
    return word


class Registry:
    """Typed reads and writes below one key prefix of a store. Every method raises what the store's raise."""

    def __init__(
        self,
        store: Store,
        prefix: str = DEFAULT_PREFIX,
        *,
        wait_for_turn: Callable[[], Awaitable[None]] | None = None,
        note_read: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`wait_for_turn` is awaited before all is read of what may be many, `note_read` is told how much came."""
        self.store = store
        self.prefix = _normalise(prefix)
        self._wait_for_turn = wait_for_turn
        self._note_read = note_read

    @staticmethod
    def identity_key(prefix: str) -> str:
        """Where a store that has no name of its own may keep one, beside the records."""
        return _normalise(prefix) + "cluster"

    def key(self, kind: str, *names: str) -> str:
        """The key of one record, or (with fewer names) the prefix of its kind without the final slash."""
        return self.prefix + "/".join((kind, *names))

    def parse_key(self, key: str) -> RecordKey | None:
        """The key taken apart, or None for one that is not fleet's."""
        kind, *names = key.removeprefix(self.prefix).split("/")
        if not key.startswith(self.prefix) or kind not in KINDS or len(names) != _NAMES.get(kind, 1) or "" in names:
            return None
        return RecordKey(kind, _once(names[0]), names[1]) if len(names) == 2 else RecordKey(kind, *names)

    def put(self, record: Record, *names: str, lease: int = 0) -> Put:
        """The operation that writes this record."""
        return Put(self.key(_KIND_OF[type(record)], *names), encode(record), lease)

    def change(self, key: str, item: KeyValue | None, revision: int) -> Change | None:
        """What an event or a range item means, or None for a key that is not fleet's. Raises MalformedRecord."""
        path = self.parse_key(key)
        if path is None:
            return None
        if item is None:
            return Change(path, None, revision)
        record = decode(path.kind, item)
        for field, name in zip(_IDENTITY.get(path.kind, ()), (path.first, path.second), strict=False):
            msgspec.structs.force_setattr(record, field, name)  # as the key has it: held once
        return Change(path, record, item.mod_revision, item.create_revision, item.lease)

    # What the API and fleetctl's questions read. One record that cannot be read hides no other.

    async def read(self, kind: str, *names: str) -> dict[tuple[str, ...], Any]:
        """Every record of a kind, or below `names`: names → record, in key order. Malformed ones are left out."""
        return (await self.read_page(kind, *names)).records

    async def read_page(self, kind: str, *names: str, after: str = "", limit: int = 0) -> RecordPage:
        """The same, but only what comes after that end of a key ('': from the first on), at most so many (0: all)."""
        prefix = self.key(kind, *names) + "/"
        start = prefix + after if after else ""
        if kind in _MANY and not limit and self._wait_for_turn:
            await self._wait_for_turn()
        with metrics.registry_operation("get_all") if kind == "units" else nullcontext():
            snapshot = await self.store.range(prefix, after=start, limit=limit + 1 if limit else 0)
        self._note_read(sum(len(item.value) for item in snapshot.items))
        items = deque(snapshot.items[:limit] if limit else snapshot.items)
        last = items[-1].key.removeprefix(prefix) if items else ""
        has_more, revision = len(items) < len(snapshot.items), snapshot.revision
        del snapshot
        return RecordPage(await self._decode_all(kind, drain(items)), last, has_more, revision)

    async def get_many(self, kind: str, wanted: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Any]:
        """Those of a kind's records that bear one of these names: names → record. They are asked for by name, or, where
        they are so many that this would take longer, found among all."""
        if len(wanted) > MAX_KEYS_BY_NAME:
            every = await self.read(kind)
            return {names: every[names] for names in wanted if names in every}
        keys = [self.key(kind, *names) for names in wanted]
        found: dict[tuple[str, ...], Any] = {}
        for start in range(0, len(keys), MAX_OPERATIONS):
            some = await self.store.get_many(keys[start : start + MAX_OPERATIONS])
            self._note_read(sum(len(item.value) for item in some.items))
            found |= await self._decode_all(kind, some.items)
        return found

    async def states_of(self, units: Collection[str], machines: Collection[str]) -> dict[tuple[str, str], UnitState]:
        """What machines (these are all) report of these units: (machine, unit) → state, in that order. States are kept
        by machine, so that each machine is asked for each unit, unless that takes longer than to read every state."""
        if len(units) * len(machines) > MAX_KEYS_BY_NAME:
            named = frozenset(units)
            return {names: state for names, state in (await self.states()).items() if names[1] in named}
        wanted = [(machine, unit) for machine in sorted(machines) for unit in sorted(units)]
        return dict(await self.get_many("states", wanted))  # type: ignore[arg-type]

    async def _decode_all(self, kind: str, items: Iterable[KeyValue]) -> dict[tuple[str, ...], Any]:
        """In slices, between which everything else on the loop has its turn: heartbeats must not wait for a listing."""
        records: dict[tuple[str, ...], Any] = {}
        size = 0
        for item in items:
            size += len(item.value) + RECORD_BYTES
            if size > SLICE_BYTES:
                size = 0
                await asyncio.sleep(0)
            path = self.parse_key(item.key)
            if path is None:
                continue
            try:
                records[(path.first, path.second) if path.second else (path.first,)] = decode(kind, item)
            except MalformedRecord:
                continue
        return records

    async def units(self) -> dict[str, Unit]:
        """Every unit, by name, in order."""
        return {names[0]: unit for names, unit in (await self.read("units")).items()}

    async def decisions(self) -> dict[str, Decision]:
        """Every decision, by unit."""
        return {names[0]: decision for names, decision in (await self.read("decisions")).items()}

    async def machines(self) -> dict[str, Machine]:
        """Every machine that is there, by id, in order."""
        return {names[0]: machine for names, machine in (await self.read("machines")).items()}

    async def settings(self) -> dict[str, MachineSettings]:
        """What people set on machines, by id."""
        return {names[0]: settings for names, settings in (await self.read("settings")).items()}

    async def states(self, machine: str = "") -> dict[tuple[str, str], UnitState]:
        """What machines (or one) report: (machine, unit) → state."""
        return dict(await self.read("states", *([machine] if machine else [])))  # type: ignore[arg-type]

    async def placements(self, machine: str = "") -> dict[tuple[str, str], Placement]:
        """Orders to machines (or to one): (machine, unit) → placement."""
        return dict(await self.read("placements", *([machine] if machine else [])))  # type: ignore[arg-type]

    async def unit_and_decision(self, name: str) -> tuple[Unit | None, Decision | None]:
        """One unit and what was decided for it, at one revision."""
        with metrics.registry_operation("get"):
            found = await self.store.get_many([self.key("units", name), self.key("decisions", name)])
        unit = decision = None
        for item in found.items:
            path = self.parse_key(item.key)
            assert path is not None
            if path.kind == "units":
                unit = decode("units", item)
            else:
                decision = decode("decisions", item)
        return unit, decision

    # What the leader writes: every step is guarded by the decision that it was planned from.

    def write_sets_of(self, plan: Plan, gone: Mapping[str, Comparison]) -> Iterator[WriteSet]:
        """The steps that carry out a plan, in its order. `gone` guards, by machine, that it is not back."""
        # A machine that is taken for dead is told so before its orders go: it may live, and take their absence for one.
        for machine in plan.forgotten:
            yield WriteSet((gone[machine],), (Delete(self.key("synced", machine)),))
        for unit in plan.units:
            yield from self._unit_write_sets(unit)
        for machine, session in plan.synced:
            yield WriteSet((), (self.put(Synced(session), machine),))

    def _unit_write_sets(self, plan: UnitPlan) -> Iterator[WriteSet]:
        """One step a unit. A global unit on many machines takes several: its orders do not depend on one another, and
        its decision comes last, so that all of them are guarded by the former one."""
        key = self.key
        decision_key = key("decisions", plan.unit)
        guard = (Unchanged(decision_key, plan.revision),)
        operations: list[Operation] = []
        size = 0
        deletes: list[Operation] = [Delete(key("placements", machine, plan.unit)) for machine in plan.cancels]
        puts: list[Operation] = [self.put(order, order.machine, order.unit) for order in plan.orders]
        for operation in (*deletes, *puts):
            operations.append(operation)
            size += len(operation.value) if isinstance(operation, Put) else 0
            if len(operations) >= STEP_OPERATIONS or size >= STEP_BYTES:
                yield WriteSet(guard, tuple(operations))
                operations, size = [], 0
        last = self.put(plan.decision, plan.unit) if plan.decision else Delete(decision_key)
        yield WriteSet(guard, (*operations, last))

    # What the API writes: always against what was read. Raises Conflict when somebody else was quicker.

    async def write_unit(self, unit: Unit, before: Unit | None) -> int:
        """Write a unit that was read as `before` (None: did not exist); its new generation."""
        return await self.write(self.unit_write_set(unit.name, before, unit))

    def unit_write_set(self, name: str, before: Unit | None, after: Unit | None) -> WriteSet:
        """What writes or (None) deletes the unit of this name, given that it was read as `before`."""
        key = self.key("units", name)
        guard = Unchanged(key, before.generation if before else 0)
        return WriteSet((guard,), (self.put(after, name) if after else Delete(key),))

    async def write(self, write_set: WriteSet) -> int:
        """Do these operations on units, in one transaction; the revision after it."""
        with metrics.registry_operation("set"):
            return await self.store.transact(write_set.comparisons, write_set.operations)

    async def change_settings(self, machine: str, metadata: Sequence[tuple[str, str]]) -> None:
        """Lay these keys over a machine's metadata, in order ('' hides a key); repeated until nobody interferes. What
        hides nothing is not kept, of a machine that is there to tell, nor are settings that set nothing."""
        key, machine_key = self.key("settings", machine), self.key("machines", machine)
        while True:
            found = {item.key: item for item in (await self.store.get_many([key, machine_key])).items}
            before = decode("settings", found[key]) if key in found else MachineSettings()
            there = await self._decode_all("machines", [found[machine_key]] if machine_key in found else [])
            configured = there[(machine,)].metadata if there else None
            after = overlay_metadata(before, metadata, configured)
            if after == before and key in found:
                return
            operation = self.put(after, machine) if after != MachineSettings() else Delete(key)
            try:
                guard = Unchanged(key, found[key].mod_revision if key in found else 0)
                await self.store.transact([guard], [operation])
            except Conflict:
                continue
            return

    async def usage(self) -> tuple[int, Usage, int]:
        """How many units there are; what the leader counted last, and at which revision (0: it never has)."""
        there, item = await asyncio.gather(
            self.store.digest(self.key("units") + "/"), self.store.get(self.key("usage"))
        )
        counted: Usage = decode("usage", item) if item else Usage()
        return there.count, counted, item.mod_revision if item else 0

    async def known_machines(self, ids: Collection[str]) -> set[str]:
        """Those of these machines that are there, or have left a trace: settings, or a session that was taken in."""
        keys = {self.key(kind, id_): id_ for kind in ("machines", "settings", "synced") for id_ in ids}
        asked = list(keys)
        known: set[str] = set()
        for start in range(0, len(asked), MAX_OPERATIONS):
            found = await self.store.get_many(asked[start : start + MAX_OPERATIONS])
            known |= {keys[item.key] for item in found.items}
        return known


def drain(items: deque[KeyValue]) -> Iterator[KeyValue]:
    """What was read, in order, so that each item goes as soon as it is decoded, if nobody else holds it: all together
    may be hundreds of megabytes."""
    while items:
        yield items.popleft()


def _normalise(prefix: str) -> str:
    return "/" + prefix.strip("/") + "/" if prefix.strip("/") else "/"


def cut_into_transactions(write_sets: Iterable[WriteSet], guards: Sequence[Comparison] = ()) -> Iterator[WriteSet]:
    """Join steps, in order, into as few transactions as the store's bounds allow; a step is never torn apart. Steps are
    taken as they are needed, so that whoever writes one transaction after the other need not make them all at once.

    `guards` stand in every transaction. Raises ValueError for a step that is too large by itself.
    """
    comparisons: list[Comparison] = list(guards)
    operations: list[Operation] = []
    size = 0
    for write_set in write_sets:
        step_size = sum(map(size_of, (*write_set.comparisons, *write_set.operations)))
        if len(write_set.operations) > MAX_OPERATIONS or len(guards) + len(write_set.comparisons) > MAX_OPERATIONS:
            raise ValueError(f"{len(write_set.operations)} operations cannot stand in one transaction")
        full = (
            len(operations) + len(write_set.operations) > MAX_OPERATIONS
            or len(comparisons) + len(write_set.comparisons) > MAX_OPERATIONS
            or size + step_size > MAX_TRANSACTION_BYTES
        )
        if full and operations:
            yield WriteSet(tuple(comparisons), tuple(operations))
            comparisons, operations, size = list(guards), [], 0
        comparisons.extend(write_set.comparisons)
        operations.extend(write_set.operations)
        size += step_size
    if operations:
        yield WriteSet(tuple(comparisons), tuple(operations))
