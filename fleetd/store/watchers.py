"""Who waits for changes of which keys of the store in this process."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from fleetd.store.limits import is_watched
from fleetd.store.sqlite import Written


class Watcher:
    """One watch, of the keys from `prefix` to `end` (see Store.watch). `turn` orders those that wait by when they
    began to; `missed` is the first revision since then that has changes for it (0: none has)."""

    __slots__ = ("_told", "_turns", "end", "missed", "prefix", "turn")

    def __init__(self, prefix: str, end: str, turns: Iterator[int]) -> None:
        self.prefix = prefix
        self.end = end
        self.missed = self.turn = 0
        self._turns = turns
        self._told = asyncio.Event()

    async def wait(self) -> int:
        """Wait for changes. Returns the first revision that has some; 0: the store is closed."""
        if not self._told.is_set():
            self.turn = next(self._turns)
        await self._told.wait()
        self._told.clear()
        revision, self.missed = self.missed, 0
        return revision

    def tell(self, revision: int) -> None:
        """This revision has changes for it; 0: the store is closed."""
        self.missed = self.missed or revision
        self._told.set()


class Watchers:
    """All watches. A write wakes those that it has changes for alone, in the order in which they began to wait."""

    def __init__(self) -> None:
        self._by_prefix: dict[str, dict[Watcher, None]] = {}  # those without an end
        self._lengths: dict[int, int] = {}  # of these prefixes → how many have it: few, for most name one machine
        self._ranges: dict[Watcher, None] = {}  # those with an end
        self._turns = itertools.count(1)

    @contextmanager
    def watching(self, prefix: str, end: str) -> Iterator[Watcher]:
        """A new watch, for as long as this lasts."""
        watcher = Watcher(prefix, end, self._turns)
        if end:
            self._ranges[watcher] = None
        else:
            if prefix not in self._by_prefix:
                self._by_prefix[prefix] = {}
                self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
            self._by_prefix[prefix][watcher] = None
        try:
            yield watcher
        finally:
            self._remove(watcher)

    def _remove(self, watcher: Watcher) -> None:
        prefix = watcher.prefix
        if watcher.end:
            del self._ranges[watcher]
            return
        del self._by_prefix[prefix][watcher]
        if not self._by_prefix[prefix]:
            del self._by_prefix[prefix]
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]

    def tell(self, written: Written) -> None:
        """These changes were made."""
        found: dict[Watcher, None] = {}
        for event in written.events:
            for length in self._lengths:
                found |= self._by_prefix.get(event.key[:length], {})
            found |= {each: None for each in self._ranges if is_watched(event.key, each.prefix, each.end)}
        for watcher in sorted(found, key=lambda each: each.turn):
            watcher.tell(written.revision)

    def close(self) -> None:
        """The store is closed: wake all."""
        prefixed = [watcher for watchers in self._by_prefix.values() for watcher in watchers]
        for watcher in sorted([*prefixed, *self._ranges], key=lambda each: each.turn):
            watcher.tell(0)
