"""A list that is shown, and then each of its rows that changes."""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from fleetctl import output
from fleetctl.listing import JSON, View

T = TypeVar("T")


class WatchedList(Generic[T]):
    """Shows the items of a list, and later those that have changed. `key` says which is which, `blank` is what is shown
    of one that is gone. JSON is an object a line."""

    def __init__(self, view: View[T], key: Callable[[T], Hashable], blank: Callable[[T], T]) -> None:
        self._view = view
        self._key = key
        self._blank = blank
        self._shown: dict[Hashable, T] | None = None
        self._widest: list[str] = []  # cells, so that the columns stay where they are

    def show(self, items: Sequence[T]) -> None:
        """Show these items, which are the whole list, as far as they are not shown already."""
        shown, self._shown = self._shown, {self._key(item): item for item in items}
        gone = [self._blank(item) for key, item in (shown or {}).items() if key not in self._shown]
        changed = [shown is None or shown.get(self._key(item)) != item for item in items]
        if self._view.form == JSON:
            lines = self._view.render_objects((*items, *gone))
        else:
            lines = self._view.render((*items, *gone), self._widest)
            if len(lines) > len(items) + len(gone) and shown is None:
                output.result(lines[0])
            lines = lines[len(lines) - len(items) - len(gone) :]
        for line, is_shown in zip(lines, (*changed, *[True] * len(gone)), strict=True):
            if is_shown:
                output.result(line)
