"""Units do not depend on fleetd or the store: whatever happens to these, the units' processes stay."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from tests.cluster.operator import SLEEPER, Operator, with_fleet

TTL_S = 4
STOP_S = 20.0  # three seconds by fleetd's own clock; the rest is for a busy machine
UNITS = [f"u{number}.service" for number in range(6)]


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster with six units and a global one that run."""
    return start_units(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


def start_units(cluster: Cluster, folder: Path) -> Operator:
    operator = Operator(cluster, folder)
    operator.start({**dict.fromkeys(UNITS, SLEEPER), "all.service": with_fleet("Global=true")})
    cluster.wait_until("the global runs", lambda: len(operator.placed().get("all.service", [])) == 3)
    return operator


def all_pids(operator: Operator) -> dict[tuple[str, str], int]:
    """(machine, unit) → main process, from each machine's systemd."""
    return {
        (machine.name, unit): machine.main_pid(unit)
        for machine in operator.cluster.machines
        for unit in [*UNITS, "all.service"]
    }


@pytest.mark.covers("2.10.8", "5.4.7", "5.6.4", "10.7.6", "P.2", "R.2", "S.1")
@pytest.mark.parametrize("how", [["restart", "fleet.service"], ["kill", "-s", "KILL", "fleet.service"]])
def test_restarting_or_killing_every_fleetd_keeps_processes_and_machines(
    new_cluster: Callable[..., Cluster], tmp_path: Path, how: list[str]
) -> None:
    operator = start_units(
        new_cluster(machines=3), tmp_path
    )  # with a time to live longer than a start on a busy machine
    before, placed, listed = all_pids(operator), operator.placed(), operator.registrations()
    daemons = {machine.name: machine.main_pid("fleet.service") for machine in operator.cluster.machines}
    for machine in operator.cluster.machines:
        machine.run(["systemctl", *how])
    operator.cluster.wait_ready()
    assert all(
        machine.main_pid("fleet.service") not in (0, daemons[machine.name]) for machine in operator.cluster.machines
    )
    assert len(operator.start({"after.service": SLEEPER}).stdout.splitlines()) == 2
    time.sleep(TTL_S)
    assert all_pids(operator) == before
    assert {unit: machines for unit, machines in operator.placed().items() if unit != "after.service"} == placed
    assert operator.registrations() == listed


@pytest.mark.covers("4.9.4", "5.6.1", "R.2", "S.21")
def test_a_stopped_fleetd_parks_its_machine_and_keeps_its_units(operator: Operator) -> None:
    before = all_pids(operator)
    stopped, asked, _ = operator.cluster.machines
    stopped.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    time.sleep(TTL_S + 2)
    listed = operator.cluster.fleetctl("list-machines", "--no-legend", "--full", on=asked).stdout
    assert stopped.id in listed
    assert len(operator.placed(on=asked)["all.service"]) == 3
    operator.cluster.fleetctl("start", *operator.write({"new.service": SLEEPER}), on=asked)
    assert operator.placed(on=asked)["new.service"] != [stopped.id]
    stopped.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    operator.cluster.wait_ready()
    assert all_pids(operator) == before


@pytest.mark.covers("S.21")
@pytest.mark.parametrize(("hide", "bring_back"), [("stop", "start"), ("freeze", "thaw")])
def test_a_fleetd_stopped_without_etcd_ends_soon_and_is_parked_later(
    operator: Operator, hide: str, bring_back: str
) -> None:
    before = all_pids(operator)
    stopped, asked, _ = operator.cluster.machines
    getattr(operator.cluster.etcd, hide)()
    begun_s = time.monotonic()
    stopped.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    assert time.monotonic() - begun_s < STOP_S
    assert all(pid == all_pids(operator)[place] for place, pid in before.items())
    time.sleep(2 * TTL_S)
    getattr(operator.cluster.etcd, bring_back)()
    operator.cluster.wait_until(
        "it is parked", lambda: "parked" in operator.cluster.fleetctl("list-machines", on=asked, check=False).stderr
    )
    time.sleep(2 * TTL_S)
    assert all_pids(operator) == before
    assert stopped.run(["systemctl", "is-active", "fleet-park.service"], check=False).stdout == "inactive\n"
    assert not stopped.path("/run/fleet/parking").exists()
    stopped.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    operator.cluster.wait_ready()
    time.sleep(TTL_S)
    assert all_pids(operator) == before


@pytest.mark.covers("5.6.5")
def test_leave_moves_every_unit_and_removes_the_machine_from_the_list(operator: Operator) -> None:
    leaver, asked, _ = operator.cluster.machines
    result = leaver.run(["fleetd", "leave"], timeout_s=60)
    assert "has left the cluster" in result.stdout
    assert all(leaver.main_pid(unit) == 0 for unit in [*UNITS, "all.service"])
    operator.cluster.wait_until(
        "all run elsewhere", lambda: all(len(operator.placed(on=asked).get(unit, [])) == 1 for unit in UNITS)
    )
    assert leaver.id not in operator.cluster.fleetctl("list-machines", "--full", on=asked).stdout
    told = operator.cluster.fleetctl("list-machines", on=leaver, check=False)
    assert told.returncode == 1
    assert "systemctl restart fleet.service" in told.stderr
    leaver.run(["systemctl", "restart", "fleet.service"])
    operator.cluster.wait_ready()


@pytest.mark.covers("2.10.9", "4.9.3", "5.5.2", "P.1", "S.2")
def test_three_times_to_live_without_the_store_keep_every_process(operator: Operator) -> None:
    before, listed = all_pids(operator), operator.placed()
    operator.cluster.etcd.stop()
    time.sleep(3 * TTL_S)
    refused = operator.cluster.fleetctl("list-units", check=False)
    assert refused.returncode == 1
    assert "etcd" in refused.stderr
    assert all_pids(operator) == before
    operator.cluster.etcd.start()
    operator.cluster.wait_ready()
    time.sleep(2 * TTL_S)
    assert all_pids(operator) == before
    assert operator.placed() == listed
    operator.start({"after.service": SLEEPER})


@pytest.mark.covers("5.5.2", "P.1", "S.3")
def test_a_store_frozen_beyond_the_time_to_live_keeps_every_process(operator: Operator) -> None:
    before, listed = all_pids(operator), operator.placed()
    operator.cluster.etcd.freeze()
    time.sleep(3 * TTL_S)
    operator.cluster.etcd.thaw()
    operator.cluster.wait_ready()
    time.sleep(2 * TTL_S)
    assert all_pids(operator) == before
    operator.cluster.wait_until("all are listed again", lambda: operator.placed() == listed)


@pytest.mark.covers("5.4.8", "5.6.2", "10.7.1")
def test_a_reload_reads_the_configuration_and_affects_no_unit(operator: Operator) -> None:
    before = all_pids(operator)
    machine = operator.cluster.machines[0]
    conf = machine.path("/etc/fleet/fleet.conf")
    text = conf.read_text()
    conf.write_text(text + "metadata=color=green\n")
    machine.run(["systemctl", "reload", "fleet.service"])
    operator.cluster.wait_until(
        "the new metadata is listed", lambda: "color=green" in operator.cluster.fleetctl("list-machines").stdout
    )
    conf.write_text(text + "agent_ttl=soon\n")
    machine.run(["systemctl", "reload", "fleet.service"])
    operator.cluster.wait_until(
        "the mistake is named", lambda: "fleet.conf:" in machine.journal("fleet.service").split("color=green")[-1]
    )
    assert "color=green" in operator.cluster.fleetctl("list-machines").stdout
    assert all_pids(operator) == before


def test_a_reload_logs_which_units_new_metadata_will_move(operator: Operator) -> None:
    for each in operator.cluster.machines[:2]:
        path = each.path("/etc/fleet/fleet.conf")
        path.write_text(path.read_text() + "metadata=disk=ssd\n")
        each.run(["systemctl", "reload", "fleet.service"])
    operator.cluster.wait_until(
        "both list it", lambda: operator.cluster.fleetctl("list-machines").stdout.count("disk=ssd") == 2
    )
    operator.start({"fast.service": with_fleet("MachineMetadata=disk=ssd")})
    machine = operator.machine_of("fast.service")
    before = all_pids(operator)
    conf = machine.path("/etc/fleet/fleet.conf")
    text = conf.read_text()
    conf.write_text(text.replace("disk=ssd", "disk=hdd"))
    machine.run(["systemctl", "reload", "fleet.service"])
    operator.cluster.wait_until("it has moved", lambda: machine.main_pid("fast.service") == 0)
    words = machine.journal("fleet.service")
    told = "fast.service will move to another machine because of the new metadata: metadata disk=ssd missing"
    assert told in words
    assert words.index(told) < words.rindex("reloaded")
    assert not [unit for unit in UNITS if f"{unit} will move" in words]
    assert all_pids(operator) == before
    conf.write_text(text + "etcd_servers=http://10.9.9.9:2379\ninsecure_etcd=false\n")
    machine.run(["systemctl", "reload", "fleet.service"])
    operator.cluster.wait_until("it is refused", lambda: "is not encrypted" in machine.journal("fleet.service"))
    assert "keeping the former configuration" in machine.journal("fleet.service")
    assert all_pids(operator) == before


@pytest.mark.covers("5.4.6", "P.13", "S.16")
def test_a_second_machine_with_the_same_id_is_refused(operator: Operator) -> None:
    before, placed, listed = all_pids(operator), operator.placed(), operator.registrations()
    first = operator.cluster.machines[0]
    clone = operator.cluster.add_machine(machine_id=first.id)
    operator.cluster.wait_until("the clone says why", lambda: "is alive at" in clone.journal("fleet.service"))
    assert [clone.main_pid(unit) for unit in [*UNITS, "all.service"]] == [0] * 7
    words = clone.journal("fleet.service")
    assert first.address in words
    assert clone.address in words
    time.sleep(TTL_S + 2)
    assert "is alive at" in operator.cluster.fleetctl("list-units", on=clone, check=False).stderr
    assert {place: pid for place, pid in all_pids(operator).items() if place[0] != clone.name} == before
    assert operator.placed(on=first) == placed
    assert operator.registrations() == listed


@pytest.mark.covers("4.9.2", "5.4.5", "9.8", "10.7.3")
def test_a_fleetd_without_etcd_waits_and_logs_it_once(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster(machines=1)
    machine = cluster.machines[0]
    cluster.etcd.stop()
    machine.run(["systemctl", "restart", "fleet.service"])

    def words() -> str:
        return machine.journal("fleet.service").split("Starting fleet.service")[-1]

    cluster.wait_until("it says so", lambda: "cannot register" in words())
    time.sleep(4)  # time for several further attempts
    assert words().count("cannot register") == 1
    refused = cluster.fleetctl("list-machines", check=False)
    assert refused.returncode == 1
    assert "etcd" in refused.stderr
    cluster.etcd.start()
    cluster.wait_ready()


def test_a_killed_standalone_machine_loses_nothing(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    operator = Operator(new_cluster([{"standalone": "true"}]), tmp_path)
    operator.start(dict.fromkeys(UNITS, SLEEPER))
    (machine,) = operator.cluster.machines
    before = {unit: machine.main_pid(unit) for unit in UNITS}
    machine.run(["systemctl", "kill", "-s", "KILL", "fleet.service"])
    operator.cluster.wait_ready()
    operator.wait_until_placed(*UNITS)
    assert {unit: machine.main_pid(unit) for unit in UNITS} == before
    machine.reboot()
    operator.cluster.wait_ready()
    operator.wait_until_placed(*UNITS)


@pytest.mark.covers("5.3.12")
def test_units_can_belong_to_a_users_systemd(new_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = new_cluster([{"standalone": "true"}])
    (machine,) = cluster.machines
    machine.run(["systemctl", "start", "user@0.service"])
    folder = "/run/user/0/second"
    machine.path("/etc/second.conf").write_text(
        f"standalone=true\nstandalone_path=/var/lib/second/fleet.db\nlisten={folder}.sock\n"
        f"systemd_user=true\nunits_directory={folder}\n"
    )
    session = ["XDG_RUNTIME_DIR=/run/user/0", "DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/0/bus"]
    settings = [f"--setenv={variable}" for variable in session]
    as_a_service = ["systemd-run", "--unit=second", "--property=Restart=always", "--property=RestartSec=1", *settings]
    machine.run([*as_a_service, "fleetd", "--config", "/etc/second.conf"])
    cluster.wait_until("the second fleetd listens", machine.path(f"{folder}.sock").exists)
    machine.path("/root/mine.service").write_text(SLEEPER)
    fleetctl = ["fleetctl", f"--endpoint=unix://{folder}.sock"]
    cluster.wait_until("it answers", lambda: machine.run([*fleetctl, "list-units"], check=False).returncode == 0)
    machine.run([*fleetctl, "start", "/root/mine.service"])
    asked = machine.run(["env", *session, "systemctl", "--user", "is-active", "mine.service"])
    assert asked.stdout == "active\n"
    assert machine.main_pid("mine.service") == 0
    assert machine.path(f"{folder}/mine.service").read_text() == SLEEPER


@pytest.mark.covers("5.6.3")
def test_sigusr1_writes_one_line_of_json(operator: Operator) -> None:
    before = all_pids(operator)
    machine = operator.cluster.machines[0]
    assert machine.run(["pidof", "fleetd"]).stdout.split() == [str(machine.main_pid("fleet.service"))]
    machine.run(["systemctl", "kill", "-s", "USR1", "fleet.service"])
    operator.cluster.wait_until("the line is there", lambda: '{"Agent":' in machine.journal("fleet.service"))
    (line,) = [line for line in machine.journal("fleet.service").splitlines() if '{"Agent":' in line]
    shown = json.loads(line[line.index("{") :])
    here = [unit for unit in [*UNITS, "all.service"] if machine.main_pid(unit)]
    assert shown["Agent"]["Cache"]["TargetStates"] == dict.fromkeys(here, "launched")
    assert sorted(shown) == ["Agent", "UnitStateGenerator", "UnitStatePublisher"]
    assert all_pids(operator) == before


@pytest.mark.covers("5.4.2")
def test_a_lost_d_bus_connection_is_made_again(operator: Operator) -> None:
    before = all_pids(operator)
    for machine in operator.cluster.machines:
        machine.run(["systemctl", "restart", "dbus.service"], check=False)
    operator.cluster.wait_ready()
    operator.start({"after.service": SLEEPER})
    assert all_pids(operator) == before
