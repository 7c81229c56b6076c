"""Ordered sets and mappings, so that the same cluster always gives the same plan."""

from bisect import bisect
from collections.abc import Callable, Hashable, Iterable, MutableMapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
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


def set_or_delete(mapping: MutableMapping[K, V], key: K, value: V | None) -> None:
    """Set the value under the key; None deletes it."""
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def mark(names: dict[K, None], name: K, belongs: bool) -> None:
    """Add the name to the ordered set, or remove it."""
    if belongs:
        names[name] = None
    else:
        names.pop(name, None)


def reachable(names: Iterable[str], neighbours: Callable[[str], Iterable[str]]) -> Names:
    """These names, and those that are their neighbours, directly or through others."""
    found = dict.fromkeys(names)
    pending = list(found)
    while pending:
        new = [other for other in neighbours(pending.pop()) if other not in found]
        found |= dict.fromkeys(new)
        pending += new
    return found
