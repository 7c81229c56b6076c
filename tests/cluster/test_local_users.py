"""What an ordinary user of a machine can do to its fleetd: nothing."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.operator import SLEEPER, Operator

METRICS = "/run/fleet-metrics.sock"
UNIT_FILE = "/run/fleet/units/mine.service"
CONFINED = "[Service]\nDynamicUser=yes\nUMask=0077\nProtectSystem=strict\nExecStart=/bin/sleep infinity\n"


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of one machine without etcd, with a running unit."""
    operator = Operator(new_cluster([{"standalone": "true", "metrics_listen": METRICS}]), tmp_path)
    operator.start({"mine.service": SLEEPER})
    return operator


def as_unprivileged_user(machine: Machine, *command: str) -> subprocess.CompletedProcess[str]:
    unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    return machine.run([*unprivileged, *command], check=False)


def ask(machine: Machine, path: str, socket: str) -> str:
    """The HTTP status that an unprivileged user gets for a GET of this path; 000 without an answer."""
    request = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    return as_unprivileged_user(machine, *request, "--unix-socket", socket, f"http://fleet{path}").stdout


def bus_name(machine: Machine, unit: str) -> str:
    """The unique name of this unit's main process on the system bus."""
    pid = str(machine.main_pid(unit))
    rows = machine.run(["busctl", "list", "--no-legend", "--unique"]).stdout.splitlines()
    return next(row.split()[0] for row in rows if row.split()[1] == pid)


def test_fleetds_files_are_closed_to_other_users_and_to_confined_units(operator: Operator) -> None:
    (machine,) = operator.cluster.machines
    for path in (UNIT_FILE, "/run/fleet/lock", "/var/lib/fleet/fleet.db"):
        assert machine.path(path).stat().st_mode & 0o077 == 0, path
    assert as_unprivileged_user(machine, "cat", UNIT_FILE).returncode != 0
    assert as_unprivileged_user(machine, "systemctl", "cat", "mine.service").returncode != 0
    assert as_unprivileged_user(machine, "systemctl", "is-active", "mine.service").stdout == "active\n"
    assert as_unprivileged_user(machine, "flock", "--nonblock", "/run/fleet/lock", "true").returncode != 0
    operator.start({"confined.service": CONFINED})
    assert machine.main_pid("confined.service") != 0


def test_sockets_answer_permitted_users_whatever_the_sockets_modes(operator: Operator) -> None:
    (machine,) = operator.cluster.machines
    assert [ask(machine, path, METRICS) for path in ("/health", "/metrics", "/fleet/v1/units")] == ["200", "200", "404"]
    assert ask(machine, "/fleet/v1/units", "/run/fleet.sock") == "000"
    drop_in = machine.path("/etc/systemd/system/fleet.socket.d/open.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Socket]\nSocketMode=0666\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "stop", "fleet.service", "fleet.socket"])
    machine.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    operator.cluster.wait_ready()
    assert ask(machine, "/fleet/v1/units", "/run/fleet.sock") == "403"
    assert "/run/fleet.sock is open to every user" in machine.journal("fleet.service")
    assert "mine.service" in operator.placed()


def test_forged_d_bus_signals_move_no_unit(operator: Operator) -> None:
    (machine,) = operator.cluster.machines
    pid, name = machine.main_pid("mine.service"), bus_name(machine, "fleet.service")
    changed = ("org.freedesktop.DBus.NameOwnerChanged", "string:org.freedesktop.systemd1", "string::1.0", "string:")
    removed = ("org.freedesktop.systemd1.Manager.JobRemoved", "uint32:1")
    for signal, *body in (changed, removed):
        sent = as_unprivileged_user(
            machine, "dbus-send", "--system", "--type=signal", f"--dest={name}", "/org/freedesktop/DBus", signal, *body
        )
        assert sent.returncode == 0
    operator.start({"after.service": SLEEPER})
    assert bus_name(machine, "fleet.service") == name  # the connection is still the same
    assert machine.main_pid("mine.service") == pid
    figures = machine.run(["curl", "--silent", "--unix-socket", METRICS, "http://fleet/metrics"]).stdout
    assert "fleet_dbus_signals_dropped_total 2.0" in figures
    assert "Traceback" not in machine.journal("fleet.service")
