"""cordon and uncordon: which machine is meant, what is shown of it, and what is refused."""

import json
import os
import pwd

import msgspec
import pytest

from fleetd.model.machine import Cordon, MachineSettings
from tests.fleetctl.conftest import Fleetctl
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster

ME = pwd.getpwuid(os.getuid()).pw_name
ABSENT = "3" * 32


@pytest.fixture(autouse=True)
def without_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)


def test_a_machine_is_cordoned_by_a_prefix_of_its_id_and_uncordoned(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    assert fleetctl("cordon", "2222", "--why", "disk").stdout == "Cordoned machine 22222222...\n"
    stored = cluster.settings[M2.id].cordon
    assert stored is not None
    assert (stored.why, stored.by) == ("disk", ME)
    assert fleetctl("uncordon", "22222222.../").stdout == "Uncordoned machine 22222222...\n"
    assert cluster.settings == {}


def test_lists_show_who_cordoned_a_machine_when_and_why(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    plain = fleetctl("list-machines").stdout
    cluster.set_settings(M1, MachineSettings(cordon=Cordon("disk", "ann", 1_800_014_400.0)))
    cluster.set_settings(M2, MachineSettings(cordon=Cordon()))
    result = fleetctl("list-machines")
    assert result.stdout == plain
    assert result.stderr.splitlines()[0] == (
        "machine 11111111.../10.0.0.1 is cordoned by ann since 2027-01-15 12:00:00 UTC (disk): it takes no new units "
        "but global ones, until `fleetctl uncordon 11111111`"
    )
    assert result.stderr.splitlines()[1].startswith("machine 22222222... is cordoned since ")
    table = fleetctl("list-machines", "--fields=machine,cordon", "--no-legend")
    assert [line.split() for line in table.stdout.splitlines()] == [["11111111...", "disk"], ["22222222...", "yes"]]
    shown = json.loads(fleetctl("list-machines", "--output=json").stdout)
    assert [machine["cordon"] for machine in shown] == [
        {"why": "disk", "by": "ann", "at": 1_800_014_400.0},
        {"why": "", "by": "", "at": 0.0},
    ]


def test_machines_that_are_not_there_are_named_and_do_not_stop_the_others(
    fleetctl: Fleetctl, cluster: ScriptedCluster
) -> None:
    cluster.set_settings(ABSENT, MachineSettings({"role": "db"}))
    twin = f"{M1.id[:-1]}2"
    cluster.register(M1, msgspec.structs.replace(M2, id=twin))
    result = fleetctl("cordon", "1111", "444", ABSENT, "4" * 32, twin)
    assert result.status == 1
    assert result.stdout == "Cordoned machine 11111111...\n"
    ambiguous, unknown, absent, never = result.stderr.splitlines()
    assert ambiguous == "1111 is a prefix of 11111111.../10.0.0.1, 11111111..."
    assert unknown == "444 is not a machine of the cluster"
    assert absent.startswith("Error cordoning machine 33333333...: Error 409: the machine is absent")
    assert never.startswith("Error cordoning machine 44444444...: Error 404: unknown machine")


@pytest.mark.parametrize("verb", ["cordon", "uncordon"])
def test_a_machine_has_to_be_given(fleetctl: Fleetctl, verb: str) -> None:
    result = fleetctl(verb)
    assert (result.status, result.stderr) == (1, "No machines given\n")


def test_a_cordon_without_a_reason_keeps_the_one_that_is_there(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    fleetctl("cordon", "2222", "--why=disk")
    fleetctl("cordon", "2222")
    cordon = cluster.settings[M2.id].cordon
    assert cordon is not None
    assert cordon.why == "disk"
    fleetctl("cordon", "2222", "--why=fan")
    cordon = cluster.settings[M2.id].cordon
    assert cordon is not None
    assert cordon.why == "fan"


def test_a_reason_of_several_lines_is_refused(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    result = fleetctl("cordon", "2222", "--why=two\nlines")
    assert result.status == 1
    assert "why has to be one line" in result.stderr
    assert cluster.settings == {}


def test_with_sudo_the_one_who_called_it_is_recorded(
    fleetctl: Fleetctl, cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "jürgen")
    fleetctl("cordon", "2222")
    stored = cluster.settings[M2.id].cordon
    assert stored is not None
    assert stored.by == "jürgen"
