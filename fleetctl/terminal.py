"""Terminals: size, width of text, columns that fit, colours. Nothing here affects output into a pipe."""

import os
from collections.abc import Sequence
from typing import TextIO

RED, GREEN, YELLOW = "31", "32", "33"
GAP = "  "
ELLIPSIS = "…"
LEAST_COLUMN = 8  # narrower columns are unreadable: lines wrap instead
_USUAL_SIZE = os.terminal_size((80, 24))


def is_watched(stream: TextIO) -> bool:
    """True if the stream is a terminal that can move its cursor."""
    return os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour ('' for none) if the stream is a terminal and NO_COLOR is not set."""
    if not colour or os.environ.get("NO_COLOR") or not is_watched(stream):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def measure(stream: TextIO) -> os.terminal_size:
    """Current columns and lines of the terminal; 80 by 24 if it does not know them."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except OSError:
        return _USUAL_SIZE
    return size if size.columns and size.lines else _USUAL_SIZE


def width(text: str) -> int:
    """Columns that the text takes: wide East Asian characters two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata  # imported late: rarely needed

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def crop(text: str, columns: int) -> str:
    """The text in at most this many columns, cut at the end."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + ELLIPSIS


def shorten(text: str, columns: int) -> str:
    """The text in at most this many columns, cut in the middle: names and addresses differ at their ends."""
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
    """Column widths, gaps included, that fit in `room`: the widest columns shrink first."""
    widths = list(wanted)
    room -= len(GAP) * (len(widths) - 1)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= LEAST_COLUMN:
            break
        widths[widest] -= 1
    return widths


def render_columns(rows: Sequence[Sequence[str]], room: int | None) -> list[list[str]]:
    """The cells of a table cut to fit in `room` (None: any), padded except the last column."""
    wanted = [max(map(width, column)) for column in zip(*rows, strict=True)]
    widths = wanted if room is None else fit_columns(wanted, room)
    rendered = []
    for row in rows:
        cells = [shorten(cell, columns) for cell, columns in zip(row, widths, strict=True)]
        padded = [cell + " " * (columns - width(cell)) for cell, columns in zip(cells[:-1], widths[:-1], strict=True)]
        rendered.append([*padded, cells[-1]])
    return rendered
