"""The store's epoch: a name that changes whenever the store is restored from a snapshot.

The revision alone cannot tell. A machine that was cut off or powered off during a restore comes back to a store that
may have been written to more often than the one it knew. So the first member that sees the revision fall, agent or
leader, appends an entry to the key `history`; the epoch's name is `<cluster id>/<entries>`. A store whose last entry is
older than the last one known was set back to before that restore.
"""

import asyncio
from contextlib import suppress
from enum import Enum, auto

import msgspec

from fleetd.registry.registry import Registry
from fleetd.store.protocol import Conflict, Put, Unavailable, Unchanged

RETRY_S = 1.0
MOST_ENTRIES = 20


class StoreChange(Enum):
    """How the store differs from the one that this machine last worked with."""

    NONE = auto()
    SET_BACK = auto()  # this process saw the revision fall
    SET_BACK_WHILE_AWAY = auto()  # restored while this machine was away; others have worked with it since
    OTHER_CLUSTER = auto()


class EpochReading(msgspec.Struct, frozen=True):
    """One look at the store: the epoch's name, the revision it was read at, and whether that revision had fallen."""

    name: str
    revision: int
    fell: bool

    def compare(self, known: str) -> StoreChange:
        """Return how the store has changed since its epoch was called `known` ('': it was never seen)."""
        if self.fell:
            return StoreChange.SET_BACK
        if known in ("", self.name):
            return StoreChange.NONE
        return StoreChange.SET_BACK_WHILE_AWAY if is_same_cluster(known, self.name) else StoreChange.OTHER_CLUSTER


def is_same_cluster(one: str, other: str) -> bool:
    """True if both names are of epochs of one cluster."""
    return one.partition("/")[0] == other.partition("/")[0]


def _entries(name: str) -> list[str]:
    """The entries in an epoch's name, one for each restore."""
    return [entry for entry in name.partition("/")[2].split(";") if entry]


def _is_older(name: str, known: str) -> bool:
    """True if `name` is an earlier epoch of the same cluster than `known`."""
    before, entries = _entries(known), _entries(name)
    return is_same_cluster(name, known) and name != known and (not entries or entries[-1] in before)


class StoreEpoch:
    """Tells whether the store was set back, and records it for all members.

    `known` is the epoch's name as last read, perhaps by an earlier fleetd; '' if never. `highest_revision` is the
    highest revision the store is known to have had.
    """

    def __init__(self, registry: Registry, machine_id: str, known: str, highest_revision: int = 0) -> None:
        self._store = registry.store
        self.key = registry.history_key
        self._machine_id = machine_id
        self._known = known
        self.highest_revision = highest_revision
        self._was_set_back = False  # reported by a watch, and not yet accepted as a reading

    def observe(self, revision: int) -> None:
        """Note that the store has had this revision."""
        self.highest_revision = max(self.highest_revision, revision)

    def note_set_back(self) -> None:
        """A watch found that the store was set back: the next check says so, whatever its revision is by then."""
        self._was_set_back = True

    async def check(self, highest: int, revision: int) -> EpochReading:
        """Judge a reading at `revision` that began when the highest known revision was `highest`. Call `accept` once
        the whole reading has succeeded. Raises Unavailable."""
        if self._was_set_back:
            highest = max(highest, revision + 1)
        return EpochReading(await self.read(highest, revision), revision, fell=revision < highest)

    def accept(self, reading: EpochReading) -> None:
        """Take this reading as the store's state; after a fall, the highest revision starts again from it."""
        self._was_set_back = False
        self.highest_revision = reading.revision if reading.fell else max(self.highest_revision, reading.revision)

    async def read(self, highest: int, revision: int) -> str:
        """Return the epoch's name. If the store was set back, begin a new epoch first. Raises Unavailable."""
        name, written_at = await self._read()
        # If the revision fell and the name differs from the known one, another member has recorded this restore.
        if (revision < highest and name == self._known) or _is_older(name, self._known):
            own = f"{self._machine_id}-{highest}-{revision}-{len(_entries(self._known))}"
            value = ";".join([*_entries(name), own][-MOST_ENTRIES:])
            with suppress(Conflict):
                await self._store.transact([Unchanged(self.key, written_at)], [Put(self.key, value.encode())])
            name, _ = await self._read()
        self._known = name
        return name

    async def tell_of_fall(self, highest: int, revision: int) -> None:
        """Record that the store was set back from `highest` to `revision`; retries until the store answers.

        A machine whose next heartbeat comes late sees no fall any more. Without the record it would not write again
        what the restore undid.
        """
        while True:
            try:
                await self.read(highest, revision)
                return
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _read(self) -> tuple[str, int]:
        """Return the name, and the revision at which `history` was last written; 0: never."""
        cluster_id = await self._store.cluster_id()
        item = await self._store.get(self.key)
        if item is None:
            return cluster_id, 0
        return f"{cluster_id}/{item.value.decode('utf-8', 'replace')}", item.mod_revision
