"""Options, fields, tables and JSON of the three list commands."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, Generic, TypeVar

import click
import msgspec

from fleetctl import output, terminal
from fleetctl.command_line import Callback, flag
from fleetctl.errors import CommandFailed
from fleetctl.settings import Settings

T = TypeVar("T")
SHORT_HASH = 7
TABLE, JSON = "table", "json"
WATCH_FLAG = flag("--watch", "--w", "-w", "watch", text="go on with each line that changes, until interrupted")

# Field name → cell of a row; the flag asks for full ids and hashes.
Columns = dict[str, Callable[[T, bool], str]]
# Field name → value in JSON: in full, None if there is none.
Values = dict[str, Callable[[T], Any]]

# Colours of states at a terminal.
_COLOURS = {
    "active": terminal.GREEN,
    "activating": terminal.YELLOW,
    "deactivating": terminal.YELLOW,
    "reloading": terminal.YELLOW,
    "failed": terminal.RED,
    "bad-setting": terminal.RED,
    "error": terminal.RED,
    "masked": terminal.RED,
    "not-found": terminal.RED,
    "parked": terminal.YELLOW,
    "leaving": terminal.YELLOW,
}
_COLOURED_FIELDS = frozenset({"active", "load", "mode"})


class FieldNames(click.types.StringParamType):
    """Comma-separated fields of a list; `names` are all fields."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """The fields of a list as table and as JSON, and the default fields of the table."""

    columns: Columns[T]
    values: Values[T]
    default: str


class View(msgspec.Struct, Generic[T], frozen=True):
    """The options that a list command was given."""

    listing: Listing[T]
    fields: tuple[str, ...]
    full: bool
    no_legend: bool
    form: str
    names: tuple[str, ...]

    def wants(self, unit: str) -> bool:
        """True if the unit matches the names and patterns given, or none were."""
        if not self.names:
            return True
        from fleetctl.selection import match_names

        return any(match_names(argument)(unit) for argument in self.names)

    def show(self, items: Sequence[T]) -> None:
        """Print the items."""
        if self.form == JSON:
            output.result(render_json(items, self._values))
        elif lines := self.render(items):
            output.result("\n".join(lines))

    @property
    def _values(self) -> dict[str, Callable[[T], Any]]:
        return {field: self.listing.values[field] for field in self.fields}

    def render_objects(self, items: Iterable[T]) -> list[str]:
        """The items as JSON objects, a line each."""
        return render_objects(items, self._values)

    def render(self, items: Sequence[T], widest: list[str] | None = None) -> list[str]:
        """The lines of the table: the header unless there is none, and one for each item. `widest` are the widest cells
        so far, which this keeps: at a terminal no column is narrower than these."""
        header = [] if self.no_legend else [[field.upper() for field in self.fields]]
        cells = [self.listing.columns[field] for field in self.fields]
        rows = header + [[output.printable(cell(item, self.full)) for cell in cells] for item in items]
        if not rows:
            return []
        if terminal.is_watched(sys.stdout):
            if widest is not None:
                widest[:] = [max(column, key=terminal.width) for column in zip(*rows, widest or rows[0], strict=True)]
            return render_watched([*rows, widest or rows[0]], self.fields, self.full).split("\n")[:-1]
        return output.render_table(rows).split("\n")


def list_command(listing: Listing[T]) -> Callable[[Callable[..., int]], Callback]:
    """Adds --full, --no-legend, --fields and --output; the command gets a View with valid fields, and its own
    options."""
    there_are = sorted({*listing.columns, *listing.values})
    fields_text = f"fields to show: {', '.join(sorted(listing.columns))}"
    if listing.columns.keys() != listing.values.keys():
        fields_text += f"; in json {', '.join(sorted(listing.values))}"
    output_text = "table, or json: an array of objects, nothing shortened"

    def decorate(function: Callable[..., int]) -> Callback:
        @click.option("--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help=output_text)
        @flag("--full", "--l", "-l", text="show ids and hashes in full, and shorten nothing at a terminal")
        @flag("--no-legend", text="omit the header")
        @click.option("--fields", type=FieldNames(there_are), default=listing.default, help=fields_text)
        @click.argument("names", nargs=-1)
        @wraps(function)
        def command(
            settings: Settings, full: bool, no_legend: bool, fields: str, form: str, names: tuple[str, ...], **own: Any
        ) -> int:
            source = click.get_current_context().get_parameter_source("fields")
            unasked = source is click.core.ParameterSource.DEFAULT
            known: Iterable[str] = listing.columns if form == TABLE else listing.values
            chosen = tuple(known) if unasked and form == JSON else parse_fields(fields, known)
            return function(settings, View(listing, chosen, full, no_legend, form, names), **own)

        return command

    return decorate


def parse_fields(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """The requested fields. Raises CommandFailed for an unknown one."""
    if not text:
        raise CommandFailed("Must define output format")
    fields = text.split(",")
    for field in fields:
        if field not in known:
            there_are = ", ".join(sorted(known))
            raise CommandFailed(f'Invalid key in output format: "{output.printable(field)}" (there are {there_are})')
    return tuple(fields)


def shorten_hash(digits: str, full: bool) -> str:
    """A hash as lists show it."""
    return (digits if full else digits[:SHORT_HASH]) or "-"


def render_json(items: Iterable[T], values: Mapping[str, Callable[[T], Any]]) -> str:
    """The items as a JSON array of objects with these fields, one item a line."""
    return "[" + ",".join(f"\n  {line}" for line in render_objects(items, values)) + "\n]"


def render_objects(items: Iterable[T], values: Mapping[str, Callable[[T], Any]]) -> list[str]:
    """The items as JSON objects with these fields."""
    return [
        output.json_text(msgspec.json.encode({field: value(item) for field, value in values.items()})) for item in items
    ]


def render_watched(rows: Sequence[Sequence[str]], fields: Sequence[str], full: bool) -> str:
    """The table at a terminal: as wide as that is (any width if `full`), with colours."""
    room = None if full else terminal.measure(sys.stdout).columns
    lines = []
    for row, cells in zip(rows, terminal.render_columns(rows, room), strict=True):
        colours = [
            _COLOURS.get(cell, "") if field in _COLOURED_FIELDS else "" for field, cell in zip(fields, row, strict=True)
        ]
        painted = [terminal.paint(cell, colour, sys.stdout) for cell, colour in zip(cells, colours, strict=True)]
        lines.append(terminal.GAP.join(painted).rstrip())
    return "\n".join(lines)
