"""fleetctl top: its screens by Textual's Pilot, and at a terminal."""

import asyncio
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from fleetctl.client import Client
from fleetctl.commands.top import HOW_TO_INSTALL, LOWEST_TEXTUAL
from fleetctl.endpoint import parse_endpoint
from fleetctl.live.app import REDRAW_S, ListScreen, Top, UnitScreen
from fleetctl.live.detail import Detail
from fleetctl.live.feed import DetailReader, Feed, read_lists
from fleetctl.live.row_list import RowList, TextList
from fleetctl.live.rows import Row
from fleetctl.live.state import Lists, LiveState
from fleetd.api import schema
from fleetd.api.http import Response, render_json
from fleetd.model.unit_option import UnitOption
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, NO_SSD, ScriptedCluster, ScriptedOutcome, always
from tests.fleetctl.small_cluster import SmallCluster
from tests.fleetctl.terminal import Terminal

BOUND_S = 60.0
PAUSE_S = 0.05
Pilots = Pilot[None]


def connect(cluster: ScriptedCluster) -> Client:
    return Client(parse_endpoint(cluster.unix), 30.0)


class Watched:
    """The live view of a cluster, in a terminal that is not real."""

    def __init__(self, pilot: Pilots, screen: ListScreen) -> None:
        self.pilot = pilot
        self.lists = screen

    @property
    def shown(self) -> list[str]:
        """The lines of the list that is shown, with its head."""
        rows = self.lists.query_one(f"#{self.lists.shown}", RowList)
        lines = (rows.render_line(y).text.rstrip() for y in range(rows.size.height))
        return [line for line in lines if line]

    @property
    def names(self) -> list[str]:
        """The first cells of the rows that are shown."""
        return [line.split()[0] for line in self.shown[1:]]

    @property
    def status(self) -> str:
        return " ".join(str(self.lists.query_one(f"#{id_}", Static).render()) for id_ in ("summary", "status"))

    @property
    def detail(self) -> str:
        """The text about the unit whose screen is open, '' if none is."""
        screen = self.pilot.app.screen
        return screen.query_one(TextList).text if isinstance(screen, UnitScreen) else ""

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + BOUND_S
        while not holds():
            assert time.monotonic() < deadline, (self.status, self.shown, self.detail)
            await self.pilot.pause(0.05)


@asynccontextmanager
async def watching(
    feed: Feed, read: Callable[[str], Detail], size: tuple[int, int] = (120, 24)
) -> AsyncIterator[Watched]:
    screen = ListScreen("unix:///fleet.sock", LiveState(), feed, read)
    async with Top(screen).run_test(size=size) as pilot:
        await pilot.pause()
        yield Watched(pilot, screen)


@asynccontextmanager
async def watching_cluster(cluster: ScriptedCluster) -> AsyncIterator[Watched]:
    client = connect(cluster)
    feed = Feed(client, await asyncio.to_thread(read_lists, client), PAUSE_S)
    feed.start()
    try:
        async with watching(feed, DetailReader(lambda: connect(cluster)).read) as watched:
            yield watched
    finally:
        feed.stop()


@pytest.fixture
def filled(cluster: ScriptedCluster) -> ScriptedCluster:
    """Two instances of a template, a unit that has failed, and one that fits nowhere."""
    cluster.outcomes["broken.service"] = ScriptedOutcome(machine=M2, active="failed", sub="failed")
    cluster.outcomes["nowhere.service"] = NO_SSD
    for name in ("web@1.service", "web@2.service", "broken.service", "nowhere.service"):
        cluster.add(name, target="launched")
    return cluster


async def test_units_in_trouble_come_first_and_the_cluster_is_summed_up(filled: ScriptedCluster) -> None:
    async with watching_cluster(filled) as watched:
        assert watched.shown[0].split() == ["UNIT", "STATE", "MACHINE", "AGE", "ANNOUNCES", "NOTE"]
        assert watched.names == ["broken.service", "nowhere.service", "web@1.service", "web@2.service"]
        assert "failed/failed" in watched.shown[1]
        assert "metadata disk=ssd missing" in watched.shown[2]
        assert "2 machines, 4 units (2 in trouble, 2 active)" in watched.status


async def test_what_units_announce_is_shown_as_it_changes(filled: ScriptedCluster) -> None:
    found = (schema.Service("web", "web@1.service", M1.id, "10.0.0.1", 8080, "tcp"),)
    index = 7

    def answer(method: str, path: str) -> Response | None:
        return render_json(schema.Services(found, index)) if path.startswith("/fleet/v2/services") else None

    filled.intercept = answer
    client = connect(filled)
    feed = Feed(client, await asyncio.to_thread(read_lists, client), 3600.0, lambda: connect(filled))
    feed.start()
    try:
        async with watching(feed, DetailReader(lambda: connect(filled)).read) as watched:
            await watched.wait_until(lambda: any("web:8080" in line for line in watched.shown))
            found, index = (), 8
            await watched.wait_until(lambda: not any("web:8080" in line for line in watched.shown))
    finally:
        feed.stop()


