"""Output: results on stdout, everything else on stderr; escaping and tables."""

import os
import re
import sys
from collections.abc import Sequence
from typing import IO, AnyStr

from fleetctl import terminal
from fleetctl.errors import CommandFailed
from fleetd.model.names import visible

TAB = 8
is_debugging = False
_CONTROLS = re.compile("[\x7f-\x9f]")
_RESETS = ("\x1b[0m", "\x1b[m")
_HARMLESS = re.compile(r"(\n|\t|\x1b\[[0-9;]*m)")


def result(text: str) -> None:
    """Print a line of the result, flushed at once for readers of a pipe."""
    write(text + "\n")


def write(text: str) -> None:
    """Print a result with its own newlines. Raises CommandFailed if it cannot be written."""
    write_to(sys.stdout, text)


def write_to(stream: IO[AnyStr], data: AnyStr) -> None:
    """Write to a standard stream. Raises CommandFailed if that is impossible, without a text if the reader is gone."""
    try:
        stream.write(data)
        stream.flush()
    except OSError as cause:
        # Python would flush the buffer again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(cause, BrokenPipeError):  # `fleetctl list-units | head -1` is not an error
            raise CommandFailed("") from cause
        name = "output" if stream.fileno() == sys.stdout.fileno() else "error"
        raise CommandFailed(f"cannot write to standard {name}: {cause.strerror}") from cause


def note(text: str) -> None:
    """Print a remark, on stderr."""
    print(text, file=sys.stderr, flush=True)


def error(text: str) -> None:
    """Print an error, on stderr."""
    note(terminal.paint(text, terminal.RED, sys.stderr))


def warning(text: str) -> None:
    """Print a warning, on stderr."""
    note(terminal.paint(text, terminal.YELLOW, sys.stderr))


def debug(text: str) -> None:
    """Print what --debug asks for, on stderr."""
    if is_debugging:
        note(f"debug: {text}")


def set_debugging(wanted: bool) -> None:
    """Print debug lines from now on, or do not."""
    global is_debugging
    is_debugging = wanted


def printable(text: str) -> str:
    """Foreign text on one line, with control characters escaped."""
    if text.isprintable() and " " not in text:
        return text  # the fast path of large tables
    return visible(" ".join(text.split()))


def json_text(data: bytes) -> str:
    """JSON with those control characters escaped, too, that JSON may have as they are."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", data.decode())


def write_text(text: str) -> None:
    """Print foreign lines as a result: unchanged into a pipe, control characters escaped at a terminal."""
    write(for_terminal(text) if sys.stdout.isatty() else text)


def for_terminal(text: str) -> str:
    """Foreign text with control characters escaped, except newlines, tabs and colours, which end with it."""
    parts = _HARMLESS.split(text)
    colours = [part for part in parts[1::2] if part.startswith("\x1b")]
    end = "" if not colours or colours[-1] in _RESETS else _RESETS[0]
    return "".join(part if index % 2 else visible(part) for index, part in enumerate(parts)) + end


def indented(text: str) -> str:
    """Foreign lines with control characters escaped: the first line, then the others indented, each once."""
    first, *others = (printable(line) for line in text.split("\n")) if text.strip() else ("",)
    return "\n    ".join([first, *dict.fromkeys(line for line in others if line and line != first)])


def short_id(machine: str, full: bool) -> str:
    """A machine's id as lists show it."""
    return machine if full else f"{machine[:8]}..."


def place(machine: str, address: str, full: bool = False) -> str:
    """A machine as lists show it: `ID8.../IP`, or `ID8...` without an address."""
    return printable(short_id(machine, full) + (f"/{address}" if address else ""))


def unit_line(name: str, state: str, where: str = "") -> str:
    """The line for a unit that has reached a state."""
    return f"Unit {name} {state}" + (f" on {where}" if where else "")


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns separated by tabs, with stops every 8 characters; the last one is not padded."""
    if not rows:
        return ""
    widths = [_stops(max(map(len, column))) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [cell + "\t" * (stops - len(cell) // TAB) for cell, stops in zip(row[:-1], widths[:-1], strict=True)]
        lines.append("".join(padded) + row[-1])
    return "\n".join(lines)


def _stops(longest: int) -> int:
    """Tab stops that a column needs whose longest cell has this many characters."""
    return longest // TAB + 1
