"""One watch of the whole cluster, whose changes are sent to the workers of this server that they concern.

It is open while a worker reads them. The latest changes are kept, so that workers that come from another server go on
where they were. A worker that is further behind than that is told that history begins later, and reads everything
again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from fleetd import metrics
from fleetd.model.worker_access import Access, owner_of
from fleetd.registry.registry import Registry
from fleetd.store.limits import is_watched
from fleetd.store.protocol import Changes, Compacted, Event, Unavailable
from fleetd.store.worker_wire import WatchFrom

log = logging.getLogger(__name__)

RECENT_CHANGES = 4096
RECENT_BYTES = 4 * 2**20
PENDING_BYTES = 4 * 2**20  # of one stream that its worker does not read
PROBE_S = 5.0

Part = tuple[int, tuple[Event, ...], int]  # number of a watch, its events, and the revision that it has seen then


def size_of(events: Iterable[Event]) -> int:
    """The bytes of keys and values of these events."""
    return sum(len(event.key) + (len(event.item.value) if event.item else 0) for event in events)


def _revision(event: Event) -> int:
    return event.revision


class Subscription:
    """The watches of one stream, and what has not been sent of them yet."""

    def __init__(self, access: Access, watches: Sequence[WatchFrom]) -> None:
        self.access = access
        self.failure: Compacted | None = None  # the watches are over, with this error
        self.is_over = False
        self._watches: dict[int, WatchFrom] = dict(enumerate(watches))
        self._pending: deque[Part] = deque()
        self._size = 0
        self._news = asyncio.Event()

    @property
    def watches(self) -> dict[int, WatchFrom]:
        """The watches that go on, by number."""
        return dict(self._watches)

    @property
    def position(self) -> int:
        """The lowest revision that a watch began after."""
        return min((watch.after_revision for watch in self._watches.values()), default=0)

    @property
    def has_news(self) -> bool:
        """True if there is something to send."""
        return bool(self._pending)

    def drop(self, number: int) -> None:
        """This watch does not go on."""
        del self._watches[number]

    def offer(self, events: Sequence[Event], revision: int) -> None:
        """Keep what the watches have to tell of these events; too much that nobody reads ends the stream."""
        for number, watch in self._watches.items():
            own = tuple(
                event
                for event in events
                if event.revision > watch.after_revision
                and is_watched(event.key, watch.prefix, watch.end)
                and self.access.may_read(event.key)
            )
            if own:
                self._pending.append((number, own, revision))
                self._size += size_of(own)
        if self._size > PENDING_BYTES:
            log.warning("worker %s does not read its changes; closing its stream", self.access.machine)
            metrics.WORKER_STREAMS_CLOSED.labels("slow").inc()
            self.end(None)
        if self._pending:
            self._news.set()

    def end(self, failure: Compacted | None) -> None:
        """The stream is over, with this error for its watches."""
        self.failure, self.is_over = failure, True
        self._pending.clear()
        self._news.set()

    async def next_parts(self, timeout_s: float) -> list[Part]:
        """What there is to send as soon as there is anything; nothing after the timeout, or if the stream is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return []
        parts = list(self._pending)
        self._pending.clear()
        self._size = 0
        if not self.is_over:
            self._news.clear()
        return parts


