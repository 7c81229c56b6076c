"""Locks in version 2: wait for one, renew and release a session, list them, take one away."""

import asyncio
import math
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

import msgspec

from fleetd import metrics
from fleetd.api import schema
from fleetd.api.audit import Audit
from fleetd.api.http import ApiError, Request, Response, Route, StreamedResponse, parse_json, render_json
from fleetd.api.lock_quota import LockQuota
from fleetd.api.lock_schema import HELD, RELEASED, TIMEOUT, WAITING
from fleetd.api.lock_view import Asked, Held, LockView, OthersSession, SessionGone, SlotsDiffer, read_all
from fleetd.api.locking import Locking
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.event import ClusterEvent, EventKind
from fleetd.model.lock import (
    LONGEST_TTL_S,
    MOST_HOLDER,
    Holder,
    LockRecord,
    Session,
    SessionId,
    find_holding,
    parse_session_id,
    refuse_lock_name,
    refuse_lock_terms,
)
from fleetd.model.names import visible
from fleetd.model.permission import Permission
from fleetd.registry.records import MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Unavailable

FIRST_MARK_S = 0.5  # a lock that is free needs no line that says that it is waited for
MARK_S = 15.0  # how long an answer may be silent
MOST_WAITERS = 768  # of the connections that the API has; each takes about 20 KiB
MOST_WAITERS_OF_USER = 512
_LINES = (("Content-Type", "application/x-ndjson"),)


