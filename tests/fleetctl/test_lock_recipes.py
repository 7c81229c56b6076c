"""The examples of "Locks and election" in docs/services.md, each as it stands there."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleetctl.test_locks import CHECKOUT, PATIENCE_S, Served, served

DOCS = CHECKOUT / "docs/services.md"
STUBS = ("run-backup", "rebuild", "run-scheduler")

__all__ = ["served"]


def examples() -> list[str]:
    """The commands of the section, without their comments."""
    section = DOCS.read_text().partition("\n## Locks and election\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [re.sub(r"  +#.*", "", line) for block in blocks for line in block.splitlines()]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with fleetctl and with what the examples run, which says its name."""
    stubs = {name: f'#!/bin/sh\necho "{name} ran"\n' for name in STUBS}
    stubs["fleetctl"] = f'#!/bin/sh\ncd {CHECKOUT}\nexec {sys.executable} -m fleetctl.cli "$@"\n'
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    return tmp_path


def run(command: str, programs: Path, **environment: str) -> str:
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **environment}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.mark.parametrize("command", [each for each in examples() if each.startswith("fleetctl")])
def test_an_example_of_fleetctl_works(served: Served, programs: Path, command: str) -> None:
    said = run(command, programs, FLEETCTL_ENDPOINT=served.unix)
    if command == "fleetctl locks":
        assert said.split("\t")[0] == "LOCK"
    elif "FLEET_LOCK_TOKEN" in command:
        assert re.fullmatch(r"\d{12}-\d{19}\n", said)
    else:
        assert said == f"{command.split()[-1]} ran\n"


def test_each_example_is_run() -> None:
    """That of etcdctl: tests/contract/test_locks.py."""
    assert {each.split()[0] for each in examples()} == {"fleetctl", "etcdctl"}
    assert len(examples()) == 7
