"""Names and patterns as arguments: what they select in each command, and the errors for those without a match."""

from pathlib import Path

import pytest

from fleetctl.selection import match_names
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, NO_SSD, ScriptedCluster, ScriptedOutcome

NAMES = ["api@1.service", "api@2.service", "api@.service", "db.service"]


@pytest.fixture
def filled_cluster(cluster: ScriptedCluster) -> ScriptedCluster:
    for name in NAMES:
        cluster.add(name, target="inactive" if "@." in name else "launched")
    return cluster


@pytest.mark.parametrize(
    ("pattern", "matching"),
    [
        ("api@*", NAMES[:3]),
        ("api@?.service", NAMES[:2]),
        ("api@[!1].service", ["api@2.service"]),
        ("api@[^1].service", ["api@2.service"]),
        ("*", NAMES),
        ("*.serv", []),
        ("db", ["db.service"]),
        ("some/where/db.service", ["db.service"]),
        ("some/where/d*", []),
    ],
)
def test_patterns_match_as_in_systemctl(pattern: str, matching: list[str]) -> None:
    assert list(filter(match_names(pattern), NAMES)) == matching


def test_a_backslash_in_a_pattern_is_literal() -> None:
    assert match_names(r"dev-disk\x2d*")(r"dev-disk\x2d1.service")
    assert not match_names(r"dev-disk\x2d*")("dev-disk-1.service")


@pytest.mark.covers("3.5.2")
@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("stop", ["loaded", "loaded", "inactive", "launched"]),
        ("unload", ["inactive", "inactive", "inactive", "launched"]),
        ("load", ["loaded", "loaded", "inactive", "launched"]),
        ("restart", ["launched", "launched", "inactive", "launched"]),
    ],
)
def test_every_command_matches_patterns_with_the_clusters_units(
    fleetctl: Fleetctl, filled_cluster: ScriptedCluster, command: str, left: list[str]
) -> None:
    result = fleetctl(command, "api@*")
    assert result.status == 0
    assert [line.split()[1] for line in result.stdout.splitlines()][:2] == NAMES[:2] or command == "restart"
    assert filled_cluster.targets == dict(zip(NAMES, left, strict=True))
    restarted = {name for name, unit in filled_cluster.units.items() if unit.restart_of}
    assert {name for name, _ in filled_cluster.targets_asked} | restarted == set(NAMES[:2])


