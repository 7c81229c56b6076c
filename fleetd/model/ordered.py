"""Ordered sets and mappings, so that the same cluster always gives the same plan."""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import TypeVar

V = TypeVar("V")

Names = dict[str, None]  # an ordered set: in order of insertion


class Ordered(dict[str, V]):
    """Sorted when it is read, and only if a key has come out of turn since. The store lists its keys in order, so that
    hardly ever happens to a large one."""

    __slots__ = ("_is_sorted",)

    def __init__(self) -> None:
        super().__init__()
        self._is_sorted = True

    def __setitem__(self, key: str, value: V) -> None:
        if self._is_sorted and self and key not in self:
            self._is_sorted = next(super().__reversed__()) < key
        super().__setitem__(key, value)

    def __iter__(self) -> Iterator[str]:
        self._sort()
        return super().__iter__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        self._sort()
        return super().keys()

    def values(self) -> ValuesView[V]:  # type: ignore[override]
        self._sort()
        return super().values()

    def items(self) -> ItemsView[str, V]:  # type: ignore[override]
        self._sort()
        return super().items()

    def _sort(self) -> None:
        if not self._is_sorted:
            items = sorted(super().items())
            self.clear()
            self.update(items)
            self._is_sorted = True
