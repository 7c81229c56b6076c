"""Backups and restores on real machines, by the commands of docs/operations.md as they stand there."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from contrib.testbed.machine import CommandFailed
from contrib.testbed.root import CHECKOUT
from tests.cluster.operator import RECORDER, Operator, with_fleet
from tests.cluster.test_package import prepare_administrator, sh
from tests.cluster.test_store_faults import orphans

PAGE = CHECKOUT / "docs/operations.md"
EVERYWHERE = {"every.service": with_fleet("Global=true", service=RECORDER)}
OLD = {f"old-{number}.service": RECORDER for number in range(4)} | EVERYWHERE
YOUNG = {f"young-{number}.service": RECORDER for number in range(2)}
SETTINGS = "Servers that cluster init has made"  # the section with those for etcdctl
DAY = "2026-01-31"  # that of the page's examples


def blocks(heading: str) -> list[str]:
    """The commands of a section of the page, a text for each block of them."""
    section = re.search(rf"(?ms)^### {heading}$(.*?)^##", PAGE.read_text())
    assert section is not None, heading
    return re.findall(r"(?ms)^```sh\n(.*?)^```$", section[1])


def replaced(text: str, values: Mapping[str, str]) -> str:
    """The commands with these values for the addresses, names and days of the page's examples. Each is there."""
    for example in values:
        assert example in text, example
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], text)


def day_of(machine: Machine) -> str:
    """The day in the name of the one backup of etcd on the machine."""
    (path,) = machine.path("/var/backups").glob("etcd-*.db")
    return path.stem.removeprefix("etcd-")


def hand_out(backup: str, source: Machine, others: list[Machine]) -> None:
    for machine in others:
        shutil.copy(source.path(backup), machine.path(backup))


def are_orphaned(operator: Operator, units: list[str]) -> bool:
    """Whether these units are listed as orphaned, and no others. No while fleetd does not answer."""
    try:
        return orphans(operator) == units
    except CommandFailed:
        return False


def assert_managed(operator: Operator, lives: Mapping[tuple[str, str], tuple[int, int]]) -> None:
    """No unit was stopped or started, and all of them obey again: what the backup knows, and what it does not as soon
    as it is started from its file."""
    cluster, everything = operator.cluster, [*OLD, *YOUNG]
    cluster.wait_until(
        "what is younger than the backup is listed as orphaned", lambda: are_orphaned(operator, [*YOUNG])
    )
    cluster.wait_until("all others are active", lambda: operator.placed().keys() == {*everything})
    assert operator.lives(everything) == lives
    operator.start(YOUNG)
    cluster.wait_until("no orphan is left", lambda: are_orphaned(operator, []))
    assert operator.lives(everything) == lives, "what runs is adopted"
    assert {len(found) for found in operator.machines_of([*OLD, *YOUNG]).values()} == {1, len(cluster.machines)}
    stopped = ["old-0.service", "young-0.service"]
    cluster.fleetctl("stop", *stopped)
    assert all(not found for found in operator.machines_of(stopped).values())
    operator.start({"new.service": RECORDER, "old-0.service": RECORDER})
    assert all(operator.machines_of(["new.service", "old-0.service"]).values())


def test_etcd_is_saved_and_restored_by_the_commands_of_the_page_and_no_unit_stops(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(machines=3, etcd_on_machines=True)
    first, *others = cluster.machines
    operator = Operator(cluster, tmp_path)
    save, stop, restore, *_ = blocks("Backup and restore")
    operator.start(OLD)
    said = sh(first, f"export ETCDCTL_ENDPOINTS=http://{first.address}:2379\nset -e\n{save}").stdout
    assert "REVISION" in said
    operator.start(YOUNG)
    lives = operator.lives([*OLD, *YOUNG])
    fleetds = [machine.main_pid("fleet.service") for machine in cluster.machines]
    day = day_of(first)
    hand_out(f"/var/backups/etcd-{day}.db", first, others)

    for machine in cluster.machines:
        sh(machine, stop)
    for number, machine in enumerate(cluster.machines, start=1):
        own = {
            "--name etcd1": f"--name etcd{number}",
            "--initial-advertise-peer-urls http://10.0.0.1:": f"--initial-advertise-peer-urls http://10.0.0.{number}:",
        }
        addresses = {f"10.0.0.{index}": each.address for index, each in enumerate(cluster.machines, start=1)}
        names = {f"etcd{index}": each.name for index, each in enumerate(cluster.machines, start=1)}
        sh(machine, "set -e\n" + replaced(replaced(restore, own), {DAY: day} | addresses | names))
    cluster.wait_ready()
    assert_managed(operator, lives)
    assert [machine.main_pid("fleet.service") for machine in cluster.machines] == fleetds, "nobody restarted fleetd"


def test_the_store_of_servers_that_cluster_init_made_is_restored_by_the_commands_of_the_page(
    new_cluster: Callable[..., Cluster], package: Path, tmp_path: Path
) -> None:
    cluster = new_cluster(machines=4, fleetd=False, ssh=True, etcd_members=0)
    first, *servers, worker = cluster.machines
    for machine in cluster.machines:
        machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)])
        machine.run(["rm", "-f", "/usr/sbin/policy-rc.d"])
    prepare_administrator(cluster, first, package)
    sh(first, f"apt install --yes ./{package.name} && fleetctl cluster init")
    for machine in servers:
        sh(first, f"fleetctl machine add root@{machine.address} --server")
    sh(first, f"fleetctl machine add root@{worker.address}")
    operator = Operator(cluster, tmp_path)
    settings, save, restore = blocks(SETTINGS)[0], blocks("Backup and restore")[0], blocks("Backup and restore")[3]
    operator.start(OLD)
    assert "REVISION" in sh(first, f"set -e\n{settings}{save}").stdout
    operator.start(YOUNG)
    lives = operator.lives([*OLD, *YOUNG])

    for machine in (first, *servers):
        sh(machine, "systemctl stop fleet-etcd")
    addresses = {f"10.0.0.{index}": each.address for index, each in enumerate((first, *servers), start=1)}
    said = sh(first, "set -e\n" + settings + replaced(restore, {DAY: day_of(first)} | addresses)).stdout
    assert said.splitlines()[-1] == "The cluster has 3 servers, of which 1 may fail"
    assert_managed(operator, lives)
    first.power_cut()
    cluster.wait_until(
        "the others go on without the first",
        lambda: cluster.fleetctl("destroy", "old-1.service", on=servers[0], check=False).returncode == 0,
    )


def test_a_cluster_of_one_machine_is_saved_and_restored_by_the_commands_of_the_page(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster([{"standalone": "true"}])
    (machine,) = cluster.machines
    operator = Operator(cluster, tmp_path)
    save, restore = blocks("Backup and restore")[4:]
    operator.start(OLD)
    sh(machine, "set -e\n" + save)
    operator.start(YOUNG)
    lives = operator.lives([*OLD, *YOUNG])
    sh(machine, "set -e\n" + restore)
    cluster.wait_ready()
    assert_managed(operator, lives)


@pytest.mark.parametrize("heading", ["Backup and restore", SETTINGS])
def test_the_page_has_the_commands(heading: str) -> None:
    assert len(blocks(heading)) >= 3
