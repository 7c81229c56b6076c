"""Progress lines at a terminal, on stderr, one for each unit that a command waits for.

They are erased when the wait is over, so that the same output remains as in a pipe.
"""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from fleetctl import output, terminal

DELAY_S = 0.15  # shorter waits show no progress
MOST_LINES = 20
MARGIN = 4  # room for the ^C that a terminal echoes, so that the line does not wrap
_SPINNER = "|/-\\"


class ProgressLines:
    """One line a unit, redrawn in place. Call `clear` before writing anything else."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        # Debug lines would garble them.
        self._is_on = terminal.is_watched(self._stream) and not output.is_debugging
        self._begun = time.monotonic()
        self._drawn: list[int] = []  # widths of the lines on the screen
        self._turns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.clear()

    def show(self, waiting: Mapping[str, str]) -> None:
        """Draw what each unit waits for (name → sentence, which may begin with `it`)."""
        passed_s = time.monotonic() - self._begun
        if not self._is_on or passed_s < DELAY_S:
            return
        size = terminal.measure(self._stream)
        passed = f" ({passed_s:.0f} s)"
        room = size.columns - MARGIN - len(passed)
        lines = [terminal.crop(line, room) + passed for line in self._lines(waiting, size.lines)]
        text = self._erasure(size.columns) + "\n".join(lines)
        self._drawn = [terminal.width(line) for line in lines]  # first: Ctrl-C may come while they are written
        self._write(text)

    def clear(self) -> None:
        """Erase the lines; the cursor returns to where they began."""
        if self._drawn:
            self._write(self._erasure(terminal.measure(self._stream).columns))
            self._drawn = []

    def _lines(self, waiting: Mapping[str, str], height: int) -> list[str]:
        self._turns += 1
        sign = _SPINNER[self._turns % len(_SPINNER)]
        room = max(1, min(MOST_LINES, height - 2))
        shown = [(name, what.partition("\n")[0]) for name, what in waiting.items()]
        shown = shown[: room if len(waiting) <= room else room - 1]
        lines = [
            f"{sign} {name} {what[3:]}" if what.startswith("it ") else f"{sign} {name}: {what}" for name, what in shown
        ]
        if len(shown) < len(waiting):
            lines.append(f"{sign} and {len(waiting) - len(shown)} more")
        return lines

    def _erasure(self, columns: int) -> str:
        """The escape sequence that erases the lines, also if the terminal was made narrower and wrapped them."""
        rows = sum(max(1, -(-width // columns)) for width in self._drawn)
        # Row by row: some terminals scroll what is erased to the end of the screen into their history.
        return "\r\x1b[K" + "\x1b[A\x1b[K" * (rows - 1) if rows else ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
