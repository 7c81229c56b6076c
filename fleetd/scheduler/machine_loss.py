"""Which machines are dead, judged from what was seen and when.

A lost lease does not prove a dead machine: a store that was frozen drops leases whose heartbeats were waiting, and an
etcd member without quorum revokes live ones. So an absence counts at once only if the store was healthy, and otherwise
only after every machine had a whole TTL to register again.
"""

from collections.abc import Iterable

import msgspec

GRACE_S = 1.0  # an absence this short is never a death
TOGETHER_S = 1.0  # absences this close together have one cause: the store, not the machines


class HeartbeatHistory(msgspec.Struct, frozen=True):
    """How this fleetd's own heartbeats were answered: each in time since `well_since_s`, the last one at `last_s`
    (caller's clock)."""

    well_since_s: float
    last_s: float

    @staticmethod
    def begin(now_s: float) -> "HeartbeatHistory":
        """A history that begins now: nothing is known of the time before."""
        return HeartbeatHistory(now_s, now_s)

    def answered(self, now_s: float, interval_s: float) -> "HeartbeatHistory":
        """A heartbeat was answered now: in time if within twice the interval after the last answer."""
        in_time = now_s - self.last_s <= 2 * interval_s
        return HeartbeatHistory(self.well_since_s if in_time else now_s, now_s)

    def failed(self, now_s: float) -> "HeartbeatHistory":
        """A heartbeat was refused, or its lease was gone: the store was not healthy."""
        return HeartbeatHistory(now_s, self.last_s)

    def covers(self, span_s: float, now_s: float, interval_s: float) -> bool:
        """True if every heartbeat of the last `span_s` was answered in time."""
        return now_s - self.well_since_s >= span_s and now_s - self.last_s <= 2 * interval_s


class Absence(msgspec.Struct, frozen=True):
    """A machine whose key is gone since `since_s` (caller's clock). `isolated`: nothing else vanished about that time,
    and its key was seen to vanish. `store_healthy`: the store had been healthy for a whole TTL when it did."""

    machine: str
    since_s: float
    isolated: bool
    store_healthy: bool


class Liveness(msgspec.Struct, frozen=True):
    """Which absent machines are dead, which may be alive, and when to judge again (None: no need)."""

    dead: tuple[str, ...]
    away: tuple[str, ...]
    next_s: float | None


def record_absences(
    known: Iterable[Absence], absent: Iterable[str], *, now_s: float, store_healthy: bool, disturbed_s: float | None
) -> tuple[Absence, ...]:
    """The absences after a look at which machines are absent now; ended ones are dropped.

    `store_healthy`: this fleetd's own heartbeats cover a whole TTL. `disturbed_s`: when its own lease was last seen to
    vanish.
    """
    before = {absence.machine: absence for absence in known}
    fresh = [machine for machine in sorted(absent) if machine not in before]
    still = [before[machine] for machine in sorted(absent) if machine in before]
    recent = [absence for absence in still if now_s - absence.since_s <= TOGETHER_S]
    disturbed = disturbed_s is not None and now_s - disturbed_s <= TOGETHER_S
    isolated = len(fresh) + len(recent) <= 1 and not disturbed
    if not isolated:
        still = [msgspec.structs.replace(each, isolated=False) if each in recent else each for each in still]
    new = [Absence(machine, now_s, isolated, store_healthy) for machine in fresh]
    return tuple(sorted([*still, *new], key=lambda absence: absence.machine))


def judge_absences(
    absences: Iterable[Absence], beats: HeartbeatHistory, *, now_s: float, ttl_s: float, interval_s: float
) -> Liveness:
    """Judge which absent machines are dead.

    An isolated absence while the store was healthy, and since: dead after GRACE_S. Any other: dead once the store has
    been healthy, and the machine absent, for a whole TTL and GRACE_S without a break, in which it could have
    registered.
    """
    dead, away, due = [], [], []
    answered = now_s - beats.last_s <= 2 * interval_s
    for absence in absences:
        at_once = absence.isolated and absence.store_healthy and beats.well_since_s <= absence.since_s
        at_s = GRACE_S + (absence.since_s if at_once else max(absence.since_s, beats.well_since_s) + ttl_s)
        if now_s >= at_s and answered:
            dead.append(absence.machine)
        else:
            away.append(absence.machine)
            due.append(at_s if now_s < at_s else now_s + interval_s)
    return Liveness(tuple(dead), tuple(away), min(due) if due else None)
