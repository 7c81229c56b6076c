"""What is read of a lock, what is asked for, and what somebody has of it (locking.py takes and releases it)."""

import asyncio
import math
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from fleetd.model.decoding import UNREADABLE
from fleetd.model.event import ClusterEvent, EventKind, Step
from fleetd.model.lock import Holder, LockEpoch, LockRecord, Session, SessionId, find_other_slots, read_session
from fleetd.registry.records import MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Comparison, Event, KeyValue

R = TypeVar("R", LockRecord, LockEpoch)


class SlotsDiffer(Exception):
    """Others take the lock to have another number of slots. The message is for people."""


class SessionGone(Exception):
    """The session does not hold the lock any more. The message says why."""


class OthersSession(Exception):
    """Somebody else has taken the session. The message is for people."""


class Asked(msgspec.Struct, frozen=True):
    """What somebody asks for."""

    name: str
    ttl_s: float
    slots: int
    by: str = ""
    holder: str = ""


class LockView(msgspec.Struct, frozen=True):
    """A lock as it was read: its sessions in the order of their creation, and its record. The lock may be taken under
    the `guards`, which compare all else that was read. `epoch` is None while no lock may be taken, until `begins` at
    least; `begins_epoch`: it has to be stored, in place of another one if `has_former_epoch`. It was read `at`
    this time by the machine's clock."""

    sessions: tuple[Session, ...]
    record: LockRecord
    guards: tuple[Comparison, ...]
    epoch: LockEpoch | None
    begins: float
    begins_epoch: bool
    has_former_epoch: bool
    revision: int
    at: float


class KnownLock(msgspec.Struct, frozen=True):
    """A lock as a list of all shows it: its sessions, its record, and the revision at which that was written."""

    sessions: list[Session]
    record: LockRecord = LockRecord()
    revision: int = 0


class Held(msgspec.Struct, frozen=True):
    """A session that holds a lock. At `renewed`, by this fleetd's clock, the last renewal of its lease that was
    answered was sent."""

    session: SessionId
    holder: Holder
    renewed: float = 0.0


class Taken(msgspec.Struct):
    """A lock that was taken here, the record that was written, and the store's epoch. `is_fresh` until the session was
    renewed for the first time."""

    held: Held
    record: LockRecord
    epoch: str
    is_fresh: bool = True


class News:
    """What a watch has told of the sessions of a lock and is not taken in yet. It `is_incomplete` if it may have missed
    something."""

    def __init__(self) -> None:
        self.has_come = asyncio.Event()
        self.events: list[Event] = []
        self.is_incomplete = False

    def clear(self) -> None:
        """All is taken in."""
        self.has_come.clear()
        self.events.clear()
        self.is_incomplete = False

    def add(self, events: Sequence[Event]) -> None:
        """Something has changed; without events, nobody knows what."""
        self.events += events
        self.is_incomplete |= not events
        self.has_come.set()


def check_slots(asked: Asked, view: LockView, created: float = math.inf) -> None:
    """Raises SlotsDiffer. `created` is the revision of the own session, behind which others do not count."""
    slots = find_other_slots(view.sessions, view.record, asked.slots, created)
    if slots is not None:
        raise SlotsDiffer(
            f"lock {asked.name} has {slots} slot{'s' * (slots != 1)} for those who hold it or wait for it, and not "
            f"{asked.slots}: all have to say the same number (--slots)"
        )


def check_owner(by: str | None, session: SessionId, record: LockRecord, item: KeyValue | None) -> None:
    """Raises OthersSession if the session, whose key is `item`, was taken by somebody else than `by` (None: nobody
    asks)."""
    holder = record.find(session.hex)
    owner = holder.by if holder else read_session(session.hex, 0, item.value).value.by if item else ""
    if by not in (None, owner):
        raise OthersSession(
            f"lock {session.name}: {owner or 'another program'} has taken this session, and may be at work; to have "
            f"it stop, and the lock free after that: fleetctl unlock --force {session.name}"
        )


async def read_all(registry: Registry) -> dict[str, KnownLock]:
    """All locks that somebody holds or waits for, by name. A record that cannot be read is left out. Raises
    Unavailable."""
    kept = (await registry.store.range(registry.lock_records_prefix)).items
    keyed = (await registry.store.range(registry.locks_prefix)).items
    found: dict[str, KnownLock] = {}
    for item in kept:
        name = item.key.removeprefix(registry.lock_records_prefix)
        try:
            found[name] = KnownLock([], decode(item, LockRecord) or LockRecord(), item.mod_revision)
        except MalformedRecord:
            found[name] = KnownLock([])
    for item in keyed:
        name, slash, lease = item.key.removeprefix(registry.locks_prefix).rpartition("/")
        if slash:
            session = read_session(lease, item.create_revision, item.value)
            found.setdefault(name, KnownLock([])).sessions.append(session)
    return found


def decode(item: KeyValue | None, kind: type[R]) -> R | None:
    """The record in a key, None if there is none. Raises MalformedRecord."""
    if item is None:
        return None
    try:
        return msgspec.json.decode(item.value, type=kind)
    except UNREADABLE as error:
        raise MalformedRecord(f"{item.key} holds no record of a lock: {error}") from error


def lost_event(name: str, holder: Holder) -> ClusterEvent:
    """The event that a holder has lost a lock, without a release."""
    return ClusterEvent(EventKind.LOCK, subject=name, step=Step.LOST, detail=holder.holder or holder.by)


def restores_of(epoch: str) -> str:
    """The restores in the name of an epoch."""
    return epoch.partition("/")[2]


def history_of(items: dict[str, KeyValue], registry: Registry) -> str:
    item = items.get(registry.history_key)
    return item.value.decode("utf-8", "replace") if item else ""
