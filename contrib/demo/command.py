"""Runs the commands of the demo. Their output is shown as it comes: at a terminal with colours and with lines that
change in place, as a user sees it."""

import codecs
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from contrib.demo import stage

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|\r")


def run(
    argv: Sequence[str], *, folder: Path, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, and kill it if it takes too long. Returns its exit status, and what it wrote to stdout
    and stderr without escape sequences."""
    reader, writer = pty.openpty() if stage.is_terminal() else os.pipe()
    if stage.is_terminal():
        termios.tcsetwinsize(writer, termios.tcgetwinsize(sys.stdout))
    try:
        with subprocess.Popen(
            argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
        ) as process:
            os.close(writer)
            too_long = threading.Timer(timeout_s, process.kill)
            too_long.start()
            output = _show(reader)
            too_long.cancel()
    finally:
        os.close(reader)
    return subprocess.CompletedProcess(argv, process.returncode, _ESCAPE.sub("", output))


def _show(reader: int) -> str:
    """Show what comes, until it ends. Returns all of it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts = []
    while data := _read(reader):
        parts.append(decoder.decode(data))
        sys.stdout.write(parts[-1])
        sys.stdout.flush()
    return "".join(parts)


def _read(reader: int) -> bytes:
    """The next bytes; none at the end, which Linux reports as an error for terminals."""
    try:
        return os.read(reader, 65536)
    except OSError:
        return b""
