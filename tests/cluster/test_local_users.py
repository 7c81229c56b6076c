"""What users of a machine can do to its fleetd: what their groups may, and an ordinary one nothing."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from fleetd.api.audit import MESSAGE_ID
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
    assert ask(machine, "/fleet/v1/units", "/run/fleet.sock") == "403"
    assert "mine.service" in operator.placed()


def test_people_may_do_what_their_groups_may_and_it_is_known_who_did_it(operator: Operator) -> None:
    (machine,) = operator.cluster.machines
    with machine.path("/etc/fleet/fleet.conf").open("a") as conf:
        conf.write("\nrole.web-team=submit:web-*\n")
    machine.run(["groupadd", "web-team"])
    for name, group in (("vera", "fleet-view"), ("olga", "fleet-operate"), ("wim", "web-team"), ("none", "users")):
        machine.run(["useradd", "--groups", group, name])
    machine.run(["systemctl", "reload", "fleet"])
    machine.path("/tmp/web-1.service").write_text(SLEEPER)

    def fleetctl(user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = machine.run(["sh", "-c", "command -v fleetctl"]).stdout.strip()
        return machine.run(["runuser", "-u", user, "--", program, *arguments], check=False)

    assert fleetctl("none", "list-units").returncode == 1
    assert "neither root nor in one of the groups" in fleetctl("none", "list-units").stderr
    assert "mine.service" in fleetctl("vera", "list-units").stdout
    refused = fleetctl("vera", "stop", "mine.service")
    assert refused.returncode == 1
    assert "vera may not do this: it needs the permission operate" in refused.stderr
    assert fleetctl("olga", "stop", "mine.service").returncode == 0
    assert fleetctl("olga", "destroy", "mine.service").returncode == 1
    assert fleetctl("wim", "start", "mine.service").returncode == 1
    assert fleetctl("wim", "start", "/tmp/web-1.service").returncode == 0
    authors = fleetctl("vera", "list-unit-files", "--fields=unit,by", "--no-legend").stdout.split()
    assert authors == ["mine.service", "olga", "web-1.service", "wim"]
    assert "web-team" in fleetctl("wim", "whoami").stdout
    entries = machine.run(["journalctl", f"MESSAGE_ID={MESSAGE_ID}", "--output=json", "--no-pager"]).stdout
    found = [json.loads(line) for line in entries.splitlines()]
    assert [(each["FLEET_ACTOR"].split("(")[1].split(")")[0], each["ACTION"], each["UNIT"]) for each in found[-3:]] == [
        ("root", "submit", "mine.service"),
        ("olga", "load", "mine.service"),
        ("wim", "submit", "web-1.service"),
    ]


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
