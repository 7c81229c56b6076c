"""The stream of events: what happens in the cluster, for clients that follow it, and what has happened."""

import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import msgspec
from msgspec.structs import replace

from fleetd import metrics
from fleetd.api import schema
from fleetd.api.connection_limits import bound_stream
from fleetd.api.event_schema import BEGIN, BEHIND, END, GAP, MARK, STATE
from fleetd.api.http import ApiError, Request, Response, StreamedResponse
from fleetd.api.v2.event_hub import STORE_CHANGED, EventHub, Reader
from fleetd.api.v2.event_lines import Moment, Selection, encode_line, encode_server_sent
from fleetd.api.v2.kept_events import KeptEvents
from fleetd.api.v2.parameters import read_all, read_one, read_time, read_truth
from fleetd.api.v2.unit_selection import select_units
from fleetd.model.event import EventKind
from fleetd.model.name_patterns import NamePatterns
from fleetd.model.token import OLDEST, InvalidToken, OutdatedToken, Token, parse_token
from fleetd.registry.moment import read_moment
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Unavailable

MARK_S = 15.0
MOST_READERS = 256
MOST_OF_USER = MOST_READERS // 4  # a quarter, as of the connections
MOST_TOLD = 10  # events of a unit, beside other facts about it
OLDER_EVENTS = "there are older events, which are not looked at: `fleetctl events` shows all"
STATES_UNKNOWN = "the states of units until now cannot be told any more: read them again"
_KINDS = frozenset((*EventKind, STATE))
_LINES, _SERVER_SENT = "application/x-ndjson", "text/event-stream"
_TOO_MANY = "this fleetd has as many readers of events as it takes: ask another machine's fleetd"


class Asked(msgspec.Struct, frozen=True):
    """What a request asks for.

    The stream begins after the token `after`. Without one it begins at the oldest event that is kept (`from_oldest`),
    at the first one of the Unix time `since`, or now. If it `follows`, it goes on with what happens; else it ends with
    what has happened, and has only the `latest` of that if so asked.
    """

    selection: Selection
    after: Token | None = None
    from_oldest: bool = False
    since: float = 0.0
    follows: bool = True
    latest: bool = False
    server_sent: bool = False


