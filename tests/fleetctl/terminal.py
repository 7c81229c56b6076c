"""A terminal for tests: a pty that a program runs on, and the screen that its user sees."""

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
import tty
from collections.abc import Callable, Mapping, Sequence

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Terminal:
    """Runs a program whose stdin, stdout and stderr are a terminal, except for those that are given."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        columns: int = 80,
        lines: int = 24,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self._master, slave = os.openpty()
        self.columns = columns
        self.resize(columns, lines)
        tty.setraw(slave, termios.TCSANOW)
        self.written = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            env={"TERM": "xterm", **environment},
            stdin=slave,
            stdout=slave if stdout is None else stdout,
            stderr=slave if stderr is None else stderr,
        )
        os.close(slave)

    def type(self, keys: str) -> None:
        """Send these keys to the program."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int = 24) -> None:
        """Change the size of the terminal, without SIGWINCH for the program."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_until(self, is_enough: Callable[[str], bool], bound_s: float = 20.0) -> str:
        """Read until `is_enough` of the whole output; returns it."""
        deadline = time.monotonic() + bound_s
        while not is_enough(self.written):
            assert time.monotonic() < deadline, f"waited {bound_s} s in vain; written: {self.written!r}"
            if select.select([self._master], [], [], 0.1)[0] and not self._read():
                assert is_enough(self.written), self.written
                break
        return self.written

    def finish(self) -> int:
        """Read until the program has ended; returns its exit status."""
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(60)

    def _read(self) -> bool:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # end of file of a pty
            return False
        self.written += data.decode()
        return bool(data)

    def screen(self) -> str:
        """The text on the screen, without colours."""
        return render_screen(self.written, self.columns)


def render_screen(written: str, columns: int) -> str:
    """The lines that a terminal of this width shows of the output. Knows only the sequences that fleetctl uses."""
    lines, row, column = [""], 0, 0
    rest = written
    while rest:
        if found := _SEQUENCE.match(rest):
            rest = rest[found.end() :]
            number, letter = found[1], found[2]
            if letter == "A":
                row = max(0, row - int(number or 1))
            elif letter == "K":
                lines[row] = lines[row][:column]
            else:
                assert letter == "m", f"the screen does not know {found[0]!r}"
            continue
        char, rest = rest[0], rest[1:]
        if char == "\r":
            column = 0
        elif char == "\n":  # a terminal that is not raw adds the carriage return
            row, column = row + 1, 0
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row][:column].ljust(column) + char + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return "\n".join(lines)
