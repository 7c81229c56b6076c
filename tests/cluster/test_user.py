"""`fleetd --user`: users' own fleetds on one machine, beside that of the system, on real user managers."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from contrib.testbed import Cluster, Machine
from fleetd.model.user_instance import user_machine_id
from tests.cluster.operator import SLEEPER, Operator

SAYS = "[Service]\nExecStart=/bin/sh -c 'echo running as $$(id -un); exec sleep infinity'\n"
ONCE = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo once >>%t/ran'\n"


class User:
    """A user of a machine whose systemd runs without a login."""

    def __init__(self, cluster: Cluster, machine: Machine, name: str) -> None:
        self.cluster, self.machine, self.name = cluster, machine, name
        machine.run(["useradd", "--create-home", "--groups=systemd-journal", name])  # the log here is volatile
        self.id = int(machine.run(["id", "-u", name]).stdout)
        self.runtime = f"/run/user/{self.id}"
        machine.run(["loginctl", "enable-linger", name])
        self.wait_for_systemd()

    def wait_for_systemd(self) -> None:
        self.cluster.wait_until("the user's systemd runs", lambda: self.systemctl("is-system-running", check=False))

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = ["env", f"XDG_RUNTIME_DIR={self.runtime}", f"HOME=/home/{self.name}"]
        return self.machine.run(["runuser", "-u", self.name, "--", *environment, *command], check=check)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        return self.run("systemctl", "--user", *arguments, check=check).stdout.strip()

    def fleetctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("fleetctl", "--user", *arguments, check=check)

    def main_pid(self, unit: str) -> int:
        return int(self.systemctl("show", "--value", "--property=MainPID", unit))

    def active(self) -> list[str]:
        """The units that run, by name; none while fleetd does not answer."""
        listed = self.fleetctl("list-units", "--fields=unit,active", "--no-legend", check=False).stdout.splitlines()
        return [line.split()[0] for line in listed if line.endswith("active") and "inactive" not in line]

    def wait_until_active(self, *units: str) -> None:
        self.cluster.wait_until(f"{units} run for {self.name}", lambda: self.active() == sorted(units))


def write(machine: Machine, name: str, text: str) -> str:
    machine.path(f"/var/tmp/{name}").write_text(text)
    machine.path(f"/var/tmp/{name}").chmod(0o644)
    return f"/var/tmp/{name}"


def test_users_have_fleetds_of_their_own_beside_the_systems(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = Operator(new_cluster([{"standalone": "true"}]), tmp_path)
    (machine,) = operator.cluster.machines
    operator.start({"mine.service": SLEEPER})
    machine.run(["useradd", "--create-home", "away"])
    refused = machine.run(["runuser", "-u", "away", "--", "fleetd", "--user"], check=False)
    assert refused.returncode == 1
    assert "/run/user/1001 does not exist, so no systemd of this user runs: log in, or run" in refused.stderr
    assert "Traceback" not in refused.stderr
    of_system = machine.main_pid("mine.service")
    ann, bob = (User(operator.cluster, machine, name) for name in ("ann", "bob"))
    paths = [write(machine, "mine.service", SAYS), write(machine, "once.service", ONCE)]

    # Nobody's is enabled by the package; each user enables it, and needs nothing else.
    assert ann.systemctl("is-enabled", "fleet.service", check=False) == "disabled"
    missing = ann.fleetctl("list-units", check=False)
    assert (missing.returncode, "is your own fleetd running? systemctl --user enable" in missing.stderr) == (1, True)
    for user in (ann, bob):
        user.systemctl("enable", "--now", "fleet.socket", "fleet.service")
        user.fleetctl("start", *paths)
        assert user.active() == ["mine.service", "once.service"]
        machine_id = user_machine_id(machine.id, user.id)
        assert user.fleetctl("list-machines", "--full", "--no-legend").stdout.split()[0] == machine_id
    assert "already" not in machine.journal("fleet.service")

    # Units belong to their user's systemd; nothing of root's is used, and others see nothing of it.
    assert [user.main_pid("mine.service") != 0 for user in (ann, bob)] == [True, True]
    assert machine.main_pid("mine.service") == of_system
    for path in (f"{ann.runtime}/fleet", f"{ann.runtime}/fleet.sock", "/home/ann/.local/state/fleet/fleet.db"):
        status = machine.path(path).stat()
        assert (status.st_uid, status.st_mode & 0o077) == (ann.id, 0), path
    socket = f"--endpoint=unix://{ann.runtime}/fleet.sock"
    assert bob.run("fleetctl", socket, "list-units", check=False).returncode == 1
    assert "mine.service" in machine.run(["fleetctl", socket, "list-units"]).stdout, "root may"
    assert "mine.service" not in ann.run("fleetctl", "list-units", check=False).stdout, "not the system's"

    # status, journal and restart ask the user's systemd, also where XDG_RUNTIME_DIR is not set.
    as_by_su = ["runuser", "-u", "ann", "--", "env", "-u", "XDG_RUNTIME_DIR", "fleetctl", "--user"]
    assert f"user@{ann.id}.service/app.slice/mine.service" in machine.run([*as_by_su, "status", "mine.service"]).stdout
    assert "running as ann" in machine.run([*as_by_su, "journal", "mine.service"]).stdout
    before = ann.main_pid("mine.service")
    ann.fleetctl("restart", "mine.service")
    assert ann.main_pid("mine.service") not in (0, before)
    assert ann.fleetctl("reboot", machine_id[:8], check=False).returncode != 0

    # A restart, a stop and a crash of fleetd touch no unit.
    kept = ann.main_pid("mine.service")
    for action in (["restart"], ["stop"], ["start"], ["kill", "--signal=KILL"], ["reload"]):
        ann.systemctl(*action, "fleet.service", check=False)
        if action != ["stop"]:
            ann.wait_until_active("mine.service", "once.service")
        assert ann.main_pid("mine.service") == kept, action
    assert machine.path(f"{ann.runtime}/ran").read_text() == "once\n"


def test_a_users_units_end_with_the_logout_and_start_at_the_next_login(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(2)
    here, elsewhere = cluster.machines
    config = "".join(
        f"{line}\n" for line in here.path("/etc/fleet/fleet.conf").read_text().splitlines() if "etcd" in line
    )
    ann, bob = (User(cluster, here, name) for name in ("ann", "bob"))
    other = User(cluster, elsewhere, "cleo")
    folder = "~/.config/fleet"
    for user in (ann, bob, other):
        text = shlex.quote(f'{config}etcd_key_prefix="/users/"\n')
        user.run("sh", "-c", f"mkdir -p {folder} && printf %s {text} >{folder}/fleet.conf")
        user.systemctl("enable", "--now", "fleet.socket", "fleet.service")
    # One cluster of three users: two of them on one machine, with ids of their own.
    ids = sorted(user_machine_id(user.machine.id, user.id) for user in (ann, bob, other))

    def listed() -> list[str]:
        lines = ann.fleetctl("list-machines", "--full", "--no-legend", check=False).stdout.splitlines()
        return [line.split()[0] for line in lines]

    cluster.wait_until("all three are in one cluster", lambda: listed() == ids)
    unit = f"{SAYS}[X-Fleet]\nMachineID={user_machine_id(here.id, bob.id)}\n"
    moves = write(here, "moves.service", SAYS)
    bob.fleetctl("start", write(here, "stays.service", unit))
    ann.fleetctl("start", moves)
    if ann.main_pid("moves.service") == 0:
        ann.fleetctl("move", "moves.service", user_machine_id(here.id, ann.id))
    assert ann.main_pid("moves.service") != 0

    # The end of a user's systemd is a shutdown: what runs there is started elsewhere, and begins anew with it.
    here.run(["systemctl", "restart", f"user@{bob.id}.service"])
    cluster.wait_until("bob's unit runs again", lambda: "stays.service" in bob.active())
    assert bob.main_pid("stays.service") != 0
    assert "shutting down mode=leave" in here.run(["journalctl", "--no-pager", f"_UID={bob.id}"]).stdout
    here.run(["loginctl", "disable-linger", "ann"])
    cluster.wait_until("ann is gone", lambda: not here.path(ann.runtime).exists())
    cluster.wait_until("her unit runs for another", lambda: "moves.service" in other.active())
    assert user_machine_id(here.id, ann.id) not in other.fleetctl("list-machines", "--full").stdout
    assert cluster.fleetctl("list-machines", "--no-legend").stdout.count("\n") == 2, "the system's cluster"
