"""Locks: who holds one, who is next, and how long somebody may go on without an answer. Pure.

A lock is in the layout of etcd's concurrency package: each session, one attempt to hold the lock, has a key
`/fleet-locks/NAME/<lease in hexadecimal>` on a lease of its own. The sessions hold the lock in the order in which their
keys were created, the first one, or as many as there are slots. So `etcdctl lock /fleet-locks/NAME` waits behind
fleet's sessions, and they behind it.

A key that is gone does not mean that its session has stopped: a store that was frozen or restored drops leases of the
living. So who holds the lock is also in a record without a lease. Only a release takes a holder out of it; those who
see that the key of a holder is gone wait for the full TTL of that before one of them takes its place.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto

import msgspec

from fleetd.model.decoding import FORMAT, UNREADABLE, Count

LEAST_TTL_S = 3.0
LONGEST_TTL_S = 300.0  # so long nobody takes a lock after a restore: a holder that the store forgot may run on
DEFAULT_TTL_S = 30.0
MOST_SLOTS = 256  # all holders of a lock are in one record
MOST_HOLDER = 128  # characters that a session says of itself, and that are kept of who asked
MOST_LOCKS = 10_000  # of a cluster, held at a time
SHARE_OF_LOCKS = MOST_LOCKS // 4  # that one user may hold

# What a client does without an answer, in parts of the TTL since it sent the last renewal that was answered.
RENEW_PART = 1 / 3
TERM_PART = 2 / 3
KILL_PART = 0.9

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,127}", re.ASCII)
_SESSION = re.compile(r"[0-9a-f]{1,16}", re.ASCII)


def refuse_lock_name(name: str) -> str:
    """Why no lock has this name, or ''."""
    if _NAME.fullmatch(name):
        return ""
    shown = "".join(filter(str.isprintable, name))[:128]
    return (
        f'"{shown}" is no name of a lock: it has to hold letters, digits and "_.@:-" only, to begin with a letter, a '
        "digit or _, and to have at most 128 characters"
    )


def refuse_lock_terms(ttl_s: float, slots: int) -> str:
    """Why a lock cannot be asked for with this TTL and so many slots, or ''."""
    if not LEAST_TTL_S <= ttl_s <= LONGEST_TTL_S:
        return f"a ttl of {ttl_s:g} s: it has to be from {LEAST_TTL_S:g} to {LONGEST_TTL_S:g} s"
    if not 1 <= slots <= MOST_SLOTS:
        return f"{slots} slots: a lock has from 1 to {MOST_SLOTS}"
    return ""


def refuse_another_lock(held: int, own: int) -> str:
    """Why somebody who holds `own` locks of the `held` ones may not take another one, and what to do; or ''."""
    remedy = (
        "`fleetctl locks` lists them; end the commands that hold them, or take some away (`fleetctl unlock --force`)"
    )
    if held >= MOST_LOCKS:
        return f"{held} locks are held in this cluster, and {MOST_LOCKS} may be: {remedy}"
    if own >= SHARE_OF_LOCKS:
        return f"you hold {own} locks of this cluster, and one user may hold {SHARE_OF_LOCKS}: {remedy}"
    return ""


class SessionId(msgspec.Struct, frozen=True):
    """Names a session: the lock, and the number of its lease. As text it is `NAME.<lease in hexadecimal>`."""

    name: str
    lease: int

    @property
    def hex(self) -> str:
        """The lease as in the key."""
        return f"{self.lease:x}"

    def __str__(self) -> str:
        return f"{self.name}.{self.hex}"


def parse_session_id(text: str) -> SessionId | None:
    """The id of a session, or None if this is none."""
    name, _, lease = text.rpartition(".")
    if refuse_lock_name(name) or not _SESSION.fullmatch(lease) or not 0 < int(lease, 16) < 2**63:
        return None
    return SessionId(name, int(lease, 16))


class SessionValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is stored in the key of a session: how many slots it takes the lock to have, who asked, and what the client
    says of itself. Programs that are not fleet store nothing: they want the lock for themselves."""

    slots: Count = 1
    by: str = ""
    holder: str = ""


class Session(msgspec.Struct, frozen=True):
    """One session whose key is there. `lease` is in hexadecimal, as in the key."""

    lease: str
    created: int
    value: SessionValue = SessionValue()
    is_fleets: bool = True


def read_session(lease: str, created: int, value: bytes) -> Session:
    """The session that a key means; one without a value of fleet's is of another program."""
    try:
        return Session(lease, created, msgspec.json.decode(value, type=SessionValue))
    except UNREADABLE:
        return Session(lease, created, is_fleets=False)


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session that holds the lock, until it releases it. `epoch` and `created` make its token; `since` is Unix
    time."""

    lease: str
    created: Count
    ttl_s: float
    epoch: Count
    slots: Count = 1
    by: str = ""
    holder: str = ""
    since: float = 0.0

    @property
    def token(self) -> str:
        """The fencing token: of two holders of a lock, the later one has the greater one, as text and as two numbers.
        A revision alone would not do: a restore sets it back."""
        return f"{self.epoch:012d}-{self.created:019d}"


class LockRecord(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """Who holds a lock. Key `/fleet-lock-state/names/NAME`; there is none while nobody of fleet's does."""

    holders: tuple[Holder, ...] = ()

    def find(self, lease: str) -> Holder | None:
        """The holder with this lease."""
        return next((holder for holder in self.holders if holder.lease == lease), None)

    def without(self, leases: Iterable[str]) -> "LockRecord":
        """The record without these holders."""
        gone = frozenset(leases)
        return LockRecord(tuple(holder for holder in self.holders if holder.lease not in gone))