class Fanout:
    """Distributes the changes below `prefix`, which are of the machines that `owner_of(prefix, key)` tells ('': of
    each). `history_changed` is called when the store was restored: when a change says so, or when `epoch()`, its name
    as far as this server knows ('' at first), is another."""

    def __init__(
        self,
        registry: Registry,
        history_changed: Callable[[], None] = lambda: None,
        epoch: Callable[[], str] = lambda: "",
        *,
        prefix: str = "",
        owner_of: Callable[[str, str], str] = owner_of,
    ) -> None:
        self._registry = registry
        self._history_changed = history_changed
        self._epoch = epoch
        self._prefix = prefix or registry.prefix
        self._owner_of = owner_of
        self._began_in = ""  # the epoch in which the watch began
        self._subscriptions: dict[str, dict[Subscription, None]] = {}  # by machine
        self._recent: deque[tuple[tuple[Event, ...], int]] = deque()
        self._recent_bytes = 0
        self._begins = 0  # what came after this revision is in `_recent`
        self._task: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self.position = 0  # everything up to this revision has been distributed

    async def subscribe(
        self, subscription: Subscription, numbers: Iterable[int], revision: int
    ) -> dict[int, Compacted]:
        """Begin these watches of it, in a store that is at `revision`; returns those that cannot begin, with the reason
        of each. `leave` ends it. Raises Unavailable."""
        watches = {number: subscription.watches[number] for number in numbers}
        self.check_epoch()
        async with self._opening:
            failed: dict[int, Compacted] = {}
            for number, watch in sorted(watches.items(), key=lambda item: item[1].after_revision):
                try:
                    await self._open(watch.after_revision, revision)
                except Compacted as error:
                    failed[number] = error
                    subscription.drop(number)
        for events, until in self._recent:
            subscription.offer(events, until)
        self._subscriptions.setdefault(subscription.access.machine, {})[subscription] = None
        if self._task is None:  # all watches have failed, or it has ended meanwhile
            subscription.end(None)
        return failed

    def leave(self, subscription: Subscription) -> None:
        """End the watches of this subscription, and with the last one the watch of the store."""
        machine = subscription.access.machine
        own = self._subscriptions.get(machine, {})
        own.pop(subscription, None)
        if not own:
            self._subscriptions.pop(machine, None)
        if not self._subscriptions:
            self._stop()

    def check_epoch(self) -> None:
        """End the watches if the store was restored since they began. A restored store may be past their revision when
        they are connected again: nothing else says then that changes were missed."""
        epoch = self._epoch()
        if self._task is not None and self._began_in not in ("", epoch):
            self._end_set_back(self.position)
        elif not self._began_in:
            self._began_in = epoch

    def close(self) -> None:
        """End all watches."""
        self._end(None)

    async def _open(self, after: int, revision: int) -> None:
        """Have changes after this revision. Raises Compacted if that is impossible, Unavailable."""
        if after > revision:
            raise Compacted(revision, was_set_back=True)
        if self._task is not None:
            if after < self._begins:
                raise Compacted(self._begins)
            return
        await self._probe(after)
        self._begins = self.position = after
        self._recent.clear()
        self._recent_bytes = 0
        self._began_in = self._epoch()
        self._task = asyncio.create_task(self._run(after))

    async def _probe(self, after: int) -> None:
        """Raises Compacted if the history of the store begins later, Unavailable."""
        store = self._registry.store
        try:
            await store.get_many([self._registry.history_key], revision=max(after, 1))
            return
        except Unavailable as error:
            unavailable = error
        watch = store.watch(self._prefix, after)
        try:
            async with asyncio.timeout(PROBE_S):
                await anext(watch, None)
        except TimeoutError:
            pass
        finally:
            await watch.aclose()
        raise unavailable

    async def _run(self, after: int) -> None:
        try:
            async for changes in self._registry.store.watch(self._prefix, after):
                self._take(changes)
            self._end(None)  # the store was closed
        except Compacted as error:
            self._end(error)
        except Exception:  # a bug: the workers open their streams again, and so this watch
            log.exception("cannot go on with the changes for workers")
            self._end(None)

    def _take(self, changes: Changes) -> None:
        self._recent.append((changes.events, changes.revision))
        self._recent_bytes += size_of(changes.events)
        self.position = max(self.position, changes.revision)
        while len(self._recent) > RECENT_CHANGES or self._recent_bytes > RECENT_BYTES:
            events, self._begins = self._recent.popleft()
            self._recent_bytes -= size_of(events)
        if any(event.key == self._registry.history_key for event in changes.events):
            self._end_set_back(changes.revision)
            return
        self._distribute(changes.events, changes.revision)

    def _distribute(self, events: tuple[Event, ...], revision: int) -> None:
        """Give the events to those whose machines they may concern."""
        by_owner: dict[str, list[Event]] = {}
        for event in events:
            by_owner.setdefault(self._owner_of(self._prefix, event.key), []).append(event)
        shared = by_owner.get("", [])
        everybody = self._subscriptions if shared else (*by_owner, "")
        for machine in [machine for machine in everybody if machine in self._subscriptions]:
            own = sorted((*shared, *by_owner.get(machine, ())), key=_revision) if machine else events
            for subscription in tuple(self._subscriptions[machine]):
                subscription.offer(own, revision)

    def _end_set_back(self, revision: int) -> None:
        self._history_changed()
        self._end(Compacted(revision, was_set_back=True))

    def _end(self, failure: Compacted | None) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.end(failure)
        self._subscriptions.clear()
        self._stop()

    def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
