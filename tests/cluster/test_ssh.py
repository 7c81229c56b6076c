"""SSH to real machines with a real sshd: shells, terminals, keys, failures.

fleetctl runs as a program, with a home directory and an SSH agent of its own.
"""

import re
import signal
import subprocess
import sys
import time

import pytest

from contrib.testbed.machine import Machine
from tests.cluster.remote_operator import RemoteOperator, Terminal

GREETER = "[Service]\nExecStart=/bin/sh -c 'echo hello from %n; exec sleep infinity'\n"
PROXY = """
import contextlib, os, socket, sys, threading
server = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def pass_back():
    while data := server.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=pass_back, daemon=True).start()
with contextlib.suppress(ConnectionError):  # the end of the session
    while data := os.read(0, 65536):
        server.sendall(data)
"""
GLOBAL = GREETER + "[X-Fleet]\nGlobal=true\n"


@pytest.fixture
def operator(ssh_operator: RemoteOperator) -> RemoteOperator:
    """An operator who has the key and knows every machine."""
    return ssh_operator


def place(machine: Machine) -> str:
    return f"{machine.id[:8]}.../{machine.address}"


def in_order(machines: list[Machine]) -> list[Machine]:
    return sorted(machines, key=lambda machine: machine.id)


# Finding the machine of a unit


@pytest.mark.covers("3.10.32")
def test_status_and_journal_come_from_the_machine_of_the_unit(operator: RemoteOperator) -> None:
    operator.start(web=GREETER, db_1=GREETER)
    for unit in ("web.service", "db@1.service"):
        (machine,) = operator.machines_of(unit)
        wanted = machine.run(["systemctl", "status", "-l", unit]).stdout
        status = operator.fleetctl("status", "--ssh-port=22", unit)
        assert (status.returncode, status.stderr) == (0, "")
        assert without_times(status.stdout) == without_times(wanted)
        for way in ([], ["--ssh-port=22"]):
            journal = operator.fleetctl("journal", *way, "--output=cat", "--lines=100", unit)
            assert (journal.returncode, journal.stderr) == (0, "")
        assert (journal.returncode, f"hello from {unit}\n" in journal.stdout) == (0, True)
    stopped = operator.fleetctl("stop", "web")
    assert stopped.returncode == 0
    assert operator.fleetctl("status", "web").returncode == 3


def without_times(text: str) -> list[str]:
    """What systemctl says without times and without log lines, which may differ between two calls."""
    return [re.sub(r" ago$", "", re.sub(r"\d+(s|ms|min)\b ?", "", line)) for line in text.split("\n\n")[0].splitlines()]


@pytest.mark.covers("P.11")
def test_status_of_a_global_unit_shows_every_machine_or_the_chosen_one(operator: RemoteOperator) -> None:
    operator.start(all=GLOBAL)
    machines = in_order(operator.cluster.machines)
    status = operator.fleetctl("status", "--ssh-port=22", "all")
    assert (status.returncode, status.stderr) == (0, "")
    blocks = re.split(r"^(\S+\.\.\./\S+):\n", status.stdout, flags=re.MULTILINE)[1:]
    assert blocks[::2] == [place(machine) for machine in machines]
    for machine, block in zip(machines, blocks[1::2], strict=True):
        assert f"Main PID: {machine.main_pid('all.service')} " in block
    journal = operator.fleetctl("journal", "--ssh-port=22", "--output=cat", "all")
    heads = [line.partition(": ")[0] for line in journal.stdout.splitlines() if "hello" in line]
    assert heads == [place(machine) for machine in machines]
    picked = operator.fleetctl("journal", "--output=cat", "--machine", machines[1].id[:6], "all")
    assert "hello from all.service" in picked.stdout.splitlines()
    one = operator.fleetctl("status", "--machine", machines[1].id[:6], "all")
    assert f"Main PID: {machines[1].main_pid('all.service')}\n" in one.stdout


@pytest.mark.covers("P.11")
def test_a_global_unit_is_restarted_on_one_machine_or_on_all(operator: RemoteOperator) -> None:
    operator.start(all=GLOBAL)
    machines = in_order(operator.cluster.machines)
    before = [machine.main_pid("all.service") for machine in machines]
    one = operator.fleetctl("restart", "--machine", machines[1].id[:6], "all")
    assert (one.returncode, one.stdout) == (0, f"Unit all.service restarted on {place(machines[1])}\n")
    between = [machine.main_pid("all.service") for machine in machines]
    assert [was == now for was, now in zip(before, between, strict=True)] == [True, False, True]
    every = operator.fleetctl("restart", "all")
    assert every.stdout == "Unit all.service launched on 3 machines\n"
    after = [machine.main_pid("all.service") for machine in machines]
    assert all(was != now for was, now in zip(between, after, strict=True))