class Locks:
    """The resource. `now` is a monotonic clock, `unix_now` gives Unix time; `epoch` is what this fleetd knows of the
    store's, and an answer is silent for `mark_s` at most."""

    def __init__(
        self,
        registry: Registry,
        epoch: StoreEpoch,
        audit: Audit,
        now: Callable[[], float],
        unix_now: Callable[[], float],
        *,
        mark_s: float = MARK_S,
    ) -> None:
        self._registry = registry
        self._audit = audit
        self._now = now
        self._mark_s = mark_s
        self._waiters: Counter[str] = Counter()  # by who waits
        self.locking = Locking(registry, epoch, now, unix_now)
        self._quota = LockQuota(registry, self.locking, now)
        show_locks(self.locking)

    def routes(self) -> tuple[Route, ...]:
        """The routes of locks."""
        locks, sessions, operate = f"{schema.V2}/locks", f"{schema.V2}/lock-sessions", Permission.OPERATE
        one, of_session, answer = f"{locks}/{{lock}}", f"{sessions}/{{session}}", schema.LockAnswer
        return (
            Route("GET", locks, self.get_all, Permission.VIEW, answer=schema.Locks),
            Route("POST", one, self.post, operate, schema.LockRequest, answer, by_name=True, is_streamed=True),
            Route("DELETE", one, self.delete, operate, answer=schema.LockEviction, by_name=True),
            Route("PUT", of_session, self.renew, operate, answer=answer, by_name=True),
            Route("DELETE", of_session, self.release, operate, answer=answer, by_name=True),
        )

    async def post(self, request: Request, name: str) -> Response | StreamedResponse:
        """Wait for a lock, and take it.

        The answer is lines of JSON: `waiting`, soon and now and then, and at last `held` or `timeout`. Who closes
        the connection before gives up its place. With `wait: 0` there is one line, or 409 if the lock is not to be had
        at once. The session has to be renewed, for the first time at once: nobody knows how old this answer is."""
        _check(request, name)
        body = parse_json(request.body, schema.LockRequest)
        asked = parse_request(name, body, request.user)
        user = request.actor.identity or request.user
        if body.wait != 0:
            self._check_waiters(user)
        await self._quota.admit(name, asked.by)
        try:
            if body.wait == 0:
                if (held := await self.locking.try_to_acquire(asked)) is not None:
                    metrics.LOCKS_TAKEN.labels("no wait").inc()
                    self._audit.note(request.actor, "take lock", name)
                    return Response(200, _LINES, _encode(_describe_held(held)))
                raise ApiError(409, f"lock {name} is not free: {describe_wait(await self.locking.read(name))}")
            await self.locking.check(asked)
        except SlotsDiffer as error:
            raise ApiError(412, str(error)) from error
        return StreamedResponse(200, self._wait(request, asked, body.wait, user), _LINES)

    def _check_waiters(self, user: str) -> None:
        """Raises ApiError if as many clients wait here as may."""
        remedy = "end some, or name another server (--endpoint)"
        if self._waiters[user] >= MOST_WAITERS_OF_USER:
            of_user = f"{self._waiters[user]} clients of yours wait for locks here"
            raise ApiError(429, f"{of_user}, and {MOST_WAITERS_OF_USER} may: {remedy}")
        if self._waiters.total() >= MOST_WAITERS:
            raise ApiError(429, f"{MOST_WAITERS} clients wait for locks here, and no more may: {remedy}")

    async def _wait(self, request: Request, asked: Asked, wait: float | None, user: str) -> AsyncGenerator[bytes, None]:
        """The lines of an answer. Closed before the lock was given to the client, it gives it up."""
        until = math.inf if wait is None else self._now() + wait
        self._waiters[user] += 1
        taking = asyncio.create_task(self.locking.acquire(asked))
        is_given = False
        try:
            pause_s, first_pause = FIRST_MARK_S, True
            while True:
                await asyncio.wait([taking], timeout=max(0.0, min(pause_s, until - self._now())))
                if taking.done():
                    held = taking.result()
                    metrics.LOCKS_TAKEN.labels("no wait" if first_pause else "wait").inc()
                    self._audit.note(request.actor, "take lock", asked.name)
                    is_given = True  # the client may have it from now on, even if the connection ends at once
                    yield _encode(_describe_held(held))
                    return
                if self._now() >= until:
                    yield _encode(schema.LockAnswer(TIMEOUT, detail=await self._describe_wait(asked.name)))
                    return
                pause_s, first_pause = self._mark_s, False
                yield _encode(schema.LockAnswer(WAITING, detail=await self._describe_wait(asked.name)))
        except (SlotsDiffer, MalformedRecord) as error:
            yield _encode(schema.LockAnswer(TIMEOUT, detail=str(error)))
        finally:
            self._waiters[user] -= 1
            self._waiters += Counter()  # forgets those with none
            if not is_given:
                taking.add_done_callback(self._give_up)
                taking.cancel()

    def _give_up(self, taking: "asyncio.Task[Held]") -> None:
        if not taking.cancelled() and not taking.exception():
            self.locking.abandon(taking.result().session)

    async def _describe_wait(self, name: str) -> str:
        try:
            return describe_wait(await self.locking.read(name))
        except Unavailable as error:
            return str(error)

    async def renew(self, request: Request, text: str) -> Response:
        """Renew a session: it holds its lock for another `ttl`, which has begun `age` seconds before the request was
        sent. 404: it does not hold it any more, and what it does has to stop."""
        session = _parse_session(request, text)
        try:
            held = await self.locking.renew(session)
        except SessionGone as error:
            raise ApiError(404, f"lock {session.name} is lost: {error}") from error
        return render_json(msgspec.structs.replace(_describe_held(held), age=max(0.0, self._now() - held.renewed)))

    async def release(self, request: Request, text: str) -> Response:
        """Release a session, as the one who has taken it: the lock is free at once."""
        session = _parse_session(request, text)
        try:
            is_released = await self.locking.release(session, request.user[:MOST_HOLDER])
        except OthersSession as error:
            raise ApiError(403, str(error)) from error
        if not is_released:
            raise ApiError(404, f"lock {session.name} is not held by this session any more")
        return render_json(schema.LockAnswer(RELEASED, str(session)))

    async def get_all(self, _: Request, __: str) -> Response:
        """List the locks that somebody holds or waits for."""
        found = await read_all(self._registry)
        listed = []
        for name, lock in sorted(found.items()):
            record = lock.record
            with suppress(Unavailable):
                record = await self.locking.clear(name, lock)
            if record is lock.record or record.holders or lock.sessions:
                listed.append(self._describe(name, lock.sessions, record))
        return render_json(schema.Locks(tuple(listed)))

    async def delete(self, request: Request, name: str) -> Response:
        """Take a lock from all who hold it. They learn of it when they renew their sessions; another one may have it
        after `free_after` seconds, when they have stopped for certain."""
        _check(request, name)
        view = await self.locking.read(name)
        holding = find_holding(view.sessions, view.record)
        if not holding and not view.record.holders:
            raise ApiError(404, f"nobody holds lock {name}")
        lock = self._describe(name, list(view.sessions), view.record)
        await self._note_eviction(request, lock)
        await self.locking.evict(holding)
        gone = self.locking.note_gone(name, [], view.record)
        left = [gone[holder.lease] + holder.ttl_s - self._now() for holder in view.record.holders]
        self._audit.note(request.actor, "take away lock", name)
        return render_json(schema.LockEviction(lock.holders, max([0.0, *left])))

    async def _note_eviction(self, request: Request, lock: schema.Lock) -> None:
        """Tell the readers of events who takes a lock from whom."""
        holders = ", ".join(session.holder or session.by or "another program" for session in lock.holders)
        event = ClusterEvent(EventKind.ASKED, by=request.user, action="unlock", subject=lock.name, detail=holders)
        if (record := self._registry.record) is not None:
            recorded = record([event])
            await self._registry.store.transact(recorded.comparisons, recorded.operations)

    def _describe(self, name: str, sessions: list[Session], record: LockRecord) -> schema.Lock:
        sessions.sort(key=lambda session: session.created)
        self.locking.note_gone(name, sessions, record)
        present = {session.lease for session in sessions}
        holding = find_holding(sessions, record)
        foreign = [session for session in holding if record.find(session.lease) is None]
        holders = [_describe_holder(name, holder, present) for holder in record.holders]
        holders += [schema.LockSession(f"{name}.{session.lease}", is_foreign=True) for session in foreign]
        slots = [holder.slots for holder in record.holders] + [session.value.slots for session in sessions]
        return schema.Lock(name, min(slots, default=1), tuple(holders), len(sessions) - len(holding))


