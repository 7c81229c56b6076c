"""Takes, renews and releases locks on the store (model/lock.py decides who holds one).

Nothing about a session that holds a lock has to be in memory: any fleetd renews and releases it. Of those who wait here
for one lock, one at a time has a session in the store; the others wait in line behind it. That one watches the others
in the store, and asks the store for nothing while as many as there are slots stand before it.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress

import msgspec

from fleetd import metrics
from fleetd.api.lock_view import (
    Asked,
    Held,
    KnownLock,
    LockView,
    News,
    SessionGone,
    SlotsDiffer,
    Taken,
    check_owner,
    check_slots,
    decode,
    history_of,
    lost_event,
    restores_of,
)
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.event import ClusterEvent, EventKind, Step
from fleetd.model.lock import (
    MOST_LOCKS,
    RENEW_PART,
    Claim,
    Decision,
    Holder,
    LockEpoch,
    LockRecord,
    Session,
    SessionId,
    SessionValue,
    begin_epoch,
    decide,
    find_overdue,
    read_session,
)
from fleetd.registry.records import MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import (
    Compacted,
    Comparison,
    Conflict,
    CreatedAt,
    Delete,
    Event,
    HasValue,
    KeyValue,
    LeaseNotFound,
    Operation,
    Put,
    StoreError,
    Unavailable,
    Unchanged,
)

__all__ = ["Asked", "Held", "Locking", "SessionGone", "SlotsDiffer"]
RETRY_S = 1.0
MOST_GONE = 2 * MOST_LOCKS  # locks with holders whose keys are gone, of which is remembered since when
MOST_TAKEN = 1000  # locks that were taken here last, of which is remembered what was written
FRESH_S = 1.0  # how long after it has taken the lock a session need not ask the store whether it has it
_EXPIRED = "its lease has expired or was revoked"

log = logging.getLogger(__name__)


class Locking:
    """The locks of the cluster. `epoch` is what this fleetd knows of the store's, `now` its clock, `unix_now` gives
    Unix time."""

    def __init__(
        self, registry: Registry, epoch: StoreEpoch, now: Callable[[], float], unix_now: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._store = registry.store
        self._epoch = epoch
        self._now = now
        self._unix_now = unix_now
        self._lines: dict[str, tuple[asyncio.Lock, int]] = {}  # those who wait for a lock here, and how many
        self._gone: dict[str, dict[str, float]] = {}  # lock → lease of a holder → since when its key is gone
        self._taken: dict[str, Taken] = {}  # by the name of the lock, the last ones
        self._ends: dict[SessionId, float] = {}  # when the ttl of a session ends that was given or renewed here
        self._cleaning: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many wait here, for all locks."""
        return sum(count for _, count in self._lines.values())

    @property
    def held(self) -> int:
        """How many sessions were given or renewed here, are not released, and in their TTLs."""
        self._ends = {session: end for session, end in self._ends.items() if end > self._now()}
        return len(self._ends)

    def is_waited_for(self, name: str) -> bool:
        """True if somebody waits here for this lock."""
        return name in self._lines

    async def read(self, name: str) -> LockView:
        """A lock as it is now. Raises Unavailable, MalformedRecord."""
        registry, known = self._registry, self._epoch.highest_revision
        keys = (self._record_key(name), registry.lock_epoch_key, registry.history_key)
        prefix = self._prefix(name)
        found = await self._store.get_many(keys)
        items = {item.key: item for item in found.items}
        keyed = await self._store.range(prefix)
        self._check_not_set_back(known, found.revision)
        record = decode(items.get(keys[0]), LockRecord) or LockRecord()
        epoch, begins = self._begin_epoch(items)
        revisions = [items[key].mod_revision if key in items else 0 for key in keys]
        guards = [Unchanged(key, revision) for key, revision in zip(keys, revisions, strict=True)]
        sessions = [
            read_session(item.key.removeprefix(prefix), item.create_revision, item.value) for item in keyed.items
        ]
        view = LockView(
            tuple(sorted(sessions, key=lambda session: session.created)),
            record,
            tuple(guards),
            epoch,
            begins,
            epoch != decode(items.get(keys[1]), LockEpoch),
            epoch != decode(items.get(keys[1]), LockEpoch) and keys[1] in items,
            found.revision,  # the earlier one: a watch from there on also tells what came between the two reads
            self._now(),
        )
        self.note_gone(name, view.sessions, record)
        return view

    async def acquire(self, asked: Asked) -> Held:
        """Wait for the lock, in line, and take it. Raises SlotsDiffer, MalformedRecord. Cancelled, it takes nothing."""
        with self._line_up(asked.name) as turn:
            async with turn:
                while True:
                    try:
                        if held := await self._contend(asked, waits=True):
                            return held
                    except LeaseNotFound:
                        log.info("the session that waits for lock %s has vanished, and begins anew", asked.name)
                    except Unavailable as error:
                        log.info("waiting for lock %s goes on: %s", asked.name, error)
                        await asyncio.sleep(RETRY_S)

    async def check(self, asked: Asked) -> None:
        """Raises SlotsDiffer, Unavailable, MalformedRecord if the lock cannot be waited for."""
        check_slots(asked, await self.read(asked.name))

    async def try_to_acquire(self, asked: Asked) -> Held | None:
        """Take the lock if that is possible at once. Raises SlotsDiffer, MalformedRecord, Unavailable."""
        if self.is_waited_for(asked.name):
            return None
        view = await self.read(asked.name)
        last = Holder("-", view.revision + 1, asked.ttl_s, 0, asked.slots)
        sessions = (*view.sessions, Session("-", last.created, SessionValue(asked.slots)))
        if view.epoch is None or self._decide(asked.name, last, sessions, view).claim is not Claim.TAKE:
            return None
        try:
            return await self._contend(asked, waits=False)
        except LeaseNotFound as error:
            raise Unavailable(f"the session has vanished while it took the lock: {error}") from error

    async def renew(self, session: SessionId) -> Held:
        """Renew a session that holds its lock. One that has just taken it here, with a lease that was renewed then, is
        not renewed again at once. Raises SessionGone, Unavailable, MalformedRecord."""
        if (held := self._find_fresh(session)) is not None:
            return held
        sent = self._now()
        known, registry = self._epoch.highest_revision, self._registry
        own = self._prefix(session.name) + session.hex
        keys = (own, self._record_key(session.name), registry.lock_epoch_key, registry.history_key)
        found = await self._store.get_many(keys)
        self._check_not_set_back(known, found.revision)
        items = {item.key: item for item in found.items}
        record = decode(items.get(keys[1]), LockRecord) or LockRecord()
        epoch, holder = decode(items.get(keys[2]), LockEpoch), record.find(session.hex)
        if own not in items:
            raise SessionGone(_EXPIRED)
        if holder is None or items[own].create_revision != holder.created:
            raise SessionGone("it was released, or taken away with `fleetctl unlock --force`")
        if epoch is None or epoch.number != holder.epoch or restores_of(epoch.name) != history_of(items, registry):
            raise SessionGone("the store was restored from a backup")
        try:  # only now: before, it could be the lease of anything, which somebody has made a session of
            await self._store.keep_alive(session.lease)
        except LeaseNotFound as error:
            raise SessionGone(_EXPIRED) from error
        self._note_held(session, sent + holder.ttl_s)
        return Held(session, holder, sent)

    async def release(self, session: SessionId, by: str | None = None) -> bool:
        """Release a session, so that the next one has its place at once. False if it was not there. Its lease, which
        has no key any more, ends by itself. With `by`, raises OthersSession unless that is who has taken it."""
        key, record_key = self._prefix(session.name) + session.hex, self._record_key(session.name)
        self._ends.pop(session, None)
        taken = self._taken.get(session.name)
        if taken is not None and taken.held.session == session and by in (None, taken.held.holder.by):
            del self._taken[session.name]
            with suppress(Conflict):  # the record was written since
                left = self._write(session.name, taken.record.without([session.hex]))
                written = HasValue(record_key, msgspec.json.encode(taken.record))
                await self._store.transact([written], [Delete(key), left])
                return True
        while True:
            found = {item.key: item for item in (await self._store.get_many([key, record_key])).items}
            record = decode(found.get(record_key), LockRecord) or LockRecord()
            if key not in found and record.find(session.hex) is None:
                return False
            check_owner(by, session, record, found.get(key))
            guard = Unchanged(record_key, found[record_key].mod_revision if record_key in found else 0)
            operations: list[Operation] = [Delete(key)]
            if record.find(session.hex) is not None:
                operations.append(self._write(session.name, record.without([session.hex])))
            with suppress(Conflict):
                await self._store.transact([guard], operations)
                return True

    async def evict(self, sessions: Sequence[Session]) -> None:
        """End the leases of sessions. Their holders learn of it when they renew them; who comes next waits for that."""
        self._taken.clear()
        for session in sessions:
            await self._store.revoke(int(session.lease, 16))

    def abandon(self, session: SessionId) -> None:
        """Release a session in the background."""
        self._clean(lambda: self.release(session))

    def note_gone(self, name: str, sessions: Sequence[Session], record: LockRecord) -> dict[str, float]:
        """Remember since when holders of a lock are gone, and return that: lease → time."""
        present = {session.lease for session in sessions}
        now, former = self._now(), self._gone.pop(name, {})
        gone = {holder.lease: former.get(holder.lease, now) for holder in record.holders if holder.lease not in present}
        if len(self._gone) >= MOST_GONE:
            self._gone.clear()  # they are waited for longer than they have to
        if gone:
            self._gone[name] = gone
        return gone

    async def _contend(self, asked: Asked, *, waits: bool) -> Held | None:
        """Take the lock with a session of its own; without `waits`, return None if that is not possible at once. Raises
        LeaseNotFound, Unavailable, SlotsDiffer, MalformedRecord, and leaves no session then."""
        renewed = self._now()
        lease = await self._store.grant(asked.ttl_s)
        session = SessionId(asked.name, lease)
        key = self._prefix(asked.name) + session.hex
        value = msgspec.json.encode(SessionValue(asked.slots, asked.by, asked.holder))
        held: Held | None = None
        try:
            try:
                created = await self._store.transact([CreatedAt(key, 0)], [Put(key, value, lease)])
            except Conflict:
                log.debug("the session %s was there already: its answer was lost", session)
                item = await self._store.get(key)
                created = item.create_revision if item else 0
            held = await self._wait_for_turn(asked, session, created, renewed, waits=waits)
        finally:
            if held is None:
                self.abandon(session)
        return held

    async def _wait_for_turn(
        self, asked: Asked, session: SessionId, created: int, renewed: float, *, waits: bool
    ) -> Held | None:
        news = News()
        watching: asyncio.Task[None] | None = None
        expected: LockView | None = None
        try:
            while True:
                if expected is None:
                    news.clear()
                    view = await self.read(asked.name)
                    check_slots(asked, view, created)
                until, held = await self._claim(asked, session, created, renewed, expected or view)
                if held is not None or not waits:
                    return held
                if expected is not None:  # not as expected
                    expected = None
                    continue
                if watching is None:
                    watching = asyncio.create_task(self._watch(asked.name, view.revision, news))
                wake_at = min(until, renewed + asked.ttl_s * RENEW_PART)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, wake_at - self._now())):
                        expected = await self._follow(asked, created, view, news)
                        continue
                if (sent := self._now()) >= renewed + asked.ttl_s * RENEW_PART:
                    await self._store.keep_alive(session.lease)
                    renewed = sent
        finally:
            if watching is not None:
                watching.cancel()

    async def _follow(self, asked: Asked, created: int, view: LockView, news: News) -> LockView | None:
        """Wait for a change that may give a session its turn. Returns the lock after it as far as it can be told
        without a look into the store; None if it cannot."""
        while True:
            await news.has_come.wait()
            if news.is_incomplete:
                return None
            view = self._expect(asked.name, view, news.events)
            news.clear()
            if sum(session.created < created for session in view.sessions) < asked.slots:
                return view

    def _expect(self, name: str, view: LockView, events: Sequence[Event]) -> LockView:
        """The lock after these changes of its sessions, if holders whose keys are gone have released it: then the
        record was written in the same transaction. What takes the lock compares that."""
        sessions = {session.lease: session for session in view.sessions}
        record, (of_record, *others) = view.record, view.guards
        for event in events:
            lease = event.key.removeprefix(self._prefix(name))
            if event.item is not None:
                sessions[lease] = read_session(lease, event.item.create_revision, event.item.value)
                continue
            sessions.pop(lease, None)
            if record.find(lease) is not None:
                record = record.without([lease])
                of_record = Unchanged(self._record_key(name), event.revision if record.holders else 0)
        in_order = sorted(sessions.values(), key=lambda session: session.created)
        return msgspec.structs.replace(
            view, sessions=tuple(in_order), record=record, guards=(of_record, *others), at=self._now()
        )

    async def _claim(
        self, asked: Asked, session: SessionId, created: int, renewed: float, view: LockView
    ) -> tuple[float, Held | None]:
        """Take the lock if it may be taken; else when to look again if nothing changes before. Raises LeaseNotFound,
        Unavailable."""
        if view.epoch is None:
            return view.begins, None
        own = Holder(
            session.hex,
            created,
            asked.ttl_s,
            view.epoch.number,
            asked.slots,
            asked.by,
            asked.holder,
            self._unix_now(),
        )
        decision = self._decide(asked.name, own, view.sessions, view)
        if decision.claim is Claim.LOST:
            raise LeaseNotFound("the session's key is gone")
        if decision.record is None:
            return decision.until if decision.until is not None else math.inf, None
        key, epoch_key = self._prefix(asked.name) + session.hex, self._registry.lock_epoch_key
        operations: list[Operation] = [self._write(asked.name, decision.record)]
        if view.begins_epoch:
            operations.append(Put(epoch_key, msgspec.json.encode(view.epoch)))
        guards: list[Comparison] = [CreatedAt(key, created), *view.guards]
        lost = [holder for holder in view.record.holders if decision.record.find(holder.lease) is None]
        events = [lost_event(asked.name, holder) for holder in lost]
        if view.has_former_epoch:
            events.append(ClusterEvent(EventKind.LOCK, subject=asked.name, step=Step.RESTORED))
        self._add_events(events, guards, operations)
        sent, known = self._now(), self._epoch.highest_revision
        writing = self._store.transact(guards, operations)
        try:
            if sent - renewed < FRESH_S / 2:
                revision = await writing
            else:  # renew it meanwhile, so that its client need not wait for that
                revision, _ = await asyncio.gather(writing, self._store.keep_alive(session.lease))
                renewed = sent
        except Conflict:
            return 0.0, None
        self._check_not_set_back(max(known, view.revision), revision)
        self._epoch.note_revision(revision)
        metrics.LOCKS_LOST.inc(len(lost))
        held = Held(session, own, renewed)
        self._remember(held, decision.record)
        return 0.0, held

    async def clear(self, name: str, lock: KnownLock) -> LockRecord:
        """Take those out of the record whose places anybody could have; what is left. Raises Unavailable."""
        gone = self.note_gone(name, lock.sessions, lock.record)
        overdue = find_overdue(lock.sessions, lock.record, gone, self._now())
        if not overdue:
            return lock.record
        left = lock.record.without(holder.lease for holder in overdue)
        guards: list[Comparison] = [Unchanged(self._record_key(name), lock.revision)]
        operations = [self._write(name, left)]
        self._add_events([lost_event(name, holder) for holder in overdue], guards, operations)
        with suppress(Conflict):
            await self._store.transact(guards, operations)
            metrics.LOCKS_LOST.inc(len(overdue))
        return left

    def _add_events(
        self, events: Sequence[ClusterEvent], guards: list[Comparison], operations: list[Operation]
    ) -> None:
        """Have a transaction also record these events."""
        if events and self._registry.record is not None:
            recorded = self._registry.record(events)
            guards += recorded.comparisons
            operations += recorded.operations

    def _remember(self, held: Held, record: LockRecord) -> None:
        self._note_held(held.session, held.renewed + held.holder.ttl_s)
        self._taken.pop(held.session.name, None)
        if len(self._taken) >= MOST_TAKEN:
            del self._taken[next(iter(self._taken))]  # the oldest one
        self._taken[held.session.name] = Taken(held, record, self._epoch.name)

    def _note_held(self, session: SessionId, until: float) -> None:
        if len(self._ends) < 2 * MOST_LOCKS or self.held < 2 * MOST_LOCKS:
            self._ends[session] = until

    def _find_fresh(self, session: SessionId) -> Held | None:
        """What this session holds if it took it here a moment ago, when its lease was renewed too; only once."""
        taken, epoch = self._taken.get(session.name), self._epoch
        if taken is None or taken.held.session != session or not taken.is_fresh:
            return None
        taken.is_fresh = False
        is_same = taken.epoch == epoch.name and not epoch.set_back.is_set()
        return taken.held if is_same and self._now() - taken.held.renewed < FRESH_S else None

    def _decide(self, name: str, own: Holder, sessions: Sequence[Session], view: LockView) -> Decision:
        return decide(own, sessions, view.record, self._gone.get(name, {}), view.at)

    async def _watch(self, name: str, revision: int, news: News) -> None:
        """Tell each change of the lock's sessions after that revision."""
        while True:
            try:
                async with aclosing(self._store.watch(self._prefix(name), revision)) as changes:
                    async for change in changes:
                        if change.events:
                            news.add(change.events)
                return
            except Compacted as error:
                revision = error.revision
            except Unavailable as error:
                log.debug("lock %s is not watched: %s", name, error)
            news.add(())
            await asyncio.sleep(RETRY_S)  # a store that was set back may say so again and again

    def _begin_epoch(self, items: dict[str, KeyValue]) -> tuple[LockEpoch | None, float]:
        """The epoch in which locks may be taken now, and when it may begin. The first one after it may stores it."""
        epoch, now = self._epoch, self._now()
        stored = decode(items.get(self._registry.lock_epoch_key), LockEpoch)
        if epoch.set_back.is_set() or not epoch.name or restores_of(epoch.name) != history_of(items, self._registry):
            return None, now + RETRY_S  # this fleetd has yet to take note of a restore
        return begin_epoch(
            stored, epoch.name, epoch.since, has_changed=epoch.has_changed, now=now, unix_now=self._unix_now()
        )

    def _check_not_set_back(self, known: int, revision: int) -> None:
        """Raises Unavailable if the store has fallen below a revision that it is known to have had."""
        if revision < known:
            self._epoch.note_set_back(self._epoch.name)
            raise Unavailable("the store was restored from a backup: locks wait until that is noted")

    def _write(self, name: str, record: LockRecord) -> Operation:
        key = self._record_key(name)
        return Put(key, msgspec.json.encode(record)) if record.holders else Delete(key)

    def _prefix(self, name: str) -> str:
        return f"{self._registry.locks_prefix}{name}/"

    def _record_key(self, name: str) -> str:
        return self._registry.lock_records_prefix + name

    @contextmanager
    def _line_up(self, name: str) -> Iterator[asyncio.Lock]:
        turn, count = self._lines.get(name, (asyncio.Lock(), 0))
        self._lines[name] = (turn, count + 1)
        try:
            yield turn
        finally:
            turn, count = self._lines.pop(name)
            if count > 1:
                self._lines[name] = (turn, count - 1)

    def _clean(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do this in the background. If it fails, the lease ends by itself."""

        async def clean() -> None:
            try:
                await work()
            except (StoreError, MalformedRecord) as error:
                log.info("a session of a lock ends by itself: %s", error)

        task = asyncio.create_task(clean())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)
