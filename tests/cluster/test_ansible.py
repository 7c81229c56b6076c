"""The Ansible role on bare machines: servers and a worker over SSH; a second run changes nothing."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.root import CHECKOUT
from tests.requirements import require

PLAY = CHECKOUT / "contrib/ansible/site.yml"
TIMEOUT_S = 600.0


def ansible() -> str:
    found = shutil.which("ansible-playbook")
    require([] if found else ["ansible-playbook is not installed (Debian: ansible-core)"], "runs a role of Ansible")
    return str(found)


@pytest.fixture
def agent() -> Iterator[dict[str, str]]:
    """The environment of an SSH agent."""
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    variables = dict(re.findall(r"(SSH_\w+)=([^;]+);", said))
    yield {**os.environ, **variables, "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_NOCOLOR": "1"}
    subprocess.run(["ssh-agent", "-k"], env={**os.environ, **variables}, check=True, capture_output=True)


def test_the_role_makes_servers_and_workers_and_a_second_run_changes_nothing(
    new_cluster: Callable[..., Cluster], package: Path, agent: dict[str, str], tmp_path: Path
) -> None:
    program = ansible()
    cluster = new_cluster(machines=3, fleetd=False, ssh=True, etcd_members=0)
    first, second, worker = cluster.machines
    for machine in cluster.machines:
        machine.run(["mount", "-t", "tmpfs", "none", str(CHECKOUT)])
        machine.run(["rm", "-f", "/usr/sbin/policy-rc.d"])
    subprocess.run(["ssh-add", "-q", cluster.ssh_key], env=agent, check=True)
    inventory = tmp_path / "inventory.ini"
    inventory.write_text(
        f"[fleet_servers]\n{first.address}\n{second.address}\n"
        f'[fleet_workers]\n{worker.address} fleet_config=\'{{"metadata": "disk=ssd"}}\'\n'
        "[all:vars]\nansible_ssh_common_args=-o ForwardAgent=yes\nansible_user=root\n"
        f"ansible_python_interpreter=/usr/bin/python3\nfleet_package={package}\n"
    )

    def play() -> str:
        command = [program, "--inventory", inventory, PLAY]
        done = subprocess.run(
            command, env=agent, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "fleet1-" not in done.stdout + done.stderr, "the token is a secret"
        return done.stdout.partition("PLAY RECAP")[2]

    assert all(int(changed) for changed in re.findall(r"changed=(\d+)", play()))
    listed = first.run(["fleetctl", "list-machines", "--full", "--no-legend"]).stdout
    assert sorted(line.split()[0] for line in listed.splitlines()) == sorted(each.id for each in cluster.machines)
    assert re.search(rf"{worker.id}\s.*disk=ssd", listed)
    assert "role=worker" in worker.path("/etc/fleet/fleet.conf").read_text().replace('"', "")
    certificate = worker.path("/var/lib/fleet/trust/machine.pem").read_bytes()

    assert re.findall(r"changed=(\d+)", play()) == ["0", "0", "0"]
    assert worker.path("/var/lib/fleet/trust/machine.pem").read_bytes() == certificate


def test_the_example_is_valid(tmp_path: Path) -> None:
    command = [ansible(), "--syntax-check", "--inventory", PLAY.with_name("inventory.ini"), PLAY]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "WARNING" not in checked.stderr
