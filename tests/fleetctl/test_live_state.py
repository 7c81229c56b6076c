"""The rows, panes, changes and texts of the live view."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetctl.live.changes import happening_of, machine_changes, unit_changes
from fleetctl.live.detail import Detail, describe, log_lines
from fleetctl.live.pane import Pane, Query, arrange
from fleetctl.live.rows import UNIT_COLUMNS, Level, Row, announced_by, cells_at, machine_rows, render_age, unit_row
from fleetctl.live.state import Lists, LiveState
from fleetd.api import schema

A, B = "a" * 32, "b" * 32
MACHINES = {A: schema.Machine(A, "10.0.0.1", {"disk": "ssd"}), B: schema.Machine(B, "10.0.0.2")}


def report(
    name: str, machine: str = A, active: str = "active", sub: str = "running", **more: object
) -> schema.UnitReport:
    """A launched unit on a machine ('': on none)."""
    allocations = (schema.AllocationReport(machine, "10.0.0.1", "loaded", active, sub),) if machine else ()
    usual = schema.UnitReport(name, "launched", 1, decided=1, machine=machine, since=1000.0, allocations=allocations)
    return replace(usual, **more)


def row(name: str, level: Level = Level.GOOD) -> Row:
    return replace(unit_row(report(name)), level=level)


@pytest.mark.parametrize(
    ("seen", "state", "level"),
    [
        (report("a.service"), "active/running", Level.GOOD),
        (report("a.service", active="activating", sub="start"), "activating/start", Level.CHANGING),
        (report("a.service", active="failed", sub="failed"), "failed/failed", Level.BAD),
        (report("a.service", active="inactive", sub="dead"), "inactive/dead", Level.IDLE),
        (report("a.service", ""), "nowhere", Level.BAD),
        (report("a.service", "", decided=0), "nowhere", Level.CHANGING),
        (report("a.service", "", target="inactive"), "inactive", Level.IDLE),
        (report("a.service", allocations=()), "waiting", Level.CHANGING),
        (report("a.service", "", cause=schema.Cause("completed")), "completed", Level.IDLE),
    ],
)
def test_the_state_of_a_unit(seen: schema.UnitReport, state: str, level: Level) -> None:
    found = unit_row(seen)
    assert (found.cells[1], found.level) == (state, level)


def test_what_a_unit_announces_is_a_cell_by_which_it_is_found() -> None:
    def web(port: int, **more: object) -> schema.Service:
        return replace(schema.Service("web", "web.service", A, "10.0.0.1", port, "tcp"), **more)

    services = [web(81, failing="no"), web(80), web(81, machine=B), web(53, protocol="udp"), web(9, unit="b.service")]
    announced = announced_by(services)
    assert announced == {"web.service": "web:53/udp, web:80, !web:81", "b.service": "web:9"}
    found = unit_row(report("web.service"), announced["web.service"])
    assert found.cells[4] == announced["web.service"]
    assert "web:80" in found.words
    state = LiveState()
    units = {"web.service": report("web.service")}
    state.take(Lists(MACHINES, units, announced), 1.0)
    assert state.units.shown[0].cells[4] == announced["web.service"]
    assert state.take(Lists(MACHINES, units, {}), 2.0)
    assert state.units.shown[0].cells[4] == ""


def test_a_global_unit_counts_the_states_on_its_machines_the_worst_first() -> None:
    allocations = tuple(
        schema.AllocationReport(id_, active=active)
        for id_, active in [(A, "active"), (B, "failed"), ("c" * 32, "active")]
    )
    found = unit_row(report("g.service", "", is_global=True, allocations=allocations))
    assert found.cells[1:3] == ("1 failed, 2 active", "3 machines")
    assert found.level == Level.BAD
    assert B in found.words


def test_a_unit_that_fits_nowhere_says_why() -> None:
    rejections = (schema.RejectionCount("metadata", "metadata disk=ssd missing", 2),)
    note = unit_row(report("a.service", "", reason="no machine fits", rejections=rejections)).cells[5]
    assert note.startswith("no machine fits: metadata disk=ssd missing (2 machines)")


def test_what_others_wrote_cannot_control_the_terminal() -> None:
    broken = schema.AllocationReport(A, "\x1b[2J", "loaded", "failed", "x\x07", error="\x1b]0;bad\nmore")
    text = "".join(unit_row(report("a.service", allocations=(broken,))).cells)
    lines = describe(report("a.service", reason="\x1b[1m", allocations=(broken,)), Detail(), 2000.0)
    entry = {"machine": "\x1b", "MESSAGE": "\x1b[2J\rz", "__REALTIME_TIMESTAMP": "x"}
    assert (text + "".join(line.text for line in [*lines, *log_lines(entry)])).isprintable()


def test_a_machine_counts_its_units_and_says_what_is_unusual() -> None:
    drained = schema.Machine("c" * 32, "", drain=schema.Drain(), reboot_required="kernel")
    units = [report("a.service"), report("b.service", active="failed"), report("c.service", B)]
    first, second, third = machine_rows([*MACHINES.values(), drained], units)
    assert first.cells == (A[:8], "10.0.0.1", "ready", "2", "1", "1", "disk=ssd")
    assert (first.level, second.level, third.level) == (Level.BAD, Level.GOOD, Level.CHANGING)
    assert third.cells[1:3] == ("-", "drained, wants a reboot")


@pytest.mark.parametrize(
    ("passed_s", "text"),
    [
        (-3, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (61, "1m1s"),
        (3600, "1h"),
        (3605, "1h"),
        (90061, "1d1h"),
        (86400 * 3, "3d"),
    ],
)
def test_an_age_has_its_two_greatest_units(passed_s: float, text: str) -> None:
    assert render_age(passed_s) == text


def test_the_age_is_that_of_the_moment_when_it_is_drawn() -> None:
    assert cells_at(row("a.service"), UNIT_COLUMNS, 1062.0)[3] == "1m2s"
    assert cells_at(replace(row("a.service"), since=0.0), UNIT_COLUMNS, 1062.0)[3] == "-"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ["db.service", "web@1.service", "web@2.service"]),
        ("web", ["web@1.service", "web@2.service"]),
        ("WEB 10.0.0.1 2", ["web@2.service"]),
        ("!web", ["db.service"]),
        ("web@*", ["web@1.service", "web@2.service"]),
        ("!*@1.service running", ["db.service", "web@2.service"]),
        ("!", ["db.service", "web@1.service", "web@2.service"]),
        ("[", []),
        ("aaaaaaaaaaaa", []),
    ],
)
def test_a_filter_takes_rows_that_match_each_word(text: str, shown: list[str]) -> None:
    rows = [unit_row(report(name, "f" * 32)) for name in ("web@2.service", "db.service", "web@1.service")]
    assert [each.key for each in arrange(rows, Query(text))] == shown


def test_rows_that_want_to_be_looked_at_come_first_then_by_name() -> None:
    rows = [row("b.service"), row("c.service", Level.BAD), row("a.service"), row("d.service", Level.IDLE)]
    assert [each.key[0] for each in arrange(rows, Query(sort=-1))] == ["c", "a", "b", "d"]
    assert [each.key[0] for each in arrange(rows, Query(sort=-1, is_reversed=True))] == ["d", "a", "b", "c"]
    assert [each.key[0] for each in arrange(rows, Query(sort=0, is_reversed=True))] == ["d", "c", "b", "a"]


def test_the_units_of_a_template_are_one_row_until_it_is_opened() -> None:
    pane = Pane(UNIT_COLUMNS, Query(is_grouped=True))
    pane.take([row("web@2.service", Level.BAD), row("db.service"), row("web@1.service")])
    assert [each.cells[0] for each in pane.shown] == ["db.service", "+ web@.service"]
    assert pane.shown[1].cells[5] == "2 units"
    assert pane.shown[1].level == Level.BAD
    pane.toggle("web@.service")
    assert [each.cells[0] for each in pane.shown[1:]] == ["- web@.service", "web@1.service", "web@2.service"]
    pane.toggle("web@.service")
    assert len(pane.shown) == 2


def test_sorting_goes_through_all_columns_and_back_to_trouble_first() -> None:
    pane = Pane(UNIT_COLUMNS, Query(sort=-1, is_reversed=True))
    found = []
    for _ in range(7):
        pane.sort_next()
        found.append(pane.query.sort)
    assert found == [0, 1, 2, 3, 4, 5, -1]
    assert not pane.query.is_reversed


NAMES = st.sets(st.sampled_from([f"{stem}{number}.service" for stem in ("a", "web@", "db@") for number in range(3)]))
QUERIES = st.builds(
    Query,
    st.sampled_from(["", "a", "web", "!web"]),
    st.integers(-1, 4),
    st.booleans(),
    st.booleans(),
    st.frozensets(st.sampled_from(["web@.service", "db@.service"])),
)


@given(st.lists(st.tuples(NAMES, QUERIES, st.integers(-9, 9)), max_size=5))
def test_the_cursor_stays_on_its_row_while_that_is_shown(steps: list[tuple[set[str], Query, int]]) -> None:
    pane = Pane(UNIT_COLUMNS)

    def check(change: Callable[[], None]) -> None:
        before = pane.current
        change()
        keys = [each.key for each in pane.shown]
        assert 0 <= pane.cursor <= max(0, len(keys) - 1)
        if before is not None and before.key in keys:
            assert pane.current is not None
            assert pane.current.key == before.key

    for names, query, by in steps:
        rows = [row(name) for name in sorted(names)]
        check(lambda rows=rows: pane.take(rows))  # type: ignore[misc]
        check(lambda query=query: pane.ask(query))  # type: ignore[misc]
        pane.move(by)


def test_changes_between_two_reads_are_told_in_sentences() -> None:
    before = {
        "gone.service": report("gone.service"),
        "move.service": report("move.service"),
        "off.service": report("off.service"),
        "same.service": report("same.service"),
        "stop.service": report("stop.service"),
    }
    failed = schema.AllocationReport(B, active="failed", sub="failed", error="exit 1\nmore")
    after = {
        "move.service": report("move.service", B, allocations=(failed,)),
        "new.service": report("new.service", ""),
        "off.service": report("off.service", "", allocations=()),
        "same.service": before["same.service"],
        "stop.service": report("stop.service", active="", sub="", target="inactive", by="ann"),
    }
    found = [each.text for each in unit_changes(before, after, MACHINES, 5.0)]
    assert found == [
        "gone.service was destroyed",
        "move.service moves from aaaaaaaa/10.0.0.1 to bbbbbbbb/10.0.0.2",
        "move.service is failed (failed) on bbbbbbbb/10.0.0.2: exit 1",
        "new.service was submitted (target launched)",
        "off.service was taken off aaaaaaaa/10.0.0.1",
        "stop.service: target inactive instead of launched by ann",
        "stop.service is not reported any more on aaaaaaaa/10.0.0.1",
    ]


def test_machines_that_come_go_and_change_are_told() -> None:
    before = {A: MACHINES[A], B: MACHINES[B], "d" * 32: schema.Machine("d" * 32, cordon=schema.Cordon())}
    after = {
        A: replace(MACHINES[A], cordon=schema.Cordon()),
        "c" * 32: schema.Machine("c" * 32, mode="parked"),
        "d" * 32: schema.Machine("d" * 32),
    }
    assert [each.text for each in machine_changes(before, after, 5.0)] == [
        "machine aaaaaaaa/10.0.0.1 is cordoned",
        "machine bbbbbbbb/10.0.0.2 is gone",
        "machine cccccccc has joined",
        "machine dddddddd takes units",
    ]


@pytest.mark.parametrize(
    ("event", "text", "level"),
    [
        (schema.Event("placed", unit="a.service", machine=A), "a.service placed on aaaaaaaa", Level.CHANGING),
        (schema.Event("unplaced", unit="a.service", former=A), "a.service taken off aaaaaaaa", Level.CHANGING),
        (schema.Event("unplaced", unit="a.service"), "a.service fits nowhere", Level.BAD),
        (schema.Event("lost", machine=A), "machine aaaaaaaa is lost", Level.BAD),
        (
            schema.Event("state", unit="a.service", machine=A, load="loaded", active="failed", sub="failed"),
            "a.service failed (failed) on aaaaaaaa",
            Level.BAD,
        ),
    ],
)
def test_an_event_of_fleetd_is_a_sentence(event: schema.Event, text: str, level: Level) -> None:
    found = happening_of(event, 7.0)
    assert (found.text, found.unit, found.level, found.at) == (text, event.unit, level, 7.0)


def test_the_first_lists_are_no_news_and_equal_ones_change_nothing() -> None:
    state = LiveState()
    lists = Lists(MACHINES, {"a.service": report("a.service"), "web@.service": report("web@.service", "")})
    assert state.take(lists, 1.0)
    assert not state.take(lists, 2.0)
    assert [each.key for each in state.units.shown] == ["a.service"]  # a template runs nowhere
    assert state.events.shown == []
    assert state.summary == "2 machines, 1 unit (1 active)"
    assert state.take(Lists(MACHINES, {"a.service": report("a.service", active="failed")}), 3.0)
    assert [each.cells[1] for each in state.events.shown] == ["a.service is failed (running) on aaaaaaaa/10.0.0.1"]
    assert state.events.shown[0].unit == "a.service"
    assert state.summary == "2 machines, 1 unit (1 in trouble)"


def test_the_newest_event_comes_first() -> None:
    state = LiveState()
    state.take(Lists({}, {}), 1.0)
    for number in range(12):
        state.take(Lists({}, {f"a{number}.service": report(f"a{number}.service")}), 2.0 + number)
    assert state.events.shown[0].cells[1].startswith("a11.service was submitted")
    assert state.events.shown[-1].cells[1].startswith("a0.service was ")


def test_an_explanation_tells_the_rules_and_why_not_elsewhere() -> None:
    others = tuple(schema.Verdict(f"{number:032x}", message="conflicts with web@1.service") for number in range(25))
    rules = (schema.Narrowing("has", 4, "disk=ssd"), schema.Narrowing("units", 1, "fewest units"))
    found = schema.Explanation("a.service", 5, reason="runs here", machines=26, why_here=rules, why_not=others)
    lines = [line.text for line in describe(report("a.service"), Detail(found, log=()), 1010.0)]
    assert "  decided     10s ago" in lines
    assert "  1 disk=ssd: 4 of 26 machines" in lines
    assert "  2 fewest units: 1 of these" in lines
    assert f"  {0:08x}  conflicts with web@1.service" in lines
    assert "  and 5 more machines: fleetctl explain --full a.service" in lines
    assert lines[-2:] == ["log", "  it has logged nothing"]


def test_the_detail_of_a_unit_that_is_gone_or_not_read_yet_says_so() -> None:
    assert describe(None, None, 0.0)[0].text == "the cluster has this unit no more"
    assert describe(report("a.service"), None, 0.0)[-1].text.startswith("asking fleetd")


def test_log_entries_are_lines_and_machines_that_do_not_answer_are_named() -> None:
    entry = {"machine": A, "MESSAGE": [104, 105, 255], "PRIORITY": "3", "__REALTIME_TIMESTAMP": "1000000"}
    [line] = log_lines(entry)
    assert line.text.endswith("  aaaaaaaa  hi\ufffd")
    assert line.level == Level.BAD
    first, second = log_lines({"machine": A, "MESSAGE": "one\ntwo"})
    assert first.text == "  -  aaaaaaaa  one"
    assert second.text.index("two") == first.text.index("one")
    assert [line.text for line in log_lines({"machine": A, "failure": "no answer within 5 s"})] == [
        "  aaaaaaaa  does not answer: no answer within 5 s"
    ]
    assert [line.text for line in log_lines({"machine": A, "cut": True})] == [
        "  aaaaaaaa  has more than it answers at once"
    ]
    assert list(log_lines({"machine": A})) == []
