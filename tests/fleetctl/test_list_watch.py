"""Lists that go on with what changes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleetctl.list_watch import WatchedList
from fleetctl.listing import Listing, View
from tests.fleetctl.conftest import HELLO
from tests.fleetctl.small_cluster import SmallCluster
from tests.fleetctl.terminal import Terminal

PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]  # where fleet is not installed
LISTING: Listing[tuple[str, str]] = Listing(
    {"name": lambda item, full: item[0], "state": lambda item, full: item[1] or "-"},
    {"name": lambda item: item[0], "state": lambda item: item[1] or None},
    default="name,state",
)


def watched(form: str = "table", no_legend: bool = False) -> WatchedList[tuple[str, str]]:
    view = View(LISTING, ("name", "state"), False, no_legend, form, ())
    return WatchedList(view, lambda item: item[0], lambda item: (item[0], ""))


def test_after_the_list_only_lines_that_change_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    items = watched()
    items.show([("a", "up"), ("b", "up")])
    assert capsys.readouterr().out == "NAME\tSTATE\na\tup\nb\tup\n"
    items.show([("a", "up"), ("b", "down"), ("c", "up")])
    assert capsys.readouterr().out == "b\tdown\nc\tup\n"
    items.show([("b", "down"), ("c", "up")])
    assert capsys.readouterr().out == "a\t-\n"
    items.show([("b", "down"), ("c", "up")])
    assert capsys.readouterr().out == ""


def test_an_empty_list_has_its_header_alone(capsys: pytest.CaptureFixture[str]) -> None:
    items = watched()
    items.show([])
    items.show([("a", "up")])
    assert capsys.readouterr().out == "NAME\tSTATE\na\tup\n"


def test_json_is_an_object_a_line_and_no_legend_leaves_out_the_header(capsys: pytest.CaptureFixture[str]) -> None:
    items = watched("json")
    items.show([("a", "up")])
    items.show([])
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"name": "a", "state": "up"}, {"name": "a", "state": None}]
    watched(no_legend=True).show([("a", "up")])
    assert capsys.readouterr().out == "a\tup\n"


def test_at_a_terminal_columns_stay_where_they_are_when_the_longest_line_is_gone() -> None:
    script = (
        "from tests.fleetctl.test_list_watch import watched\n"
        "items = watched()\n"
        "for shown in ([('a-long-name', 'up'), ('b', 'up')], [('b', 'up')], [('b', 'down')]): items.show(shown)\n"
    )
    terminal = Terminal([sys.executable, "-c", script], {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"})
    written = terminal.read_until(lambda text: "down" in text, PATIENCE_S)
    terminal.process.wait()
    assert [line.rindex(line.split()[1]) for line in written.splitlines()] == [len("a-long-name") + 2] * 5


class Fleetctl:
    """fleetctl as a process of its own, in this directory."""

    def __init__(self, cluster: SmallCluster, folder: Path) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLEETCTL_ENDPOINT": cluster.unix}
        self._command = [sys.executable, "-m", "fleetctl.cli"]

    def run(self, *arguments: str) -> None:
        command = [*self._command, *arguments]
        subprocess.run(command, cwd=self._folder, env=self._environment, check=True, capture_output=True)

    @contextmanager
    def printing(self, *arguments: str) -> Iterator[Callable[[str], None]]:
        """Run it in the background, and give what waits until it has printed this."""
        path = self._folder / "output"
        with path.open("wb") as file:
            process = subprocess.Popen([*self._command, *arguments], env=self._environment, stdout=file)

        def wait_for(text: str) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while text not in path.read_text():
                assert time.monotonic() < deadline, path.read_text()
                time.sleep(0.05)

        try:
            yield wait_for
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def fleetctl(small_cluster: SmallCluster, tmp_path: Path) -> Fleetctl:
    (tmp_path / "hello.service").write_text(HELLO)
    (tmp_path / "other.service").write_text(HELLO)
    return Fleetctl(small_cluster, tmp_path)


def test_list_units_goes_on_with_units_that_change(fleetctl: Fleetctl) -> None:
    fleetctl.run("start", "hello.service")
    with fleetctl.printing("list-units", "-w", "--fields=unit,active,sub", "hello.*") as wait_for:
        wait_for("UNIT\t\tACTIVE\tSUB\nhello.service\tactive\trunning\n")
        fleetctl.run("start", "other.service")
        fleetctl.run("stop", "hello.service")
        wait_for("\nhello.service\tinactive\tdead\n")
        fleetctl.run("destroy", "hello.service")
        wait_for("\nhello.service\t-\t-\n")


def test_list_machines_goes_on_with_machines_that_change(fleetctl: Fleetctl) -> None:
    with fleetctl.printing("list-machines", "-w", "--fields=machine,cordon") as wait_for:
        wait_for("22222222...\t-\n")
        fleetctl.run("cordon", "--why=disk", "22222222")
        wait_for("22222222...\tdisk\n")
