"""What the daemon finds out about its own place on the machine."""

import os
from pathlib import Path

import pytest

from fleetd.daemon import AlreadyRunning, claim_machine, own_unit


def test_a_second_fleetd_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    with claim_machine(tmp_path / "fleet"), pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
        claim_machine(tmp_path / "fleet")


def test_a_fleetd_that_has_ended_is_in_nobodys_way(tmp_path: Path) -> None:
    claim_machine(tmp_path).close()
    claim_machine(tmp_path).close()


@pytest.mark.parametrize(
    ("cgroups", "unit"),
    [
        ("0::/system.slice/fleet.service\n", "fleet.service"),
        ("0::/system.slice/my-fleet.service/supervised\n", "my-fleet.service"),
        ("1:name=systemd:/system.slice/fleet.service\n0::/payload/system.slice/fleet.service\n", "fleet.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", "fleet.service"),
        ("", "fleet.service"),
    ],
)
def test_fleetd_knows_its_own_unit_by_its_cgroup(cgroups: str, unit: str) -> None:
    assert own_unit(cgroups) == unit