async def test_where_no_events_are_told_changes_are_found_by_comparing(filled: ScriptedCluster) -> None:
    filled.intercept = lambda _, path: refusal(404, "") if path == f"{schema.V2}/events" else None
    async with watching_cluster(filled) as watched:
        filled.add("new.service", target="launched")
        await watched.wait_until(lambda: "new.service" in watched.names)
        filled.register(M1)
        await watched.press("3")
        await watched.wait_until(lambda: any("machine 22222222 is gone" in line for line in watched.shown))
        assert any("new.service was submitted" in line for line in watched.shown)
        assert not watched.lists.feed.tells
        await watched.press("1")
        assert watched.names == ["11111111"]
        assert "disk=ssd,region=eu" in watched.shown[1]


async def test_filter_sort_and_groups(filled: ScriptedCluster) -> None:
    async with watching_cluster(filled) as watched:
        await watched.press("slash", *"web", "enter")
        assert watched.names == ["web@1.service", "web@2.service"]
        assert "2 of 4" in watched.status
        assert "filter: web" in watched.status
        await watched.press("escape", "s")
        assert watched.names == ["broken.service", "nowhere.service", "web@1.service", "web@2.service"]
        assert "by unit" in watched.status
        await watched.press("S")
        assert watched.names[0] == "web@2.service"
        await watched.press("g")
        assert [line[:14] for line in watched.shown[1:]] == ["+ web@.service", "nowhere.servic", "broken.service"]
        await watched.press("home", "enter")
        assert watched.names == ["-", "web@2.service", "web@1.service", "nowhere.service", "broken.service"]
        await watched.press("slash", *"zzz", "enter")
        assert watched.shown[1:] == ["nothing matches the filter"]


async def test_a_machine_leads_to_its_units(filled: ScriptedCluster) -> None:
    async with watching_cluster(filled) as watched:
        await watched.press("1", "end", "enter")
        assert watched.names == ["broken.service"]


async def test_tab_goes_through_the_lists(filled: ScriptedCluster) -> None:
    async with watching_cluster(filled) as watched:
        found = [watched.lists.shown]
        for _ in range(3):
            await watched.press("tab")
            found.append(watched.lists.shown)
        assert found == ["units", "events", "machines", "units"]
        await watched.press("3")
        await watched.wait_until(lambda: watched.lists.feed.tells)
        await watched.wait_until(lambda: watched.shown[1:] == ["nothing has happened in the last hour"])


async def test_events_are_told_and_have_the_lists_read(small_cluster: SmallCluster) -> None:
    client = Client(parse_endpoint(small_cluster.unix), 30.0)
    feed = Feed(client, await asyncio.to_thread(read_lists, client), 3600.0)  # the lists are read for events alone
    feed.start()
    try:
        async with watching(feed, lambda unit: Detail()) as watched:
            await watched.wait_until(lambda: feed.tells)
            other = Client(parse_endpoint(small_cluster.unix), 30.0)
            option = UnitOption("Service", "ExecStart", "/bin/sleep inf")
            await asyncio.to_thread(other.put_unit, schema.UnitOperation("a.service", (option,), "launched"))
            await watched.wait_until(lambda: any("active/running" in line for line in watched.shown))
            assert watched.names == ["a.service"]
            await watched.press("3")
            await watched.wait_until(lambda: any("a.service active (running) on " in line for line in watched.shown))
            assert any("a.service placed on " in line for line in watched.shown)
            await watched.press("home", "enter")
            await watched.wait_until(lambda: watched.detail.startswith("a.service  active/running"))
    finally:
        feed.stop()


def answers(explanation: Response, journal: Response) -> Callable[[str, str], Response | None]:
    """An `intercept` with these answers to what is asked about a unit."""

    def intercept(_: str, path: str) -> Response | None:
        if path.startswith(f"{schema.V2}/explain/"):
            return explanation
        return journal if path == f"{schema.V2}/journal" else None

    return intercept


def refusal(code: int, message: str) -> Response:
    body = msgspec.json.encode(schema.ErrorEntity(schema.ErrorDetail(code, message)))
    return Response(code, (("Content-Type", schema.JSON_TYPE),), body)


