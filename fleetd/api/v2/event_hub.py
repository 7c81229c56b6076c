"""One watch of the store for all readers of events of this fleetd: what happens is translated once and offered to each.

It is open while there is a reader. The latest moments are kept, so that readers who come again go on where they were.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from fleetd.api.v2.event_lines import Moment, events_prefix, read_moments
from fleetd.registry.registry import Registry
from fleetd.store.limits import end_of_prefix
from fleetd.store.protocol import Changes, Compacted, Unavailable

log = logging.getLogger(__name__)

RECENT_BYTES = 2 * 2**20
RECENT_MOMENTS = 8192
BEHIND_BYTES = 256 * 1024  # that a reader has not taken
BEHIND_S = 30.0
CATCH_UP_BYTES = 4 * 2**20  # the same, of what had happened before the reader came

TOO_SLOW = "the reader has not taken what has happened in time"
STORE_CHANGED = "the store was restored, or its history was lost"
STORE_CLOSED = "the watch of the store has ended"


class Reader:
    """The queue of one reader: what has happened and was not taken yet.

    `over` says why the stream ends ('': it goes on); `is_behind` is true if it ends because the reader is too slow.
    What happened up to the revision `came_at` was there before the reader, and may take more memory.
    """

    def __init__(self, now: Callable[[], float], came_at: int = 0) -> None:
        self.over = ""
        self.is_behind = False
        self._now = now
        self._came_at = came_at
        self._pending: deque[Moment] = deque()
        self._size = 0
        self._oldest_at = 0.0
        self._news = asyncio.Event()

    def offer(self, moment: Moment) -> None:
        """Keep this for the reader; too much that is not taken, or for too long, ends the stream."""
        if self.over:
            return
        if not self._pending:
            self._oldest_at = self._now()
        self._pending.append(moment)
        self._size += moment.size
        is_history = moment.revision <= self._came_at
        limit = CATCH_UP_BYTES if is_history else BEHIND_BYTES
        if self._size > limit or self._now() - self._oldest_at > BEHIND_S:
            self.is_behind = True
            self.end(TOO_SLOW)
        self._news.set()

    def end(self, why: str) -> None:
        """Nothing follows; what was not taken is dropped."""
        self.over = self.over or why
        self._pending.clear()
        self._news.set()

    @property
    def has_news(self) -> bool:
        """True if there is something to take."""
        return bool(self._pending)

    async def take(self, timeout_s: float) -> list[Moment]:
        """What has happened, as soon as anything has; nothing after the timeout, or if the stream is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return []
        moments = list(self._pending)
        self._pending.clear()
        self._size = 0
        if not self.over:
            self._news.clear()
        return moments


class EventHub:
    """Distributes what happens. `now` is a monotonic clock. `position` is the revision up to which readers were offered
    everything."""

    def __init__(self, registry: Registry, now: Callable[[], float]) -> None:
        self._registry = registry
        self._now = now
        self._readers: set[Reader] = set()
        self._recent: deque[Moment] = deque()
        self._recent_bytes = 0
        self._begins = 0  # what came after this revision is in `_recent`
        self._task: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self.position = 0

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return len(self._readers)

    async def join(self, after: int, revision: int) -> tuple[Reader, list[Moment] | None]:
        """A reader of what comes, and what has come after the revision `after`, or None if that is not known any more:
        then the reader is offered everything after `revision`, at which the store is. `leave` ends it."""
        reader = Reader(self._now, revision)
        async with self._opening:
            if self._task is None:
                await self._open(after, revision)
            self._readers.add(reader)
            if after < self._begins:
                return reader, None
            return reader, [moment for moment in self._recent if moment.revision > after]

    def leave(self, reader: Reader) -> None:
        """End this reader, and with the last one the watch of the store."""
        self._readers.discard(reader)
        if not self._readers:
            self._stop()

    async def _open(self, after: int, revision: int) -> None:
        """Begin the watch after this revision if the store still knows what came then, else now."""
        try:
            await self._registry.store.get_many([self._registry.history_key], revision=max(after, 1))
        except Unavailable:  # compacted; if the store is away, the watch waits for it
            after = revision
        self._begins = self.position = after
        self._recent.clear()
        self._recent_bytes = 0
        self._task = asyncio.create_task(self._run(after))

    async def _run(self, after: int) -> None:
        # Only one watch gives cluster events and states of units in one order. Their prefixes lie beside each other:
        # "." comes before "/".
        first, end = events_prefix(self._registry), end_of_prefix(self._registry.prefix).decode()
        try:
            async for changes in self._registry.store.watch(first, after, end=end):
                self._take(changes)
            self._end(STORE_CLOSED)
        except Compacted:
            self._end(STORE_CHANGED)
        except Exception:  # a bug: readers come again, and open the watch again
            log.exception("cannot go on with the events")
            self._end(STORE_CLOSED)

    def _take(self, changes: Changes) -> None:
        if any(event.key == self._registry.history_key for event in changes.events):
            self._end(STORE_CHANGED)
            return
        for moment in read_moments(self._registry, changes.events):
            self._keep(moment)
            for reader in self._readers:
                reader.offer(moment)
        self.position = max(self.position, changes.revision)

    def _keep(self, moment: Moment) -> None:
        self._recent.append(moment)
        self._recent_bytes += moment.size
        while len(self._recent) > RECENT_MOMENTS or self._recent_bytes > RECENT_BYTES:
            dropped = self._recent.popleft()
            self._begins = dropped.revision
            self._recent_bytes -= dropped.size

    def _end(self, why: str) -> None:
        for reader in self._readers:
            reader.end(why)
        self._readers.clear()
        self._stop()

    def _stop(self) -> None:
        task, self._task = self._task, None
        self._recent.clear()
        self._recent_bytes = 0
        if task is not None and task is not asyncio.current_task():
            task.cancel()
