"""Host keys that real machines publish: who has them is let in without a question, who has others is refused."""

import subprocess
from collections.abc import Iterator

import pytest

from contrib.testbed.machine import Machine
from tests.cluster.remote_operator import RemoteOperator

OTHER_KEY = "/etc/ssh/other"
OTHER_PORT = "2222"
SSHD_DROPIN = "/etc/ssh/sshd_config.d/own.conf"
SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"


@pytest.fixture
def operator(ssh_operator: RemoteOperator) -> RemoteOperator:
    """An operator who knows no machine, in a cluster whose machines publish their keys."""
    ssh_operator.write_known_hosts(text="# no hosts\n")
    ssh_operator.wait_for_published_keys()
    return ssh_operator


@pytest.fixture
def other_sshd(operator: RemoteOperator) -> Iterator[Machine]:
    """A machine with a second SSH server, which has a key of its own."""
    machine = operator.cluster.machines[0]
    machine.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", OTHER_KEY])
    machine.run(["/usr/sbin/sshd", "-p", OTHER_PORT, "-h", OTHER_KEY, "-o", "PidFile=/run/other.pid"])
    yield machine
    machine.run(["sh", "-c", f"kill $(cat /run/other.pid); rm {OTHER_KEY} {OTHER_KEY}.pub"])


def test_a_machine_is_known_by_what_it_publishes(operator: RemoteOperator) -> None:
    operator.start(web_1=SLEEPER)
    (machine,) = operator.machines_of("web@1.service")
    for command, *arguments in (("ssh", machine.id[:6], "echo done"), ("status", "web@1"), ("journal", "web@1")):
        done = operator.fleetctl(command, "--ssh-port=22", *arguments)
        assert (done.returncode, done.stderr) == (0, ""), arguments
    assert operator.write_known_hosts(text="# no hosts\n").read_text() == "# no hosts\n"


def test_another_key_than_the_published_ones_is_refused_whatever_known_hosts_has(
    operator: RemoteOperator, other_sshd: Machine
) -> None:
    key = other_sshd.run(["cat", f"{OTHER_KEY}.pub"]).stdout.split()
    shown = other_sshd.run(["ssh-keygen", "-l", "-f", OTHER_KEY]).stdout.split()[1]
    expected = other_sshd.run(["ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key"]).stdout.split()[1]
    command = ("ssh", f"--ssh-port={OTHER_PORT}", other_sshd.id[:6], "true")
    known = f"[{other_sshd.address}]:{OTHER_PORT} {key[0]} {key[1]}\n"
    for text in ("# no hosts\n", known):
        operator.write_known_hosts(text=text)
        refused = operator.fleetctl(*command)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!" in refused.stderr
        why = refused.stderr.splitlines()[-1]
        assert why.startswith("Failed building SSH client: handshake failed: host key mismatch: ")
        for part in (other_sshd.id, shown, expected, f"port {OTHER_PORT}", "restart ssh.service there"):
            assert part in why
    unchecked = operator.fleetctl("--strict-host-key-checking=no", *command)
    assert (unchecked.returncode, unchecked.stderr) == (0, "")


def test_keys_that_are_changed_are_published_and_known(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[1]
    machine.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", OTHER_KEY])
    machine.run(["sh", "-c", f"echo HostKey {OTHER_KEY} > {SSHD_DROPIN}; systemctl restart ssh.service"])
    operator.cluster.wait_until(
        "the new key is published", lambda: operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
    )
    machine.run(["sh", "-c", f"rm {SSHD_DROPIN} {OTHER_KEY} {OTHER_KEY}.pub; systemctl restart ssh.service"])
    refused = operator.fleetctl("ssh", machine.id[:6], "true")
    assert refused.returncode == 0 or "host key mismatch" in refused.stderr
    operator.cluster.wait_until(
        "the former keys are published", lambda: operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
    )


def test_a_published_key_that_contradicts_known_hosts_is_refused_with_the_line(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", operator.home / "wrong"], check=True)
    kind, encoded, *_ = (operator.home / "wrong.pub").read_text().split()
    path = operator.write_known_hosts(text=f"{machine.address} {kind} {encoded}\n")
    refused = operator.fleetctl("ssh", machine.id[:6], "true")
    assert refused.returncode == 1
    why = refused.stderr.splitlines()[-1]
    assert f"{path}:1 has (machine {machine.id} publishes the key that is shown)" in why
    assert "remove that line" in why
