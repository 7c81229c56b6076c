"""What the leader observes by its clock: which absent machines are dead and since when, how long allocations have been
superseded, and which units are due to be planned again."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from fleetd.model.ordered import Names
from fleetd.scheduler.affected import Affected, set_away, touch_machine
from fleetd.scheduler.failover_delays import Now
from fleetd.scheduler.machine_loss import Absence, HeartbeatHistory, Liveness, judge_absences, record_absences
from fleetd.scheduler.snapshot import MachineLoss, Snapshot


class HeartbeatSource(Protocol):
    """This machine's own heartbeats (membership/registration.py): they tell how well the store works."""

    beats: HeartbeatHistory
    disturbed_s: float | None  # when this machine's own lease was last seen to vanish
    heard_revision: int  # the store's, as of the last heartbeat


class Timers:
    """The timers of one term, on the leader's clock: the next leader counts anew. It does no I/O."""

    def __init__(self, heartbeats: HeartbeatSource, *, ttl_s: float) -> None:
        self._heartbeats = heartbeats
        self._ttl_s = ttl_s
        self._interval_s = ttl_s / 3  # of the machines' heartbeats
        self._readings = 0  # of the snapshot, at the last check
        self._absences: tuple[Absence, ...] = ()
        self._lost: dict[str, MachineLoss] = {}  # dead machines that are not back
        self._superseded_since: dict[tuple[str, str], float] = {}  # (machine, unit) → since when
        self._wakeups: dict[str, float] = {}  # unit → when it is to be planned again

    def check(self, snapshot: Snapshot, now: Now, *, readings: int) -> tuple[Affected, list[str], float | None]:
        """Look at all timers, and note in the snapshot what has been observed. Returns the units affected, the machines
        that are dead since now, and when to judge absent machines again (None: no need).

        `readings` counts how often the snapshot was read as a whole. A machine that is absent since such a reading was
        not seen to vanish, so nothing is known about the cause.
        """
        liveness = self._judge(snapshot, now.clock_s, was_watched=readings == self._readings)
        self._readings = readings
        affected = set_away(snapshot, frozenset(liveness.away))
        newly_dead = self._note_lost(liveness.dead, now)
        for machine in newly_dead:
            affected |= touch_machine(snapshot, machine)
        affected |= Affected(self._take_due(now.clock_s))
        since_s = self._superseded_since
        self._superseded_since = {each: since_s.get(each, now.clock_s) for each in snapshot.superseded}
        snapshot.lost, snapshot.superseded_since = self._lost, self._superseded_since
        return affected, newly_dead, liveness.next_s

    def wake(self, wakeups: Mapping[str, float]) -> None:
        """Note when units are to be planned again."""
        self._wakeups |= wakeups

    def next_wakeup_s(self) -> float | None:
        """The first of these times."""
        return min(self._wakeups.values(), default=None)

    def _judge(self, snapshot: Snapshot, now_s: float, *, was_watched: bool) -> Liveness:
        beats = self._heartbeats.beats
        self._absences = record_absences(
            self._absences,
            snapshot.absent(),
            now_s=now_s,
            store_healthy=was_watched and beats.covers(self._ttl_s, now_s, self._interval_s),
            disturbed_s=self._heartbeats.disturbed_s,
        )
        return judge_absences(self._absences, beats, now_s=now_s, ttl_s=self._ttl_s, interval_s=self._interval_s)

    def _note_lost(self, dead: Iterable[str], now: Now) -> list[str]:
        """Remember since when machines are dead, until they are back. Returns those that were not lost before."""
        absent_s = {absence.machine: now.clock_s - absence.since_s for absence in self._absences}
        self._lost = {machine: loss for machine, loss in self._lost.items() if machine in absent_s}
        new = [machine for machine in dead if machine not in self._lost]
        for machine in new:
            alive = now.unix_s - absent_s[machine] - self._ttl_s
            self._lost[machine] = MachineLoss(now.clock_s, now.unix_s, alive, absent_s[machine])
        return new

    def _take_due(self, now_s: float) -> Names:
        """The units that are due. Some do not wait any longer: the plan will show it."""
        due = [name for name, at_s in self._wakeups.items() if at_s <= now_s]
        for name in due:
            del self._wakeups[name]
        return dict.fromkeys(due)