async def test_enter_shows_why_a_unit_is_there_and_its_log(filled: ScriptedCluster) -> None:
    explanation: dict[str, Any] = {
        "unit": "broken.service",
        "revision": 5,
        "machines": 2,
        "reason": "runs on its best machine",
        "whyHere": [{"rule": "has", "left": 1, "message": "disk=ssd"}],
        "whyNot": [{"machine": M1.id, "address": "10.0.0.1", "message": "metadata disk=ssd missing"}],
    }
    entry = {"machine": M2.id, "MESSAGE": "out of beans", "__REALTIME_TIMESTAMP": "1000000000"}
    body = msgspec.json.encode(entry) + b"\n" + msgspec.json.encode({"machine": M1.id, "failure": "no answer"})
    ok = (("Content-Type", schema.JSON_TYPE),)
    filled.intercept = answers(Response(200, ok, msgspec.json.encode(explanation)), Response(200, ok, body))
    async with watching_cluster(filled) as watched:
        await watched.press("enter")
        await watched.wait_until(lambda: "out of beans" in watched.detail)
        lines = watched.detail.splitlines()
        assert lines[0] == "broken.service  failed/failed"
        assert "  1 disk=ssd: 1 of 2 machines" in lines
        assert "  11111111/10.0.0.1  metadata disk=ssd missing" in lines
        assert "  11111111  does not answer: no answer" in lines
        await watched.press("escape")
        assert watched.detail == ""
        assert watched.names[0] == "broken.service"


async def test_an_older_fleetd_explains_less_and_shows_no_log(filled: ScriptedCluster) -> None:
    absent = refusal(404, "")
    filled.intercept = answers(absent, absent)
    async with watching_cluster(filled) as watched:
        await watched.press("down", "enter")
        await watched.wait_until(lambda: "this fleetd, an older one, shows no logs" in watched.detail)
        assert "this fleetd, an older one, explains no more than that" in watched.detail
        assert "metadata disk=ssd missing (2 machines)" in watched.detail
        assert "fleetctl journal nowhere.service" in watched.detail


async def test_what_fleetd_refuses_is_said_where_it_would_stand(filled: ScriptedCluster) -> None:
    filled.intercept = answers(refusal(404, "there is no unit broken.service"), refusal(403, "you may not see logs"))
    async with watching_cluster(filled) as watched:
        await watched.press("enter")
        await watched.wait_until(lambda: "Error 403: you may not see logs" in watched.detail)
        assert "Error 404: there is no unit broken.service" in watched.detail


async def test_an_answer_that_is_none_of_fleetds_is_said(filled: ScriptedCluster) -> None:
    nonsense = Response(200, (("Content-Type", schema.JSON_TYPE),), b"nonsense")
    filled.intercept = answers(nonsense, nonsense)
    async with watching_cluster(filled) as watched:
        await watched.press("enter")
        await watched.wait_until(lambda: "about the log is unreadable" in watched.detail)
        assert "explanation is unreadable" in watched.detail


async def test_the_lists_stay_while_fleetd_does_not_answer(filled: ScriptedCluster) -> None:
    async with watching_cluster(filled) as watched:
        filled.intercept = always(503, msgspec.json.encode(schema.ErrorEntity(schema.ErrorDetail(503, "no store"))))
        await watched.wait_until(lambda: "Error 503: no store" in watched.status)
        assert len(watched.names) == 4
        filled.intercept = None
        filled.add("new.service", target="launched")
        await watched.wait_until(lambda: "new.service" in watched.names)
        assert "503" not in watched.status


def large(count: int, active: str = "active") -> Lists:
    """As many units, of a hundred templates, on one machine."""
    allocations = (schema.AllocationReport(M1.id, "10.0.0.1", "loaded", active, "running"),)
    names = [f"t{number % 100}@{number:05}.service" for number in range(count)]
    units = {name: schema.UnitReport(name, "launched", 1, machine=M1.id, allocations=allocations) for name in names}
    return Lists({M1.id: schema.Machine(M1.id, "10.0.0.1")}, units)