class Events:
    """The resource. `now` is a monotonic clock, `unix_now` gives Unix time, `mark_s` is how long a stream may be
    silent."""

    def __init__(
        self,
        registry: Registry,
        unix_now: Callable[[], float] = time.time,
        *,
        now: Callable[[], float] = time.monotonic,
        mark_s: float = MARK_S,
    ) -> None:
        self._unix_now = unix_now
        self._registry = registry
        self._now = now
        self._mark_s = mark_s
        self.kept = KeptEvents(registry)
        self._of_user: Counter[str] = Counter()  # streams, by who reads them
        self.hub = EventHub(registry, now)

    async def get(self, request: Request, _: str) -> Response | StreamedResponse:
        """Follow what happens in the cluster, as lines of JSON, or as server-sent events for those that accept them.

        `after` is the token of a line, or of a list (its header Fleet-Token, for requests that have one): all that has
        happened since follows, or 410 if that cannot be said. `after=0`: from the oldest event that is kept; without
        it: from now. `kind`, `unit` (a name or pattern) and `machine` (how its id begins) may be repeated, and select
        lines. `since` is the Unix time of the oldest event wanted. With `follow=false`, the stream ends with what has
        happened until now, and a `mark`; with `latest=true`, too, it has only the latest events, and a `gap` says first
        if there are older ones."""
        asked = parse_request(request)
        moment = await read_moment(self._registry)
        if asked.after is not None:
            try:
                asked.after.check(moment)
            except OutdatedToken as error:
                raise ApiError(410, str(error)) from error
            if asked.after.revision == 0:  # it has got no more than the first line
                asked = replace(asked, after=None, from_oldest=True)
        if self.hub.readers >= MOST_READERS:
            raise ApiError(503, _TOO_MANY)
        if self._of_user[request.actor.identity] >= MOST_OF_USER:
            raise ApiError(503, f"you read {MOST_OF_USER} streams of events here already, which is the limit")
        kind = _SERVER_SENT if asked.server_sent else _LINES
        headers = (("Content-Type", kind), ("Cache-Control", "no-store"))
        if request.method == "HEAD":
            return Response(200, headers)
        return StreamedResponse(200, self._encode(asked, moment, request.actor.identity), headers)

    async def history(self, unit: str) -> tuple[schema.Event, ...]:
        """What has happened to a unit of late, the newest first, as far as the latest events tell."""
        selection = Selection(units=NamePatterns([unit]))
        found, _ = await self.kept.read_latest(selection, self._unix_now(), 0, sys.maxsize)
        lines = [line for moment in found[-MOST_TOLD:] for line in selection.select(moment)]
        return tuple(reversed(lines[-MOST_TOLD:]))

    async def _encode(self, asked: Asked, moment: Token, user: str) -> AsyncGenerator[bytes, None]:
        encode = encode_server_sent if asked.server_sent else encode_line
        self._of_user[user] += 1
        bound_stream(user)
        try:
            with metrics.EVENT_READERS.track_inprogress():
                async with aclosing(self._stream(asked, moment)) as stream:
                    async for lines in stream:
                        yield b"".join(map(encode, lines))
        finally:
            self._of_user -= Counter([user])  # without those who have none

    async def _stream(self, asked: Asked, moment: Token) -> AsyncGenerator[list[schema.Event], None]:
        """The lines, as many at a time as there are."""
        start = asked.after or (Token(moment.epoch, 0) if _reads_kept(asked) else moment)
        begin = schema.Event(BEGIN, token=str(start))
        if not asked.follows:
            yield [begin]
            try:
                parts = self._latest if asked.latest else self._kept
                async with aclosing(parts(asked, moment, start.revision)) as told:
                    async for lines in told:
                        yield lines
                yield [schema.Event(MARK, token=str(moment))]
            except (ApiError, Unavailable) as error:
                yield [schema.Event(END, detail=str(error))]
            return
        begins_at = moment if _reads_kept(asked) else start
        reader, known = await self.hub.join(begins_at.revision, moment.revision)
        try:
            yield [begin]
            now = await read_moment(self._registry)  # the hub has offered, or will offer, everything after it
            if now.epoch != moment.epoch:
                yield [schema.Event(END, token=str(start), detail=STORE_CHANGED)]
                return
            reached = begins_at
            if _reads_kept(asked) or known is None:
                async with aclosing(self._kept(asked, now, start.revision)) as kept:
                    async for lines in kept:
                        yield lines
                reached = now
                if not _reads_kept(asked):
                    yield [schema.Event(GAP, token=str(now), detail=STATES_UNKNOWN)]
            for part in known or ():
                if part.revision > reached.revision:
                    reached = Token(now.epoch, part.revision)
                    if lines := _render(asked, now.epoch, part):
                        yield lines
            async for lines in self._follow(asked, reader, reached):
                yield lines
        except (ApiError, Unavailable) as error:  # the client comes again with its last token
            yield [schema.Event(END, detail=str(error))]
        finally:
            self.hub.leave(reader)

    async def _follow(self, asked: Asked, reader: Reader, reached: Token) -> AsyncIterator[list[schema.Event]]:
        epoch, sent_at = reached.epoch, self._now()
        while not reader.over:
            for moment in await reader.take(max(0.0, sent_at + self._mark_s - self._now())):
                if moment.revision > reached.revision:
                    reached = Token(epoch, moment.revision)
                    if lines := _render(asked, epoch, moment):
                        yield lines
                        sent_at = self._now()
            if not reader.over and not reader.has_news:
                reached = max(reached, Token(epoch, self.hub.position))
                if self._now() >= sent_at + self._mark_s:
                    yield [schema.Event(MARK, token=str(reached))]
                    sent_at = self._now()
        if reader.is_behind:
            metrics.EVENT_READERS_BEHIND.inc()
        yield [schema.Event(BEHIND if reader.is_behind else END, token=str(reached), detail=reader.over)]

    async def _kept(self, asked: Asked, moment: Token, after: int) -> AsyncGenerator[list[schema.Event], None]:
        """The events that are kept and were written after the revision `after`, until `moment`, in order."""
        async with aclosing(self.kept.read(asked.selection, asked.since, after, moment.revision)) as kept:
            async for part in kept:
                yield _render(asked, moment.epoch, part)

    async def _latest(self, asked: Asked, moment: Token, after: int) -> AsyncGenerator[list[schema.Event], None]:
        """The latest of them, as far as they are looked at."""
        now_s = self._unix_now()
        found, is_all = await self.kept.read_latest(asked.selection, now_s, after, moment.revision)
        if not is_all:
            yield [schema.Event(GAP, detail=OLDER_EVENTS)]
        for part in found:
            yield _render(asked, moment.epoch, part)


def _reads_kept(asked: Asked) -> bool:
    return asked.from_oldest or bool(asked.since)


def _render(asked: Asked, epoch: str, moment: Moment) -> list[schema.Event]:
    """The lines of a moment that were asked for; the last one has the token."""
    lines = asked.selection.select(moment)
    if lines:
        lines[-1] = replace(lines[-1], token=str(Token(epoch, moment.revision)))
    return lines


def parse_request(request: Request) -> Asked:
    """What a request asks for. Raises ApiError."""
    kinds = frozenset(read_all(request, "kind"))
    if unknown := sorted(kinds - _KINDS):
        raise ApiError(400, f"no kind of event is called {unknown[0]!r}: there are {', '.join(sorted(_KINDS))}")
    follow, latest = read_truth(request, "follow", True), read_truth(request, "latest", False)
    server_sent = any(_SERVER_SENT in value for value in request.header_values("Accept"))
    resumed = next(iter(request.header_values("Last-Event-ID")), "") if server_sent else ""
    after = resumed or read_one(request, "after")
    try:
        token = parse_token(after) if after not in ("", OLDEST) else None
    except InvalidToken as error:
        raise ApiError(400, f"after: {error}") from error
    since = read_time(request, "since")
    units = select_units(read_all(request, "unit"))
    if latest and (follow or since):
        raise ApiError(400, "latest=true goes with follow=false, and without since")
    return Asked(
        Selection(kinds, units, tuple(read_all(request, "machine"))),
        token,
        after == OLDEST or (not follow and token is None),
        since,
        follow,
        latest,
        server_sent,
    )