def test_units_and_instances_are_restarted_on_their_machine(operator: RemoteOperator) -> None:
    operator.start(web=GREETER, db_1=GREETER)
    places = [operator.machines_of(unit) for unit in ("web.service", "db@1.service")]
    before = [machine.main_pid(unit) for (machine,), unit in zip(places, ("web.service", "db@1.service"), strict=True)]
    assert operator.fleetctl("restart", "web", "db@1").returncode == 0
    assert [operator.machines_of(unit) for unit in ("web.service", "db@1.service")] == places
    after = [machine.main_pid(unit) for (machine,), unit in zip(places, ("web.service", "db@1.service"), strict=True)]
    assert 0 not in after
    assert all(was != now for was, now in zip(before, after, strict=True))


@pytest.mark.covers("P.11")
def test_following_a_global_unit_interleaves_its_machines_until_ctrl_c(operator: RemoteOperator) -> None:
    operator.start(followed=GLOBAL)
    terminal = Terminal(operator, "journal", "-f", "--output=cat", "followed")
    seen = "".join(terminal.expect("hello from followed.service\r\n") for _ in operator.cluster.machines)
    colours = {place(machine): head_colour(seen, machine) for machine in operator.cluster.machines}
    assert len(set(colours.values())) == 3
    for machine in reversed(operator.cluster.machines):
        machine.run(["systemctl", "restart", "followed.service"])
        assert head_colour(terminal.expect("hello from followed.service\r\n"), machine) == colours[place(machine)]
    terminal.type("\x03")
    assert terminal.status() == 130


def head_colour(seen: str, machine: Machine) -> str:
    """The colour of the machine's prefix in the line with its greeting."""
    head = re.search(rf"\x1b\[(\d+)m{re.escape(place(machine))}:\x1b\[0m hello from followed.service\r\n", seen)
    assert head is not None, seen
    return head[1]


@pytest.mark.covers("3.10.24")
def test_a_command_on_the_machine_itself_needs_no_ssh(operator: RemoteOperator) -> None:
    operator.start(web=GREETER)
    (machine,) = operator.machines_of("web.service")
    machine.run(["systemctl", "stop", "ssh.service"])
    try:
        here = machine.run(["fleetctl", "status", "web"])
        assert "Active: active (running)" in here.stdout
        assert "hello from web.service\n" in machine.run(["fleetctl", "journal", "--output=cat", "web"]).stdout
        away = operator.fleetctl("status", "--ssh-port=22", "web")
    finally:
        machine.run(["systemctl", "start", "ssh.service"])
    assert (away.returncode, away.stdout) == (255, "")
    assert away.stderr == (
        f"Unable to SSH to remote host: cannot connect to root@{machine.address} port 22: connection refused; "
        "check that an SSH server listens there, and that no firewall is in between\n"
    )


# Commands and shells


