"""Group commit: unit writes that arrive while a transaction runs are written together in the next one.

Each write succeeds or fails as it would alone. The request that has waited longest writes for all that wait. If a
transaction conflicts, the writes whose reads are outdated fail, and the others are tried again without them.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from fleetd.registry.registry import Registry
from fleetd.registry.transactions import Batch, WriteSet
from fleetd.store.protocol import Conflict, StoreError, Unchanged


class _Waiting(msgspec.Struct, eq=False):
    """A pending write and its result: a revision (0: not yet), or an error."""

    write_set: WriteSet
    revision: int = 0
    error: StoreError | None = None

    @property
    def is_done(self) -> bool:
        return self.revision != 0 or self.error is not None


class WriteBatcher:
    """Writes write sets of one unit each, whose comparisons are all Unchanged."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: list[_Waiting] = []  # in order of arrival
        self._writing = asyncio.Lock()

    async def write(self, write_set: WriteSet) -> int:
        """Write one write set; returns its revision. Raises what Registry.write raises, for this write set alone."""
        mine = _Waiting(write_set)
        self._waiting.append(mine)
        try:
            async with self._writing:  # asyncio.Lock is fair: if this write still waits, it is the first
                if not mine.is_done:
                    await self._write_together(self._choose())
        finally:
            if not mine.is_done:  # cancelled: the next request writes the others
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.revision

    def _choose(self) -> list[_Waiting]:
        """The longest prefix of the queue that fits in a transaction, at most one write per key."""
        chosen: list[_Waiting] = []
        keys: set[str] = set()
        batch = Batch(record=self._registry.record)
        for each in self._waiting:
            own = {part.key for part in (*each.write_set.comparisons, *each.write_set.operations)}
            if keys.isdisjoint(own):
                if not batch.add(each.write_set) and chosen:
                    break
                chosen.append(each)
            keys |= own  # also keys of a write that is left out: later writes of the same key stay behind it
        return chosen

    async def _write_together(self, group: Sequence[_Waiting]) -> None:
        """Settle every write of the group. Those not settled when this is cancelled stay in the queue."""
        left = tuple(group)
        try:
            while left:
                left = await self._try(left)
        except StoreError as error:  # their fate is unknown
            self._settle(left, error=error)

    async def _try(self, group: Sequence[_Waiting]) -> tuple[_Waiting, ...]:
        """Try one transaction; returns the writes to try again, without those that made it conflict."""
        comparisons = tuple(part for each in group for part in each.write_set.comparisons)
        operations = tuple(part for each in group for part in each.write_set.operations)
        events = tuple(event for each in group for event in each.write_set.events)
        try:
            self._settle(group, revision=await self._registry.write(WriteSet(comparisons, operations, events)))
        except Conflict as conflict:
            outdated = group if len(group) == 1 else await self._find_outdated(group)
            self._settle(outdated, error=conflict)
            return tuple(each for each in group if not each.is_done)
        return ()

    async def _find_outdated(self, group: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """The writes whose reads are outdated; the first one if that can no longer be determined."""
        wanted = {
            part.key: part for each in group for part in each.write_set.comparisons if isinstance(part, Unchanged)
        }
        there = {item.key: item.mod_revision for item in (await self._registry.store.get_many(list(wanted))).items}
        outdated = {key for key, part in wanted.items() if there.get(key, 0) != part.mod_revision}
        return [each for each in group if any(part.key in outdated for part in each.write_set.comparisons)] or group[:1]

    def _settle(self, group: Sequence[_Waiting], *, revision: int = 0, error: StoreError | None = None) -> None:
        for each in group:
            each.revision, each.error = revision, error
            self._waiting.remove(each)
