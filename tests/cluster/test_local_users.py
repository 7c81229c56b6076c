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
def person(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """Somebody at one machine without etcd, with a unit that runs."""
    person = Operator(new_cluster([{"standalone": "true", "metrics_listen": METRICS}]), tmp_path)
    person.start({"mine.service": SLEEPER})
    return person


def as_nobody(machine: Machine, *command: str) -> subprocess.CompletedProcess[str]:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    return machine.run([*nobody, *command], check=False)


def ask(machine: Machine, path: str, socket: str) -> str:
    """The HTTP status that nobody gets for a GET of this path; 000 where there is no answer."""
    request = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}"]
    return as_nobody(machine, *request, "--unix-socket", socket, f"http://fleet{path}").stdout


def bus_name(machine: Machine, unit: str) -> str:
    """The name on the system's bus that this unit's main process has."""
    pid = str(machine.main_pid(unit))
    rows = machine.run(["busctl", "list", "--no-legend", "--unique"]).stdout.splitlines()
    return next(row.split()[0] for row in rows if row.split()[1] == pid)


def test_what_is_fleetds_own_is_read_and_locked_by_nobody_and_a_confined_unit_starts(person: Operator) -> None:
    (machine,) = person.cluster.machines
    for path in (UNIT_FILE, "/run/fleet/lock", "/var/lib/fleet/fleet.db"):
        assert machine.path(path).stat().st_mode & 0o077 == 0, path
    assert as_nobody(machine, "cat", UNIT_FILE).returncode != 0
    assert as_nobody(machine, "systemctl", "cat", "mine.service").returncode != 0
    assert as_nobody(machine, "systemctl", "is-active", "mine.service").stdout == "active\n"
    assert as_nobody(machine, "flock", "--nonblock", "/run/fleet/lock", "true").returncode != 0
    person.start({"confined.service": CONFINED})
    assert machine.main_pid("confined.service") != 0


def test_sockets_answer_who_may_ask_whatever_their_modes_are(person: Operator) -> None:
    (machine,) = person.cluster.machines
    assert [ask(machine, path, METRICS) for path in ("/health", "/metrics", "/fleet/v1/units")] == ["200", "200", "404"]
    assert ask(machine, "/fleet/v1/units", "/run/fleet.sock") == "000"
    drop_in = machine.path("/etc/systemd/system/fleet.socket.d/open.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Socket]\nSocketMode=0666\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "stop", "fleet.service", "fleet.socket"])
    machine.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    person.cluster.wait_ready()
    assert ask(machine, "/fleet/v1/units", "/run/fleet.sock") == "403"
    assert "/run/fleet.sock is open to every user" in machine.journal("fleet.service")
    assert "mine.service" in person.placed()


def test_signals_that_a_user_forges_move_nothing(person: Operator) -> None:
    (machine,) = person.cluster.machines
    pid, name = machine.main_pid("mine.service"), bus_name(machine, "fleet.service")
    changed = ("org.freedesktop.DBus.NameOwnerChanged", "string:org.freedesktop.systemd1", "string::1.0", "string:")
    removed = ("org.freedesktop.systemd1.Manager.JobRemoved", "uint32:1")
    for signal, *body in (changed, removed):
        sent = as_nobody(
            machine, "dbus-send", "--system", "--type=signal", f"--dest={name}", "/org/freedesktop/DBus", signal, *body
        )
        assert sent.returncode == 0
    person.start({"after.service": SLEEPER})
    assert bus_name(machine, "fleet.service") == name  # its connection is the same
    assert machine.main_pid("mine.service") == pid
    figures = machine.run(["curl", "--silent", "--unix-socket", METRICS, "http://fleet/metrics"]).stdout
    assert "fleet_dbus_signals_dropped_total 2.0" in figures
    assert "Traceback" not in machine.journal("fleet.service")
