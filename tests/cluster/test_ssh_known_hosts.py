"""Host keys of real machines that publish none: unknown, recorded, changed and revoked ones in known_hosts."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from contrib.testbed import Cluster
from tests.cluster.remote_operator import RemoteOperator, Terminal


@pytest.fixture(scope="module", autouse=True)
def unpublished(ssh_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The machines publish no host keys, so known_hosts alone decides."""
    with RemoteOperator(ssh_cluster, tmp_path_factory.mktemp("home")).unpublished_keys():
        yield


@pytest.fixture
def operator(ssh_operator: RemoteOperator) -> RemoteOperator:
    """An operator who has the key and knows every machine."""
    return ssh_operator


@pytest.mark.covers("3.3.11", "3.10.13", "3.10.16")
def test_an_unknown_host_is_refused_without_a_terminal(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    path = operator.write_known_hosts(text="# no hosts\n")
    refused = operator.fleetctl("ssh", machine.id[:6], "true", stdin="yes\n")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert refused.stderr.startswith(
        "Failed building SSH client: handshake failed: unauthorized host: the ssh-ed25519 key"
    )
    assert f"is not in {path}, and there is no terminal to ask at" in refused.stderr
    assert path.read_text() == "# no hosts\n"
    assert "--strict-host-key-checking=accept-new" in refused.stderr
    unchecked = operator.fleetctl("ssh", "--strict-host-key-checking=false", machine.id[:6], "true")
    assert (unchecked.returncode, unchecked.stderr, path.read_text()) == (0, "", "# no hosts\n")


def test_accept_new_records_new_keys_and_refuses_changed_ones(operator: RemoteOperator) -> None:
    machine, other = operator.cluster.machines[:2]
    path = operator.write_known_hosts(text="# no hosts\n")
    operator.environment["FLEETCTL_STRICT_HOST_KEY_CHECKING"] = "accept-new"
    taken = operator.fleetctl("ssh", machine.id[:6], "echo done")
    assert (taken.returncode, taken.stdout) == (0, "done\n")
    assert taken.stderr == (
        f"Warning: Permanently added '{machine.address}' (ssh-ed25519) to the list of known hosts.\n"
    )
    again = operator.fleetctl("ssh", machine.id[:6], "echo done")
    assert (again.returncode, again.stderr, path.read_text().count("\n")) == (0, "", 2)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", operator.home / "wrong"], check=True)
    kind, encoded, *_ = (operator.home / "wrong.pub").read_text().split()
    operator.write_known_hosts(text=f"{other.address} {kind} {encoded}\n")
    refused = operator.fleetctl("ssh", other.id[:6], "true")
    assert (refused.returncode, "host key mismatch" in refused.stderr) == (1, True)


@pytest.mark.covers("3.3.10", "3.10.13", "3.10.14")
@pytest.mark.parametrize("answer", ["yes", "Y"])
def test_an_unknown_host_accepted_at_a_terminal_is_recorded(operator: RemoteOperator, answer: str) -> None:
    machine = operator.cluster.machines[0]
    path = operator.write_known_hosts(text="# no hosts\n")
    path.unlink()
    terminal = Terminal(operator, "ssh", machine.id[:6], "echo done")
    asked = terminal.expect(r"\(yes/no\)\? ")
    assert f"The authenticity of host '{machine.address}' can't be established.\r\nssh-ed25519 key" in asked
    assert re.search(r" ([0-9a-f]{2}:){15}[0-9a-f]{2} \(SHA256:", asked)
    terminal.type(f"{answer}\n")
    terminal.expect(
        rf"Warning: Permanently added '{re.escape(machine.address)}' \(ssh-ed25519\) to the list of known hosts\."
    )
    terminal.expect("done\r\n")
    assert terminal.status() == 0
    assert path.read_text().startswith(f"{machine.address} ssh-ed25519 ")
    assert operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0


@pytest.mark.covers("3.10.14")
def test_login_succeeds_although_the_host_key_cannot_be_recorded(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    terminal = Terminal(operator, "ssh", "--known-hosts-file=/proc/none", machine.id[:6], "echo done")
    terminal.expect(r"\(yes/no\)\? ")
    terminal.type("yes\n")
    terminal.expect(r"Failed to add the host to the list of known hosts \(/proc/none\)\.")
    terminal.expect("done\r\n")
    assert terminal.status() == 0


@pytest.mark.covers("3.10.13")
@pytest.mark.parametrize("answer", ["no\n", "\n", "\x04"])
def test_an_unknown_host_declined_at_a_terminal_is_not_logged_in_to(operator: RemoteOperator, answer: str) -> None:
    machine = operator.cluster.machines[0]
    path = operator.write_known_hosts(text="# no hosts\n")
    terminal = Terminal(operator, "ssh", machine.id[:6], "echo done")
    terminal.expect(r"\(yes/no\)\? ")
    terminal.type(answer)
    terminal.expect("Host key verification failed.")
    terminal.expect("unauthorized host")
    assert terminal.status() == 1
    assert (path.read_text(), "done" in terminal.seen) == ("# no hosts\n", False)


@pytest.mark.covers("3.3.10", "3.10.15", "3.10.16")
def test_a_changed_key_is_refused_with_the_file_and_line(operator: RemoteOperator) -> None:
    machine, other = operator.cluster.machines[:2]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", operator.home / "wrong"], check=True)
    kind, encoded, *_ = (operator.home / "wrong.pub").read_text().split()
    path = operator.write_known_hosts(
        text=f"# one\n{other.address} {kind} {encoded}\n{machine.address} {kind} {encoded}\n"
    )
    terminal = Terminal(operator, "ssh", machine.id[:6], "echo done")
    terminal.expect("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!")
    terminal.expect(rf"The key that it had before is in {path}:3\.")
    terminal.expect("host key mismatch")
    assert terminal.status() == 1
    assert "done" not in terminal.seen
    refused = operator.fleetctl("ssh", machine.id[:6], "true")
    assert (refused.returncode, f"{path}:3" in refused.stderr.splitlines()[-1]) == (1, True)


def test_a_revoked_key_is_refused_and_unusable_lines_are_ignored(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    path = operator.write_known_hosts()
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", path], check=True, capture_output=True)
    good = path.read_text()
    kind, encoded = good.splitlines()[0].split()[1:3]
    operator.write_known_hosts(text=f"@cert-authority * {kind} {encoded}\n" + good)
    assert operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
    keys = [line.split()[1:3] for line in good.splitlines()]
    operator.write_known_hosts(text="".join(f"@revoked * {kind} {encoded}\n" for kind, encoded in keys) + good)
    refused = operator.fleetctl("ssh", machine.id[:6], "true")
    assert (refused.returncode, "host key revoked" in refused.stderr) == (1, True)


@pytest.mark.covers("3.10.12", "10.3.6")
@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"])
def test_a_host_is_asked_for_the_key_type_that_is_recorded(operator: RemoteOperator, kind: str) -> None:
    machine = operator.cluster.machines[0]
    path = operator.write_known_hosts(machine)
    operator.write_known_hosts(
        text="".join(line + "\n" for line in path.read_text().splitlines() if f" {kind} " in line)
    )
    assert operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
