"""Output at a terminal: columns that fit, colours, progress lines, suggestions."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetctl.output import for_terminal
from fleetctl.remote import local_machine_id
from fleetctl.terminal import crop, fit_columns, shorten, width
from fleetd.model.machine import Machine
from fleetd.model.reason import WaitingForRoom
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, STUCK, ScriptedCluster, ScriptedOutcome
from tests.fleetctl.terminal import Terminal, render_screen

AT = "11111111.../10.0.0.1"
SPINNING = ("| ", "/ ", "- ", "\\ ")


@pytest.fixture
def at_terminal(cluster: ScriptedCluster, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts fleetctl at a terminal, against the cluster."""
    opened: list[Terminal] = []

    def start(*arguments: str, variables: dict[str, str] | None = None, **attributes: int) -> Terminal:
        command = [sys.executable, "-m", "fleetctl.cli", "--endpoint", cluster.unix, *arguments]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), **(variables or {})}
        opened.append(Terminal(command, environment, **attributes))
        return opened[-1]

    yield start
    for terminal in opened:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


@pytest.fixture
def filled_cluster(cluster: ScriptedCluster) -> ScriptedCluster:
    cluster.outcomes["broken.service"] = ScriptedOutcome(machine=M2, active="failed", sub="failed")
    cluster.add("a-service-whose-name-is-rather-long@instance-number-1.service", HELLO, target="launched")
    cluster.add("broken.service", HELLO, target="launched")
    return cluster


