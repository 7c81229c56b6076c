"""`events -f --state-file=FILE`: it goes on where the last run has ended, however that was."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetctl.errors import CommandFailed
from fleetctl.event_state import StateFile
from fleetctl.event_stream import RESTORED
from fleetd.model.event import ClusterEvent, EventKind, EventRecord, record_name
from fleetd.registry.records import EVENTS, KeySpace, encode
from fleetd.store.protocol import Put
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import ScriptedCluster

PATIENCE_S = 60.0
OF_ANOTHER_STORE = f"{'0' * 16}.5"
FIRST, SECOND = f"{'a' * 16}.7", f"{'a' * 16}.8"
UNITS = [f"{number}.service" for number in range(60)]
PER_TRANSACTION = 3


class Runs:
    """Runs of `fleetctl events -f --state-file=token --output=json`, one after the other. `lines` are what they have
    printed so far, all of them."""

    def __init__(self, cluster: ScriptedCluster, folder: Path) -> None:
        self.state = folder / "token"
        self._output = folder / "lines"
        self._errors = folder / "errors"
        self._environment = os.environ | {"FLEETCTL_ENDPOINT": cluster.unix}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._output.read_bytes().split(b"\n")[:-1]]

    @property
    def units(self) -> list[str]:
        return [line["unit"] for line in self.lines if "unit" in line]

    def start(self, *options: str) -> None:
        arguments = ["--request-timeout=60", "events", "-f", f"--state-file={self.state}", "--output=json", *options]
        command = [sys.executable, "-c", "import sys; from fleetctl.cli import run; sys.exit(run(sys.argv[1:]))"]
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [*command, *arguments], stdout=output, stderr=errors, env=self._environment
            )

    def wait_until(self, what: str, is_so: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_so():
            assert self._process is not None
            assert self._process.poll() is None, self._errors.read_text()
            assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
            time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def runs(cluster: ScriptedCluster, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(cluster, tmp_path)
    yield runs
    runs.kill()


def record(cluster: ScriptedCluster, *units: str) -> None:
    """Have these units placed in one transaction."""
    key = KeySpace(KeySpace().archive_prefix).key(EVENTS, record_name(time.time(), units[0]))
    events = tuple(ClusterEvent(EventKind.PLACED, unit=unit, machine="1" * 32) for unit in units)
    cluster._write([Put(key, encode(EventRecord(time.time(), events)))])


def test_killed_again_and_again_it_leaves_out_nothing_and_repeats_one_transaction_at_most(
    cluster: ScriptedCluster, runs: Runs
) -> None:
    runs.start()
    runs.wait_until("it has begun", runs.state.exists)
    for start in range(0, len(UNITS), PER_TRANSACTION):
        record(cluster, *UNITS[start : start + PER_TRANSACTION])
    for seen in range(5, len(UNITS), 11):
        runs.wait_until(f"{seen} are printed", lambda seen=seen: len(set(runs.units)) >= seen)
        runs.kill()
        runs.start()
    runs.wait_until("all are printed", lambda: UNITS[-1] in runs.units)
    runs.kill()
    found = runs.units
    repeats = [
        number for number in range(1, len(found)) if UNITS.index(found[number]) <= UNITS.index(found[number - 1])
    ]
    assert list(dict.fromkeys(found)) == UNITS
    assert all(UNITS.index(found[at]) >= UNITS.index(found[at - 1]) - PER_TRANSACTION + 1 for at in repeats)


def test_what_happens_while_it_does_not_run_is_told_by_the_next_run(cluster: ScriptedCluster, runs: Runs) -> None:
    record(cluster, "before.service")
    runs.start("--since=1h")
    runs.wait_until("what was before is told", lambda: runs.units == ["before.service"])
    runs.wait_until("and kept", runs.state.exists)
    runs.kill()
    record(cluster, "meanwhile.service")
    runs.start("--since=1h")  # which counts the first time only
    runs.wait_until("it goes on", lambda: runs.units == ["before.service", "meanwhile.service"])


def test_a_token_that_means_nothing_any_more_is_a_gap_and_it_goes_on(cluster: ScriptedCluster, runs: Runs) -> None:
    runs.state.write_text(OF_ANOTHER_STORE)
    runs.start()
    runs.wait_until("it has begun again", lambda: runs.state.read_text().strip() != OF_ANOTHER_STORE)
    record(cluster, "after.service")
    runs.wait_until("what happens is told", lambda: runs.units == ["after.service"])
    assert next((line["kind"], line.get("detail")) for line in runs.lines) == ("gap", RESTORED)


def test_after_goes_on_behind_an_event(cluster: ScriptedCluster, fleetctl: Fleetctl) -> None:
    for unit in ("a.service", "b.service", "c.service"):
        record(cluster, unit)
    lines = [json.loads(line) for line in fleetctl("events", "--output=json").stdout.splitlines()]
    rest = fleetctl("events", "--output=json", f"--after={lines[0]['token']}").stdout.splitlines()
    assert [json.loads(line) for line in rest] == lines[1:]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--state-file=x"], "--state-file goes with -f"),
        (["-f", "--state-file=x", f"--after={FIRST}"], "give one of them"),
        (["--since=1h", f"--after={FIRST}"], "give one of them"),
        (["-f", "--state-file="], "--state-file needs the name of a file"),
        (["--after="], "--after needs a token"),
    ],
)
def test_options_that_contradict_each_other_are_refused(fleetctl: Fleetctl, options: list[str], why: str) -> None:
    found = fleetctl("events", *options)
    assert (found.status, why in found.stderr) == (2, True), found


def test_a_token_that_is_none_is_refused_in_words(fleetctl: Fleetctl) -> None:
    found = fleetctl("events", "-f", "--after=yesterday")
    assert found.status == 1
    assert "'yesterday' is no token" in found.stderr


@pytest.mark.parametrize("content", ["", "yesterday\n", "\x00" * 30])
def test_a_file_that_holds_something_else_is_left_alone(fleetctl: Fleetctl, tmp_path: Path, content: str) -> None:
    (tmp_path / "notes").write_text(content)
    found = fleetctl("events", "-f", "--state-file=notes")
    assert (found.status, found.stdout) == (1, "")
    assert "notes holds no token of events: remove it" in found.stderr
    assert (tmp_path / "notes").read_text() == content


@pytest.mark.parametrize(("path", "why"), [("no/token", "no such file"), (".", "is a directory")])
def test_a_file_that_cannot_be_written_is_said(fleetctl: Fleetctl, path: str, why: str) -> None:
    found = fleetctl("events", "-f", f"--state-file={path}")
    assert (found.status, found.stdout) == (1, "")
    assert f"the state file {path}: {why}" in found.stderr.lower()


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    now_s = 100.0
    state = StateFile(str(tmp_path / "token"), now=lambda: now_s)
    assert state.read() == ""
    for token in (FIRST, SECOND):
        state.keep(token)
        assert state.read() == token
    assert [each.name for each in tmp_path.iterdir()] == ["token"]
    (tmp_path / "token").unlink()
    (tmp_path / "token").mkdir()
    with pytest.raises(CommandFailed, match="cannot write the state file"):
        state.keep(FIRST)
