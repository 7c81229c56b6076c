"""The store in this process, kept in SQLite: for one machine without etcd, for tests and for the simulator.

sqlite.py has the tables. This module puts requests in order, ends leases, and keeps the latest changes in memory, for
watches and for reads of earlier revisions. Time is the injected clock's; only the id of a new store is random.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TypeVar

from fleetd.aio import Offload
from fleetd.store.limits import check_keys, check_transaction, is_watched
from fleetd.store.protocol import (
    Changes,
    Compacted,
    Comparison,
    Event,
    KeepAlive,
    KeyValue,
    LeaseNotFound,
    Operation,
    PrefixDigest,
    RangeResult,
    StoreMember,
    Unavailable,
)
from fleetd.store.sqlite import Database, Written
from fleetd.store.watchers import Watchers

T = TypeVar("T")

log = logging.getLogger(__name__)

HISTORY_REVISIONS = 4096  # kept in memory
RETRY_S = 1.0  # between attempts to end a lease, which fail if the disk is full


async def inline(work: Callable[[], T], /) -> T:
    """The Offload of tests and of the simulator: run the function inline."""
    return work()


class EventLog:
    """The writes of the last revisions, in memory. Revisions follow each other without a gap."""

    def __init__(self, revision: int, length: int) -> None:
        self.revision = revision
        self._begins = revision + 1
        self._length = length
        self._entries: list[Written] = []  # of the revisions from _begins on

    def append(self, written: Written) -> None:
        self.revision = written.revision
        self._entries.append(written)
        if len(self._entries) > 2 * self._length:  # cut rarely: a cut moves the whole list
            self.forget_before(self.revision + 1 - self._length)

    def forget_before(self, revision: int) -> None:
        if revision > self._begins:
            del self._entries[: revision - self._begins]
            self._begins = revision

    def after(self, revision: int, prefix: str, end: str = "") -> tuple[Event, ...]:
        """Every event after that revision of the keys that such a watch is about. Raises Compacted."""
        if not self._begins - 1 <= revision <= self.revision:
            raise Compacted(self._begins, was_set_back=revision > self.revision)
        later = self._entries[revision + 1 - self._begins :]
        return tuple(event for written in later for event in written.events if is_watched(event.key, prefix, end))

    def rewind(self, found: RangeResult, revision: int, is_wanted: Callable[[str], bool]) -> Mapping[str, KeyValue]:
        """What a read found, by key, without the changes of wanted keys after this revision. Raises Unavailable."""
        if not self._begins - 1 <= revision <= found.revision:
            raise Unavailable(f"the store's history begins after revision {revision}: read everything again")
        items = {item.key: item for item in found.items}
        undone = self._entries[revision + 1 - self._begins : found.revision + 1 - self._begins]
        for written in reversed(undone):
            for event, before in zip(written.events, written.replaced, strict=True):
                if before and is_wanted(event.key):
                    items[event.key] = before
                elif before is None:
                    items.pop(event.key, None)
        return items


class EmbeddedStore:
    """A store in one SQLite file (see fleetd/store/protocol.py). Needs a running event loop.

    `path` may be ':memory:'. `now` is a monotonic clock in seconds (default: the loop's); `cluster_id` is the id of a
    new store (default: a random one). Raises StoreError if the file cannot be opened, or is open in another process.
    Leases survive a restart, with their full time to live.
    """

    def __init__(
        self,
        path: str,
        *,
        offload: Offload = asyncio.to_thread,
        now: Callable[[], float] | None = None,
        cluster_id: str = "",
        history: int = HISTORY_REVISIONS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = now or self._loop.time
        self._offload = offload
        self._database = Database(path, cluster_id or secrets.token_hex(16))
        self._history = EventLog(self._database.revision(), history)
        self._ttls_s = self._database.leases()
        self._deadlines = {lease: self._now() + ttl_s for lease, ttl_s in self._ttls_s.items()}
        self._turn = asyncio.Lock()
        self._watchers = Watchers()
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._arm()

    async def cluster_id(self) -> str:
        return await self._do(self._database.cluster_id)

    async def get(self, key: str) -> KeyValue | None:
        items = (await self.get_many([key])).items
        return items[0] if items else None

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        check_keys(keys)
        found = await self._do(lambda: self._database.get_many(keys))
        if revision in (0, found.revision):
            return found
        items = self._history.rewind(found, revision, frozenset(keys).__contains__)
        return RangeResult(tuple(items[key] for key in keys if key in items), revision)

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        if not revision:
            return await self._do(lambda: self._database.range(prefix, after, limit))
        found = await self._do(lambda: self._database.range(prefix, after, 0))
        if revision == found.revision:  # nothing was written meanwhile, as mostly
            return RangeResult(found.items[: limit or None], revision)
        items = self._history.rewind(found, revision, lambda key: key.startswith(prefix) and key > after)
        return RangeResult(tuple(items[key] for key in sorted(items)[: limit or None]), revision)

    async def digest(self, prefix: str) -> PrefixDigest:
        return await self._do(lambda: self._database.digest(prefix))

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        check_transaction(comparisons, operations)
        written = await self._do(lambda: self._database.transact(comparisons, operations), self._publish)
        return written.revision

    async def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        with self._watchers.watching(prefix, end) as watcher:
            revision = after_revision + 1
            while not self._closed:
                events = self._history.after(revision - 1, prefix, end)
                if events:
                    yield Changes(events, self._history.revision)
                revision = await watcher.wait()

    async def grant(self, ttl_s: float) -> int:
        whole_ttl_s = float(max(1, math.ceil(ttl_s)))

        def granted(lease: int) -> None:
            self._ttls_s[lease] = whole_ttl_s
            self._deadlines[lease] = self._now() + whole_ttl_s
            self._arm()

        return await self._do(lambda: self._database.grant(whole_ttl_s), granted)

    async def keep_alive(self, lease: int) -> KeepAlive:
        """Writes nothing: after a restart each lease has its full time to live again."""
        self._check_open()
        if lease not in self._deadlines:
            raise LeaseNotFound(f"lease {lease} has expired or was revoked")
        self._deadlines[lease] = self._now() + self._ttls_s[lease]
        return KeepAlive(self._ttls_s[lease], self._history.revision)

    async def time_to_live(self, lease: int) -> float | None:
        self._check_open()
        if lease not in self._deadlines:
            return None
        return max(0.0, self._deadlines[lease] - self._now())

    async def revoke(self, lease: int) -> None:
        def revoked(written: Written) -> None:
            self._ttls_s.pop(lease, None)
            self._deadlines.pop(lease, None)
            self._publish(written)

        await self._do(lambda: self._database.revoke(lease), revoked)

    async def compact(self, revision: int) -> None:
        self._check_open()
        if revision > self._history.revision + 1:
            raise ValueError(f"cannot compact to revision {revision}: it is still to come")
        self._history.forget_before(revision)

    async def revision(self) -> int:
        self._check_open()
        return self._history.revision

    async def members(self) -> tuple[StoreMember, ...]:
        return ()

    async def is_healthy(self, member: StoreMember) -> bool:
        return False  # it has none

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._timer:
            self._timer.cancel()
        self._watchers.close()
        if self._expiring:
            await self._expiring
        async with self._turn:
            self._database.close()

    async def _do(self, work: Callable[[], T], done: Callable[[T], None] | None = None) -> T:
        """Run `work` in turn, then `done` on the event loop. Cancelling the caller stops neither, so that the history
        has everything that is on disk."""
        return await asyncio.shield(self._loop.create_task(self._take_turn(work, done)))

    async def _take_turn(self, work: Callable[[], T], done: Callable[[T], None] | None) -> T:
        async with self._turn:
            self._check_open()
            result = await self._offload(work)
            if done:
                done(result)
            return result

    def _publish(self, written: Written) -> None:
        if written.events:
            self._history.append(written)
            self._watchers.tell(written)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed")

    def _arm(self, at_least_s: float = 0.0) -> None:
        """Set the timer to the first deadline of a lease. A heartbeat does not move it: it then fires early."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._deadlines and not self._closed:
            wait_s = max(at_least_s, min(self._deadlines.values()) - self._now())
            self._timer = self._loop.call_later(wait_s, self._begin_expiry)

    def _begin_expiry(self) -> None:
        self._timer = None
        self._expiring = self._loop.create_task(self._expire())

    async def _expire(self) -> None:
        """Revoke the expired leases, in order of their deadlines, each at its own revision."""
        now = self._now()
        due = sorted((deadline, lease) for lease, deadline in self._deadlines.items() if deadline <= now)
        try:
            for _, lease in due:
                if self._deadlines.get(lease, now) <= now:  # not renewed meanwhile
                    await self.revoke(lease)
        except Unavailable as error:
            if not self._closed:
                log.warning("cannot end lease %s: %s", lease, error)
                self._arm(at_least_s=RETRY_S)
        else:
            self._arm()