class LockEpoch(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """The epoch of the store in which locks are taken, by its name (membership/store_epoch.py), and its number, which
    only rises: the Unix time of its beginning, or one more than the one before. Key `/fleet-lock-state/epoch`."""

    name: str
    number: Count


class Claim(Enum):
    """What a session may do."""

    TAKE = auto()
    WAIT = auto()
    LOST = auto()  # its key is gone


class Decision(msgspec.Struct, frozen=True):
    """What a session may do now. To TAKE the lock is to write `record`, guarded by the revision of the record that was
    read. `blocked_by` are the leases that it waits for, and `until` is the time at which that may end without a change
    in the store (None: it does not)."""

    claim: Claim
    record: LockRecord | None = None
    blocked_by: tuple[str, ...] = ()
    until: float | None = None


def decide(
    own: Holder, sessions: Sequence[Session], record: LockRecord, gone_since: Mapping[str, float], now: float
) -> Decision:
    """What the session `own`, as the holder that it would be, may do. `sessions` are all of the lock, `gone_since` says
    since when the holders whose keys are gone are known to be, by the clock of `now`."""
    present = {session.lease: session for session in sessions}
    if own.lease not in present:
        return Decision(Claim.LOST)
    others = [holder for holder in record.holders if holder.lease != own.lease]
    left = {
        holder.lease: gone_since.get(holder.lease, now) + holder.ttl_s
        for holder in others
        if holder.lease not in present
    }
    overdue = [lease for lease, until in left.items() if until <= now]
    slots = {session.lease: session.value.slots for session in sessions if session.created < own.created}
    slots |= {holder.lease: holder.slots for holder in others if holder.lease not in overdue}
    if len(slots) < min([own.slots, *slots.values()]):
        return Decision(Claim.TAKE, LockRecord((*record.without([*overdue, own.lease]).holders, own)))
    return Decision(
        Claim.WAIT, None, tuple(slots), min((until for until in left.values() if until > now), default=None)
    )


def find_overdue(
    sessions: Iterable[Session], record: LockRecord, gone_since: Mapping[str, float], now: float
) -> tuple[Holder, ...]:
    """The holders whose keys have been gone for their TTL: they have stopped, and another one may have their places."""
    present = {session.lease for session in sessions}
    gone = (holder for holder in record.holders if holder.lease not in present)
    return tuple(holder for holder in gone if gone_since.get(holder.lease, now) + holder.ttl_s <= now)


def find_other_slots(
    sessions: Iterable[Session], record: LockRecord, slots: int, created: float = math.inf
) -> int | None:
    """How many slots the lock has for those of fleet's who hold it, or wait since before the revision `created`, if
    that is another number than `slots`; else None."""
    known = [holder.slots for holder in record.holders]
    known += [session.value.slots for session in sessions if session.is_fleets and session.created < created]
    return next((number for number in known if number != slots), None)


def find_holding(sessions: Sequence[Session], record: LockRecord) -> list[Session]:
    """The sessions that hold the lock: those in the record, and the first of all if it is of another program."""
    holders = {holder.lease for holder in record.holders}
    in_order = sorted(sessions, key=lambda session: session.created)
    return [
        session
        for place, session in enumerate(in_order)
        if session.lease in holders or (place == 0 and not session.is_fleets)
    ]


def begin_epoch(
    stored: LockEpoch | None, name: str, since: float, *, has_changed: bool, now: float, unix_now: float
) -> tuple[LockEpoch | None, float]:
    """The epoch in which locks may be taken, and when it may begin at the latest by the clock of `now`; None before.

    `name` is the store's epoch, which this machine knows since `since`, and which `has_changed` while it looked. After
    a restore, holders that the store knows nothing of may run on for the longest TTL.
    """
    if stored is not None and stored.name == name:
        return stored, now
    is_first = stored is None and not name.partition("/")[2] and not has_changed
    begins = now if is_first else since + LONGEST_TTL_S
    if now < begins:
        return None, begins
    number = max(stored.number + 1 if stored else 0, int(unix_now))
    return LockEpoch(name, number), begins


class Step(Enum):
    """What a client does with its command."""

    RUN = auto()
    TERM = auto()
    KILL = auto()


def next_step(sent: float, ttl_s: float, now: float) -> tuple[Step, float]:
    """What a client does that sent the last renewal that was answered at `sent`, and when it has to look again."""
    term, kill = sent + ttl_s * TERM_PART, sent + ttl_s * KILL_PART
    if now < term:
        return Step.RUN, term
    return (Step.TERM, kill) if now < kill else (Step.KILL, kill)