class Recording(list[Row]):
    """Remembers which rows were looked at."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__(rows)
        self.asked: set[int] = set()

    def __getitem__(self, number: Any) -> Any:
        self.asked.add(number)
        return super().__getitem__(number)


async def test_of_twenty_thousand_units_the_visible_ones_are_drawn(filled: ScriptedCluster) -> None:
    feed = Feed(connect(filled), large(20_000))  # never started
    async with watching(feed, lambda unit: Detail()) as watched:
        pane = watched.lists.pane
        assert len(pane.shown) == 20_000
        pane.shown = rows = Recording(pane.shown)
        await watched.press("pagedown", "down")
        assert len(watched.names) < 24
        assert max(rows.asked) < 2 * 24
        await watched.press("end")
        assert watched.names[-1] == sorted(large(20_000).units)[-1]
        assert len(rows.asked) < 4 * 24


class Restless(Feed):
    """Has other lists whenever it is asked."""

    def take(self) -> Lists:
        self.number = getattr(self, "number", 0) + 1
        return large(50, "active" if self.number % 2 else "failed")


async def test_what_happens_is_drawn_at_most_four_times_a_second(filled: ScriptedCluster) -> None:
    feed = Restless(connect(filled), large(0))
    async with watching(feed, lambda unit: Detail()) as watched:
        began_s, before = time.monotonic(), watched.lists.redraws
        await watched.wait_until(lambda: watched.lists.redraws >= before + 8)
        assert time.monotonic() - began_s >= 6 * REDRAW_S


@pytest.fixture
def at_terminal(filled: ScriptedCluster) -> Iterator[Callable[..., Terminal]]:
    """Starts fleetctl with these modules missing, at a terminal."""
    opened: list[Terminal] = []

    def start(*arguments: str, missing: tuple[str, ...] = ()) -> Terminal:
        program = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); from fleetctl.cli import main; main()"
        command = [sys.executable, "-c", program, "--endpoint", filled.unix, *arguments]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm-256color"}
        opened.append(Terminal(command, environment, 100))
        return opened[-1]

    yield start
    for terminal in opened:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


def test_at_a_terminal_it_draws_answers_keys_and_leaves_the_screen_as_it_was(
    at_terminal: Callable[..., Terminal], filled: ScriptedCluster
) -> None:
    terminal = at_terminal("top")
    terminal.read_until(lambda written: "web@2.service" in written, BOUND_S)
    filled.add("new.service", target="launched")
    terminal.read_until(lambda written: "new.service" in written, BOUND_S)
    terminal.type("1")
    terminal.read_until(lambda written: "METADATA" in written, BOUND_S)
    terminal.type("q")
    assert terminal.finish() == 0
    assert "\x1b[?1049h" in terminal.written  # another screen, and back
    assert terminal.written.rindex("\x1b[?1049l") > terminal.written.rindex("METADATA")
    assert "Traceback" not in terminal.written


def test_a_log_may_take_longer_than_other_answers(
    at_terminal: Callable[..., Terminal], filled: ScriptedCluster
) -> None:
    body = msgspec.json.encode({"machine": M2.id, "MESSAGE": "out of beans"})
    answer = answers(refusal(404, ""), Response(200, (("Content-Type", schema.JSON_TYPE),), body))

    def slowly(method: str, path: str) -> Response | None:
        if path == f"{schema.V2}/journal":
            time.sleep(4.0)  # the usual limit is 3 s
        return answer(method, path)

    filled.intercept = slowly
    terminal = at_terminal("top")
    terminal.read_until(lambda written: "broken.service" in written, BOUND_S)
    terminal.type("\r")
    terminal.read_until(lambda written: "out of beans" in written, BOUND_S)
    terminal.type("\x11")  # Ctrl-Q
    assert terminal.finish() == 0


@pytest.mark.parametrize("missing", ["textual", "rich"])
def test_without_textual_it_says_how_to_install_it(at_terminal: Callable[..., Terminal], missing: str) -> None:
    terminal = at_terminal("top", missing=(missing,))
    assert terminal.finish() == 1
    assert HOW_TO_INSTALL in terminal.written


def test_the_version_that_is_named_is_the_lowest_that_works() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["top"] == [f"textual>={LOWEST_TEXTUAL}"]


def test_a_fleetd_that_cannot_be_reached_is_an_error_before_the_screen(at_terminal: Callable[..., Terminal]) -> None:
    terminal = at_terminal("--endpoint", "unix:///nowhere.sock", "top")
    assert terminal.finish() == 1
    assert "cannot reach fleetd at unix:///nowhere.sock: no such socket" in terminal.written
    assert "\x1b[?1049h" not in terminal.written


def test_without_a_terminal_it_names_what_writes_into_pipes(fleetctl: Fleetctl) -> None:
    done = fleetctl("top")
    assert done.status == 1
    assert done.stderr.startswith("top needs a terminal; fleetctl list-units")


def test_no_other_command_imports_textual(filled: ScriptedCluster) -> None:
    program = (
        "import sys; from fleetctl.cli import run; "
        "assert run(sys.argv[1:]) == 0; assert not {'textual', 'rich'} & sys.modules.keys()"
    )
    for words in (["list-units"], ["list-machines"], ["cat", "web@1"], ["top", "--help"], ["help"]):
        subprocess.run(
            [sys.executable, "-c", program, "--endpoint", filled.unix, *words], check=True, capture_output=True
        )
