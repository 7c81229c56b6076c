"""One term of the leader: view → plan_cluster → guarded transactions.

The leader keeps a view of everything by one watch, plans for what changed, and writes the plan guarded by its term; its
beats keep the term's lease. scheduler/ decides, election.py elects. The leader and the
agents know each other only by the keys of the store.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

import msgspec

from fleetd import metrics
from fleetd.aio import Pace, first_of
from fleetd.leader.mirror import apply_record
from fleetd.leader.writer import write_sets_of
from fleetd.model.ordered import Names
from fleetd.model.placement import Decision
from fleetd.model.reason import render, render_rejection
from fleetd.model.unit import UnitState
from fleetd.registry.records import DECISIONS, LEADER, MACHINES, MalformedRecord, NewerRecord
from fleetd.registry.registry import Registry, drain
from fleetd.registry.transactions import WriteSet, cut_into_transactions
from fleetd.scheduler.failover import FailoverPolicy, MachineLoss
from fleetd.scheduler.liveness import Absence, HeartbeatHistory, judge_absences, record_absences
from fleetd.scheduler.planner import Plan, plan_in_slices
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.stats import PlanStats, count_cluster, count_plan
from fleetd.scheduler.unit_plan import UnitPlan
from fleetd.store.protocol import (
    MAX_OPERATIONS,
    Changes,
    Compacted,
    Comparison,
    Conflict,
    Event,
    KeyValue,
    LeaseNotFound,
    RangeResult,
    StoreError,
    Unavailable,
    Unchanged,
)

log = logging.getLogger(__name__)

RETRY_S = 1.0
HISTORY_S = 600.0  # how much of etcd's history is kept
SMALL_PLAN = 100  # units; a larger plan is made beside the loop, which must go on beating
HEAVY_BYTES = 1000  # of a unit file take as long to be read as a small record takes by itself
PASS_PERIOD_S = 0.02  # of many in a row; each is over all that has changed meanwhile
SLICE = 200  # records or so (about 5 ms) that are dealt with before the loop has its turn

Decided = tuple[Plan, PlanStats]
Offload = Callable[[Callable[[], Decided]], Awaitable[Decided]]  # runs long work: in a thread, or, in tests, at once


class HeartbeatSource(Protocol):
    """What the leader needs to know of this machine's own heartbeats (registration.py)."""

    beats: HeartbeatHistory
    disturbed_s: float | None  # when this machine's own lease was last seen to vanish
    heard_revision: int  # the store's, as of the last heartbeat


class TermSettings(msgspec.Struct, frozen=True):
    """What all terms of one machine have in common. `ttl_s` is that of the machines, `leader_ttl_s` that of the term;
    `now` is a clock that only goes forth, `unix_now` for people to read."""

    registry: Registry
    membership: HeartbeatSource
    ttl_s: float
    leader_ttl_s: float
    handover_timeout_s: float
    failover: FailoverPolicy
    compact: bool
    now: Callable[[], float]
    unix_now: Callable[[], float]
    offload: Offload


class GivenUp(Exception):
    """A plan was given up, for the term is over."""


class LeadershipLost(Exception):
    """This engine leads no longer: its key is gone, or the store is not what it was."""


