"""A snapshot of the whole cluster, kept up to date from the store."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Self

from fleetd.leader.slices import in_slices
from fleetd.registry.records import LEADER, Change
from fleetd.registry.registry import Registry, drain
from fleetd.registry.snapshots import apply_change, begin_snapshot, read_change
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import Changes, Compacted, KeyValue, PrefixDigest, RangeResult, StoreError, Unavailable

log = logging.getLogger(__name__)

RETRY_S = 1.0


class StoreSetBack(Exception):
    """The store's revision fell from `known` to `revision`: it was restored from a snapshot."""

    def __init__(self, known: int, revision: int) -> None:
        super().__init__(f"the store's revision fell from {known} to {revision}")
        self.known = known
        self.revision = revision


class ArrivedKeys:
    """What the digest of a prefix is compared with: the number of its keys, and when they were last written."""

    def __init__(self, count: int = 0, put_at: int = 0) -> None:
        self._count = count
        self._put_at = put_at  # the last revision at which a key was written; it may have been deleted since
        self._deleted_at = 0

    @classmethod
    def of(cls, found: RangeResult) -> Self:
        """The keys that were read."""
        return cls(len(found.items), max((item.mod_revision for item in found.items), default=0))

    def take(self, changes: Changes) -> None:
        """Go on to the state after these changes."""
        for event in changes.events:
            if event.item is None:
                self._count -= 1
                self._deleted_at = event.revision
            else:
                self._count += event.item.create_revision == event.revision
                self._put_at = event.revision

    def match(self, digest: PrefixDigest) -> bool:
        """True if they are the keys of the digest. If something was deleted last, that may have been the key that was
        written last, and the digest shows an earlier write."""
        is_last = digest.written_at == self._put_at
        return digest.count == self._count and (is_last or digest.written_at < self._put_at < self._deleted_at)


