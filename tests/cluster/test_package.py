"""The Debian package on a bare machine, which sees neither this checkout nor a network: installed with apt, upgraded in
place, removed, purged."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import CHECKOUT, write_config
from fleetctl.cluster.layout import ETCD_CA
from fleetd import __version__
from tests.cluster.operator import SLEEPER
from tests.requirements import require

APT_TIMEOUT_S = 300.0
NEXT = "99.0-1"
WANTED = ("multi-user.target.wants/fleet.service", "sockets.target.wants/fleet.socket")


def repack(package: Path, folder: Path, version: str) -> Path:
    """The same package as another version."""
    tree, result = folder / "tree", folder / f"fleet_{version}.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, result], check=True)
    return result


def apt(machine: Machine, *arguments: str) -> str:
    """Run apt-get in the machine, which asks nobody. Return what it says."""
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--no-install-recommends", *arguments]
    return machine.run(command, timeout_s=APT_TIMEOUT_S).stdout


def install(machine: Machine, package: Path, *arguments: str) -> str:
    inside = f"/var/tmp/{package.name}"
    shutil.copy(package, machine.root / inside.lstrip("/"))
    return apt(machine, *arguments, "install", inside)


def is_there(machine: Machine, path: str) -> bool:
    return machine.run(["test", "-e", path], check=False).returncode == 0


def test_the_package_installs_runs_upgrades_in_place_and_goes_while_a_unit_keeps_running(
    new_cluster: Callable[..., Cluster], package: Path, tmp_path: Path
) -> None:
    cluster = new_cluster(machines=1, fleetd=False, etcd_members=0)
    machine = cluster.machines[0]
    machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)])
    machine.cut_network()

    said = install(machine, package)
    assert "For a new cluster: fleetctl cluster init" in said
    assert machine.run(["fleetd", "--version"]).stdout.strip().endswith(__version__)
    enabled = machine.run(["systemctl", "is-enabled", "fleet.socket", "fleet.service"]).stdout.split()
    assert enabled == ["enabled", "enabled"]
    assert machine.show("fleet.service", "ActiveState") == "inactive", "before it is configured"
    assert machine.run(["getent", "group", "fleet", "fleet-operate", "fleet-view"]).stdout.count("\n") == 3

    with machine.path("/etc/fleet/fleet.conf").open("a") as config:
        config.write("standalone=true\n")
    machine.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    machine.path("/root/kept.service").write_text(SLEEPER)
    machine.run(["fleetctl", "start", "/root/kept.service"])
    kept, fleetd = machine.main_pid("kept.service"), machine.main_pid("fleet.service")
    assert kept != 0

    install(machine, repack(package, tmp_path, NEXT))
    assert machine.run(["dpkg-query", "--show", "--showformat=${Version}", "fleet"]).stdout == NEXT
    assert machine.main_pid("fleet.service") not in (0, fleetd)
    assert "kept.service" in machine.run(["fleetctl", "list-units", "--no-legend"]).stdout
    assert machine.main_pid("kept.service") == kept

    apt(machine, "remove", "fleet")
    assert machine.show("fleet.service", "ActiveState") == "inactive"
    assert machine.main_pid("kept.service") == kept
    assert [is_there(machine, path) for path in ("/usr/bin/fleetd", "/opt/fleet")] == [False, False]
    assert [is_there(machine, path) for path in ("/var/lib/fleet/fleet.db", "/etc/fleet/fleet.conf")] == [True, True]

    apt(machine, "purge", "fleet")
    assert machine.main_pid("kept.service") == kept
    wanted = [f"/etc/systemd/system/{name}" for name in WANTED]
    gone = ["/etc/fleet", "/opt/fleet", "/var/lib/fleet", "/lib/systemd/system/fleet.service", *wanted]
    assert [path for path in gone if machine.run(["find", path], check=False).returncode == 0] == []

    # As cloud-init does: the configuration first.
    machine.run(["rm", "-f", "/usr/sbin/policy-rc.d"])
    write_config(machine.root, {"standalone": "true"})
    install(machine, package, "--option=Dpkg::Options::=--force-confold")
    assert machine.run(["fleetctl", "list-machines", "--no-legend", "--full"]).stdout.startswith(machine.id)


def test_bare_machines_become_a_cluster_in_the_five_commands_of_the_readme(
    new_cluster: Callable[..., Cluster], package: Path
) -> None:
    cluster = new_cluster(machines=4, fleetd=False, ssh=True, etcd_members=0)
    a, b, c, d = cluster.machines
    for machine in cluster.machines:
        machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)])
        machine.run(["rm", "-f", "/usr/sbin/policy-rc.d"])
    prepare_administrator(cluster, a, package)
    install, init, add_b, add_c, start = commands_of_the_readme(package)

    said = sh(a, install).stdout
    assert "For a new cluster: fleetctl cluster init" in said
    said = sh(a, init).stdout
    assert said.splitlines()[-2:] == [
        "This machine is a server of the cluster: 1 server, of which none may fail",
        "Next, from here: fleetctl machine add root@HOST --server (or without --server: a worker)",
    ]
    assert sh(a, init).stdout.splitlines() == said.splitlines()[-2:], "nothing is done twice"
    assert a.run(["ss", "-Hltn", "sport = :2379"]).stdout.count(":2379") == 2, "loopback, and its address"

    # A machine whose etcd fails takes nothing with it.
    b.path("/root/etcd").write_text("#!/bin/sh\nexit 1\n")
    b.run(["chmod", "755", "/root/etcd"])
    b.run(["mount", "--bind", "/root/etcd", "/usr/bin/etcd"])
    failed = sh(a, add_b, check=False)
    assert (failed.returncode, "Traceback" in failed.stderr) == (1, False)
    assert "b: its etcd crashes" in failed.stderr
    assert "Took the etcd of b out again: 1 server, of which none may fail" in failed.stderr
    assert sh(a, "fleetctl list-machines --no-legend --full").stdout.split()[0] == a.id
    b.run(["umount", "/usr/bin/etcd"])

    said = sh(a, add_b).stdout
    assert "b is a server of the cluster: fleet runs there" in said
    assert f"The etcd of {b.address} votes once there is a further server" in said
    b.power_cut()
    sh(a, "fleetctl submit units/hello.service")  # the second server has no vote: the store goes on without it
    b.boot()
    for machine in (b, c):
        machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)], check=False)
    said = sh(a, add_c).stdout
    assert said.splitlines()[-1] == "The cluster has 3 servers, of which 1 may fail"
    again = sh(a, add_c).stdout.splitlines()
    assert again == ["c is a server of the cluster: fleet runs there", said.splitlines()[-1]]

    sh(a, start)
    for machine in (a, b, c):
        assert listed(machine) == {each.id for each in (a, b, c)}

    said = sh(a, "fleetctl machine add root@d").stdout
    assert said.splitlines() == [
        f"Installed {package.name} on d",
        "d is a worker of the cluster: fleet runs there",
    ]
    assert sh(a, "fleetctl machine add root@d").stdout == "d is a worker of the cluster already\n"
    refused = sh(a, "fleetctl machine add root@d --server", check=False)
    assert (refused.returncode, "d is a worker: remove it" in refused.stderr) == (1, True)
    assert not is_there(d, "/etc/fleet/etcd"), "nothing of etcd's reaches a worker"
    a.power_cut()
    cluster.wait_until("the unit runs elsewhere", lambda: runs_hello(b))


def test_another_ca_of_etcd_is_made_by_the_commands_of_the_manual_while_units_run(
    new_cluster: Callable[..., Cluster], package: Path
) -> None:
    cluster = new_cluster(machines=2, fleetd=False, ssh=True, etcd_members=0)
    a, b = cluster.machines
    for machine in cluster.machines:
        machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)])
        machine.run(["rm", "-f", "/usr/sbin/policy-rc.d"])
    prepare_administrator(cluster, a, package)
    install_it, init, add_b, *_ = commands_of_the_readme(package)
    for command in (install_it, init, add_b, "fleetctl start units/hello.service"):
        sh(a, command)
    former = a.path(ETCD_CA).read_text()

    leave, remove, forget, init, clean, add = commands_of_the_manual()
    sh(b, leave)
    cluster.wait_until("the unit runs on the first server", lambda: a.main_pid("hello.service") != 0)
    kept = a.main_pid("hello.service")
    sh(a, remove.replace("MACHINE", b.id))
    sh(a, forget)
    sh(a, init)
    sh(b, clean)
    said = sh(a, add.replace("HOST", "b")).stdout
    assert "b is a server of the cluster: fleet runs there" in said
    assert a.path(ETCD_CA).read_text() == b.path(ETCD_CA).read_text() != former
    assert a.main_pid("hello.service") == kept
    for machine in (a, b):
        cluster.wait_until(f"{machine.name} lists both", lambda machine=machine: listed(machine) == {a.id, b.id})


def commands_of_the_manual() -> list[str]:
    """Those that make another CA of etcd."""
    text = (CHECKOUT / "docs/operations.md").read_text()
    block = re.search(r"The CA of etcd is replaced .*?```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [line.partition("#")[0].strip() for line in block[1].splitlines()]


def prepare_administrator(cluster: Cluster, machine: Machine, package: Path) -> None:
    """Give root on this machine the package, a unit, and a key and the names of the other machines."""
    shutil.copy(package, machine.path("/root") / package.name)
    machine.path("/root/units").mkdir()
    shutil.copy(CHECKOUT / "units/hello.service", machine.path("/root/units"))
    key = machine.path("/root/.ssh/id_ed25519")
    shutil.copy(cluster.ssh_key, key)
    key.chmod(0o600)
    with machine.path("/etc/hosts").open("a") as hosts:
        for name, each in zip("abcd", cluster.machines, strict=False):
            hosts.write(f"{each.address} {name}\n")


def commands_of_the_readme(package: Path) -> list[str]:
    """The commands of its first screen, with the name that the package has here."""
    block = re.search(r"```sh\n(apt install .*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    commands = [line.partition("#")[0].strip() for line in block[1].splitlines()]
    assert commands[0].startswith("apt install ./fleet_")
    return [f"apt install ./{package.name}", *commands[1:]]


def sh(machine: Machine, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command as root types it, who lets fleetctl record the keys of new hosts."""
    exports = "export DEBIAN_FRONTEND=noninteractive FLEETCTL_STRICT_HOST_KEY_CHECKING=accept-new HOME=/root"
    return machine.run(["sh", "-c", f"cd /root; {exports}; {command}"], timeout_s=APT_TIMEOUT_S, check=check)


def listed(machine: Machine) -> set[str]:
    """The machines of the cluster, as this one knows them."""
    return set(sh(machine, "fleetctl list-machines --no-legend --full --fields=machine", check=False).stdout.split())


def runs_hello(machine: Machine) -> bool:
    listed = sh(machine, "fleetctl list-units --no-legend --fields=unit,active", check=False)
    return listed.stdout.split() == ["hello.service", "active"]


def test_lintian_finds_no_errors_in_the_package(package: Path) -> None:
    require([] if shutil.which("lintian") else ["lintian is not installed"], "looks at the package with lintian")
    command = ["lintian", "--allow-root", "--fail-on=error", package]
    assert (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode == 0, done.stdout