def test_cat_escapes_control_characters_only_at_a_terminal(
    at_terminal: Callable[..., Terminal], fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    text = "[Unit]\nDescription=a\x1b[2J\x07b\tc\u2060\n"
    cluster.add("web.service", text)
    terminal = at_terminal("cat", "web")
    assert terminal.finish() == 0
    assert terminal.written == "[Unit]\nDescription=a\\x1b[2J\\x07b\tc\\u2060\n"
    assert fleetctl("cat", "web").stdout == text


TOOL = """#!/bin/sh
printf '\\033[32m%s\\033[0m \\033[2J\\007 %s\\tb\\n' "$SYSTEMD_COLORS" "$*"
exit 3
"""


@pytest.mark.parametrize(("variables", "colours"), [({}, "1"), ({"NO_COLOR": "1"}, "0")])
def test_status_keeps_colours_and_escapes_other_sequences(
    at_terminal: Callable[..., Terminal],
    cluster: ScriptedCluster,
    tmp_path: Path,
    variables: dict[str, str],
    colours: str,
) -> None:
    me = Machine(local_machine_id(), address="192.0.2.1")
    cluster.register(me)
    cluster.outcomes["web.service"] = ScriptedOutcome(machine=me)
    cluster.add("web.service", HELLO, target="launched")
    (tmp_path / "systemctl").write_text(TOOL)
    (tmp_path / "systemctl").chmod(0o755)
    terminal = at_terminal("status", "web", variables={"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables})
    assert terminal.finish() == 3
    assert terminal.written == f"\x1b[32m{colours}\x1b[0m \\x1b[2J\\x07 status -l -- web.service\tb\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[8mhidden", "\x1b[8mhidden\x1b[0m"),
        ("\x1b[0m\x1b[30;40m", "\x1b[0m\x1b[30;40m\x1b[0m"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[31mred\x1b[m\tb", "\x1b[31mred\x1b[m\tb"),
        ("a\tb\n", "a\tb\n"),
    ],
)
def test_colours_of_a_line_do_not_reach_into_the_next_one(text: str, shown: str) -> None:
    """A unit could hide what others log."""
    assert for_terminal(text) == shown


def test_a_list_fits_the_terminal_by_shortening_names(
    at_terminal: Callable[..., Terminal], filled_cluster: ScriptedCluster
) -> None:
    terminal = at_terminal("list-units", columns=60)
    assert terminal.finish() == 0
    lines = terminal.screen().splitlines()
    assert all(len(line) <= 60 for line in lines)
    assert [line.split()[-2:] for line in lines] == [["ACTIVE", "SUB"], ["active", "running"], ["failed", "failed"]]
    assert lines[1].startswith("a-servi")
    assert lines[1].split()[0].endswith(".service")
    assert "…" in lines[1]
    assert "\t" not in terminal.written


def test_a_full_list_is_not_shortened(at_terminal: Callable[..., Terminal], filled_cluster: ScriptedCluster) -> None:
    terminal = at_terminal("list-units", "--full", columns=20)
    terminal.finish()
    assert f"{'1' * 32}/10.0.0.1" in terminal.written
    assert "…" not in terminal.written


def test_failed_units_are_red_and_running_ones_green(
    at_terminal: Callable[..., Terminal], filled_cluster: ScriptedCluster
) -> None:
    terminal = at_terminal("list-units", "--no-legend", "--fields=active,unit")
    terminal.finish()
    assert terminal.written.startswith("\x1b[32mactive\x1b[0m  a-service")
    assert "\n\x1b[31mfailed\x1b[0m  broken.service" in terminal.written


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_and_a_dumb_terminal_disable_colours(
    at_terminal: Callable[..., Terminal], filled_cluster: ScriptedCluster, variables: dict[str, str]
) -> None:
    for arguments in (["list-units"], ["nonsense"]):
        terminal = at_terminal(*arguments, variables=variables)
        terminal.finish()
        assert "\x1b" not in terminal.written


def test_errors_are_red_at_a_terminal(at_terminal: Callable[..., Terminal]) -> None:
    terminal = at_terminal("cat", "a", "b")
    assert terminal.finish() == 1
    assert terminal.written == "\x1b[31mOne unit file must be provided\x1b[0m\n"


def test_a_progress_line_is_shown_until_the_unit_runs(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    cluster.add("web.service")
    cluster.add("slow.service")
    cluster.outcomes["slow.service"] = ScriptedOutcome(active="activating", sub="start-pre")
    terminal = at_terminal("start", "web", "slow")
    terminal.read_until(lambda written: "(start-pre) on" in written.partition(f"web.service launched on {AT}")[2])
    shown = terminal.screen().splitlines()
    assert shown[0] == f"Unit web.service launched on {AT}"
    assert shown[1][:2] in SPINNING
    assert shown[1][2:].startswith(f"slow.service is activating (start-pre) on {AT} (")
    del cluster.outcomes["slow.service"]
    cluster.reconsider("slow.service")
    assert terminal.finish() == 0
    assert terminal.screen() == f"Unit web.service launched on {AT}\nUnit slow.service launched on {AT}\n"


def test_a_multi_line_failure_replaces_the_progress_line(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    cluster.add("bad.service")
    cluster.outcomes["bad.service"] = ScriptedOutcome(
        active="failed", sub="failed", error="exit-code; last lines:\nno disk\ngiving up"
    )
    terminal = at_terminal("start", "bad", columns=150)
    assert terminal.finish() == 1
    assert terminal.screen() == (
        f"Error waiting for units: Unit bad.service failed on {AT} (failed): exit-code; last lines:\n"
        "    no disk\n    giving up\n"
    )


def test_progress_goes_to_the_terminal_and_results_to_a_pipe(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster, tmp_path: Path
) -> None:
    cluster.add("slow.service")
    cluster.outcomes["slow.service"] = ScriptedOutcome(machine=None, reason=WaitingForRoom("db.service", M1.id))
    with open(tmp_path / "out", "wb") as out:
        terminal = at_terminal("start", "slow", "--block-attempts=1", stdout=out.fileno())
        terminal.read_until(lambda written: "slow.service waits for db.service to stop on 11111111 (" in written)
        cluster.outcomes["slow.service"] = ScriptedOutcome()
        cluster.reconsider("slow.service")
        assert terminal.finish() == 0
    assert (tmp_path / "out").read_text() == f"Unit slow.service launched on {AT}\n"
    assert terminal.screen() == ""


def test_no_progress_is_written_into_a_pipe(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster, tmp_path: Path
) -> None:
    cluster.add("slow.service")
    cluster.outcomes["slow.service"] = STUCK
    with open(tmp_path / "err", "wb") as err:
        terminal = at_terminal("start", "slow", "--block-attempts=1", stderr=err.fileno())
        assert terminal.finish() == 1
    assert terminal.written == ""
    complaints = (tmp_path / "err").read_text().splitlines()
    assert len(complaints) == 2
    assert all(line.startswith("Error waiting for unit") and "\x1b" not in line for line in complaints)


def test_debug_shows_log_lines_instead_of_progress(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    cluster.add("slow.service")
    cluster.outcomes["slow.service"] = STUCK
    terminal = at_terminal("start", "slow", "--debug")
    terminal.read_until(lambda written: written.count("debug: GET") > 5)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert "\x1b[K" not in terminal.written


def test_destroy_shows_progress_while_units_stop(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    cluster.add("web.service", target="launched")
    cluster.outcomes["web.service"] = STUCK
    terminal = at_terminal("destroy", "web")
    terminal.read_until(lambda written: "web.service is still active (running) on 11111111.../10.0.0.1 (" in written)
    del cluster.outcomes["web.service"]
    assert terminal.finish() == 0
    assert terminal.screen() == "Destroyed web.service\n"


def test_an_interrupt_clears_the_progress_lines(at_terminal: Callable[..., Terminal], cluster: ScriptedCluster) -> None:
    cluster.add("slow.service", target="launched")
    cluster.outcomes["slow.service"] = STUCK
    terminal = at_terminal("stop", "slow")
    terminal.read_until(lambda written: written.count("\x1b[K") > 1)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.screen().strip() == ""


def test_progress_of_many_units_fits_the_terminal(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    names = [f"web@{number}.service" for number in range(9)]
    for name in names:
        cluster.add(name)
        cluster.outcomes[name] = STUCK
    terminal = at_terminal("start", *names, lines=6)
    terminal.read_until(lambda written: "more (" in written)
    shown = terminal.screen().splitlines()
    assert len(shown) == 4
    assert shown[3][2:].startswith("and 6 more (")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130


def test_a_progress_line_that_was_wrapped_is_cleared_entirely(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    cluster.add("slow.service")
    cluster.outcomes["slow.service"] = STUCK
    terminal = at_terminal("start", "slow", "--block-attempts=2")
    terminal.read_until(lambda written: "placed it yet (" in written)
    terminal.resize(30)
    written = terminal.read_until(lambda written: "\x1b[A" in written or written.count("\x1b[K") > 20)
    assert "\r\x1b[K\x1b[A\x1b[K" in written
    last = terminal.read_until(lambda text: len(text) > len(written) + 60).rpartition("\x1b[K")[2]
    assert len(last) < 30
    terminal.process.send_signal(signal.SIGINT)
    terminal.finish()


def test_render_screen_wraps_erases_and_overwrites() -> None:
    assert render_screen("abc\rX\n12345", 4) == "Xbc\n1234\n5"
    assert render_screen("keep\none\ntwo\r\x1b[K\x1b[A\x1b[K!", 80) == "keep\n!\n"


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([10, 10], 22, [10, 10]),
        ([10, 30], 30, [10, 18]),
        ([30, 30], 30, [14, 14]),
        ([8, 8, 40], 10, [8, 8, 8]),
        ([3, 100], 20, [3, 15]),
    ],
)
def test_the_widest_columns_are_shortened_first(wanted: list[int], room: int, given: list[int]) -> None:
    assert fit_columns(wanted, room) == given


@pytest.mark.parametrize("columns", range(1, 12))
@pytest.mark.parametrize("text", ["web@12.service", "日本語の説明です", "e\u0301e\u0301e\u0301e\u0301", ""])
def test_shortened_text_fits_the_width(text: str, columns: int) -> None:
    for cut in (crop(text, columns), shorten(text, columns)):
        assert width(cut) <= columns
        assert cut == text if width(text) <= columns else "…" in cut


# Did you mean


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["cat", "web@1"], 1, "Unit web@1.service not found"),
        (["stop", "webb@12"], 1, "Units not found in registry\nUnit webb@12.service does not exist."),
        (["start", "web"], 1, "Error creating units: unable to find Unit(web.service) in Registry or on filesystem"),
    ],
)
def test_an_unknown_unit_is_refused_with_a_suggestion(
    at_terminal: Callable[..., Terminal],
    cluster: ScriptedCluster,
    tmp_path: Path,
    arguments: list[str],
    status: int,
    complaint: str,
) -> None:
    cluster.add("web@12.service", target="launched")
    cluster.add("db.service")
    terminal = at_terminal(*arguments, columns=120)
    assert terminal.finish() == status
    assert terminal.screen() == f"{complaint}\n\nDid you mean this?\n\tweb@12.service\n"
    with open(tmp_path / "err", "wb") as err:
        at_terminal(*arguments, stderr=err.fileno()).finish()
    assert (tmp_path / "err").read_text() == complaint.partition("\nThere is no")[0] + "\n"


def test_an_unknown_unit_without_a_similar_name_is_only_refused(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    cluster.add("db.service")
    terminal = at_terminal("cat", "unlike")
    terminal.finish()
    assert terminal.screen() == "Unit unlike.service not found\n"


def test_a_drain_shows_what_each_unit_waits_for_and_goes_on_after_an_interruption(
    at_terminal: Callable[..., Terminal], cluster: ScriptedCluster
) -> None:
    cluster.add("web.service", target="launched")
    cluster.place_on(M1, "web.service")
    terminal = at_terminal("drain", "1111", columns=120)
    terminal.read_until(lambda written: "web.service waits for the leader (" in written)
    assert terminal.screen().splitlines()[0] == f"Draining machine {AT}"
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == 130
    assert terminal.screen().splitlines()[1:] == [
        "The drain goes on: the same command follows it again, and `fleetctl uncordon 11111111` ends it"
    ]
