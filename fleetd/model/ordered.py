"""Ordered sets and mappings, so that the same cluster always gives the same plan."""

from bisect import bisect
from typing import TypeVar

V = TypeVar("V")

Names = dict[str, None]  # an ordered set: in order of insertion


class Ordered(dict[str, V]):
    """A dict sorted by key. It sorts when it is read, and only if a key was inserted out of order since: the store
    lists keys in order, so that a large one hardly ever has to."""

    __slots__ = ()

    def __setitem__(self, key: str, value: V) -> None:
        if key in self or not self or next(reversed(self)) < key:
            super().__setitem__(key, value)
            return
        keys = list(self)
        greater = keys[bisect(keys, key) :]
        values = [self.pop(other) for other in greater]
        super().__setitem__(key, value)
        self.update(zip(greater, values, strict=True))
