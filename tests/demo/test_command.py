"""The demo's commands: what they print is shown at once, and returned."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contrib.demo import command

GREET = ["sh", "-c", 'printf "\\033[32m$1\\033[0m\\n"; echo from "$PWD" >&2; exit 3', "sh", "hello"]


def test_output_is_shown_and_returned_with_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = command.run(GREET, folder=tmp_path, environment=os.environ, timeout_s=10)
    assert (done.returncode, done.stdout) == (3, f"hello\nfrom {tmp_path}\n")
    assert capsys.readouterr().out == f"\x1b[32mhello\x1b[0m\nfrom {tmp_path}\n"


def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    began_s = time.monotonic()
    assert command.run(["sleep", "60"], folder=tmp_path, environment=os.environ, timeout_s=0.2).returncode == -9
    assert time.monotonic() - began_s < 10


def test_at_a_terminal_a_command_has_one() -> None:
    script = (
        "import os; from pathlib import Path; from contrib.demo import command\n"
        "done = command.run(['sh', '-c', 'test -t 1 && test -t 2 && echo both'], "
        "folder=Path('/'), environment=os.environ, timeout_s=10)\n"
        "assert done.stdout == 'both\\n', done.stdout\n"
    )
    reader, writer = pty.openpty()
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert os.read(reader, 100) == b"both\r\r\n"
    os.close(writer)
    os.close(reader)
