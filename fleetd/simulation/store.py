"""The way of one simulated machine to the store, which can be cut."""

from collections.abc import AsyncGenerator, Sequence

from fleetd.store.protocol import (
    Changes,
    Comparison,
    KeepAlive,
    KeyValue,
    Operation,
    PrefixDigest,
    RangeResult,
    Store,
    StoreMember,
    Unavailable,
)


class MachineStore:
    """The store as one machine reaches it, until it is `cut`: whatever is asked afterwards is Unavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_cut = False

    def cut(self) -> None:
        """The machine reaches nothing any more."""
        self._is_cut = True

    def _reach(self) -> Store:
        if self._is_cut:
            raise Unavailable("the machine is off")
        return self._store

    async def cluster_id(self) -> str:
        return await self._reach().cluster_id()

    async def get(self, key: str) -> KeyValue | None:
        return await self._reach().get(key)

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        return await self._reach().get_many(keys, revision=revision)

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        return await self._reach().range(prefix, after=after, limit=limit, revision=revision)

    async def digest(self, prefix: str) -> PrefixDigest:
        return await self._reach().digest(prefix)

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        return await self._reach().transact(comparisons, operations)

    def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        return self._reach().watch(prefix, after_revision, end=end)

    async def grant(self, ttl_s: float) -> int:
        return await self._reach().grant(ttl_s)

    async def keep_alive(self, lease: int) -> KeepAlive:
        return await self._reach().keep_alive(lease)

    async def time_to_live(self, lease: int) -> float | None:
        return await self._reach().time_to_live(lease)

    async def revoke(self, lease: int) -> None:
        await self._reach().revoke(lease)

    async def compact(self, revision: int) -> None:
        await self._reach().compact(revision)

    async def revision(self) -> int:
        return await self._reach().revision()

    async def members(self) -> tuple[StoreMember, ...]:
        return await self._reach().members()

    async def is_healthy(self, member: StoreMember) -> bool:
        return await self._reach().is_healthy(member)

    async def close(self) -> None:
        """The store is everybody's, and stays."""