class Mirror:
    """A snapshot of the whole cluster, kept up to date by one watch.

    A task reads everything, then watches it, and puts what arrives into an inbox. The snapshot changes only in
    `update`, so it may be read in a thread at any other time. `revision` is the store's revision that the snapshot
    shows; 0 while everything is being read. `affected` are the units that the changes since the last `take_affected`
    affect; None: all. `readings` counts how often everything was read. `trouble` says why it cannot be read.
    """

    def __init__(self, registry: Registry, *, check_leader: Callable[[Change], None] = lambda change: None) -> None:
        """`check_leader` is called with each change of the leader's key; what it raises, `update` raises."""
        self.snapshot = Snapshot()
        self.revision = 0
        self.affected: Affected | None = None
        self.readings = 0
        self.trouble = ""
        self._registry = registry
        self._check_leader = check_leader
        self._highest = 0  # the highest revision that the store is known to have had
        self._highest_before = 0  # the same, when the last reading of everything began
        self._arrived = 0  # the last revision in the inbox or in the snapshot; 0 while everything is being read
        self._complete_to = 0  # a digest has shown that up to this revision nothing is missing
        self._arrived_keys = ArrivedKeys()
        self._inbox: deque[RangeResult | Changes | StoreError] = deque()
        self._wake = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read everything, then watch it, until `stop`. Needs a running event loop."""
        self._reader = asyncio.create_task(self._read_and_watch())
        self._reader.add_done_callback(lambda _: self._wake.set())

    def stop(self) -> None:
        """Read and watch no longer."""
        if self._reader is not None:
            self._reader.cancel()

    # What the store is known to have been.

    def observe(self, revision: int) -> int:
        """Note that the store has had this revision. Returns the highest that it is known to have had."""
        self._highest = max(self._highest, revision)
        return self._highest

    def check_not_set_back(self, known: int, revision: int) -> None:
        """Compare the store's revision with the highest known one, from before it was asked. Raises StoreSetBack."""
        if revision < known:
            raise StoreSetBack(known, revision)

    def lags_behind(self, revision: int) -> bool:
        """True if the watch, once begun, has not shown all up to this revision. Either it has missed something, or what
        was written is not below the prefix; a digest of the prefix tells."""
        return self._arrived > 0 and max(self._arrived, self._complete_to) < revision

    def has_missed(self, digest: PrefixDigest) -> bool:
        """True if the watch has missed a change that was made before this digest, which was taken so long ago that the
        watch has had the time to deliver it."""
        if not 0 < self._arrived < digest.revision:
            return False
        if not self._arrived_keys.match(digest):
            return True
        self._complete_to = max(self._complete_to, digest.revision)
        return False

    # The consumer's side.

    @property
    def backlog(self) -> int:
        """The number of changes that have arrived and are not in the snapshot."""
        return sum(len(entry.events) if isinstance(entry, Changes) else 1 for entry in self._inbox)

    def affect(self, affected: Affected) -> None:
        """Note that something else than a change affects these units."""
        if self.affected is not None:
            self.affected |= affected

    def take_affected(self) -> Affected | None:
        """The units affected since this was called last; None: all."""
        affected, self.affected = self.affected, Affected()
        return affected

    def invalidate(self, reason: StoreError) -> None:
        """Have the next `update` read everything again."""
        self._inbox.append(reason)
        self._wake.set()

    def wake(self) -> None:
        """End the current or the next `wait`."""
        self._wake.set()

    async def wait(self, timeout_s: float | None) -> None:
        """Wait until something arrives, for at most this long."""
        if self._inbox:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def update(self) -> None:
        """Bring the snapshot up to date with what has arrived. `revision` is 0 afterwards if everything is to be read
        again. Raises StoreSetBack, NewerRecord, and what `check_leader` raises."""
        self._wake.clear()
        self._raise_failure()
        while self._inbox:
            entry = self._inbox.popleft()
            if isinstance(entry, RangeResult):
                items, revision = deque(entry.items), entry.revision
                del entry  # all together may be hundreds of megabytes: see drain
                await self._load(items, revision)
            elif isinstance(entry, Changes) and not any(event.key == self._history_key for event in entry.events):
                async for event in in_slices(entry.events):
                    self._apply(self.snapshot, event.key, event.item, event.revision)
                self.revision = max(self.revision, entry.revision)
            else:
                if isinstance(entry, Compacted) and entry.was_set_back:
                    self.check_not_set_back(self._highest, entry.revision)
                self._restart()
                return
            await asyncio.sleep(0)  # entries may be small, and thousands

    def _raise_failure(self) -> None:
        """Raise what ended the reader, which nothing of the store should."""
        if self._reader is not None and self._reader.done() and not self._reader.cancelled():
            self._reader.result()

    @property
    def _history_key(self) -> str:
        return self._registry.history_key

    def _restart(self) -> None:
        self._inbox.clear()
        self.revision = self._arrived = 0
        self.stop()
        self.start()

    async def _load(self, items: deque[KeyValue], revision: int) -> None:
        self.check_not_set_back(self._highest_before, revision)
        snapshot, self.affected = begin_snapshot(self._registry, items), None
        async for item in in_slices(drain(items)):
            self._apply(snapshot, item.key, item, item.mod_revision)
        self.snapshot, self.revision = snapshot, revision
        self.readings += 1

    def _apply(self, snapshot: Snapshot, key: str, item: KeyValue | None, revision: int) -> None:
        """Apply one change. Raises NewerRecord."""
        change = read_change(self._registry, key, item, revision)
        if change is None:
            return
        if change.key.kind is LEADER:
            self._check_leader(change)
        self.affect(apply_change(snapshot, change))

    # The reader's side.

    async def _read_and_watch(self) -> None:
        """Put everything, then every change, into the inbox; returns when history was compacted below the watch."""
        found = await self._read()
        revision = found.revision
        self._arrive(found)
        del found  # may be hundreds of megabytes, and the watch goes on for long
        try:
            async for changes in self._registry.store.watch(self._registry.prefix, revision):
                self._arrive(changes)
        except Compacted as error:
            self.invalidate(error)

    async def _read(self) -> RangeResult:
        """Everything, as soon as the store answers."""
        while True:
            self._highest_before = self._highest
            try:
                found = await self._registry.store.range(self._registry.prefix)
                break
            except Unavailable as error:
                if str(error) != self.trouble:
                    self.trouble = str(error)
                    log.warning("cannot read the cluster; nothing is placed or moved until it can: %s", error)
                await asyncio.sleep(RETRY_S)
        if self.trouble:
            log.warning("the cluster can be read again")
            self.trouble = ""
        return found

    def _arrive(self, entry: RangeResult | Changes) -> None:
        if isinstance(entry, RangeResult):
            self._arrived_keys = ArrivedKeys.of(entry)
        else:
            self._arrived_keys.take(entry)
        self._inbox.append(entry)
        self._arrived = max(self._arrived, entry.revision)
        self.observe(entry.revision)
        self._wake.set()
