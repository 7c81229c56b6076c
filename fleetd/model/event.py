"""Cluster events: what happened in the cluster and who asked for it, as data. Pure.

Each is stored in the very transaction that does what it tells of. A transaction has one record, with all of its events:
so the revision of that record is when they happened, and their order is that of revisions, then that of the record.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from fleetd.model.decoding import FORMAT
from fleetd.model.reason import Reason, RejectionCount
from fleetd.model.reboot import RebootFailure
from fleetd.model.rollout import Failure, PauseCause

KEPT_S = 7 * 24 * 3600.0
KEPT_BYTES = 64 * 1024 * 1024  # of all records together
AHEAD_S = 24 * 3600.0  # no clock of a machine that works is so far ahead of the leader's

_TIME_DIGITS = 15  # of milliseconds: until the year 33658


class EventKind(StrEnum):
    """What an event tells. The fields of ClusterEvent that it has are given in brackets."""

    ASKED = "asked"  # somebody asked for something through the API (by, action; unit, machine, subject, id)
    PLACED = "placed"  # a unit that was nowhere is on a machine (unit, machine, reason)
    MOVED = "moved"  # a unit is on another machine than before (unit, machine, former, reason)
    UNPLACED = "unplaced"  # a unit is nowhere, or no longer on a machine (unit, former, reason, rejections)
    SUPERSEDED = "superseded"  # a unit is placed elsewhere, and may still run on a lost machine (unit, former)
    ROLLOUT = "rollout"  # a step of a rollout (subject: the group; id, step, units, by, pause, failure)
    DRAIN = "drain"  # a step of a drain (machine, step; unit, reason)
    REBOOT = "reboot"  # a step of a reboot (machine, id, step, by, reboot_failure, detail)
    JOINED = "joined"  # a machine takes part in the cluster: it was not known, or had been lost (machine)
    LOST = "lost"  # a machine is dead (machine)
    BACK = "back"  # a machine has registered anew before it was found dead: restarted or rebooted (machine)
    LOCK = "lock"  # something has ended a lock but its holder (subject: the lock; step, detail: the holder)
    LEFT = "left"  # a machine was removed from the cluster, or has left it (machine, by)


class Step(StrEnum):
    """A step of a rollout, drain or reboot that is no phase of its record."""

    BEGAN = "began"  # of a rollout: it has begun
    CHANGED = "changed"  # of a rollout: these units were given the new content
    RETURNED = "returned"  # of a rollout: these units were given the former content back
    PAUSED = "paused"  # of a rollout
    RESUMED = "resumed"  # of a rollout
    STAYS = "stays"  # of a drain: a unit does not leave the machine
    DRAINED = "drained"  # of a drain: nothing is left on the machine
    LOST = "lost"  # of a lock: its holder has vanished without a release, and its place is another's from now on
    RESTORED = (
        "restored"  # of a lock, the first that is taken after the store was restored: former holders count no more
    )
    OVER = "over"  # of a reboot: the machine serves again, or nobody asks for the reboot any more


class ClusterEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One event. EventKind says which fields it has; the others are empty.

    `by` is who asked for it, `action` what (`submit`, `drain`). `machine` is where a unit is now, `former` where it
    was. `subject` is what it is about if neither a unit nor a machine: the group of a rollout, a secret, a lock.
    `id` is that of the rollout or reboot, or of the apply. `step` is a Step, or the phase that a rollout or reboot has
    entered. `units` are those that a rollout has changed. `rejections` count the machines that do not take a unit.
    """

    kind: EventKind
    unit: str = ""
    machine: str = ""
    former: str = ""
    by: str = ""
    action: str = ""
    subject: str = ""
    id: str = ""
    step: str = ""
    units: tuple[str, ...] = ()
    reason: Reason | None = None
    rejections: tuple[RejectionCount, ...] = ()
    pause: PauseCause | None = None
    failure: Failure | None = None
    reboot_failure: RebootFailure | None = None
    detail: str = ""


class EventRecord(msgspec.Struct, frozen=True, gc=False, tag_field="format", tag=FORMAT):
    """The events of one transaction, in order. Stored under `events/<name>` below the archive's prefix. `at_s` is Unix
    time by the clock of the machine that wrote them: for people, and to drop what is old. It orders nothing."""

    at_s: float
    events: tuple[ClusterEvent, ...]


def record_name(at_s: float, unique: str) -> str:
    """The name of a record, by which records are found in about the order of their times. `unique`: that no other
    record has."""
    return f"{max(0, int(at_s * 1000)):0{_TIME_DIGITS}d}-{unique}"


def first_name_at(at_s: float) -> str:
    """What is less than the name of each record of this time or later, and greater than each earlier one."""
    return record_name(at_s, "")[:-1]


class StoredRecord(msgspec.Struct, frozen=True, gc=False):
    """A record as the store lists it: its name, and the bytes of its key and value."""

    name: str
    size: int


def pick_outdated(oldest: Sequence[StoredRecord], total_bytes: int, now_s: float) -> tuple[str, ...]:
    """The names of those of the `oldest` records, in order of names, that are to be dropped: older than KEPT_S, or
    more than what all records together (`total_bytes`) may take."""
    limit, names = first_name_at(now_s - KEPT_S), list[str]()
    for record in oldest:
        if record.name >= limit and total_bytes <= KEPT_BYTES:
            break
        names.append(record.name)
        total_bytes -= record.size
    return tuple(names)
