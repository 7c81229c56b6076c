"""Who is here and who is dead: from what was seen and when, a verdict. Leadership's clock likewise.

A lease that is gone is not a machine that is dead: a store that was frozen drops the leases whose beats were waiting
at its door, and a member cut off from its quorum revokes live ones. So an absence counts at once only where the store
has shown itself well, and in any other case only after every machine had a whole time to live to show itself.
"""

from collections.abc import Iterable

import msgspec

GRACE_S = 1.0  # an absence this short is never a death
TOGETHER_S = 1.0  # absences that begin within this time of one another have one cause: the store, not the machines


class HeartbeatHistory(msgspec.Struct, frozen=True):
    """How one's own heartbeats were answered. `well_since_s`: since when each was answered in time (clock of the
    caller); `last_s`: when the last one was answered."""

    well_since_s: float
    last_s: float

    @staticmethod
    def begin(now_s: float) -> "HeartbeatHistory":
        """A history that begins now: nothing is known of the time before."""
        return HeartbeatHistory(now_s, now_s)

    def answered(self, now_s: float, interval_s: float) -> "HeartbeatHistory":
        """A beat was answered now. Twice the interval since the last answer is too late to be called well."""
        in_time = now_s - self.last_s <= 2 * interval_s
        return HeartbeatHistory(self.well_since_s if in_time else now_s, now_s)

    def failed(self, now_s: float) -> "HeartbeatHistory":
        """A beat was refused, or its lease was gone: the store has not been well."""
        return HeartbeatHistory(now_s, self.last_s)

    def covers(self, span_s: float, now_s: float, interval_s: float) -> bool:
        """Whether all was well for the whole of the last `span_s` up to now."""
        return now_s - self.well_since_s >= span_s and now_s - self.last_s <= 2 * interval_s


class Absence(msgspec.Struct, frozen=True):
    """A machine whose key is gone since then (caller's clock). `alone`: nothing else vanished about that time, and
    it was seen to vanish. `calm`: the store had been well for a whole time to live when it did."""

    machine: str
    since_s: float
    isolated: bool
    store_healthy: bool


class Verdict(msgspec.Struct, frozen=True):
    """Which of the absent machines are dead, which may be alive, and when to look again (None: no need)."""

    dead: tuple[str, ...]
    away: tuple[str, ...]
    next_s: float | None


def record_absences(
    known: Iterable[Absence], absent: Iterable[str], *, now_s: float, store_healthy: bool, disturbed_s: float | None
) -> tuple[Absence, ...]:
    """The absences after a look at who is absent now. Those that ended are forgotten.

    `calm`: the own beats cover a whole time to live. `disturbed_s`: when the own lease was last seen to vanish.
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
) -> Verdict:
    """Who of the absent is dead.

    One that vanished alone while all was well, and since: after GRACE_S. Any other: once the store has been well, and
    the machine absent, for a whole time to live (and GRACE_S) without a break, in which it could have registered.
    """
    dead, away, due = [], [], []
    answered = now_s - beats.last_s <= 2 * interval_s
    for absence in absences:
        swift = absence.isolated and absence.store_healthy and beats.well_since_s <= absence.since_s
        at_s = GRACE_S + (absence.since_s if swift else max(absence.since_s, beats.well_since_s) + ttl_s)
        if now_s >= at_s and answered:
            dead.append(absence.machine)
        else:
            away.append(absence.machine)
            due.append(at_s if now_s < at_s else now_s + interval_s)
    return Verdict(tuple(dead), tuple(away), min(due) if due else None)
