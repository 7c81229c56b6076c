"""What the three lists share: their options, the choice of fields, and rows made into a table.

What a field holds is each list's own matter.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import click
import msgspec

from fleetctl import output
from fleetctl.errors import CommandFailed
from fleetctl.parsing import Callback, flag

T = TypeVar("T")
SHORT_HASH = 7

# Field name → the cell of a row; the flag says whether ids and hashes are shown in full.
Columns = dict[str, Callable[[T, bool], str]]


class Located(msgspec.Struct, Generic[T], frozen=True):
    """What is listed, and the address of the machine that it is on ('' where none is known)."""

    item: T
    address: str


def list_options(columns: Columns[T], default: str) -> Callable[[Callback], Callback]:
    """--full, --no-legend and --fields."""

    def decorate(function: Callback) -> Callback:
        function = click.argument("ignored", nargs=-1)(function)
        text = f"what to show, of {', '.join(sorted(columns))}"
        function = click.option("--fields", default=default, help=text)(function)
        function = flag("--no-legend", text="leave out the header")(function)
        return flag("--full", "--l", "-l", text="show ids and hashes in full")(function)

    return decorate


def parse_fields(text: str, columns: Columns[T]) -> list[str]:
    """The fields that were asked for. Raises CommandFailed for one that there is not."""
    if not text:
        raise CommandFailed("Must define output format")
    fields = text.split(",")
    for field in fields:
        if field not in columns:
            known = ", ".join(sorted(columns))
            raise CommandFailed(f'Invalid key in output format: "{output.printable(field)}" (there are {known})')
    return fields


def shorten_hash(digits: str, full: bool) -> str:
    """A content's hash as lists show it."""
    return (digits if full else digits[:SHORT_HASH]) or "-"


def show_list(items: Sequence[T], columns: Columns[T], fields: Sequence[str], full: bool, no_legend: bool) -> None:
    """Print the table of these fields of these items."""
    header = [] if no_legend else [[field.upper() for field in fields]]
    rows = header + [[output.printable(columns[field](item, full)) for field in fields] for item in items]
    if rows:
        output.result(output.render_table(rows))
