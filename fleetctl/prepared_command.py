"""A process that waits to become a command: forked while there is one thread and little memory, so that the command
starts at once when its time has come."""

import ctypes
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fleetctl import output
from fleetctl.errors import CommandFailed

NOT_RUN_STATUS, NOT_FOUND_STATUS = 126, 127
SIGNALLED = 128
_SET_DEATH_SIGNAL = 1  # prctl(2)
_CHUNK = 65536


class PreparedCommand:
    """A command that has not begun. It is killed with this process, also later. `start` it once, or `close` it."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._status: int | None = None
        own = os.getpid()
        libc = ctypes.CDLL(None)
        variables, self._variables = os.pipe()
        self._failure, failure = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._variables)
                libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
                if os.getppid() == own:  # else it has ended before the line above
                    self._become(variables, failure)
            finally:
                os._exit(NOT_RUN_STATUS)
        os.close(variables)
        os.close(failure)

    def _become(self, variables: int, failure: int) -> None:
        """In the child: wait for the variables, and run the command with them."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        received = _read_all(variables)
        if not received:
            return
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        for pair in received.split(b"\0")[:-1]:
            name, _, value = pair.partition(b"=")
            os.environb[name] = value
        try:
            os.execvpe(self._words[0], self._words, os.environ)  # noqa: S606 (as it was typed)
        except OSError as error:
            os.write(failure, str(error.errno).encode())

    def start(self, variables: Mapping[str, str]) -> None:
        """Run the command, with these variables beside this process's own. Raises CommandFailed."""
        pairs = b"".join(f"{name}={value}\0".encode() for name, value in variables.items())
        with suppress(BrokenPipeError):  # a signal has ended it
            os.write(self._variables, pairs)
        os.close(self._variables)
        self._variables = -1
        failed = _read_all(self._failure)
        if failed:
            self.wait()
            code, name = int(failed), output.printable(self._words[0])
            if code in (errno.ENOENT, errno.ENOTDIR):
                raise CommandFailed(f"{name}: command not found", NOT_FOUND_STATUS)
            raise CommandFailed(f"{name}: {os.strerror(code)}", NOT_RUN_STATUS)

    def send_signal(self, number: int) -> None:
        """Send it this signal, if it runs."""
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for its end; its exit status, as shells have it."""
        if self._status is None:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._status = code if code >= 0 else SIGNALLED - code
        return self._status

    def close(self) -> None:
        """Give it up if it was not started."""
        if self._variables >= 0:
            os.close(self._variables)
            self._variables = -1
            self.wait()
        if self._failure >= 0:
            os.close(self._failure)
            self._failure = -1


def _read_all(source: int) -> bytes:
    found = b""
    while chunk := os.read(source, _CHUNK):
        found += chunk
    return found
