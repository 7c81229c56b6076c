"""Any store, with its requests counted by what they are and by what kind of key they are about.

Bytes are those of keys and values, as the registry gives and gets them; what JSON and base64 make of them on the way
shows in etcd's own counters (gauges.py).
"""

from collections.abc import AsyncGenerator, Iterable, Sequence

import msgspec

from fleetd.registry.records import DEFAULT_PREFIX
from fleetd.store.protocol import (
    Changes,
    Comparison,
    Event,
    KeepAlive,
    KeyValue,
    Operation,
    PrefixDigest,
    Put,
    RangeResult,
    Store,
)

USAGE = f"{DEFAULT_PREFIX}usage"


class Count(msgspec.Struct, frozen=True):
    """So many requests, about so many keys, with so many bytes."""

    requests: int = 0
    keys: int = 0
    size: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.requests + other.requests, self.keys + other.keys, self.size + other.size)

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.requests - other.requests, self.keys - other.keys, self.size - other.size)


Counts = dict[str, Count]  # by "operation kind"


class RequestCounts:
    """What was asked of stores. One is shared by all stores of a process."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    def add(self, operation: str, key: str, keys: int = 1, size: int = 0) -> None:
        kind = key.removeprefix(DEFAULT_PREFIX).partition("/")[0]
        label = f"{operation} {kind}".rstrip()
        self.counts[label] = self.counts.get(label, Count()) + Count(1, keys, size)


def difference(after: Counts, before: Counts) -> Counts:
    """What came to the counts in between; only what did."""
    grown = {label: count - before.get(label, Count()) for label, count in after.items()}
    return {label: count for label, count in grown.items() if count.requests}


def total(parts: Iterable[Counts]) -> Counts:
    """All counts together, by their labels' order."""
    together: Counts = {}
    for part in parts:
        for label, count in part.items():
            together[label] = together.get(label, Count()) + count
    return dict(sorted(together.items()))


class CountedStore:
    """Keeps the protocol (fleetd/store/protocol.py) as the store within does. A watch counts once when it is opened,
    and each of its changes as one delivery."""

    def __init__(self, store: Store, counts: RequestCounts) -> None:
        self._store = store
        self._counts = counts

    async def cluster_id(self) -> str:
        self._counts.add("read", "cluster")
        return await self._store.cluster_id()

    async def get(self, key: str) -> KeyValue | None:
        item = await self._store.get(key)
        self._counts.add("read", key, 1, _size_of(item))
        return item

    async def get_many(self, keys: Sequence[str]) -> RangeResult:
        snapshot = await self._store.get_many(keys)
        self._counts.add("read", keys[0] if keys else "", len(keys), sum(map(_size_of, snapshot.items)))
        return snapshot

    async def range(self, prefix: str, *, after: str = "", limit: int = 0) -> RangeResult:
        snapshot = await self._store.range(prefix, after=after, limit=limit)
        self._counts.add("read", prefix, len(snapshot.items), sum(map(_size_of, snapshot.items)))
        return snapshot

    async def digest(self, prefix: str) -> PrefixDigest:
        self._counts.add("glance", prefix)
        return await self._store.digest(prefix)

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        size = sum(len(each.key) + (len(each.value) if isinstance(each, Put) else 0) for each in operations)
        self._counts.add("transaction", _subject_of(operations), len(operations), size)
        return await self._store.transact(comparisons, operations)

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[Changes, None]:
        self._counts.add("watch opened", prefix)
        async for changes in self._store.watch(prefix, after_revision):
            self._counts.add("watch told", prefix, len(changes.events), sum(map(_size_of_event, changes.events)))
            yield changes

    async def grant(self, ttl_s: float) -> int:
        self._counts.add("lease", "granted")
        return await self._store.grant(ttl_s)

    async def keep_alive(self, lease: int) -> KeepAlive:
        self._counts.add("lease", "beat")
        return await self._store.keep_alive(lease)

    async def time_to_live(self, lease: int) -> float | None:
        self._counts.add("lease", "looked at")
        return await self._store.time_to_live(lease)

    async def revoke(self, lease: int) -> None:
        self._counts.add("lease", "revoked")
        await self._store.revoke(lease)

    async def compact(self, revision: int) -> None:
        self._counts.add("compaction", "")
        await self._store.compact(revision)

    async def revision(self) -> int:
        self._counts.add("read", "cluster")
        return await self._store.revision()

    async def close(self) -> None:
        await self._store.close()


def _subject_of(operations: Sequence[Operation]) -> str:
    """The last key, but for the count of all units: the leader brings that up to date along with what it decides."""
    keys = [operation.key for operation in operations]
    return next((key for key in reversed(keys) if key != USAGE), keys[-1] if keys else "")


def _size_of(item: KeyValue | None) -> int:
    return len(item.key) + len(item.value) if item else 0


def _size_of_event(event: Event) -> int:
    return _size_of(event.item) or len(event.key)