@pytest.mark.covers("3.10.22", "10.3.2")
def test_a_command_has_stdin_stdout_stderr_and_its_own_status(operator: RemoteOperator) -> None:
    operator.start(web=GREETER)
    (machine,) = operator.machines_of("web.service")
    done = operator.fleetctl("ssh", "web", "hostname; cat; echo trouble >&2; exit 7", stdin="what it reads\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, f"{machine.name}\nwhat it reads\n", "trouble\n")
    for arguments in (["--unit=web"], ["--machine", machine.id[:6]], [machine.id[:6]], [place(machine)]):
        done = operator.fleetctl("ssh", *arguments, "--", "hostname")
        assert (done.returncode, done.stdout) == (0, f"{machine.name}\n")
    assert operator.fleetctl("ssh", "web", "sh", "-c", "'exit 5'").returncode == 5
    assert operator.fleetctl("ssh", "web", "kill -9 $$").returncode == 255


def test_large_input_and_output_pass_at_the_same_time(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    text = "0123456789abcde\n" * 400_000
    done = operator.fleetctl("ssh", machine.id[:6], "cat", stdin=text)
    assert (done.returncode, done.stdout == text, done.stderr) == (0, True, "")


@pytest.mark.covers("3.8.43", "P.11")
def test_a_command_for_a_global_unit_runs_on_all_of_its_machines(operator: RemoteOperator) -> None:
    operator.start(all=GLOBAL)
    done = operator.fleetctl("ssh", "all", "hostname; [ $(hostname) != m2 ] || exit 4")
    assert done.returncode == 4
    assert sorted(done.stdout.splitlines()) == sorted(f"{place(m)}: {m.name}" for m in operator.cluster.machines)
    shell = operator.fleetctl("ssh", "all")
    assert (shell.returncode, shell.stdout) == (1, "")
    assert "all.service is on several machines, and a shell opens on one: choose it with --machine" in shell.stderr


@pytest.mark.covers("3.10.6", "3.10.23", "10.3.3")
def test_a_shell_has_a_terminal_that_follows_our_size(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    terminal = Terminal(operator, "ssh", machine.id[:6], rows=31, columns=97)
    terminal.expect(r"[#$] ")
    terminal.type("stty size; tty; echo $TERM-$SSH_TTY\n")
    assert "31 97\r\n/dev/pts/" in terminal.expect(r"xterm-/dev/pts/\d+\r\n")
    terminal.resize(40, 120)
    terminal.type("sleep 0.3; stty size\n")
    terminal.expect(r"40 120\r\n")
    terminal.type("sleep 1000 || echo interrupted $?\n")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.expect(r"[#$] ")
    terminal.type("exit 9\n")
    assert terminal.status() == 9


@pytest.mark.covers("3.10.6")
def test_a_command_gets_a_terminal_on_request(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    terminal = Terminal(operator, "ssh", "--tty", machine.id[:6], "tty; exit 3")
    terminal.expect(r"/dev/pts/\d+\r\n")
    assert terminal.status() == 3
    terminal = Terminal(operator, "ssh", machine.id[:6], "tty; exit 3")
    terminal.expect("not a tty\r\n")
    assert terminal.status() == 3


def test_ctrl_c_in_a_command_exits_with_130(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    process = operator.spawn("ssh", machine.id[:6], "echo begun; sleep 1000")
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    process.communicate()


@pytest.mark.covers("3.10.7", "3.10.17", "10.1.2")
def test_the_agent_is_forwarded_only_on_request(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    fingerprint = subprocess.run(
        ["ssh-keygen", "-l", "-f", operator.cluster.ssh_key], check=True, capture_output=True, text=True
    ).stdout.split()[1]
    with operator.ssh_agent():
        done = operator.fleetctl("ssh", "-A", machine.id[:6], "ssh-add -l && ssh-add -l")
        assert (done.returncode, done.stdout.count(fingerprint), done.stderr) == (0, 2, "")
        assert operator.fleetctl("ssh", machine.id[:6], "ssh-add -l").returncode == 2


# Keys


@pytest.mark.covers("3.10.1")
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_of_every_type_log_in_from_a_file_and_from_the_agent(operator: RemoteOperator, kind: str) -> None:
    machine = operator.cluster.machines[0]
    (operator.home / ".ssh/id_ed25519").unlink()
    key = operator.home / f".ssh/id_{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", key], check=True)
    allowed = machine.path("/root/.ssh/authorized_keys")
    before = allowed.read_text()
    allowed.write_text(before + key.with_suffix(".pub").read_text())
    try:
        assert operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
        key.rename(operator.home / "elsewhere")
        with operator.ssh_agent(operator.home / "elsewhere"):
            assert operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
    finally:
        allowed.write_text(before)


@pytest.mark.covers("3.10.21", "P.18")
def test_a_refused_or_missing_key_names_host_port_user_and_remedy(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    key = operator.home / ".ssh/id_ed25519"
    key.unlink()
    none = operator.fleetctl("ssh", machine.id[:6], "true")
    assert (none.returncode, none.stdout) == (1, "")
    assert none.stderr == (
        f"Failed building SSH client: unable to authenticate: root@{machine.address} port 22 was offered no key, "
        "since there is none. SSH_AUTH_SOCK is not set, so there is no agent. Add one of your keys to the "
        "authorized_keys of root there, or give another user with --ssh-username\n"
    )
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], check=True, capture_output=True, text=True).stdout.split()
    wrong = operator.fleetctl("ssh", machine.id[:6], "true")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert (
        f"root@{machine.address} port 22 refuses every key that was tried: ssh-ed25519 {shown[1]} ({key})"
        in wrong.stderr
    )


def test_an_encrypted_key_is_reported_and_works_from_the_agent(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    key = operator.home / ".ssh/id_ed25519"
    with operator.ssh_agent():
        subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key], check=True, capture_output=True)
        assert operator.fleetctl("ssh", machine.id[:6], "true").returncode == 0
    refused = operator.fleetctl("ssh", machine.id[:6], "true")
    assert f"{key} is encrypted: load it into an agent (ssh-add {key})" in refused.stderr


@pytest.mark.covers("3.3.8", "10.3.7")
def test_ssh_config_sets_host_port_user_and_key(operator: RemoteOperator) -> None:
    machine = operator.cluster.machines[0]
    key = operator.home / ".ssh/id_ed25519"
    key.rename(operator.home / "mine")
    del operator.environment["FLEETCTL_SSH_USERNAME"]
    operator.reach_by_tunnel()
    operator.environment["FLEETCTL_TUNNEL"] = "gate"
    operator.write_ssh_config(f"Host gate\n HostName {machine.address}\nHost *\n User root\n IdentityFile ~/mine\n")
    assert operator.fleetctl("list-machines", "--no-legend").stdout.count("\n") == 3
    operator.write_ssh_config(f"Host gate\n HostName {machine.address}\n Port 23\n User me\n")
    refused = operator.fleetctl("list-machines")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"cannot connect to me@gate ({machine.address}) port 23: connection refused; " in refused.stderr


def test_ssh_config_sets_a_proxy_jump_in_an_included_file(
    operator: RemoteOperator,
) -> None:
    gate, inner = operator.cluster.machines[:2]
    (operator.home / ".ssh/inner").write_text(
        f"Host {inner.address} inner\n HostName {inner.address}\n ProxyJump gate\n"
    )
    operator.write_ssh_config(
        f"Include {operator.home}/.ssh/inner\nHost gate\n HostName {gate.address}\nHost *\n User root\n"
    )
    came = operator.fleetctl("ssh", "--machine", inner.id, "echo from $SSH_CLIENT")
    assert (came.returncode, came.stderr) == (0, "")
    assert came.stdout.startswith(f"from {gate.address} ")
    operator.reach_by_tunnel()
    operator.environment["FLEETCTL_TUNNEL"] = "inner"
    assert operator.fleetctl("list-machines", "--no-legend").stdout.count("\n") == 3
    (operator.home / ".ssh/inner").write_text(f"Host inner\n HostName {inner.address}\n ProxyJump gate:23\n")
    refused = operator.fleetctl("list-machines")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"cannot connect to root@gate ({gate.address}) port 23: connection refused; " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_ssh_config_sets_a_proxy_command_an_agent_and_a_key_alias(operator: RemoteOperator) -> None:
    inner = operator.cluster.machines[1]
    key = operator.home / ".ssh/id_ed25519"
    known = operator.write_known_hosts(inner).read_text().replace(f"{inner.address} ", "the-inner ")
    operator.write_known_hosts(text=known)
    with operator.ssh_agent(key):
        agent = operator.environment.pop("SSH_AUTH_SOCK")
        (operator.home / "named.pub").write_text(operator.cluster.ssh_key.with_suffix(".pub").read_text())
        key.unlink()
        (operator.home / "proxy.py").write_text(PROXY)
        operator.write_ssh_config(
            f"Match final host {inner.address}\n HostKeyAlias the-inner\n IdentityAgent {agent}\n IdentitiesOnly yes\n"
            f" IdentityFile {operator.home}/named.pub\n"
            f" ProxyCommand {sys.executable} {operator.home}/proxy.py %h %p\n"
        )
        came = operator.fleetctl("ssh", "-A", "--machine", inner.id, "ssh-add -l | wc -l")
        assert (came.returncode, came.stdout, came.stderr) == (0, "1\n", "")
        operator.environment["SSH_AUTH_SOCK"] = agent


@pytest.mark.covers("3.10.3", "3.10.17", "3.10.21", "3.10.25", "3.10.28")
def test_every_command_that_connects_accepts_a_port(operator: RemoteOperator) -> None:
    operator.start(web=GREETER)
    (machine,) = operator.machines_of("web.service")
    where = f"cannot connect to root@{machine.address} port 23: connection refused; "
    refused = operator.fleetctl("ssh", "--ssh-port=23", "web", "true")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"Failed building SSH client: {where}")
    for command in ("status", "journal"):
        refused = operator.fleetctl(command, "--ssh-port", "23", "web")
        assert (refused.returncode, refused.stdout) == (255, "")
        assert refused.stderr.startswith(f"Unable to SSH to remote host: {where}")
