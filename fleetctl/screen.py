"""What a terminal needs that a pipe does not: its size, the room that text takes up, columns that fit, colours.

Nothing is written here, and nothing here touches what goes into a pipe.
"""

import os
import unicodedata
from collections.abc import Sequence
from typing import TextIO

BOLD, RED, GREEN, YELLOW = "1", "31", "32", "33"
GAP = "  "
ELLIPSIS = "…"
LEAST_COLUMN = 8  # narrower than this, a column tells nothing any more: then lines are wrapped instead
_USUAL_SIZE = os.terminal_size((80, 24))


def is_watched(stream: TextIO) -> bool:
    """Whether a terminal shows the stream that understands how to move its cursor."""
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour ('' for none), where a person looks at the stream and has not asked for none (NO_COLOR)."""
    if not colour or os.environ.get("NO_COLOR") or not is_watched(stream):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def measure(stream: TextIO) -> os.terminal_size:
    """Columns and lines of the terminal, as they are now; the usual ones where it does not know them itself."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return _USUAL_SIZE
    return size if size.columns and size.lines else _USUAL_SIZE


def width(text: str) -> int:
    """How many columns the text takes up. Characters of East Asia take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def crop(text: str, columns: int) -> str:
    """The text in so many columns at most, the rest cut off at its end."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + ELLIPSIS


def shorten(text: str, columns: int) -> str:
    """The text in so many columns at most, shortened in its middle: the ends tell names and addresses apart."""
    if width(text) <= columns:
        return text
    head, tail = text[: (len(text) + 1) // 2], text[(len(text) + 1) // 2 :]
    while width(head) + width(tail) > columns - 1:
        if width(head) >= width(tail):
            head = head[:-1]
        else:
            tail = tail[1:]
    return head + ELLIPSIS + tail


def fit_columns(wanted: Sequence[int], room: int) -> list[int]:
    """The widths of columns that want these, with gaps between them, in this room: the widest give way first."""
    widths = list(wanted)
    room -= len(GAP) * (len(widths) - 1)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= LEAST_COLUMN:
            break
        widths[widest] -= 1
    return widths


def render_columns(rows: Sequence[Sequence[str]], room: int | None) -> list[list[str]]:
    """The cells of a table for a terminal with this room, padded but for the last column; None cuts nothing."""
    wanted = [max(map(width, column)) for column in zip(*rows, strict=True)]
    widths = wanted if room is None else fit_columns(wanted, room)
    rendered = []
    for row in rows:
        cells = [shorten(cell, columns) for cell, columns in zip(row, widths, strict=True)]
        padded = [cell + " " * (columns - width(cell)) for cell, columns in zip(cells[:-1], widths[:-1], strict=True)]
        rendered.append([*padded, cells[-1]])
    return rendered
