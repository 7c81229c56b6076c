"""A store whose requests are timed, and whose failures are counted by kind."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
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
    StoreMember,
)

T = TypeVar("T")

Observer = Callable[[str, object, object], None]  # operation; its key, keys, operations or lease; answer or error

_BEFORE_CAPITAL = re.compile("(?<=.)(?=[A-Z])")


class InstrumentedStore:
    """Any store, with metrics (see fleetd/store/protocol.py for its methods).

    `observe` is called after each request, and with ("watch", prefix, None) when a watch is opened and
    ("watch", prefix, Changes) for what it delivers.
    """

    def __init__(self, store: Store, observe: Observer | None = None) -> None:
        self._store = store
        self._observe = observe

    async def cluster_id(self) -> str:
        return await self._measure("cluster_id", "", self._store.cluster_id())

    async def get(self, key: str) -> KeyValue | None:
        return await self._measure("get", key, self._store.get(key))

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        return await self._measure("get_many", keys, self._store.get_many(keys, revision=revision))

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        request = self._store.range(prefix, after=after, limit=limit, revision=revision)
        return await self._measure("range", prefix, request)

    async def digest(self, prefix: str) -> PrefixDigest:
        return await self._measure("digest", prefix, self._store.digest(prefix))

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        return await self._measure("transact", operations, self._store.transact(comparisons, operations))

    def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        changes = self._store.watch(prefix, after_revision, end=end)
        return _observed(changes, prefix, self._observe) if self._observe else changes

    async def grant(self, ttl_s: float) -> int:
        return await self._measure("grant", ttl_s, self._store.grant(ttl_s))

    async def keep_alive(self, lease: int) -> KeepAlive:
        return await self._measure("keep_alive", lease, self._store.keep_alive(lease))

    async def time_to_live(self, lease: int) -> float | None:
        return await self._measure("time_to_live", lease, self._store.time_to_live(lease))

    async def revoke(self, lease: int) -> None:
        return await self._measure("revoke", lease, self._store.revoke(lease))

    async def compact(self, revision: int) -> None:
        return await self._measure("compact", revision, self._store.compact(revision))

    async def revision(self) -> int:
        return await self._measure("revision", "", self._store.revision())

    async def members(self) -> tuple[StoreMember, ...]:
        return await self._measure("members", "", self._store.members())

    async def is_healthy(self, member: StoreMember) -> bool:
        return await self._measure("is_healthy", member, self._store.is_healthy(member))

    async def close(self) -> None:
        await self._store.close()

    async def _measure(self, operation: str, asked: object, request: Awaitable[T]) -> T:
        try:
            with metrics.STORE_S.labels(operation).time():
                answer = await request
        except StoreError as error:
            kind = _BEFORE_CAPITAL.sub("_", type(error).__name__).lower()
            metrics.STORE_FAILED.labels(operation, kind).inc()
            if self._observe:
                self._observe(operation, asked, error)
            raise
        if self._observe:
            self._observe(operation, asked, answer)
        return answer


async def _observed(
    watch: AsyncGenerator[Changes, None], prefix: str, observe: Observer
) -> AsyncGenerator[Changes, None]:
    observe("watch", prefix, None)
    async for changes in watch:
        observe("watch", prefix, changes)
        yield changes
