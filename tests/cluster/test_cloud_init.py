"""The recipe for cloud-init on a bare machine that boots for the first time, with Debian's cloud-init."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import CHECKOUT
from tests.cluster.test_package import apt, install, is_there, sh
from tests.requirements import require

USER_DATA = CHECKOUT / "contrib/cloud-init/user-data"
TIMEOUT_S = 600.0  # of a boot that installs packages
UNITS = ("cloud-init-local", "cloud-init", "cloud-config", "cloud-final")  # those of cloud-init's that a boot starts
SEED = "/var/lib/cloud/seed/nocloud"
# Of what Debian's cloud-init does beside: nothing. It would set up the machine's network, disks and keys.
CONFIG = """\
datasource_list: [NoCloud]
network: {config: disabled}
cloud_init_modules: [write-files]
cloud_config_modules: [runcmd]
cloud_final_modules: [package-update-upgrade-install, scripts-user]
"""


@pytest.fixture
def cloud_init(tmp_path: Path) -> list[Path]:
    """Debian's packages of cloud-init and what it needs beside those that are here. They are not installed here, where
    it would set up this machine at its next boot."""
    (tmp_path / "partial").mkdir()
    options = ["--option=APT::Sandbox::User=root", f"--option=Dir::Cache::archives={tmp_path}"]
    command = ["apt-get", "--yes", "--quiet", "--download-only", "--no-install-recommends", *options]
    done = subprocess.run(
        [*command, "install", "cloud-init"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    require([] if done.returncode == 0 else [f"apt-get cannot fetch it: {done.stderr}"], "runs cloud-init")
    return sorted(tmp_path.glob("*.deb"))


def user_data(values: dict[str, str]) -> str:
    """The recipe, with these values for the placeholders in it."""
    text = USER_DATA.read_text()
    for placeholder, value in values.items():
        assert text.count(placeholder) == 1, placeholder
        text = text.replace(placeholder, value)
    return text


def write(machine: Machine, path: str, text: str) -> None:
    machine.path(path).parent.mkdir(parents=True, exist_ok=True)
    machine.path(path).write_text(text)


def hide_checkout_at_boot(machine: Machine) -> None:
    """Have nothing of this checkout be seen from its next boot on."""
    with machine.path("/etc/fstab").open("a") as table:
        table.write(f"none {CHECKOUT} tmpfs defaults 0 0\n")


def lists(server: Machine, worker: Machine) -> bool:
    listed = sh(server, "fleetctl list-machines --no-legend --full").stdout
    return re.search(rf"(?m)^{worker.id}\s.*disk=ssd,region=eu", listed) is not None


def test_a_machine_with_the_recipe_is_a_worker_after_its_first_boot(
    new_cluster: Callable[..., Cluster], package: Path, cloud_init: list[Path]
) -> None:
    cluster = new_cluster(machines=2, fleetd=False, etcd_members=0)
    server, worker = cluster.machines
    for machine in cluster.machines:
        machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)])
        machine.run(["rm", "-rf", "/usr/sbin/policy-rc.d", "/etc/apt/sources.list.d"])  # it reaches no mirror
    install(server, package)
    sh(server, "fleetctl cluster init")
    token = sh(server, "fleetctl machine token").stdout.strip()
    shutil.copy(package, worker.path("/var/tmp/fleet.deb"))
    recipe = user_data(
        {
            "fleet1-change-me": token,
            "https://downloads.example.com/fleet_2.0.0-1_amd64.deb": "file:///var/tmp/fleet.deb",
            "0" * 64: hashlib.sha256(package.read_bytes()).hexdigest(),
            "https://10.0.0.1:7443": f"https://{server.address}:7443",
        }
    )
    write(worker, f"{SEED}/user-data", recipe)
    write(worker, f"{SEED}/meta-data", "instance-id: first\n")
    write(worker, "/etc/cloud/cloud.cfg.d/99-test.cfg", CONFIG)
    worker.path("/var/tmp/debs").mkdir()
    for path in cloud_init:
        shutil.copy(path, worker.path("/var/tmp/debs"))
    if cloud_init:
        apt(worker, "install", *(f"/var/tmp/debs/{path.name}" for path in cloud_init))

    checked = worker.run(["cloud-init", "schema", f"--config-file={SEED}/user-data"], check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    hide_checkout_at_boot(worker)
    worker.power_cut()
    worker.boot(TIMEOUT_S)
    waited = worker.run(["cloud-init", "status", "--wait", "--long"], timeout_s=TIMEOUT_S, check=False)
    assert "status: done" in waited.stdout, waited.stdout + waited.stderr + worker.journal("cloud-*")
    ran = [worker.show(f"{unit}.service", "Result") for unit in UNITS]
    assert ran == ["success"] * len(UNITS)
    assert all(worker.show(f"{unit}.service", "ExecMainStartTimestampMonotonic") != "0" for unit in UNITS)

    log = worker.path("/var/log/cloud-init-output.log")
    result = json.loads(worker.path("/run/cloud-init/result.json").read_text())
    assert result["v1"]["errors"] == [], log.read_text() if log.exists() else ""
    cluster.wait_until("it is listed with its metadata", lambda: lists(server, worker))
    assert "role=worker" in worker.path("/etc/fleet/fleet.conf").read_text().replace('"', "")
    assert not is_there(worker, "/etc/fleet/join-token")
    enabled = worker.run(["systemctl", "is-enabled", "fleet.socket", "fleet.service"]).stdout.split()
    assert enabled == ["enabled", "enabled"]
