"""plan: with real leaders and agents over simulated systemds."""

import json
from pathlib import Path

import pytest

from tests.fleetctl.conftest import Fleetctl

AT_1, AT_2 = "11111111.../10.0.0.1", "22222222.../10.0.0.2"
WEB = "[Service]\nExecStart=/bin/sleep inf\n[X-Fleet]\nUpdateSettleSec=100ms\n"
PINNED = WEB + "MachineMetadata=number=1\n"


@pytest.fixture
def small(small_fleetctl: Fleetctl, tmp_path: Path) -> Fleetctl:
    """Runs a command line against a cluster of real leaders and agents, where all units are on the first machine."""
    (tmp_path / "set").mkdir()
    (tmp_path / "web@.service").write_text(WEB)
    (tmp_path / "set" / "pinned.service").write_text(PINNED)
    small_fleetctl("cordon", "2222")
    small_fleetctl("start", "web@1")
    small_fleetctl("apply", "set")
    small_fleetctl("uncordon", "2222")
    return small_fleetctl


def lines_of(fleetctl: Fleetctl, *words: str, status: int = 0, stderr: str = "") -> list[str]:
    """What is printed after the first line; the units are where they were."""
    before = fleetctl("list-units").stdout
    result = fleetctl("plan", *words)
    assert (result.status, result.stderr) == (status, stderr)
    assert fleetctl("list-units").stdout == before
    assert result.stdout.startswith("at revision ")
    return result.stdout.splitlines()[1:]


def test_machines_that_are_drained_lost_or_join(small: Fleetctl) -> None:
    assert lines_of(small, "lose", "1111") == [
        f"  move     web@1.service   {AT_1} → {AT_2}  the only machine that fits",
        "  nowhere  pinned.service                                               no machine fits: metadata number=1 "
        "missing (1)",
        "1 would move, 1 would run nowhere",
    ]
    assert lines_of(small, "lose", "2222") == ["nothing would change"]
    assert lines_of(small, "lose", "2222", "--exit-code") == ["nothing would change"]
    assert lines_of(small, "drain", "1111", "--exit-code", status=2)[-1] == "1 would move, 1 would stay"
    assert lines_of(small, "join", "number=3", "--count=2") == ["nothing would change"]
    found = json.loads(small("plan", "lose", "1111", "--output=json").stdout)
    assert [(step["action"], step["unit"]) for step in found] == [
        ("move", "web@1.service"),
        ("nowhere", "pinned.service"),
    ]


def test_units_that_are_started_or_destroyed(small: Fleetctl, tmp_path: Path) -> None:
    assert lines_of(small, "start", "web@2") == [
        f"  place  web@2.service  → {AT_2}  fewest of web@.service (0)",
        "1 would be placed",
    ]
    assert lines_of(small, "destroy", "web@1") == [f"  stop  web@1.service  {AT_1}", "1 would stop"]
    result = small("plan", "start", "web@1", "--output=json")
    assert (result.status, result.stdout) == (0, "[]\n")
    assert result.stderr == "There is nothing to do: the units are as they are to be\n"
    (tmp_path / "web@1.service").write_text(WEB + "Global=true\n")
    assert small("plan", "destroy", "no.service").status == 1
    assert "unable to find Unit(no.service)" in small("plan", "start", "no").stderr


def test_a_folder_that_is_applied_and_that_it_is_refused_once_a_unit_has_changed(
    small: Fleetctl, tmp_path: Path
) -> None:
    assert lines_of(small, "apply", "set", "--exit-code") == ["1 unchanged", "nothing would change"]
    (tmp_path / "set" / "pinned.service").write_text(PINNED.replace("inf", "1d"))
    (tmp_path / "set" / "new.service").write_text(WEB)
    result = small("plan", "apply", "set", "--exit-code")
    assert (result.status, result.stderr) == (2, "")
    lines = result.stdout.splitlines()
    assert f"  place   new.service     → {AT_2}  fewest units (0)" in lines
    assert f"  change  pinned.service  {AT_1}    gets its new content" in lines
    assert lines[-1] == "1 would be placed, 1 would be changed"
    revision = next(line for line in lines if line.startswith("at revision ")).split()[2].rstrip(",")
    small("stop", "pinned")
    result = small("apply", "set", f"--if={revision}")
    assert result.status == 1
    assert f"pinned.service changed since revision {revision}: plan it anew" in result.stderr
    assert "new.service" not in small("list-unit-files").stdout
    result = small("plan", "apply", "set", "--set=other")
    assert (result.status, "Refused: " in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ((), 2, "fleetctl plan needs one of: drain, apply, start, destroy, lose, join"),
        (("--exit-code",), 1, "fleetctl plan needs one of: drain, apply, start, destroy, lose, join"),
        (("loose", "1"), 2, "loose is none of: drain, apply, start, destroy, lose, join"),
        (("lose",), 1, "No machines given"),
        (("lose", "9999"), 1, "9999 is not a machine of the cluster"),
        (("lose", "9" * 32), 1, "Error planning: Error 400: unknown machine 99999999"),
        (("join", "zone"), 1, "zone is no metadata: give KEY=VALUE, as in zone=b"),
        (("start",), 1, "No units given"),
        (("apply", "a", "b"), 1, "plan apply takes one folder: fleetctl plan apply DIR"),
        (("lose", "--prune", "1111"), 2, "--prune is for plan apply, not for plan lose"),
    ],
)
def test_what_cannot_be_planned_is_told(small: Fleetctl, words: tuple[str, ...], status: int, message: str) -> None:
    result = small("plan", *words)
    assert (result.status, result.stdout) == (status, "")
    assert result.stderr.startswith(message)
