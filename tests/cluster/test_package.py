"""The Debian package on a bare machine, which sees neither this checkout nor a network: installed with apt, upgraded in
place, removed, purged."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import CHECKOUT, write_config
from fleetd import __version__
from tests.cluster.operator import SLEEPER
from tests.requirements import require

BUILD_TIMEOUT_S = 900.0  # it fetches the libraries, and compresses 50 MB
APT_TIMEOUT_S = 300.0
NEXT = "99.0-1"
WANTED = ("multi-user.target.wants/fleet.service", "sockets.target.wants/fleet.socket")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout."""
    command = [str(CHECKOUT / "contrib/deb/build"), str(tmp_path_factory.mktemp("deb"))]
    built = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    assert built.returncode == 0, built.stderr
    return Path(built.stdout.strip())


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


@pytest.mark.xdist_group("test_package")  # with the other test: the package is built once
def test_the_package_installs_runs_upgrades_in_place_and_goes_while_a_unit_keeps_running(
    new_cluster: Callable[..., Cluster], package: Path, tmp_path: Path
) -> None:
    cluster = new_cluster(machines=1, fleetd=False, etcd_members=0)
    machine = cluster.machines[0]
    machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)])
    machine.cut_network()

    said = install(machine, package)
    assert "Set etcd_servers= in /etc/fleet/fleet.conf" in said
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


def test_lintian_finds_no_errors_in_the_package(package: Path) -> None:
    require([] if shutil.which("lintian") else ["lintian is not installed"], "looks at the package with lintian")
    command = ["lintian", "--allow-root", "--fail-on=error", package]
    assert (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode == 0, done.stdout
