"""The watches of a worker: all of them over one stream from a server."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence

from fleetd.aio import Backoff, first_of
from fleetd.model.decoding import UNREADABLE
from fleetd.store import worker_wire as wire
from fleetd.store.failures import EndpointFailed
from fleetd.store.http_gateway import Gateway, Stream
from fleetd.store.protocol import Changes, Compacted, StoreError

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1  # before a broken stream is opened again; doubled each time
LONGEST_PAUSE_S = 3.0
GATHER_S = 0.01  # watches that begin together share a stream from the beginning


class Position:
    """How far the worker has seen the store: its `history`, and the highest `revision` since that is what it is."""

    def __init__(self, history: str, revision: int) -> None:
        self.history = history
        self.revision = revision

    def note(self, answer: wire.Answer) -> None:
        """Note what an answer says."""
        if answer.history != self.history:
            self.history, self.revision = answer.history, answer.store_revision
        else:
            self.revision = max(self.revision, answer.store_revision)


class _Watch:
    """One watch. `revision` is how far it has seen, `history` the mark of the store that it began with."""

    def __init__(self, prefix: str, end: str, revision: int, history: str) -> None:
        self.prefix = prefix
        self.end = end
        self.revision = revision
        self.history = history
        self.news: asyncio.Queue[Changes | Exception | None] = asyncio.Queue()  # None: the store was closed


class Watches:
    """All watches. There is a stream as long as there is one; a new one opens it again, for all."""

    def __init__(self, gateway: Gateway, seen: Position, silence_s: float) -> None:
        self._gateway = gateway
        self._silence_s = silence_s
        self._seen = seen
        self._watches: list[_Watch] = []
        self._changed = asyncio.Event()  # the open stream is not for the watches that there are
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        """See Store.watch."""
        watch = _Watch(prefix, end, after_revision, self._seen.history)
        self._add(watch)
        try:
            while (news := await watch.news.get()) is not None:
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            self._remove(watch)

    async def close(self) -> None:
        """End the watches."""
        self._closed = True
        for watch in self._watches:
            watch.news.put_nowait(None)
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _add(self, watch: _Watch) -> None:
        if self._closed:
            watch.news.put_nowait(None)
            return
        self._watches.append(watch)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def _remove(self, watch: _Watch) -> None:
        """The stream stays as it is, unless this was the last: what it says of this watch is left out."""
        if watch in self._watches:
            self._watches.remove(watch)
        if not self._watches:
            self._changed.set()

    async def _run(self) -> None:
        try:
            await self._keep_open()
        except Exception as error:  # a bug: each watch ends by it, as by one of its own
            for watch in self._watches:
                watch.news.put_nowait(error)
            raise

    async def _keep_open(self) -> None:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while self._watches:
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            if not self._watches:
                return
            try:
                await first_of(self._follow(tuple(self._watches), backoff), self._changed.wait())
            except StoreError as failure:
                if backoff.is_first:
                    log.info("the watches of this machine ended, opening them again: %s", failure)
                if await self._gateway.closed_within(backoff.next_s()):
                    return

    async def _follow(self, watches: Sequence[_Watch], backoff: Backoff) -> None:
        """Open a stream for these watches and give each what it says. Raises StoreError when it has ended."""
        request = wire.WatchRequest(
            highest_revision=self._seen.revision,
            history=self._seen.history,
            watches=tuple(wire.WatchFrom(watch.prefix, watch.revision, watch.end) for watch in watches),
        )
        stream = await self._gateway.open_stream(wire.PREFIX + wire.WATCH, request)
        try:
            while True:
                frame = await self._next_frame(stream)
                self._seen.note(frame)
                self._distribute(frame, watches)
                backoff.reset()
        finally:
            self._gateway.close_stream(stream)

    async def _next_frame(self, stream: Stream) -> wire.WatchFrame:
        try:
            async with asyncio.timeout(self._silence_s):
                body = await stream.part()
            frame: wire.WatchFrame = wire.decode_body(body, wire.WatchFrame)
        except TimeoutError:
            failure = EndpointFailed(f"its watches said nothing for {self._silence_s:g} s")
            self._gateway.fail_over(stream.endpoint, failure)
            raise failure from None
        except UNREADABLE as error:
            raise EndpointFailed(f"this is not the stream of a fleet server: {error}") from error
        return frame

    def _distribute(self, frame: wire.WatchFrame, watches: Sequence[_Watch]) -> None:
        for watch in watches:
            watch.history = watch.history or frame.history
            if watch.history != frame.history:
                self._end(watch, Compacted(frame.store_revision, was_set_back=True))
        if not (frame.events or frame.failure):
            for watch in watches:
                watch.revision = max(watch.revision, frame.store_revision)
            return
        if not 0 <= frame.number < len(watches):
            raise EndpointFailed(f"the server speaks of watch {frame.number}, which was not asked for")
        watch = watches[frame.number]
        if frame.failure is None:
            if watch in self._watches and frame.store_revision > watch.revision:
                watch.revision = frame.store_revision
                watch.news.put_nowait(Changes(frame.events, frame.store_revision))
        elif frame.status == wire.COMPACTED:
            self._end(watch, Compacted(frame.failure.revision, was_set_back=frame.failure.was_set_back))
        else:
            raise EndpointFailed(frame.failure.message)

    def _end(self, watch: _Watch, error: Compacted) -> None:
        if watch in self._watches:
            self._watches.remove(watch)
            watch.news.put_nowait(error)
