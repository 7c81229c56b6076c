"""Any store, with what its requests take and how they fail counted. It changes nothing of what passes through it."""

import re
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import TypeVar

from fleetd import metrics
from fleetd.store.protocol import (
    Changes,
    Comparison,
    KeepAlive,
    KeyValue,
    Operation,
    PrefixDigest,
    RangeResult,
    Store,
    StoreError,
)

T = TypeVar("T")

_BEFORE_CAPITAL = re.compile("(?<=.)(?=[A-Z])")


class MeasuredStore:
    """Keeps the protocol (fleetd/store/protocol.py) as the store within does. Watches are no requests: they are not
    timed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def cluster_id(self) -> str:
        return await _measure("cluster_id", self._store.cluster_id())

    async def get(self, key: str) -> KeyValue | None:
        return await _measure("get", self._store.get(key))

    async def get_many(self, keys: Sequence[str]) -> RangeResult:
        return await _measure("get_many", self._store.get_many(keys))

    async def range(self, prefix: str, *, after: str = "", limit: int = 0) -> RangeResult:
        return await _measure("range", self._store.range(prefix, after=after, limit=limit))

    async def digest(self, prefix: str) -> PrefixDigest:
        return await _measure("glance", self._store.digest(prefix))

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        return await _measure("transact", self._store.transact(comparisons, operations))

    def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[Changes, None]:
        return self._store.watch(prefix, after_revision)

    async def grant(self, ttl_s: float) -> int:
        return await _measure("grant", self._store.grant(ttl_s))

    async def keep_alive(self, lease: int) -> KeepAlive:
        return await _measure("keep_alive", self._store.keep_alive(lease))

    async def time_to_live(self, lease: int) -> float | None:
        return await _measure("time_to_live", self._store.time_to_live(lease))

    async def revoke(self, lease: int) -> None:
        return await _measure("revoke", self._store.revoke(lease))

    async def compact(self, revision: int) -> None:
        return await _measure("compact", self._store.compact(revision))

    async def revision(self) -> int:
        return await _measure("revision", self._store.revision())

    async def close(self) -> None:
        await self._store.close()


async def _measure(operation: str, request: Awaitable[T]) -> T:
    try:
        with metrics.STORE_S.labels(operation).time():
            return await request
    except StoreError as error:
        kind = _BEFORE_CAPITAL.sub("_", type(error).__name__).lower()
        metrics.STORE_FAILED.labels(operation, kind).inc()
        raise
