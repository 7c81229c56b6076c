"""One term of the leader: mirror the cluster, plan for what changed, write the plan.

scheduler/ decides, election.py elects. Leader and agents communicate through the keys of the store alone.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum, auto

import msgspec

from fleetd import metrics
from fleetd.aio import Offload, Pace, first_of
from fleetd.config.cluster_settings import failover_policy, reboot_policy
from fleetd.leader.announcement_sweeper import AnnouncementSweeper
from fleetd.leader.event_trimmer import EventTrimmer
from fleetd.leader.mirror import Mirror, StoreSetBack
from fleetd.leader.sealer import CannotOpenHere, Sealer
from fleetd.leader.store_health import StoreHealthCheck
from fleetd.leader.timers import HeartbeatSource, Timers
from fleetd.leader.writer import PlanWriter
from fleetd.registry.events import EventLog
from fleetd.registry.records import LEADER, Change, NewerRecord
from fleetd.registry.registry import Registry
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.failover_delays import FailoverPolicy, Now
from fleetd.scheduler.planner import Plan, plan_cluster
from fleetd.scheduler.reboot_policy import RebootPolicy
from fleetd.scheduler.stats import ClusterStats, PlanStats, count_cluster, count_plan
from fleetd.store.protocol import Compacted, Comparison, LeaseNotFound, PrefixDigest, StoreError, Unavailable
from fleetd.trust.sealing_process import Sealing

log = logging.getLogger(__name__)

RETRY_S = 1.0
HISTORY_S = 600.0  # how much of etcd's history is kept
SMALL_PLAN = 100  # units; a larger plan is made in a thread, so that heartbeats go on
PASS_PERIOD_S = 0.02  # of many passes in a row; each plans for all that has changed meanwhile

Planned = tuple[Plan, PlanStats]


class TermSettings(msgspec.Struct, frozen=True):
    """What all terms of one machine have in common. `ttl_s` is that of the machines' leases, `leader_ttl_s` that of the
    term's; `now` is a monotonic clock, `unix_now` gives Unix time. `failover` and `reboots` are
    what fleet.conf has; settings of the cluster win over it. `sealing` seals secrets with the key of this machine,
    whose public half is `seal_key()`; None: this fleetd seals none."""

    registry: Registry
    membership: HeartbeatSource
    ttl_s: float
    leader_ttl_s: float
    failover: FailoverPolicy
    reboots: RebootPolicy
    compact: bool
    now: Callable[[], float]
    unix_now: Callable[[], float]
    offload: Offload
    sealing: Sealing | None = None
    seal_key: Callable[[], str] = lambda: ""


class PlanAbandoned(Exception):
    """The term ended while the plan was made."""


class LeadershipLost(Exception):
    """This machine leads no longer. The message says why."""


class Phase(Enum):
    """What the term is doing. Plans are made only in UP_TO_DATE."""

    READING = auto()  # the whole cluster is being read
    CATCHING_UP = auto()  # the snapshot does not show this term's last write yet
    UP_TO_DATE = auto()  # the snapshot shows all that this term has written
    PLANNING = auto()  # a plan is being made, perhaps in a thread: the snapshot must not change
    WRITING = auto()  # the plan is being written
    OVER = auto()


_NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.READING: frozenset({Phase.READING, Phase.UP_TO_DATE, Phase.OVER}),
    Phase.CATCHING_UP: frozenset({Phase.CATCHING_UP, Phase.UP_TO_DATE, Phase.READING, Phase.OVER}),
    Phase.UP_TO_DATE: frozenset({Phase.PLANNING, Phase.OVER}),
    Phase.PLANNING: frozenset({Phase.WRITING, Phase.OVER}),
    Phase.WRITING: frozenset({Phase.CATCHING_UP, Phase.UP_TO_DATE, Phase.READING, Phase.OVER}),
    Phase.OVER: frozenset({Phase.OVER}),
}


class Term:
    """One term: from the election until the leadership is lost or `lead` is cancelled."""

    def __init__(self, settings: TermSettings, lease: int, guards: tuple[Comparison, ...]) -> None:
        self.phase = Phase.READING
        self.fall: StoreSetBack | None = None  # the store was set back, which ended the term
        self.cannot_open = False  # the term has ended for a machine that can open the secrets
        self.met_newer_record = False  # a later fleetd has written what this one cannot read
        self._settings = settings
        self._registry = settings.registry
        self._store = settings.registry.store
        self._lease = lease
        self._since_s = settings.unix_now()
        self._mirror = Mirror(settings.registry, check_leader=self._check_leader)
        events = EventLog(settings.registry, settings.unix_now, lambda: f"{lease:x}")
        self._writer = PlanWriter(settings.registry, guards, self._mirror.observe, events)
        self._trimmer = EventTrimmer(settings.registry, guards, settings.unix_now)
        self._sweeper = AnnouncementSweeper(settings.registry, guards, lambda: self._mirror.snapshot)
        sealing, seal_key = settings.sealing, settings.seal_key
        self._sealer = Sealer(settings.registry, sealing, seal_key, guards, self._mirror.observe) if sealing else None
        self._timers = Timers(settings.membership, ttl_s=settings.ttl_s)
        self._store_health = StoreHealthCheck(settings.registry.store, settings.now, self._mirror.wake)
        self._pace = Pace(PASS_PERIOD_S, longest_rest_s=0.5)  # the units that come in meanwhile make one batch
        self._stats: ClusterStats | None = None  # as of the last time they were counted
        self._revisions: deque[tuple[float, int]] = deque()  # when the snapshot showed which revision, to compact

    @property
    def trouble(self) -> str:
        """Why the cluster cannot be read, for display; '' if it can."""
        reason = self._mirror.trouble
        return f"this machine leads, but cannot read the cluster: {reason}" if reason else ""

    def show_metrics(self) -> None:
        """Set the leader's gauges."""
        mirror = self._mirror
        if self.phase is not Phase.PLANNING:  # else a thread may be reading the snapshot
            self._stats = count_cluster(mirror.snapshot)
        unplanned = len(mirror.snapshot.units if mirror.affected is None else mirror.affected)
        metrics.show_leading(self._since_s, mirror.backlog + unplanned, self._stats, is_blind=bool(mirror.trouble))

    async def lead(self) -> None:
        """Lead until the leadership is lost."""
        self._mirror.start()
        try:
            await first_of(self._keep_lease(), self._run(), self._trimmer.run(), self._sweeper.run())
        except LeadershipLost as reason:
            log.warning("leadership lost: %s", reason)
        except NewerRecord as error:  # who cannot read a record must not plan
            self.met_newer_record = True
            log.warning("leadership given up: %s", error)
        except CannotOpenHere as error:
            self.cannot_open = True
            log.warning("leadership given up: %s", error)
        except StoreSetBack as fall:
            self.fall = fall
            log.warning("leadership given up: %s", fall)
        finally:
            self._mirror.stop()
            self._store_health.stop()
            self._enter(Phase.OVER)

    def _enter(self, phase: Phase) -> None:
        assert phase in _NEXT[self.phase], f"{self.phase} → {phase}"
        self.phase = phase

    # The lease.

    async def _keep_lease(self) -> None:
        """Send the heartbeats of the term's lease, and see by the store's revision if the watch has missed changes."""
        now, ttl_s, mirror = self._settings.now, self._settings.leader_ttl_s, self._mirror
        answered_s = now()
        highest = 0  # the revision in the last answer
        digest: PrefixDigest | None = None  # of the last heartbeat, if the watch had not shown all
        while True:
            await asyncio.sleep(ttl_s / 3)
            known = mirror.observe(highest)  # before asking: what arrives meanwhile may be newer than the answer
            try:
                answer = await self._store.keep_alive(self._lease)
            except LeaseNotFound:
                raise LeadershipLost("its lease has expired") from None
            except Unavailable as error:
                if now() - answered_s > ttl_s:
                    raise LeadershipLost(f"the store has not answered for {ttl_s:g} s: {error}") from None
                continue
            if now() - answered_s > ttl_s:
                # This process was probably paused. The lease should have expired: perhaps the store was restored or
                # restarted, and the watch has lost changes.
                raise LeadershipLost("no heartbeat was answered in time, and yet its lease has not expired")
            answered_s = now()
            mirror.check_not_set_back(known, answer.revision)
            if digest and mirror.has_missed(digest):
                mirror.invalidate(Compacted(answer.revision))
            digest = await self._take_digest() if mirror.lags_behind(highest) else None
            highest = answer.revision
            mirror.wake()
            await self._compact()

    async def _take_digest(self) -> PrefixDigest | None:
        """The digest of what the mirror shows; where there is none in time, everything is read again."""
        try:
            async with asyncio.timeout(self._settings.leader_ttl_s / 3):
                return await self._store.digest(self._registry.prefix)
        except (StoreError, TimeoutError) as error:
            log.info("cannot compare the mirror with the store; reading the cluster again: %s", error)
            self._mirror.invalidate(Unavailable("the store gave no digest"))
            return None

    def _check_leader(self, change: Change) -> None:
        if change.record is None:
            raise LeadershipLost("its key was deleted")
        if change.lease != self._lease:
            raise LeadershipLost("another machine leads")

    async def _check_leadership(self) -> None:
        """After a transaction that failed, or may have failed, raise LeadershipLost if another machine leads."""
        while True:
            try:
                item = await self._store.get(self._registry.key(LEADER))
            except Unavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if item is None or item.lease != self._lease:
                raise LeadershipLost("another machine leads" if item else "its key was deleted")
            return

    async def _compact(self) -> None:
        """Compact what is older than HISTORY_S, if anything new has become so old."""
        now_s = self._settings.now()
        if not self._revisions or self._revisions[-1][1] < self._mirror.revision:
            self._revisions.append((now_s, self._mirror.revision))
        past = 0
        while self._revisions and self._revisions[0][0] < now_s - HISTORY_S:
            past = self._revisions.popleft()[1]
        if past and self._settings.compact:
            try:
                await self._store.compact(past)
            except StoreError as error:
                log.info("cannot compact the store's history; trying again later: %s", error)

    # The passes.

    async def _run(self) -> None:
        """Update the snapshot, plan, write; again and again."""
        while True:
            wake_at_s = None
            if self.phase is Phase.UP_TO_DATE:
                with metrics.PASS_S.time():
                    wake_at_s = await self._pass()
            await self._mirror.wait(None if wake_at_s is None else max(0.0, wake_at_s - self._settings.now()))
            await self._pace.wait()
            await self._mirror.update()
            if self._mirror.revision == 0:
                self._enter(Phase.READING)
            else:
                written = max(self._writer.revision, self._sealer.revision if self._sealer else 0)
                is_current = self._mirror.revision >= written
                self._enter(Phase.UP_TO_DATE if is_current else Phase.CATCHING_UP)

    async def _pass(self) -> float | None:
        """Plan for what has changed, and write it. Returns when to look again even if nothing changes."""
        self._enter(Phase.PLANNING)
        metrics.PASSES.inc()
        now = Now(self._settings.now(), self._settings.unix_now())
        judge_at_s = self._check_timers(now)
        with metrics.PLAN_S.time():
            plan, stats = await self._plan(self._mirror.take_affected(), now)
        self._pace.done()  # while the store takes the plan, others have the processor already
        self._enter(Phase.WRITING)
        self._timers.wake(plan.wakeups)
        if plan.asks_store_health:
            self._store_health.ask()
        seal_at_s = await self._write(plan, stats)
        due = (judge_at_s, plan.wake_at_s, seal_at_s, self._timers.next_wakeup_s())
        return min((at_s for at_s in due if at_s is not None), default=None)

    def _check_timers(self, now: Now) -> float | None:
        """Judge absent machines, and see which units are due. Returns when to judge again."""
        mirror = self._mirror
        affected, newly_dead, judge_at_s = self._timers.check(mirror.snapshot, now, readings=mirror.readings)
        for machine in newly_dead:
            log.warning("machine is dead", extra={"machine": machine})
        mirror.affect(affected)
        return judge_at_s

    async def _plan(self, affected: Affected | None, now: Now) -> Planned:
        """The plan for the affected units (None: for all), and what it changes in numbers."""
        snapshot = self._mirror.snapshot
        policy = failover_policy(snapshot.cluster_settings, self._settings.failover)
        reboots = reboot_policy(snapshot.cluster_settings, self._settings.reboots)
        snapshot.store_health = self._store_health.latest

        def make() -> Planned:
            check = self._check_not_over
            plan = plan_cluster(snapshot, affected, now=now, policy=policy, reboots=reboots, checkpoint=check)
            return plan, count_plan(snapshot, plan.units)

        is_small = affected is not None and len(affected) <= SMALL_PLAN
        return make() if is_small else await self._settings.offload(make)

    def _check_not_over(self) -> None:
        """End a plan that is being made for a term that is over: a thread cannot be cancelled."""
        if self.phase is Phase.OVER:
            raise PlanAbandoned

    async def _write(self, plan: Plan, stats: PlanStats) -> float | None:
        """Write the plan, after what is to be sealed for it. If that fails, everything is read again: the plan may have
        been written in part. Returns when sealing is to be tried again."""
        seal_at_s = None
        try:
            if self._sealer is not None:
                coming = [placement for unit in plan.units for placement in unit.placements if placement.secrets]
                retry_s = await self._sealer.seal(self._mirror.snapshot, coming)
                seal_at_s = None if retry_s is None else self._settings.now() + retry_s
            if plan.writes:
                await self._writer.write(plan, self._mirror.snapshot)
                self._trimmer.note_write()
                self._sweeper.note_write()
                metrics.count_plan(stats, written=True)
        except StoreError as error:
            metrics.count_plan(stats, written=False)
            log.info("cannot write the plan; reading the cluster again: %s", error)
            await self._check_leadership()
            if isinstance(error, Unavailable):  # a full store refuses writes at once, and answers reads
                await asyncio.sleep(RETRY_S)
            self._mirror.invalidate(error)
        return seal_at_s
