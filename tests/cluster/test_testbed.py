"""The testbed itself: what the other tests assume about their machines, network and etcd."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster, EtcdServer, Machine
from contrib.testbed.leftovers import control_groups
from contrib.testbed.network import BASE
from contrib.testbed.root import CHECKOUT, install_fleet

LINGERING = """\
[Service]
ExecStart=sleep infinity
ExecStop=touch /var/lib/stopped-in-order
"""


@pytest.fixture(scope="module")
def plain() -> Iterator[Cluster]:
    """Three machines without fleetd."""
    with Cluster(machines=3, fleetd=False) as cluster:
        yield cluster


def test_machines_boot_into_a_system_of_their_own(plain: Cluster) -> None:
    assert len({machine.id for machine in plain.machines}) == 3
    for machine in plain.machines:
        assert machine.run(["systemctl", "is-system-running"]).stdout.strip() == "running"
        assert machine.run(["cat", "/etc/machine-id"]).stdout.strip() == machine.id
        assert machine.run(["hostname"]).stdout.strip() == machine.name


def test_units_enabled_on_the_host_do_not_start_on_a_new_machine(plain: Cluster) -> None:
    listing = plain.machines[0].run(["systemctl", "list-units", "--plain", "--no-legend", "--type=service"]).stdout
    services = {line.split()[0] for line in listing.splitlines()}
    assert {name for name in services if not name.startswith("systemd-")} == {"dbus.service"}


def test_a_machine_reaches_etcd_and_the_other_machines(plain: Cluster) -> None:
    first, second, _ = plain.machines
    assert reaches(first, plain.etcd.address)
    assert reaches(first, second.address)


def test_machines_with_units_of_one_name_do_not_share_processes(plain: Cluster) -> None:
    first, second, _ = plain.machines
    for machine in (first, second):
        start_lingering(machine)
    assert first.main_pid("lingering.service") > 1
    first.run(["systemctl", "stop", "lingering.service"])
    assert first.main_pid("lingering.service") == 0
    assert second.show("lingering.service", "ActiveState") == "active"


def test_a_machine_cut_off_reaches_nothing_until_its_network_is_healed(plain: Cluster) -> None:
    first, second, _ = plain.machines
    first.cut_network()
    try:
        assert not reaches(first, plain.etcd.address)
        assert not reaches(second, first.address)
        assert reaches(second, plain.etcd.address)
    finally:
        first.heal_network()
    assert reaches(first, plain.etcd.address)


@pytest.mark.parametrize(
    ("cut", "heal"), [(Machine.lose_answers, Machine.hear_answers), (Machine.cut_from_etcd, Machine.reach_etcd)]
)
def test_a_machine_cut_off_from_etcd_alone_still_reaches_the_others(
    plain: Cluster, cut: Callable[[Machine], None], heal: Callable[[Machine], None]
) -> None:
    first, second, _ = plain.machines
    cut(first)
    try:
        assert not reaches(first, plain.etcd.address)
        assert reaches(first, second.address)
        assert reaches(second, first.address)
        assert reaches(second, plain.etcd.address)
    finally:
        heal(first)
    assert reaches(first, plain.etcd.address)


def test_the_bridge_keeps_its_address_when_machines_come_and_go(plain: Cluster) -> None:
    address = Path("/sys/class/net", plain.network.bridge, "address")
    seen = {address.read_text()}
    for machine in plain.machines:
        machine.power_cut()
        seen.add(address.read_text())
        machine.boot()
        seen.add(address.read_text())
    assert len(seen) == 1


def test_a_command_that_takes_too_long_is_ended(plain: Cluster) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        plain.machines[0].run(["sleep", "600"], timeout_s=0.5)


def test_a_command_reads_its_input_and_says_why_it_failed(plain: Cluster) -> None:
    machine = plain.machines[0]
    assert machine.run(["tr", "a-z", "A-Z"], stdin="fleet").stdout == "FLEET"
    with pytest.raises(subprocess.CalledProcessError, match=r"on m1: ls /nowhere ended with 2: .*No such file"):
        machine.run(["ls", "/nowhere"])


def test_a_reboot_keeps_the_machine_id_and_empties_run(plain: Cluster) -> None:
    machine = plain.machines[0]
    boot_id = machine.boot_id
    for path in ("/run/kept", "/etc/kept", "/var/lib/kept"):
        machine.path(path).write_text("kept")
    machine.reboot()
    assert machine.run(["cat", "/etc/machine-id"]).stdout.strip() == machine.id
    assert machine.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout.strip() == machine.boot_id != boot_id
    assert machine.path("/etc/kept").exists()
    assert machine.path("/var/lib/kept").exists()
    assert not machine.path("/run/kept").exists()


def test_a_machine_that_reboots_comes_back_by_itself_unless_it_is_to_stay_off(plain: Cluster) -> None:
    machine = plain.machines[1]
    for _ in range(2):
        boot_id = machine.boot_id
        machine.path("/run/kept").write_text("kept")
        machine.path("/etc/kept").write_text("kept")
        machine.run(["systemctl", "reboot"])
        machine.wait_until_rebooted(boot_id)
        assert not machine.path("/run/kept").exists()
        assert machine.path("/etc/kept").exists()
        assert reaches(machine, plain.machines[0].address)
    machine.comes_back = False
    machine.run(["systemctl", "reboot"])
    plain.wait_until("m2 is off", lambda: not machine.is_up)
    time.sleep(1)
    assert not machine.is_up
    machine.comes_back = True
    machine.boot()


def test_a_power_cut_runs_no_stop_commands_and_a_shutdown_does(plain: Cluster) -> None:
    machine = plain.machines[2]
    start_lingering(machine)
    machine.power_cut()
    assert not machine.is_up
    assert not machine.path("/var/lib/stopped-in-order").exists()
    machine.boot()
    start_lingering(machine)
    machine.shutdown()
    assert machine.path("/var/lib/stopped-in-order").exists()
    machine.boot()


@pytest.mark.covers("4.9.1", "R.9")
def test_fleet_is_installed_with_a_socket_that_it_guards_itself(new_cluster: Callable[..., Cluster]) -> None:
    machine = new_cluster(machines=1, fleetd=False).machines[0]
    install_fleet(machine.root, {"public_ip": machine.address})
    machine.reboot()
    assert machine.run(["stat", "--format=%a %U %G", "/run/fleet.sock"]).stdout.strip() == "666 root fleet"
    assert machine.run(["systemctl", "is-enabled", "fleet.service"]).stdout.strip() == "enabled"
    assert machine.run(["cat", "/etc/fleet/fleet.conf"]).stdout == f'public_ip="{machine.address}"\n'


def test_a_cluster_is_emptied_between_tests_and_its_machines_stay(cluster: Cluster, tmp_path: Path) -> None:
    unit = tmp_path / "lingering.service"
    unit.write_text(LINGERING)
    daemons = [machine.show("fleet.service", "MainPID") for machine in cluster.machines]
    cluster.fleetctl("start", str(unit))
    listed = cluster.fleetctl("list-units", "--fields=unit,active", "--no-legend").stdout.split()
    assert listed == ["lingering.service", "active"]
    cluster.destroy_all_units()
    assert cluster.fleetctl("list-unit-files", "--no-legend").stdout == ""
    assert all(machine.show("lingering.service", "LoadState") == "not-found" for machine in cluster.machines)
    assert [machine.show("fleet.service", "MainPID") for machine in cluster.machines] == daemons


def test_an_added_machine_is_listed_with_its_own_configuration(
    new_cluster: Callable[..., Cluster],
) -> None:
    cluster = new_cluster(machines=[{"metadata": "role=first"}])
    added = cluster.add_machine({"metadata": "role=second"})
    listed = cluster.fleetctl("list-machines", "--fields=ip,metadata", "--no-legend").stdout.split()
    assert sorted(listed) == sorted([cluster.machines[0].address, "role=first", added.address, "role=second"])


def test_the_example_units_are_well_formed(plain: Cluster) -> None:
    machine = plain.machines[1]
    units = [str(CHECKOUT / "units" / name) for name in ("fleet.service", "fleet.socket")]
    verified = machine.run(["systemd-analyze", "verify", "--man=no", *units], check=False)
    complaints = [line for line in verified.stderr.splitlines() if "/usr/bin/fleetd is not executable" not in line]
    assert complaints == []


def test_two_clusters_run_side_by_side_and_leave_nothing(plain: Cluster) -> None:
    with Cluster(machines=2, fleetd=False) as other:
        name = other.network.name
        assert name != plain.network.name
        assert reaches(other.machines[0], other.etcd.address)
        assert traces_of(name)
    assert traces_of(name) == []
    assert reaches(plain.machines[0], plain.etcd.address)


def test_leftovers_of_a_killed_run_are_removed_and_running_clusters_kept(plain: Cluster) -> None:
    script = (
        "import signal; from contrib.testbed import Cluster\n"
        "with Cluster(machines=1, fleetd=False) as cluster:\n"
        "    print(cluster.network.name, flush=True); signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        name = run.stdout.readline().strip()
        run.send_signal(signal.SIGKILL)
    assert traces_of(name)
    assert name in Cluster.clean_leftovers()
    assert traces_of(name) == []
    assert reaches(plain.machines[1], plain.etcd.address)


def test_a_cluster_that_cannot_start_leaves_nothing() -> None:
    cluster = Cluster(machines=1, fleetd=False, etcd_arguments=("--no-such-flag",))
    with pytest.raises(RuntimeError, match="etcd does not become ready"), cluster:
        pass
    assert traces_of(cluster.network.name) == []


def test_a_frozen_etcd_does_not_answer_and_loses_nothing(tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "etcd") as etcd:
        etcd.etcdctl("put", "key", "value")
        etcd.freeze()
        with pytest.raises(RuntimeError, match="deadline exceeded"):
            etcd.etcdctl("--command-timeout=1s", "--dial-timeout=1s", "get", "key")
        etcd.thaw()
        assert etcd.etcdctl("get", "key", "--print-value-only").strip() == "value"


def test_etcd_keeps_its_data_after_a_kill_and_restores_a_snapshot(tmp_path: Path) -> None:
    with EtcdServer(tmp_path / "etcd") as etcd:
        etcd.etcdctl("put", "key", "before")
        etcd.save(tmp_path / "snapshot")
        etcd.etcdctl("put", "key", "after")
        etcd.kill()
        etcd.start()
        assert etcd.etcdctl("get", "key", "--print-value-only").strip() == "after"
        etcd.restore(tmp_path / "snapshot")
        assert etcd.etcdctl("get", "key", "--print-value-only").strip() == "before"


def start_lingering(machine: Machine) -> None:
    """A service that leaves a file when it is stopped cleanly."""
    machine.path("/var/lib/stopped-in-order").unlink(missing_ok=True)
    machine.path("/run/systemd/system").mkdir(exist_ok=True)
    machine.path("/run/systemd/system/lingering.service").write_text(LINGERING)
    machine.run(["systemctl", "start", "lingering.service"])


def reaches(machine: Machine, address: str) -> bool:
    """Whether packets come back, be it a refusal: no server needs to listen at this port. TCP tries again after one
    second."""
    script = (
        "import socket\n"
        f"try: socket.create_connection(({address!r}, 9), timeout=3)\n"
        "except ConnectionRefusedError: pass\n"
    )
    return machine.run([sys.executable, "-c", script], check=False).returncode == 0


def traces_of(name: str) -> list[str]:
    """What the host shows of a testbed: links, mounts, cgroups, processes, folders."""
    links = [link.name for link in Path("/sys/class/net").iterdir() if name in link.name.split("-")]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}/" in line]
    groups = [str(group) for group in control_groups(name)]
    processes = subprocess.run(["pgrep", "-f", f"^[^ ]+ .*/run/fleet-testbed/{name}/"], capture_output=True, text=True)
    folders = [str(path) for path in (BASE / name,) if path.exists()]
    return links + mounts + groups + processes.stdout.split() + folders