class Term:
    """One term in office."""

    def __init__(self, settings: TermSettings, lease: int, guards: tuple[Comparison, ...]) -> None:
        self.settings = settings
        self.registry = settings.registry
        self.store = settings.registry.store
        self.lease = lease
        self.guards = guards
        self.since_s = settings.unix_now()
        self.snapshot = Snapshot()
        self.met_newer_record = False  # a later fleetd has written what this one cannot read
        self.fall: tuple[int, int] | None = None  # from which revision to which the store was seen to fall
        self._is_over = False
        self.trouble = ""  # why the cluster cannot be read, for a person
        self.revision = 0  # the view shows the store as of this revision (0: it shows nothing yet)
        self._highest = 0  # the highest revision that the store is known to have had
        self._known_before = 0  # the same, when everything began to be read
        self._arrived = 0  # the last revision that came from the store, taken in or not (0: everything is being read)
        self._written = 1  # no plan is made before the view has reached this revision
        self._inbox: deque[RangeResult | Changes | StoreError] = deque()
        self._wake = asyncio.Event()
        self._pace = Pace(PASS_PERIOD_S)
        self._history_key = settings.registry.history_key
        self._restored_at = 0  # the revision at which it was written down that the store was restored; 0: it never was
        self._watched = False  # whether who is absent now, and was not at the last look, was seen to vanish
        self._changed: Names | None = None  # the units to plan for; None: all
        self._absences: tuple[Absence, ...] = ()
        self._superseded_since: dict[tuple[str, str], float] = {}
        self._lost: dict[str, MachineLoss] = {}  # the machines that were judged dead, and are not back
        self._waits: dict[str, float] = {}  # units that wait for one of them, and until when at most
        self._history: deque[tuple[float, int]] = deque()

    def show_metrics(self) -> None:
        """Set what is asked of the leader's metrics now."""
        arrived = sum(len(entry.events) if isinstance(entry, Changes) else 1 for entry in self._inbox)
        unplanned = len(self.snapshot.units if self._changed is None else self._changed)
        metrics.show_leading(
            self.since_s, arrived + unplanned, count_cluster(self.snapshot), is_blind=bool(self.trouble)
        )

    async def lead(self) -> None:
        """Lead until deposed."""
        try:
            await first_of(self._beat(), self._run())
        except LeadershipLost as reason:
            log.warning("gives up the lead: %s", reason)
        finally:
            self._is_over = True

    async def _beat(self) -> None:
        """Keep the term's lease, and see by the store's revision whether the watch has gone deaf."""
        interval_s = self.settings.leader_ttl_s / 3
        answered_s = self.settings.now()
        highest = 0
        while True:
            await asyncio.sleep(interval_s)
            # Before it asks: what is heard or written meanwhile may be newer than the answer.
            known = self._know(highest)
            try:
                beat = await self.store.keep_alive(self.lease)
            except LeaseNotFound:
                raise LeadershipLost("its lease has expired") from None
            except Unavailable as error:
                if self.settings.now() - answered_s > self.settings.leader_ttl_s:
                    raise LeadershipLost(f"the store has not answered for a whole term's lease: {error}") from None
                continue
            if self.settings.now() - answered_s > self.settings.leader_ttl_s:
                # Paused meanwhile, most likely. But then only a store that was started anew has kept the lease: it may
                # have been restored, and what it told since have been lost.
                raise LeadershipLost("its lease has outlived its time")
            answered_s = self.settings.now()
            self._check_not_set_back(known, beat.revision)
            if 0 < self._arrived < highest:  # what the last beat told of has still not come
                self._inbox.append(Compacted(beat.revision))
            highest = beat.revision
            self._wake.set()
            await self._forget_history()

    def _know(self, revision: int) -> int:
        """The store has had this revision; the highest that it is known to have had."""
        self._highest = max(self._highest, revision, self._arrived, self._written)
        return self._highest

    def _check_not_set_back(self, known: int, revision: int) -> None:
        """The store was at this revision, asked when it was known to have had that one. Raises Deposed."""
        if revision < known:
            self.fall = known, revision
            raise LeadershipLost("the store's revision fell from {} to {}".format(*self.fall))

    async def _run(self) -> None:
        """Take in what changed, plan, write; again and again."""
        watch = asyncio.create_task(self._load())
        try:
            while True:
                due_s = None
                if self.revision >= self._written:
                    with metrics.PASS_S.time():
                        due_s = await self._pass()
                    self._pace.done()
                if not self._inbox:
                    await self._sleep(due_s)
                await self._pace.wait()
                if not await self._take_in():
                    self._know(0)
                    self.revision, self._arrived, self._written = 0, 0, 1
                    watch.cancel()
                    watch = asyncio.create_task(self._load())
        finally:
            watch.cancel()

    async def _load(self) -> None:
        """Read everything, then watch it; what arrives is put into the inbox."""
        while True:
            self._known_before = self._know(0)
            try:
                found = await self.store.range(self.registry.prefix)
                break
            except Unavailable as error:
                trouble = f"this machine leads, but cannot read the cluster: {error}"
                if trouble != self.trouble:
                    self.trouble = trouble
                    log.warning("cannot read the cluster, so that nothing is decided yet; tries on: %s", error)
                await asyncio.sleep(RETRY_S)
        revision = found.revision
        if self.trouble:
            log.warning("has read the cluster after all")
            self.trouble = ""
        self._arrive(found)
        del found  # it may be hundreds of megabytes, and the watch lasts
        try:
            async for changes in self.store.watch(self.registry.prefix, revision):
                self._arrive(changes)
        except Compacted as error:
            self._inbox.append(error)
            self._wake.set()

    def _arrive(self, news: RangeResult | Changes) -> None:
        self._inbox.append(news)
        self._arrived = max(self._arrived, news.revision)
        self._wake.set()

    async def _take_in(self) -> bool:
        """Bring the view up to date with the inbox, slice by slice. False: it must be read anew."""
        self._wake.clear()
        while self._inbox:
            entry = self._inbox.popleft()
            if isinstance(entry, RangeResult):
                self._check_not_set_back(self._known_before, entry.revision)
                snapshot, self._changed = Snapshot(), None
                restores = [item.mod_revision for item in entry.items if item.key == self._history_key]
                self._restored_at = max(restores, default=0)
                items, revision = deque(entry.items), entry.revision
                del entry
                async for item in _in_slices(drain(items)):
                    self._apply(snapshot, item.key, item, item.mod_revision)
                self.snapshot = snapshot
                self._watched = False
                self.revision = self._written = revision
            elif isinstance(entry, Changes) and not any(event.key == self._history_key for event in entry.events):
                async for event in _in_slices(entry.events):
                    self._apply(self.snapshot, event.key, event.item, event.revision)
                self.revision = max(self.revision, entry.revision)
            else:
                if isinstance(entry, Compacted) and entry.was_set_back:
                    self._check_not_set_back(self._know(0), entry.revision)
                self._inbox.clear()
                return False
            await asyncio.sleep(0)  # however small they are, there may be thousands
        return True

    def _apply(self, snapshot: Snapshot, key: str, item: Any, revision: int) -> None:
        """Apply one key to a snapshot, and note which units it affects. A malformed record counts as deleted. A record
        of a later fleetd ends the term: whoever cannot read it must not plan."""
        try:
            change = self.registry.change(key, item, revision)
        except NewerRecord as error:
            self.met_newer_record = True
            raise LeadershipLost(str(error)) from error
        except MalformedRecord as error:
            log.error("%s", error)
            change = self.registry.change(key, None, revision)
            if change is not None and change.key.kind is DECISIONS:  # its revision still guards what replaces it
                name = change.key.names[0]
                change = msgspec.structs.replace(
                    change, record=Decision(name, generation=0, revision=item.mod_revision)
                )
        if change is None:
            return
        kind, record = change.key.kind, change.record
        if kind is LEADER and (record is None or change.lease != self.lease):
            raise LeadershipLost("somebody else took office" if record else "its key is gone")
        if isinstance(record, UnitState) and change.revision < self._restored_at:
            record = msgspec.structs.replace(record, outdated=True)
        concerned = apply_record(snapshot, kind, change.key.names, record)
        if self._changed is not None:
            self._changed |= concerned

    async def _sleep(self, due_s: float | None) -> None:
        """Until something happens, or until then."""
        try:
            async with asyncio.timeout(None if due_s is None else max(0.0, due_s - self.settings.now())):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _pass(self) -> float | None:
        """Plan for what changed and write it. Returns when to look again even if nothing happens."""
        due_s = self._check_timers()
        changed, self._changed = self._changed, {}
        metrics.PASSES.inc()
        with metrics.PLAN_S.time():
            plan, outcome = await self._plan(changed)
        due_s = min((at_s for at_s in (due_s, *self._waits.values()) if at_s is not None), default=None)
        if not (plan.units or plan.synced or plan.forgotten) and self.snapshot.usage == self.snapshot.measure_usage():
            return due_s
        try:
            await self._write(plan)
            metrics.count_plan(outcome, written=True)
        except StoreError as error:
            metrics.count_plan(outcome, written=False)
            log.info("reads everything again: %s", error)
            await self._check_office()
            if isinstance(error, Unavailable):  # a store that is full refuses writes at once, and answers reads
                await asyncio.sleep(RETRY_S)
            self._inbox.append(error)
        return due_s

    def _check_timers(self) -> float | None:
        """Judge who is away and which retiring copies are overdue; what that concerns counts as changed."""
        settings, now_s = self.settings, self.settings.now()
        beats, interval_s = settings.membership.beats, settings.ttl_s / 3
        self._absences = record_absences(
            self._absences,
            self.snapshot.absent(),
            now_s=now_s,
            store_healthy=self._watched and beats.covers(settings.ttl_s, now_s, interval_s),
            disturbed_s=settings.membership.disturbed_s,
        )
        self._watched = True
        verdict = judge_absences(self._absences, beats, now_s=now_s, ttl_s=settings.ttl_s, interval_s=interval_s)
        concerned = (
            self.snapshot.set_away(frozenset(verdict.away)) | self._note_lost(verdict.dead) | self._end_waits(now_s)
        )
        due = [verdict.next_s] if verdict.next_s is not None else []
        since = {copy: self._superseded_since.get(copy, now_s) for copy in self.snapshot.superseded}
        self._superseded_since = since
        for (_, name), begun_s in since.items():
            if begun_s + settings.handover_timeout_s <= now_s:
                concerned[name] = None
            else:
                due.append(begun_s + settings.handover_timeout_s)
        if self._changed is not None:
            self._changed |= concerned
        return min(due) if due else None

    def _note_lost(self, dead: Iterable[str]) -> Names:
        """Remember since when machines are dead, until they are back; the units that this concerns."""
        concerned: Names = {}
        absent = dict.fromkeys(absence.machine for absence in self._absences)
        self._lost = {machine: loss for machine, loss in self._lost.items() if machine in absent}
        for machine in dead:
            if machine not in self._lost:
                log.warning("a machine is dead", extra={"machine": machine})
                self._lost[machine] = MachineLoss(self.settings.now(), self.settings.unix_now())
                concerned |= self.snapshot.concerned_by(machine)
        return concerned

    def _end_waits(self, now_s: float) -> Names:
        """The units that have waited long enough for a machine; or do not wait any more, which the plan will show."""
        over = [name for name, until_s in self._waits.items() if until_s <= now_s]
        for name in over:
            del self._waits[name]
        return dict.fromkeys(over)

    async def _plan(self, changed: Names | None) -> Decided:
        settings, now_s = self.settings, self.settings.now()
        limit_s = now_s - settings.handover_timeout_s
        overdue = frozenset(copy for copy, begun_s in self._superseded_since.items() if begun_s <= limit_s)
        failover = msgspec.structs.replace(settings.failover, lost=self._lost, clock_s=now_s)
        snapshot, unix_now = self.snapshot, settings.unix_now()

        def decide() -> Decided:
            slices = plan_in_slices(snapshot, changed, now_s=unix_now, overdue=overdue, failover=failover)
            while not self._is_over:  # it may be made in a thread, which nothing else would end
                try:
                    next(slices)
                except StopIteration as end:
                    return end.value, count_plan(snapshot, end.value.units)
            raise GivenUp

        is_small = changed is not None and len(changed) <= SMALL_PLAN
        plan, outcome = decide() if is_small else await settings.offload(decide)
        self._waits |= dict(plan.waits)
        return plan, outcome

    async def _write(self, plan: Plan) -> None:
        """Write the plan in as few transactions as may be, in its order. Raises what the store raises."""
        write_sets = write_sets_of(self.registry, plan, await self._confirm_dead(plan.forgotten))
        usage = self.snapshot.measure_usage()
        counted = [WriteSet((), (self.registry.put(usage),))] if usage != self.snapshot.usage else []
        for transaction in cut_into_transactions(chain(write_sets, counted), self.guards):
            self._written = await self.store.transact(transaction.comparisons, transaction.operations)
        async for unit in _in_slices(plan.units):
            _log_decision(unit)

    async def _confirm_dead(self, machines: Sequence[str]) -> dict[str, Comparison]:
        """See in the store that none of these machines is back: the view may be late, for a watch may be deaf. What
        holds for each until one is, for the write may be late too. Raises Conflict where one is."""
        gone: dict[str, Comparison] = {}
        for first in range(0, len(machines), MAX_OPERATIONS):
            some = machines[first : first + MAX_OPERATIONS]
            keys = {self.registry.key(MACHINES, machine): machine for machine in some}
            gone |= {machine: Unchanged(key, 0) for key, machine in keys.items()}
            for item in (await self.store.get_many(list(keys))).items:
                if self._is_machine(item):
                    raise Conflict(f"machine {keys[item.key]} was taken for dead, and is back")
                gone[keys[item.key]] = Unchanged(item.key, item.mod_revision)
        return gone

    @staticmethod
    def _is_machine(item: KeyValue) -> bool:
        """True for the record of a machine, even one that only a later fleetd can read."""
        try:
            MACHINES.decode(item)
        except NewerRecord:
            return True
        except MalformedRecord:
            return False
        return True

    async def _check_office(self) -> None:
        """After a transaction that failed or whose fate is unknown: do we lead still? Raises Deposed."""
        while True:
            try:
                item = await self.store.get(self.registry.key(LEADER))
            except Unavailable:
                await asyncio.sleep(RETRY_S)
                continue
            if item is None or item.lease != self.lease:
                raise LeadershipLost("somebody else took office, or nobody")
            return

    async def _forget_history(self) -> None:
        """Compact what is older than HISTORY_S, where there is anything new to forget."""
        now_s = self.settings.now()
        if not self._history or self._history[-1][1] < self.revision:
            self._history.append((now_s, self.revision))
        past = 0
        while self._history and self._history[0][0] < now_s - HISTORY_S:
            past = self._history.popleft()[1]
        if past and self.settings.compact:
            try:
                await self.store.compact(past)
            except StoreError as error:
                log.info("cannot compact the store's history: %s", error)


async def _in_slices(items: Iterable[Any]) -> AsyncIterator[Any]:
    """All of these, one by one; after each slice, everything else on the loop has its turn."""
    weight = 0
    for item in items:
        yield item
        weight += 1 + _size(item) // HEAVY_BYTES
        if weight >= SLICE:
            weight = 0
            await asyncio.sleep(0)


def _size(item: Any) -> int:
    """The bytes of what is read or heard of a key; 0 of anything else."""
    read = item.item if isinstance(item, Event) else item
    return len(read.value) if isinstance(read, KeyValue) else 0


def _log_decision(plan: UnitPlan) -> None:
    decision = plan.decision
    if decision is None:
        log.info("unit removed", extra={"unit": plan.unit})
        return
    facts: dict[str, object] = {"unit": plan.unit}
    if decision.machine:
        facts["machine"] = decision.machine
    if decision.machines:
        facts["machines"] = decision.machines
    if decision.rejections:
        rejections = (f"{render_rejection(each.rejection)} ({each.machines})" for each in decision.rejections)
        facts["rejections"] = ", ".join(rejections)
    log.info(render(decision.reason) or "placed", extra=facts)
