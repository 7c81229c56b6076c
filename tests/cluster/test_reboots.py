"""Reboots of real machines, of which each hosts a member of etcd: one after the other, and what hinders them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contrib.testbed import Cluster, Machine
from contrib.testbed.root import CHECKOUT
from tests.cluster.answers import Answers
from tests.cluster.operator import SLEEPER, Operator, with_fleet
from tests.cluster.tampering import tamper

SITES = tuple(f"site@{number}.service" for number in (1, 2, 3))
PORT = 8090
AFTER_TEN_MINUTES_S = 660
NEEDED = "libc6, linux-image-amd64"
CLOCK = "/etc/clock"  # by how much fleetd's clock is wrong


@pytest.fixture(scope="module")
def machines() -> Iterator[Cluster]:
    with Cluster(machines=3, etcd_on_machines=True) as cluster:
        for machine in cluster.machines:
            tamper(machine, "wrong_clock", CLOCK=CLOCK)
            machine.run(["systemctl", "restart", "fleet.service"])
        cluster.wait_ready()
        yield cluster


@pytest.fixture
def operator(machines: Cluster, tmp_path: Path) -> Iterator[Operator]:
    """An operator of three machines that host a member of etcd each."""
    yield Operator(machines, tmp_path)
    machines.destroy_all_units()


def place(machine: Machine) -> str:
    return f"{machine.id[:8]}.../{machine.address}"


def queue(cluster: Cluster, on: Machine | None = None) -> dict[str, dict[str, Any]]:
    """Machine id → where its reboot stands."""
    listed = cluster.fleetctl("reboot", "--output=json", on=on).stdout
    return {row["machine"]: row for row in json.loads(listed)}


def listed(cluster: Cluster, on: Machine | None = None) -> dict[str, tuple[bool, str | None]]:
    """Machine → whether it is listed as cordoned, and why it needs a reboot."""
    rows = json.loads(cluster.fleetctl("list-machines", "--output=json", on=on).stdout)
    names = {machine.id: machine.name for machine in cluster.machines}
    return {names[row["machine"]]: (bool(row.get("cordon")), row.get("reboot_required")) for row in rows}


def wait_until_it_says(cluster: Cluster, machine: Machine, reason: str, on: Machine | None = None) -> None:
    """Wait until the queue says this of the machine."""
    cluster.wait_until(
        f"{machine.name} {reason}", lambda: reason in queue(cluster, on).get(machine.id, {}).get("reason", ""), 60
    )


@pytest.mark.covers("C.9", "C.13")
def test_all_machines_are_rebooted_and_never_fewer_than_two_of_three_answer(operator: Operator) -> None:
    cluster = operator.cluster
    cluster.fleetctl("apply", str(CHECKOUT / "units/site"))
    operator.start({"log.service": with_fleet("Global=true", "UpdateSettleSec=1s")})
    boots = {machine.name: machine.boot_id for machine in cluster.machines}
    with Answers([f"http://{machine.address}:{PORT}/" for machine in cluster.machines]) as answers:
        told = cluster.fleetctl("reboot", "--all", timeout_s=300).stdout.splitlines()
    for machine in cluster.machines:
        assert f"{place(machine)} is back and serves" in told
        assert machine.boot_id not in ("", boots[machine.name])
    assert all(answers.outages.values()), "each was down while its machine rebooted"
    assert answers.most_at_once == 1
    assert queue(cluster) == {}
    cluster.wait_until("all run where they ran", lambda: len(operator.processes([*SITES, "log.service"])) == 6, 30)
    assert listed(cluster) == {machine.name: (False, None) for machine in cluster.machines}


def test_a_machine_that_needs_a_reboot_says_so_and_is_rebooted_once(operator: Operator) -> None:
    cluster, (machine, other, _) = operator.cluster, operator.cluster.machines
    assert cluster.fleetctl("reboot", "--needed", on=other).stderr == "No machine needs to be rebooted\n"
    machine.path("/run/reboot-required").write_text("*** System restart required ***\n")
    machine.path("/run/reboot-required.pkgs").write_text("linux-image-amd64\nlibc6\n")
    cluster.wait_until("it is listed", lambda: listed(cluster, other)[machine.name] == (False, NEEDED), 30)
    machine.run(["systemctl", "mask", "--runtime", "--now", "systemd-logind.service"])  # as where it is not installed
    before = {each.name: each.boot_id for each in cluster.machines}
    told = cluster.fleetctl("reboot", "--needed", on=other).stdout.splitlines()
    assert told[-1] == f"{place(machine)} is back and serves"
    assert [each.name for each in cluster.machines if each.boot_id != before[each.name]] == [machine.name]
    assert cluster.fleetctl("reboot", "--needed", on=other).stderr == "No machine needs to be rebooted\n"


@pytest.mark.covers("C.15")
def test_a_reboot_that_a_program_inhibits_is_not_made_and_says_who_and_why(operator: Operator) -> None:
    cluster, (machine, other, _) = operator.cluster, operator.cluster.machines
    operator.start({"here.service": with_fleet(f"MachineID={machine.id}")})
    pid, boot = machine.main_pid("here.service"), machine.boot_id
    lock = "systemd-inhibit --what=shutdown --who=Updater --why='its third step' sleep infinity"
    machine.run(["systemd-run", "--unit=lock.service", "sh", "-c", lock])
    cluster.wait_until("it is locked", lambda: "Updater" in machine.run(["systemd-inhibit", "--list"]).stdout, 10)
    failed = cluster.fleetctl("reboot", machine.id, on=other, check=False)
    assert failed.returncode == 1
    assert "was not rebooted: Updater (process " in failed.stderr
    assert "has inhibited it: its third step; ask for it again" in failed.stderr
    assert (machine.main_pid("here.service"), machine.boot_id) == (pid, boot)
    assert listed(cluster, other)[machine.name] == (False, None), "it takes new units again"

    machine.run(["systemctl", "stop", "lock.service"])
    told = cluster.fleetctl("reboot", machine.id, on=other).stdout.splitlines()
    assert f"{place(machine)} is drained and reboots; here.service stays there and is down meanwhile" in told
    assert machine.boot_id != boot
    assert machine.main_pid("here.service") > 0


@pytest.mark.covers("C.14")
def test_a_machine_that_hosts_a_member_of_etcd_waits_while_another_one_is_down(operator: Operator) -> None:
    cluster, (machine, other, asked) = operator.cluster, operator.cluster.machines
    boot = machine.boot_id
    other.run(["systemctl", "stop", "etcd.service"])
    cluster.fleetctl("reboot", "--no-block", machine.id, on=asked)
    wait_until_it_says(cluster, machine, "waits until all other members of etcd are healthy", on=asked)
    assert machine.boot_id == boot
    other.run(["systemctl", "start", "etcd.service"])
    machine.wait_until_rebooted(boot)
    cluster.wait_until("it serves again", lambda: queue(cluster, asked) == {}, 60)


@pytest.mark.covers("B.13")
def test_a_machine_that_does_not_come_back_stops_the_queue_until_it_serves(operator: Operator) -> None:
    cluster = operator.cluster
    lost, other, asked = sorted(cluster.machines, key=lambda machine: machine.id)
    before = {machine.name: machine.boot_id for machine in cluster.machines}
    operator.start({"here.service": with_fleet(f"MachineID={lost.id}")})
    lost.comes_back = False
    follower = subprocess.Popen(
        [*cluster.fleetctl_command(on=asked), "reboot", lost.id], stderr=subprocess.PIPE, text=True
    )
    cluster.wait_until("it is off", lambda: not lost.is_up, 60)
    cluster.fleetctl("reboot", "--no-block", other.id, on=asked)
    wait_until_it_says(cluster, lost, "is rebooting", on=asked)
    wait_until_it_says(cluster, other, f"waits for the reboot of {lost.id[:8]}", on=asked)
    for machine in (other, asked):
        machine.path(CLOCK).write_text(str(AFTER_TEN_MINUTES_S))
    operator.start({"forth.service": SLEEPER}, on=asked)  # so that the leader looks
    _, errors = follower.communicate(timeout=60)
    assert follower.returncode == 1
    assert f"{place(lost)} has not come back within ten minutes; look at its console; " in errors
    assert f"`fleetctl reboot --cancel {lost.id[:8]}`" in errors
    wait_until_it_says(cluster, other, f"waits: the queue has stopped, because of {lost.id[:8]}", on=asked)
    assert other.boot_id == before[other.name]
    assert "here.service" not in operator.placed(on=asked)

    lost.comes_back = True
    lost.boot()
    other.wait_until_rebooted(before[other.name])
    cluster.wait_until("all serve again", lambda: queue(cluster, asked) == {}, 120)
    assert operator.machine_of("here.service") is lost
    for machine in cluster.machines:
        machine.path(CLOCK).unlink(missing_ok=True)
