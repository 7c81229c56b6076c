"""A list of the live view: its rows in order, filtered and grouped, with a cursor. Pure."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from fleetctl.live.rows import Row, template_row
from fleetd.model.name_patterns import compile_name_pattern, is_name_pattern


class Query(msgspec.Struct, frozen=True):
    """What is shown: rows that match `text`, in the order of the column `sort` (-1: by how much they want to be looked
    at). With `is_grouped`, the units of a template are one row, and themselves shown for those in `opened`."""

    text: str = ""
    sort: int = 0
    is_reversed: bool = False
    is_grouped: bool = False
    opened: frozenset[str] = frozenset()


EVERYTHING = Query()


def filter_of(text: str) -> Callable[[Row], bool]:
    """True for rows that match each word: it is contained, or matches the key where it is a pattern (`web@*`); a word
    after `!` must not match."""
    tests = [_word_test(word) for word in text.lower().split() if word != "!"]
    return lambda row: all(test(row) for test in tests)


def _word_test(word: str) -> Callable[[Row], bool]:
    if word.startswith("!"):
        test = _word_test(word[1:])
        return lambda row: not test(row)
    if not is_name_pattern(word):
        return lambda row: word in row.words
    matches = compile_name_pattern(word).match
    return lambda row: matches(row.key.lower()) is not None


def arrange(rows: Iterable[Row], query: Query) -> list[Row]:
    """The rows as they are shown."""
    chosen = _in_order(filter(filter_of(query.text), rows), query)
    if not query.is_grouped:
        return chosen
    groups: dict[str, list[Row]] = {}
    for row in chosen:
        groups.setdefault(row.template or row.key, []).append(row)
    heads = {
        name: template_row(name, members, name in query.opened) if members[0].template else members[0]
        for name, members in groups.items()
    }
    shown: list[Row] = []
    for head in _in_order(heads.values(), query):
        shown.append(head)
        if head.is_head and head.key in query.opened:
            shown += groups[head.key]
    return shown


def _in_order(rows: Iterable[Row], query: Query) -> list[Row]:
    """Sorted; rows that are equal stand in the order of their keys."""
    by_key = sorted(rows, key=lambda row: row.key)
    if query.sort < 0:
        return sorted(by_key, key=lambda row: row.level, reverse=not query.is_reversed)
    return sorted(by_key, key=lambda row: row.order[query.sort], reverse=query.is_reversed)


class Pane:
    """The rows of one list, what is asked of them, and where the cursor is."""

    def __init__(self, columns: Sequence[str], query: Query = EVERYTHING) -> None:
        self.columns = tuple(columns)
        self.query = query
        self.shown: list[Row] = []
        self.cursor = 0
        self._rows: Sequence[Row] = ()

    @property
    def count(self) -> int:
        """Of all rows, shown or not."""
        return len(self._rows)

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self.shown[self.cursor] if self.shown else None

    def take(self, rows: Sequence[Row]) -> None:
        """Show these rows instead."""
        self._rows = rows
        self._arrange()

    def ask(self, query: Query) -> None:
        """Show by this query."""
        self.query = query
        self._arrange()

    def move(self, by: int) -> None:
        """Move the cursor by so many rows, at most to the first or last."""
        self.cursor = max(0, min(self.cursor + by, len(self.shown) - 1))

    def sort_next(self) -> None:
        """Sort by the next column; after the last one by how much rows want to be looked at."""
        sort = self.query.sort + 1
        self.ask(msgspec.structs.replace(self.query, sort=sort if sort < len(self.columns) else -1, is_reversed=False))

    def toggle(self, template: str) -> None:
        """Show the units of a template, or no longer."""
        self.ask(msgspec.structs.replace(self.query, opened=self.query.opened ^ {template}))

    def _arrange(self) -> None:
        """The cursor stays on its row. If that is gone, it stays at its place."""
        former = self.current
        self.shown = arrange(self._rows, self.query)
        if former is not None:
            same = (number for number, row in enumerate(self.shown) if row.key == former.key)
            self.cursor = next(same, self.cursor)
        self.move(0)
