"""Drop-ins on a real machine: what systemd makes of them, by its own words."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.operator import SLEEPER, Operator

WEB = "web.service"
FOLDER = f"/run/systemd/system/{WEB}.d"


@pytest.fixture(scope="module")
def _cluster() -> Iterator[Cluster]:
    with Cluster(machines=1) as cluster:
        yield cluster


@pytest.fixture
def operator(_cluster: Cluster, tmp_path: Path) -> Iterator[Operator]:
    """An operator of a cluster of one machine."""
    yield Operator(_cluster, tmp_path)
    _cluster.destroy_all_units()


def edit(operator: Operator, unit: str, text: str, *flags: str, check: bool = True) -> str:
    """Set a drop-in with `fleetctl edit`. Return what it prints."""
    done = operator.cluster.fleetctl("edit", "--stdin", *flags, unit, stdin=text, check=check)
    return done.stdout + done.stderr


def show(machine: Machine, *properties: str) -> str:
    return machine.run(["systemctl", "show", "--value", f"--property={','.join(properties)}", WEB]).stdout.strip()


def test_a_limit_in_a_drop_in_is_in_force_at_once_and_its_removal_too(operator: Operator) -> None:
    operator.start({WEB: SLEEPER})
    machine = operator.machine_of(WEB)
    pid, without = machine.main_pid(WEB), show(machine, "MemoryMax")
    assert "drop-in override.conf is added" in edit(operator, WEB, "# why\n[Service]\nMemoryMax=64M\n")
    assert show(machine, "MemoryMax") == str(64 * 1024 * 1024)
    assert show(machine, "DropInPaths") == f"{FOLDER}/override.conf"
    assert show(machine, "NeedDaemonReload") == "no"
    edit(operator, WEB, "[Service]\nMemoryMax=32M\n", "--drop-in=z")
    assert show(machine, "MemoryMax") == str(32 * 1024 * 1024)
    assert operator.cluster.fleetctl("cat", WEB).stdout == (
        f"{SLEEPER}\n# {FOLDER}/override.conf\n[Service]\nMemoryMax=64M\n"
        f"\n# {FOLDER}/z.conf\n[Service]\nMemoryMax=32M\n"
    )
    for drop_in in ("z", "override"):
        assert "is removed" in edit(operator, WEB, "", f"--drop-in={drop_in}")
    assert (show(machine, "MemoryMax"), show(machine, "DropInPaths")) == (without, "")
    assert machine.main_pid(WEB) == pid
    assert not machine.path(FOLDER).exists()


def test_another_command_in_a_drop_in_restarts_the_unit_and_its_removal_too(operator: Operator) -> None:
    operator.start({WEB: SLEEPER})
    machine = operator.machine_of(WEB)
    first = machine.main_pid(WEB)
    edit(operator, WEB, "[Service]\nExecStart=\nExecStart=/bin/sleep 12345\n")
    second = machine.main_pid(WEB)
    assert second not in (0, first)
    assert "sleep 12345" in show(machine, "ExecStart")
    assert show(machine, "NeedDaemonReload") == "no"
    edit(operator, WEB, "")
    assert machine.main_pid(WEB) not in (0, first, second)
    assert "sleep infinity" in show(machine, "ExecStart")


def test_a_drop_in_that_is_changed_or_removed_on_disk_is_restored(operator: Operator) -> None:
    operator.start({WEB: SLEEPER})
    edit(operator, WEB, "[Service]\nMemoryMax=64M\n")
    machine = operator.machine_of(WEB)
    pid = machine.main_pid(WEB)
    file = machine.path(f"/run/fleet/units/{WEB}.d/override.conf")
    for damage in (["rm", f"{FOLDER}/override.conf"], ["sh", "-c", f"echo > /run/fleet/units/{WEB}.d/override.conf"]):
        machine.run(damage)
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "restart", "fleet.service"])
        operator.cluster.wait_until("the limit is back", lambda: show(machine, "MemoryMax") == str(64 * 1024 * 1024))
        assert file.read_text() == "[Service]\nMemoryMax=64M\n"
    assert machine.main_pid(WEB) == pid


@pytest.mark.covers("R.7")
def test_drop_ins_of_the_machines_own_apply_and_are_left_alone(operator: Operator) -> None:
    (machine,) = operator.cluster.machines
    own = f"/etc/systemd/system/{WEB}.d"
    machine.run(["sh", "-c", f"mkdir -p {own}; echo '[Service]\nTasksMax=77' > {own}/own.conf"])
    try:
        operator.start({WEB: SLEEPER})
        assert show(machine, "TasksMax") == "77"
        printed = edit(operator, WEB, "[Service]\nTasksMax=88\n", "--drop-in=own", "--block-attempts=3", check=False)
        assert f'unit "{WEB}" has the drop-in {own}/own.conf, which is not fleet\'s' in printed
        assert show(machine, "TasksMax") == "77"
        edit(operator, WEB, "", "--drop-in=own")
        edit(operator, WEB, "[Service]\nTasksMax=99\n", "--drop-in=zz")
        assert show(machine, "TasksMax") == "99"
        operator.cluster.fleetctl("destroy", WEB)
        assert machine.path(f"{own}/own.conf").exists()
    finally:
        machine.run(["rm", "-r", own])


@pytest.mark.covers("B.11", "P.12")
def test_a_drop_in_that_systemd_refuses_is_explained_and_stops_nothing(operator: Operator) -> None:
    operator.start({WEB: SLEEPER})
    machine = operator.machine_of(WEB)
    pid = machine.main_pid(WEB)
    printed = edit(operator, WEB, "[Service]\nExecStart=\n", "--block-attempts=5", check=False)
    assert "bad unit file setting" in printed
    assert machine.main_pid(WEB) == pid
    [allocation] = operator.reports()[WEB]["allocations"]
    assert (allocation["load"], allocation["active"]) == ("bad-setting", "active")
    assert "bad unit file setting" in allocation["error"]
    edit(operator, WEB, "", "--no-block")
    operator.cluster.wait_until("it can be loaded again", lambda: show(machine, "LoadState") == "loaded")
    operator.cluster.wait_until("it runs without an error", lambda: not _error(operator))
    assert machine.main_pid(WEB) != 0


def _error(operator: Operator) -> str:
    [allocation] = operator.reports()[WEB]["allocations"]
    return str(allocation.get("error", ""))