def show_locks(locking: Locking) -> None:
    """Have the metrics show these locks, as long as they are in use."""
    seen = weakref.ref(locking)
    metrics.LOCKS_HELD.set_function(lambda: float(found.held) if (found := seen()) else 0.0)
    metrics.LOCK_WAITERS.set_function(lambda: float(found.waiting) if (found := seen()) else 0.0)


def parse_request(name: str, body: schema.LockRequest, by: str) -> Asked:
    """What a request asks for. Raises ApiError."""
    if refusal := refuse_lock_terms(body.ttl, body.slots):
        raise ApiError(400, refusal)
    if body.wait is not None and not 0 <= body.wait < math.inf:
        raise ApiError(400, f"wait: {body.wait:g}: it is a number of seconds, 0 or more, or null")
    if len(body.holder) > MOST_HOLDER:
        raise ApiError(400, f"holder has more than {MOST_HOLDER} characters")
    return Asked(name, body.ttl, body.slots, by[:MOST_HOLDER], visible(body.holder)[:MOST_HOLDER])


def describe_wait(view: LockView) -> str:
    """Whom or what the lock waits for, for people."""
    if view.epoch is None:
        return (
            "the store was restored from a backup, and who held the lock before may go on for "
            f"{LONGEST_TTL_S:g} s: {max(0.0, view.begins - view.at):.0f} s are left"
        )
    present = {session.lease for session in view.sessions}
    words = []
    for holder in view.record.holders:
        who = holder.holder or holder.by or "somebody"
        gone = "" if holder.lease in present else f", who has vanished and may go on for {holder.ttl_s:g} s"
        words.append(who + gone)
    foreign = sum(not session.is_fleets for session in find_holding(view.sessions, view.record))
    words += ["another program"] * foreign
    return f"held by {', '.join(words)}" if words else "others are before it in the line"


def _check(request: Request, name: str) -> None:
    """Raises ApiError for a name of no lock, and one that the client may not take."""
    if refusal := refuse_lock_name(name):
        raise ApiError(400, refusal)
    request.check_permission(Permission.OPERATE, [name])


def _parse_session(request: Request, text: str) -> SessionId:
    session = parse_session_id(text)
    if session is None:
        raise ApiError(400, f'"{visible(text[:200])}" is no session of a lock')
    request.check_permission(Permission.OPERATE, [session.name])
    return session


def _encode(answer: schema.LockAnswer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


def _describe_held(held: Held) -> schema.LockAnswer:
    return schema.LockAnswer(HELD, str(held.session), held.holder.token, held.holder.ttl_s)


def _describe_holder(name: str, holder: Holder, present: set[str]) -> schema.LockSession:
    return schema.LockSession(
        f"{name}.{holder.lease}",
        holder.by,
        holder.holder,
        holder.since,
        holder.ttl_s,
        holder.token,
        is_gone=holder.lease not in present,
    )
