"""Writes of units that come in at the same time, in one transaction: what arrives while one is under way goes into the
next. Each comes to what it would have come to alone, and hears that alone.

Who waits longest writes for all who wait. A transaction that conflicts has one among it, at least, that was read before
somebody else was quicker: these are told so, and the others are written without them.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet
from fleetd.store.limits import size_of
from fleetd.store.protocol import MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Conflict, StoreError, Unchanged


class _Waiting(msgspec.Struct, eq=False):
    """A step that is to be written, and what came of it: the revision (0: nothing yet), or an error."""

    write_set: WriteSet
    size: int
    revision: int = 0
    error: StoreError | None = None

    @property
    def is_done(self) -> bool:
        return self.revision != 0 or self.error is not None


class Writes:
    """The way to the store for steps of one unit each, whose comparisons are all Unchanged."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: list[_Waiting] = []  # in the order of their coming
        self._writing = asyncio.Lock()

    async def write(self, write_set: WriteSet) -> int:
        """Write a step; the revision after it. Raises what Registry.write_step raises, of this step alone."""
        mine = _Waiting(write_set, sum(map(size_of, (*write_set.comparisons, *write_set.operations))))
        self._waiting.append(mine)
        try:
            async with self._writing:  # in the order of their coming, too: so mine is the first, if it still waits
                if not mine.is_done:
                    await self._write_together(self._choose())
        finally:
            if not mine.is_done:  # this request was given up; what waits with it is written by the next
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.revision

    def _choose(self) -> list[_Waiting]:
        """As many of those that wait, the first among them, as one transaction takes; of one key only one."""
        chosen: list[_Waiting] = []
        keys: set[str] = set()
        size = 0
        for each in self._waiting:
            write_set = each.write_set
            own = {part.key for part in (*write_set.comparisons, *write_set.operations)}
            is_full = len(keys) + len(own) > MAX_OPERATIONS or size + each.size > MAX_TRANSACTION_BYTES
            if chosen and is_full:
                break
            if keys.isdisjoint(own):
                chosen.append(each)
                size += each.size
            keys |= own  # also of one that is left for later: what comes after it stays after it
        return chosen

    async def _write_together(self, group: Sequence[_Waiting]) -> None:
        """Write them all, or find out which of them cannot be. What is not settled when it is cancelled waits on."""
        left = tuple(group)
        try:
            while left:
                left = await self._try(left)
        except StoreError as error:  # what has become of them is not known
            self._settle(left, error=error)

    async def _try(self, group: Sequence[_Waiting]) -> tuple[_Waiting, ...]:
        """Do one transaction; those that are to be done without the ones that hindered it."""
        comparisons = tuple(part for each in group for part in each.write_set.comparisons)
        operations = tuple(part for each in group for part in each.write_set.operations)
        try:
            self._settle(group, revision=await self._registry.write(WriteSet(comparisons, operations)))
        except Conflict as conflict:
            late = group if len(group) == 1 else await self._find_late(group)
            self._settle(late, error=conflict)
            return tuple(each for each in group if not each.is_done)
        return ()

    async def _find_late(self, group: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Those that were read before somebody else was quicker: one, if it is not to be seen any more which."""
        wanted = {
            part.key: part for each in group for part in each.write_set.comparisons if isinstance(part, Unchanged)
        }
        there = {item.key: item.mod_revision for item in (await self._registry.store.get_many(list(wanted))).items}
        late = {key for key, part in wanted.items() if there.get(key, 0) != part.mod_revision}
        return [each for each in group if any(part.key in late for part in each.write_set.comparisons)] or group[:1]

    def _settle(self, group: Sequence[_Waiting], *, revision: int = 0, error: StoreError | None = None) -> None:
        for each in group:
            each.revision, each.error = revision, error
            self._waiting.remove(each)
