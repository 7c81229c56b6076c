"""A machine that is being set up: this one, or one behind SSH. All that is done there are commands, run as root."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING

import msgspec

from fleetctl import output
from fleetctl.errors import CommandFailed

if TYPE_CHECKING:  # what speaks SSH is costly to import, and not needed on this machine
    from fleetctl.ssh.connection import Connection

MISSING_STATUS = 3


class Done(msgspec.Struct, frozen=True):
    """A command that has ended: its exit status and output."""

    status: int
    output: str
    errors: str

    @property
    def last_words(self) -> str:
        """The last line that it said, for an error. It is foreign text: control characters are escaped."""
        lines = [line.strip() for line in (self.errors or self.output).splitlines() if line.strip()]
        return output.printable(lines[-1]) if lines else f"exit status {self.status}"


Runner = Callable[[str, IO[bytes] | None], Done]
"""Runs a shell command with the file as its input. Raises SshFailed if the connection is lost."""


class Host:
    """A machine, by its name in messages."""

    def __init__(self, name: str, run: Runner) -> None:
        self.name = name
        self._run = run

    def try_to(self, *argv: str, stdin: IO[bytes] | None = None) -> Done:
        """Run a command, whatever its exit status."""
        return self._run(shlex.join(argv), stdin)

    def run(self, *argv: str, doing: str, stdin: IO[bytes] | None = None) -> str:
        """Run a command and return its output. Raises CommandFailed with what it was for."""
        done = self.try_to(*argv, stdin=stdin)
        if done.status:
            raise CommandFailed(f"{self.name}: cannot {doing}: {done.last_words}")
        return done.output

    def read(self, path: str) -> str | None:
        """The text of a file, None if there is none. Raises CommandFailed."""
        done = self.try_to("sh", "-c", f'test -e "$1" || exit {MISSING_STATUS}; exec cat "$1"', "sh", path)
        if done.status == MISSING_STATUS:
            return None
        if done.status:
            raise CommandFailed(f"{self.name}: cannot read {path}: {done.last_words}")
        return done.output

    def has(self, path: str) -> bool:
        return self.try_to("test", "-e", path).status == 0

    def write(self, path: str, text: str, *, mode: int = 0o644) -> bool:
        """Replace a file at once, unless it has this text already; returns whether it was changed. An existing file
        keeps its owner and mode. Folders that are missing are made for root alone. Raises CommandFailed."""
        if self.read(path) == text:
            return False
        script = (
            'umask 077 && mkdir -p "$(dirname "$1")" && cat >"$1.new" && '
            '{ if test -e "$1"; then chmod --reference="$1" "$1.new" && chown --reference="$1" "$1.new"; '
            'else chmod "$2" "$1.new"; fi; } && sync "$1.new" && mv -f "$1.new" "$1"'
        )
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            file.seek(0)
            self.run("sh", "-c", script, "sh", path, f"{mode:o}", doing=f"write {path}", stdin=file)
        return True


def this_machine() -> Host:
    """The machine that fleetctl runs on."""
    return Host("this machine", _run_here)


def _run_here(command: str, stdin: IO[bytes] | None) -> Done:
    done = subprocess.run(
        ["/bin/sh", "-c", command], stdin=stdin or subprocess.DEVNULL, capture_output=True, check=False
    )
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def over_ssh(connection: "Connection", name: str, before: Sequence[str] = ()) -> Host:
    """The machine at the other end, where each command begins with these words (sudo)."""
    from fleetctl.ssh.sessions import run_command

    def run(command: str, stdin: IO[bytes] | None) -> Done:
        said, errors = bytearray(), bytearray()
        whole = shlex.join([*before, "/bin/sh", "-c", command])
        status = run_command(
            connection,
            whole,
            stdin=stdin.fileno() if stdin else None,
            stdout=said.extend,
            stderr=errors.extend,
        )
        return Done(status, said.decode(errors="replace"), errors.decode(errors="replace"))

    return Host(name, run)
