"""The leader's timers: which absent machines are dead, and which units then fail over or are handed over."""

from collections.abc import Iterable
from typing import Protocol

import msgspec

from fleetd.model.ordered import Names
from fleetd.scheduler.failover import FailoverPolicy, MachineLoss
from fleetd.scheduler.liveness import Absence, HeartbeatHistory, Verdict, judge_absences, record_absences
from fleetd.scheduler.snapshot import Snapshot


class HeartbeatSource(Protocol):
    """This machine's own heartbeats (membership/registration.py): they tell how well the store works."""

    beats: HeartbeatHistory
    disturbed_s: float | None  # when this machine's own lease was last seen to vanish
    heard_revision: int  # the store's, as of the last heartbeat


class FailoverController:
    """Judges absent machines, and times failover delays and handovers, on the leader's clock. It does no I/O.

    Its state belongs to one term: the next leader counts anew. `policy` is that of the configuration.
    """

    def __init__(
        self, heartbeats: HeartbeatSource, policy: FailoverPolicy, *, ttl_s: float, handover_timeout_s: float
    ) -> None:
        self._heartbeats = heartbeats
        self._policy = policy
        self._ttl_s = ttl_s
        self._interval_s = ttl_s / 3  # of the machines' heartbeats
        self._handover_timeout_s = handover_timeout_s
        self._readings = 0  # of the snapshot, at the last check
        self._absences: tuple[Absence, ...] = ()
        self._lost: dict[str, MachineLoss] = {}  # dead machines that are not back
        self._superseded_since: dict[tuple[str, str], float] = {}  # (machine, unit) → since when
        self._delays: dict[str, float] = {}  # units that wait for a dead machine → until when at most

    def check(
        self, snapshot: Snapshot, now_s: float, *, unix_now_s: float, readings: int
    ) -> tuple[Names, list[str], float | None]:
        """Look at all timers, and note in the snapshot which machines are away. Returns the units affected, the
        machines that are dead since now, and when to look again (None: no need).

        `readings` counts how often the snapshot was read as a whole. A machine that is absent since such a reading was
        not seen to vanish, so nothing is known about the cause.
        """
        verdict = self._judge(snapshot, now_s, was_watched=readings == self._readings)
        self._readings = readings
        affected = snapshot.set_away(frozenset(verdict.away))
        newly_dead = self._note_lost(verdict.dead, MachineLoss(now_s, unix_now_s))
        for machine in newly_dead:
            affected |= snapshot.concerned_by(machine)
        affected |= self._end_delays(now_s)
        overdue, due = self._check_handovers(snapshot, now_s)
        affected |= overdue
        if verdict.next_s is not None:
            due.append(verdict.next_s)
        return affected, newly_dead, min(due, default=None)

    def policy(self, now_s: float) -> FailoverPolicy:
        """The policy, with what is known of lost machines."""
        return msgspec.structs.replace(self._policy, lost=self._lost, clock_s=now_s)

    def overdue(self, now_s: float) -> frozenset[tuple[str, str]]:
        """The superseded allocations, as (machine, unit), that have had their time to be replaced."""
        limit_s = now_s - self._handover_timeout_s
        return frozenset(allocation for allocation, since_s in self._superseded_since.items() if since_s <= limit_s)

    def delay(self, delays: Iterable[tuple[str, float]]) -> None:
        """Note units that wait for a dead machine, and the leader-clock deadline after which each fails over."""
        self._delays |= dict(delays)

    def next_failover_s(self) -> float | None:
        """The first of these deadlines."""
        return min(self._delays.values(), default=None)

    def _judge(self, snapshot: Snapshot, now_s: float, *, was_watched: bool) -> Verdict:
        beats = self._heartbeats.beats
        self._absences = record_absences(
            self._absences,
            snapshot.absent(),
            now_s=now_s,
            store_healthy=was_watched and beats.covers(self._ttl_s, now_s, self._interval_s),
            disturbed_s=self._heartbeats.disturbed_s,
        )
        return judge_absences(self._absences, beats, now_s=now_s, ttl_s=self._ttl_s, interval_s=self._interval_s)

    def _note_lost(self, dead: Iterable[str], loss: MachineLoss) -> list[str]:
        """Remember since when machines are dead, until they are back. Returns those that were not lost before."""
        absent = {absence.machine for absence in self._absences}
        self._lost = {machine: loss for machine, loss in self._lost.items() if machine in absent}
        new = [machine for machine in dead if machine not in self._lost]
        self._lost |= dict.fromkeys(new, loss)
        return new

    def _end_delays(self, now_s: float) -> Names:
        """The units whose deadline is over. Some wait no longer for another reason: the plan will show it."""
        over = [name for name, until_s in self._delays.items() if until_s <= now_s]
        for name in over:
            del self._delays[name]
        return dict.fromkeys(over)

    def _check_handovers(self, snapshot: Snapshot, now_s: float) -> tuple[Names, list[float]]:
        """The units with a superseded allocation whose handover is overdue, and when that of others will be."""
        self._superseded_since = {each: self._superseded_since.get(each, now_s) for each in snapshot.superseded}
        overdue: Names = {}
        due: list[float] = []
        for (_, name), since_s in self._superseded_since.items():
            if since_s + self._handover_timeout_s <= now_s:
                overdue[name] = None
            else:
                due.append(since_s + self._handover_timeout_s)
        return overdue, due
