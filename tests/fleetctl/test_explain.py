"""explain: with real leaders and agents over simulated systemds."""

import json
from pathlib import Path

import pytest

from tests.fleetctl.conftest import Fleetctl

AT_1, AT_2 = "11111111.../10.0.0.1", "22222222.../10.0.0.2"
WEB = "[Service]\nExecStart=/bin/sleep inf\n[X-Fleet]\n"


@pytest.fixture
def small(small_fleetctl: Fleetctl, tmp_path: Path) -> Fleetctl:
    """Runs a command line against a cluster of real leaders and agents with two machines, number=1 and number=2."""
    (tmp_path / "web@.service").write_text(WEB + "Conflicts=web@*\n")
    (tmp_path / "pinned.service").write_text(WEB + "MachineMetadata=number=1\n")
    (tmp_path / "far.service").write_text(WEB + "MachineMetadata=number=3\n")
    return small_fleetctl


def test_why_a_unit_is_there_and_on_no_other_machine(small: Fleetctl) -> None:
    small("start", "pinned", "web@1", "web@2")
    small("cordon", "2222", "--why=disk")
    result = small("explain", "pinned")
    assert (result.status, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"pinned.service is on {AT_1} since ")
    assert lines[0].endswith(": the only machine that fits")
    assert lines[1:3] == [
        "  why here  1 takes new units  1 of 2 machines",
        f"  why not   {AT_2}  machine is cordoned: disk; metadata number=1 missing",
    ]
    heading, placed = lines[3].split("UTC  ")
    assert heading.startswith("  history   20")
    assert placed == "pinned.service placed on 11111111: the only machine that fits"
    assert lines[4].endswith(" UTC  submit of pinned.service was asked for by root")
    assert len(lines) == 5
    small("uncordon", "2222")
    lines = small("explain", "pinned").stdout.splitlines()
    assert lines[1:3] == [
        "  why here  1 number=1  1 of 2 machines",
        f"  why not   {AT_2}  metadata number=1 missing",
    ]
    found = json.loads(small("explain", "web@1", "--output=json").stdout)
    assert (found["unit"], found["machines"]) == ("web@1.service", 2)
    assert found["whyHere"][-1]["rejections"] == [{"kind": "conflict", "subject": "web@2.service"}]
    assert [each["kind"] for each in found["whyNot"][0]["rejections"]] == ["conflict"]
    assert [each["kind"] for each in found["history"]] == ["placed", "asked"]


def test_how_long_a_unit_that_must_not_run_twice_waits(small: Fleetctl, tmp_path: Path) -> None:
    (tmp_path / "single.service").write_text(WEB + "IsolationSec=20s\n")
    small("start", "--no-block", "single")
    said = (
        "  isolated  starts elsewhere only after its machine was gone for 35s: IsolationSec=20s, IsolationStopSec=10s "
        "and 5s; an outage of the store for 20s stops it everywhere"
    )
    assert said in small("explain", "single").stdout.splitlines()


def test_why_a_unit_is_nowhere_and_what_does_not_exist(small: Fleetctl) -> None:
    small("submit", "far")
    assert small("explain", "far").stdout.splitlines()[0] == "far.service is on no machine (it is inactive)"
    small("start", "--no-block", "far")
    result = small("explain", "far")
    lines = result.stdout.splitlines()
    assert lines[lines.index(f"  why not   {AT_1}  metadata number=3 missing") :][:2] == [
        f"  why not   {AT_1}  metadata number=3 missing",
        f"            {AT_2}  metadata number=3 missing",
    ]
    result = small("explain", "no")
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith("Error explaining unit no.service: Error 404: unit does not exist")
    assert small("explain").stderr == "explain takes one unit: fleetctl explain UNIT\n"
