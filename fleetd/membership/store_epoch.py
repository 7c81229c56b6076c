"""The store's epoch: a name that changes whenever the store is restored from a snapshot.

The revision alone does not show a restore: a machine that was cut off or powered off during it comes back to a store
that may have been written to more often than the one it knew. So the first machine that sees the revision fall appends
an entry to the key `history`; the epoch's name is `<cluster id>/<entries>`. A store whose last entry is older than the
last one known was set back to before that restore.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

import msgspec

from fleetd.registry.registry import Registry
from fleetd.store.protocol import Conflict, Put, Unavailable, Unchanged

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
    """What this process knows of the store's epoch. Only this object decides whether the store was set back: the agent
    checks and accepts its readings here, and who sees the revision fall reports it with `note_set_back`.

    `name` is the epoch's as last accepted, perhaps by an earlier fleetd; '' if none was. `highest_revision` is the
    highest revision the store is known to have had. `set_back` is set from a reported fall until a reading shows it.
    On a worker it records nothing: the servers do, and let a worker see no fall before they have.
    By the clock `now`, the epoch has been known `since` then; `has_changed` is true once it followed another one that
    this process knew.
    """

    def __init__(
        self,
        registry: Registry,
        machine_id: str,
        name: str = "",
        highest_revision: int = 0,
        *,
        is_worker: bool = False,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._now = now
        self.since = now()
        self.has_changed = False
        self._store = registry.store
        self.key = registry.history_key
        self._machine_id = machine_id
        self._is_worker = is_worker
        self.name = name
        self.highest_revision = highest_revision
        self.set_back = asyncio.Event()
        self._fell = False  # accepted, and not taken yet

    @property
    def was_restored(self) -> bool:
        """True if the store was restored at any time."""
        return bool(_entries(self.name))

    def note_revision(self, revision: int) -> None:
        """Note that the store has had this revision."""
        self.highest_revision = max(self.highest_revision, revision)

    def note_set_back(self, name: str) -> None:
        """Report that the store was set back. The next `check` finds a fall even if the revision has risen again.

        `name` is the epoch that the caller worked with ('': not known yet). Nothing is done if another epoch was
        accepted since then: it began with this fall.
        """
        if name in ("", self.name):
            self.set_back.set()

    async def check(self, highest: int, revision: int) -> EpochReading:
        """Judge a reading at `revision` that began when the highest known revision was `highest`, and begin a new epoch
        if the store was set back. Call `accept` once the whole reading has succeeded. Raises Unavailable."""
        fell = revision < highest or self.set_back.is_set()
        name, written_at = await self._read()
        # If the revision fell and the name differs from the known one, another server has recorded this restore.
        if self._is_worker:
            if _is_older(name, self.name):
                raise Unavailable("the store was restored, and no server has recorded that yet")
        elif (fell and name == self.name) or _is_older(name, self.name):
            own = f"{self._machine_id}-{highest}-{revision}-{len(_entries(self.name))}"
            value = ";".join([*_entries(name), own][-MOST_ENTRIES:])
            with suppress(Conflict):
                await self._store.transact([Unchanged(self.key, written_at)], [Put(self.key, value.encode())])
            name, _ = await self._read()
        return EpochReading(name, revision, fell)

    def accept(self, reading: EpochReading) -> None:
        """Take this reading as the store's state; after a fall, the highest revision starts again from it."""
        if reading.fell or reading.name != self.name:
            self.set_back.clear()
            self.since, self.has_changed = self._now(), self.has_changed or self.name != ""
        # A worker is told of a fall by servers. Under the known name, it is the one that it has seen already.
        self._fell |= reading.fell and not (self._is_worker and reading.name == self.name)
        self.name = reading.name
        self.highest_revision = reading.revision if reading.fell else max(self.highest_revision, reading.revision)

    def take_change(self, known: str) -> StoreChange:
        """Return how the store, as last accepted, has changed since its epoch was called `known` ('': it was never
        seen). A fall is returned once."""
        fell, self._fell = self._fell, False
        if fell:
            return StoreChange.SET_BACK
        if known in ("", self.name):
            return StoreChange.NONE
        return StoreChange.SET_BACK_WHILE_AWAY if is_same_cluster(known, self.name) else StoreChange.OTHER_CLUSTER

    async def _read(self) -> tuple[str, int]:
        """Return the name, and the revision at which `history` was last written; 0: never."""
        cluster_id = await self._store.cluster_id()
        item = await self._store.get(self.key)
        if item is None:
            return cluster_id, 0
        return f"{cluster_id}/{item.value.decode('utf-8', 'replace')}", item.mod_revision
