"""fleetctl verify: errors are what submit would refuse and what systemd-analyze(1) reports. It asks no API."""

import os
from pathlib import Path

import pytest

from tests.fleetctl.conftest import Fleetctl

GOOD = "[Unit]\nDescription=a\n\n[Service]\nExecStart=/bin/true\n"
FAKE = """#!/bin/sh
[ "$1 $2 $3 $4" = "verify --man=no --recursive-errors=no --" ] || exit 9
while read line; do case $line in *BAD*) printf '%s:1: bad \\033[31m\\n' "$5" >&2; exit 1;; esac; done < "$5"
"""


@pytest.fixture(autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in PATH, with a systemd-analyze that refuses files with a line BAD."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "systemd-analyze").write_text(FAKE)
    (folder / "systemd-analyze").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.covers("3.8.37")
def test_a_valid_file_prints_nothing(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    for name in ("web.service", "web@.service"):
        (tmp_path / name).write_text(GOOD)
    for argument in ("web.service", "web", str(tmp_path / "web.service"), "web@.service", "web@1"):
        result = bare_fleetctl("verify", argument)
        assert (result.status, result.stdout, result.stderr) == (0, "", "")


def test_a_unit_that_must_not_run_twice_says_how_long_that_may_take(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    (tmp_path / "db.service").write_text(GOOD + "[X-Fleet]\nIsolationSec=30s\n")
    result = bare_fleetctl("verify", "db.service")
    said = "db.service starts elsewhere only after its machine was gone for 45s: IsolationSec=30s, "
    assert (result.status, result.stdout) == (0, "")
    assert said in result.stderr
    (tmp_path / "db.service").write_text(GOOD + "[X-Fleet]\nIsolationSec=1s\n")
    result = bare_fleetctl("verify", "db.service")
    assert (result.status, "has to be from 3 to 120 seconds" in result.stderr) == (1, True)
    (tmp_path / "db@.service").write_text(GOOD + "[X-Fleet]\nLock=%p-%i\n")
    assert "holds the lock db-INSTANCE, " in bare_fleetctl("verify", "db@.service").stderr


@pytest.mark.covers("3.8.37")
@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("bad.service", "[Service]\nno option\n", "failed getting Unit(bad.service) from file: unexpected newline"),
        ("bad.service", GOOD + "[X-Fleet]\nGlobal=true\nMachineOf=a.service\n", "Global cannot be used with Peers"),
        (
            "bad.service",
            GOOD + "[X-Fleet]\nMaxUnavailable=0\n",
            "MaxUnavailable: with 0 no unit of the group could ever",
        ),
        ("bad.service", GOOD + "[Install]\nAlias=bad.socket\n", "systemd cannot alias bad.service as bad.socket"),
        ("bad.service", "", "its unit file has no options"),
        ("fleet.service", GOOD, "is reserved for what runs the machine itself"),
        ("-x.service", GOOD, 'begins with "-"'),
        ("b d.service", GOOD, "invalid character ' ' in unit name"),
        ("bad.service", GOOD + "#BAD\n", r"bad.service:1: bad \x1b[31m"),
    ],
)
def test_an_invalid_file_is_an_error_and_the_others_are_checked(
    bare_fleetctl: Fleetctl, tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "worse.service").write_text("[")
    result = bare_fleetctl("verify", "--", name, "worse.service")
    assert (result.status, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert complaint in first
    assert "unable to find end of section" in second


def test_warnings_exit_with_0(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    (tmp_path / "web.service").write_text("# a \\\n" + GOOD + "[X-fleet]\nGlobal=true\n")
    result = bare_fleetctl("verify", "web")
    assert result.status == 0
    section, line = result.stderr.splitlines()
    assert "[X-fleet] is not [X-Fleet]" in section
    assert "line 1 of web.service is a comment that ends in a backslash" in line


def test_a_missing_file_and_a_directory_are_errors(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    os.mkdir(tmp_path / "folder")
    assert bare_fleetctl("verify", "web").stderr == "web.service: no such file\n"
    assert "is a directory: name the unit files in it" in bare_fleetctl("verify", "folder").stderr
    assert bare_fleetctl("verify").status == 2


def test_without_systemd_analyze_only_fleets_rules_are_checked(
    bare_fleetctl: Fleetctl, tmp_path: Path, programs: Path
) -> None:
    (programs / "systemd-analyze").unlink()
    (tmp_path / "web.service").write_text(GOOD + "#BAD\n")
    assert bare_fleetctl("verify", "web").status == 0


def test_files_that_cannot_be_together_are_refused(bare_fleetctl: Fleetctl, tmp_path: Path) -> None:
    (tmp_path / "first.service").write_text(f"{GOOD}[X-Fleet]\nHandover=start-first\n")
    (tmp_path / "beside.service").write_text(f"{GOOD}[X-Fleet]\nMachineOf=first.service\n")
    result = bare_fleetctl("verify", "first.service", "beside.service")
    assert result.status == 1
    assert (
        "beside.service: MachineOf=first.service cannot be used: first.service has Handover=start-first; "
        "write stop-first there" in result.stderr
    )
    assert bare_fleetctl("verify", "first.service").status == 0