def test_start_with_a_pattern_skips_templates(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    for name in NAMES:
        cluster.add(name)
    result = fleetctl("start", "api@*", "db")
    assert (result.status, result.stderr) == (0, "")
    assert cluster.targets == dict(zip(NAMES, ["launched", "launched", "inactive", "launched"], strict=True))


def test_destroy_with_a_pattern_includes_templates(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    result = fleetctl("destroy", "api@*")
    assert (result.status, result.stderr) == (0, "")
    assert sorted(result.stdout.splitlines()) == sorted(f"Destroyed {name}" for name in NAMES[:3])
    assert list(filled_cluster.units) == ["db.service"]


def test_cat_prints_each_matching_unit_below_its_name(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    text = "[Service]\nExecStart=/bin/true\n"
    assert fleetctl("cat", "api@?.service").stdout == f"# {NAMES[0]}\n{text}\n# {NAMES[1]}\n{text}"
    assert fleetctl("cat", "d*").stdout == text


@pytest.mark.parametrize(
    "command", ["start", "load", "stop", "unload", "destroy", "restart", "status", "journal", "cat"]
)
def test_a_pattern_without_a_match_is_an_error(
    fleetctl: Fleetctl, filled_cluster: ScriptedCluster, command: str
) -> None:
    result = fleetctl(command, "web@*")
    assert (result.status, result.stdout) == (1, "")
    assert "matches web@*" in result.stderr.splitlines()[-1]
    assert filled_cluster.operations == []


def test_stop_and_restart_with_a_pattern_skip_inactive_units(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("api@1.service", target="launched")
    cluster.add("api@2.service")
    result = fleetctl("stop", "api@*")
    assert (result.status, result.stderr) == (0, "Successfully stopped units [api@1.service].\n")
    result = fleetctl("restart", "api@2*")
    assert (result.status, result.stderr) == (1, "No unit to restart matches api@2*\n")


@pytest.mark.covers("3.5.3", "3.8.22")
@pytest.mark.parametrize(
    ("command", "done"),
    [
        ("stop", "Unit db.service loaded on"),
        ("unload", "Unit db.service inactive"),
        ("destroy", "Destroyed db.service"),
    ],
)
def test_a_missing_unit_is_an_error_and_the_others_are_processed(
    fleetctl: Fleetctl, filled_cluster: ScriptedCluster, command: str, done: str
) -> None:
    result = fleetctl(command, "gone", "db", "also\udcff")
    # As in CoreOS fleet, a destroyed unit is no error of destroy: scripts rely on that.
    assert result.status == (0 if command == "destroy" else 1)
    assert result.stdout.startswith(done)
    lines = result.stderr.splitlines()
    assert lines[:2] == ["Unit gone.service does not exist.", r"Unit also\udcff.service does not exist."]


@pytest.mark.parametrize("command", ["stop", "unload", "destroy"])
def test_a_command_that_finds_no_unit_exits_with_1(fleetctl: Fleetctl, cluster: ScriptedCluster, command: str) -> None:
    result = fleetctl(command, "gone")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == "Units not found in registry\nUnit gone.service does not exist.\n"


@pytest.mark.covers("3.5.3", "3.8.22", "3.8.29", "10.2.17")
@pytest.mark.parametrize("command", ["stop", "unload", "destroy", "restart"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_ignore_missing_exits_with_0(
    fleetctl: Fleetctl,
    filled_cluster: ScriptedCluster,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    by_variable: bool,
) -> None:
    if by_variable:
        monkeypatch.setenv("FLEETCTL_IGNORE_MISSING", "true")
    flags = [] if by_variable else ["--ignore-missing"]
    alone = fleetctl(command, *flags, "gone", "web@*")
    assert (alone.status, alone.stdout) == (0, "")
    assert alone.stderr == ("" if command == "restart" else "Units not found in registry\n")
    assert fleetctl(command, *flags, "gone", "db").status == 0
    assert {name for name, _ in filled_cluster.targets_asked} <= {"db.service"}


@pytest.mark.covers("3.9.1")
def test_lists_show_only_the_named_units_and_machines(fleetctl: Fleetctl, filled_cluster: ScriptedCluster) -> None:
    filled_cluster.outcomes["db.service"] = ScriptedOutcome(machine=M2)
    listed = ("--no-legend", "--fields=unit")
    assert fleetctl("list-units", *listed, "api@*").stdout.split() == NAMES[:2]
    assert fleetctl("list-units", *listed, "db", "api@1").stdout.split() == ["api@1.service", "db.service"]
    assert fleetctl("list-unit-files", *listed, "api@*").stdout.split() == sorted(NAMES[:3])
    assert fleetctl("list-unit-files", *listed, "none").stdout == ""
    ids = ("--no-legend", "--full", "--fields=machine")
    assert fleetctl("list-machines", *ids, "2222", "33").stdout.split() == [M2.id]
    assert fleetctl("list-machines", *ids, "11111111.../10.0.0.1").stdout.split() == [M1.id]


def test_lists_and_status_say_why_a_unit_is_not_placed(
    fleetctl: Fleetctl, cluster: ScriptedCluster, tmp_path: Path
) -> None:
    cluster.outcomes["web.service"] = NO_SSD
    cluster.add("web.service", target="launched")
    why = "cannot be placed: no machine fits: metadata disk=ssd missing (2 machines). It starts as soon as one fits"
    listed = fleetctl("list-unit-files", "--no-legend", "--fields=unit,target")
    assert (listed.stdout, listed.stderr) == ("web.service\t-\n", f"Unit web.service {why}.\n")
    listed = fleetctl("list-unit-files", "--no-legend", "--fields=reason")
    assert (listed.stdout, listed.stderr) == (f"{why}\n", "")
    for command, what in (("status", "loaded"), ("journal", "running")):
        result = fleetctl(command, "web")
        assert (result.status, result.stderr) == (1, f"Unit web.service does not appear to be {what}. It {why}.\n")
