"""What a user sees: results on stdout, everything else on stderr; the words of tables and messages.

No request is made here and nothing is decided.
"""

import os
import re
import sys
from collections.abc import Sequence

from fleetctl import screen
from fleetctl.errors import CommandFailed
from fleetd.model.names import visible

TAB = 8
_HARMLESS = re.compile(r"(\n|\t|\x1b\[[0-9;]*m)")


def result(text: str) -> None:
    """What was asked for, at once: a reader of the pipe sees each line as it comes."""
    write(text + "\n")


def write(text: str) -> None:
    """A result that has its own line ends. Raises CommandFailed where it cannot be written."""
    try:
        print(text, end="", flush=True)
    except OSError as cause:
        # What is still in the buffer would be tried once more, and complained of, at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reader_is_gone = isinstance(cause, BrokenPipeError)  # `fleetctl list-units | head -1` is no error to show
        text = "" if reader_is_gone else f"cannot write to standard output: {cause.strerror}"
        raise CommandFailed(text) from cause


def note(text: str) -> None:
    """What is neither a result nor an error, on stderr."""
    print(text, file=sys.stderr, flush=True)


def error(text: str) -> None:
    """An error, on stderr."""
    note(screen.paint(text, screen.RED, sys.stderr))


def warning(text: str) -> None:
    """A warning, on stderr."""
    note(screen.paint(text, screen.YELLOW, sys.stderr))


def printable(text: str) -> str:
    """Text from elsewhere on one line; what a terminal would obey, or not show, is escaped."""
    if text.isprintable() and " " not in text:
        return text  # thousands of cells are such
    return visible(" ".join(text.split()))


def write_text(text: str) -> None:
    """Lines from elsewhere as a result: as they are for a program, with what a terminal would obey escaped for one."""
    write(for_terminal(text) if sys.stdout.isatty() else text)


def for_terminal(text: str) -> str:
    """Text from elsewhere with all escaped that a terminal would obey, or not show; but line ends, tabs and colours."""
    return "".join(part if index % 2 else visible(part) for index, part in enumerate(_HARMLESS.split(text)))


def indented(text: str) -> str:
    """Text from elsewhere that may have several lines: the first as it is, the others each once, on a line of its own,
    indented; without what a terminal would obey."""
    first, *others = (printable(line) for line in text.split("\n")) if text.strip() else ("",)
    return "\n    ".join([first, *dict.fromkeys(line for line in others if line and line != first)])


def short_id(machine: str, full: bool = False) -> str:
    """A machine's id as lists show it."""
    return machine if full else f"{machine[:8]}..."


def place(machine: str, address: str, full: bool = False) -> str:
    """A machine as lists show it: `ID8.../IP`, without the address where there is none."""
    return short_id(machine, full) + (f"/{address}" if address else "")


def unit_line(name: str, state: str, where: str = "") -> str:
    """The line that says that a unit has arrived in a state."""
    return f"Unit {name} {state}" + (f" on {where}" if where else "")


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns parted by tabs, with stops every 8 characters; the last one is not padded."""
    if not rows:
        return ""
    widths = [_stops(max(map(len, column))) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = [cell + "\t" * (stops - len(cell) // TAB) for cell, stops in zip(row[:-1], widths[:-1], strict=True)]
        lines.append("".join(padded) + row[-1])
    return "\n".join(lines)


def _stops(longest: int) -> int:
    """How many tab stops a column takes whose longest cell has this many characters."""
    return longest // TAB + 1
