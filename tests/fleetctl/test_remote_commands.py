"""ssh, status, journal, fd-forward without an SSH login: choice of the machine, refusals, units on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetctl.remote import local_machine_id
from fleetd.model.machine import Machine
from fleetd.model.reason import Absence, WaitingForMachine
from tests.fleetctl.conftest import Fleetctl, Result
from tests.fleetctl.scripted_cluster import M1, M2, ScriptedCluster, ScriptedOutcome

GLOBAL = "[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobal=true\n"
M11 = Machine("11" + "2" * 30, address="10.0.0.3")


@pytest.mark.covers("3.10.19", "3.10.20")
@pytest.mark.parametrize("arguments", [(), ("uptime",)])
def test_ssh_needs_a_machine_or_a_unit(fleetctl: Fleetctl, arguments: tuple[str, ...]) -> None:
    result = fleetctl("ssh", "--", *arguments) if arguments else fleetctl("ssh")
    assert result.status == 1
    assert result.stderr == (
        "Unable to proceed: could not find matching unit or machine\n"
        if arguments
        else "Unable to proceed: one machine or unit must be provided\n"
    )


@pytest.mark.covers("3.10.17", "3.10.18", "3.10.19", "3.10.20", "10.3.1", "10.3.4")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--machine=1", "--unit=web"], "Both machine and unit flags provided, please specify only one."),
        (["--machine=9"], "Unable to proceed: machine does not exist: there are 11111111.../10.0.0.1, "),
        (["--machine=11"], "Unable to proceed: found more than one machine: there are 11111111.../10.0.0.1, 1122"),
        (["--unit=none"], "Unable to proceed: unit does not exist"),
        (["--unit=idle"], "Unable to proceed: unit idle.service is on no machine"),
        (["idle"], "Unable to proceed: unit idle.service is on no machine"),
        (["none"], "Unable to proceed: could not find matching unit or machine"),
        (["none*"], "Unable to proceed: could not find matching unit or machine"),
        (["id*"], "Unable to proceed: unit id* is on no machine"),
        (["on*"], "Unable to proceed: on* is on several machines, and a shell opens on one: choose it with --machine"),
        (["11"], "Unable to proceed: found more than one machine: "),
        (["111"], "Unable to proceed: ambiguous argument: 111 is a unit and a prefix of a machine's id: use"),
        (["2222"], "Could not determine address of machine."),
        (["22222222.../"], "Could not determine address of machine."),
        (["--machine", "2222", "uptime", "-p"], "Could not determine address of machine."),
    ],
)
def test_ssh_refuses_an_unknown_or_ambiguous_machine(
    fleetctl: Fleetctl, cluster: ScriptedCluster, arguments: list[str], complaint: str
) -> None:
    cluster.register(M1, M11, M2)
    cluster.add("idle.service")
    cluster.add("111.service", target="launched")
    cluster.outcomes["on@2.service"] = ScriptedOutcome(machine=M2)
    for name in ("on@1.service", "on@2.service"):
        cluster.add(name, target="launched")
    result = fleetctl("ssh", *arguments)
    assert (result.status, result.stdout) == (1, "")
    assert result.stderr.startswith(complaint)
    assert result.stderr.count("\n") == 1


@pytest.mark.covers("3.10.17")
def test_the_first_argument_of_ssh_ends_its_options(fleetctl: Fleetctl) -> None:
    assert "could not find" in fleetctl("ssh", "none", "ls", "--full", "-l", "--help").stderr
    refused = fleetctl("ssh", "--full", "none")
    assert (refused.status, "unknown flag: --full" in refused.stderr) == (2, True)


@pytest.mark.covers("3.10.26", "3.10.29")
@pytest.mark.parametrize("command", ["status", "journal"])
def test_status_and_journal_refuse_an_unknown_or_unplaced_unit(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str
) -> None:
    cluster.add("idle.service")
    assert fleetctl(command, "none") == Result(1, "", "Unit none.service does not exist.\n")
    done = {"status": "loaded", "journal": "running"}[command]
    assert fleetctl(command, "idle") == Result(1, "", f"Unit idle.service does not appear to be {done}.\n")


def test_status_says_that_a_unit_waits_for_its_machine(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    lost = WaitingForMachine(M1.id, Absence.LOST, until=1800014700.0)
    wait = "waits for machine 11111111 to come back, until 2027-01-15 12:05:00 UTC"
    cluster.outcomes["away.service"] = ScriptedOutcome(machine=None, reason=lost)
    cluster.add("away.service", target="launched")
    assert fleetctl("status", "away") == Result(1, "", f"Unit away.service does not appear to be loaded. It {wait}.\n")


@pytest.mark.covers("3.10.26", "3.10.28")
def test_journal_requires_one_unit_and_status_any_number(fleetctl: Fleetctl) -> None:
    assert fleetctl("journal") == Result(1, "", "One unit file must be provided.\n")
    assert fleetctl("journal", "a", "b") == Result(1, "", "One unit file must be provided.\n")
    assert fleetctl("status") == Result(0, "", "")


@pytest.mark.covers("3.10.33", "10.3.9")
@pytest.mark.parametrize("command", ["status", "journal", "restart"])
def test_a_machine_that_the_unit_is_not_on_is_refused(
    fleetctl: Fleetctl, cluster: ScriptedCluster, command: str
) -> None:
    cluster.add("web.service", target="launched")
    result = fleetctl(command, "--machine=2", "web")
    assert result == Result(1, "", "Unit web.service is not on a machine 2, but on 11111111.../10.0.0.1\n")


@pytest.mark.covers("3.10.33", "10.3.9")
@pytest.mark.parametrize("command", ["status", "journal"])
def test_a_machine_without_an_address_is_an_error(fleetctl: Fleetctl, cluster: ScriptedCluster, command: str) -> None:
    cluster.outcomes["web.service"] = ScriptedOutcome(machine=M2)
    cluster.add("web.service", target="launched")
    result = fleetctl(command, "web")
    assert (result.status, result.stdout) == (255, "")
    assert f"Unable to SSH to remote host: machine {M2.id} has no address: " in result.stderr


@pytest.mark.covers("P.18")
def test_status_as_json_connects_to_no_machine(fleetctl: Fleetctl, cluster: ScriptedCluster) -> None:
    cluster.add("idle.service")
    cluster.add("web.service", target="launched")
    cluster.outcomes["bad.service"] = ScriptedOutcome(active="failed", sub="failed", error="Result: exit-code")
    cluster.add("bad.service", target="launched")
    result = fleetctl("status", "--output=json", "web", "idle", "bad")
    assert (result.status, result.stderr) == (0, "")
    web, idle, bad = json.loads(result.stdout)
    assert web == {
        "unit": "web.service",
        "dstate": "launched",
        "global": False,
        "reason": None,
        "machine": M1.id,
        "ip": "10.0.0.1",
        "load": "loaded",
        "active": "active",
        "sub": "running",
        "completed": False,
        "error": None,
        "hash": web["hash"],
    }
    assert (idle["unit"], idle["machine"], idle["active"]) == ("idle.service", None, None)
    assert (bad["active"], bad["error"]) == ("failed", "Result: exit-code")
    assert fleetctl("status", "--output=json", "--machine=2", "web").status == 1
    assert fleetctl("status", "--output=json", "none") == Result(1, "", "Unit none.service does not exist.\n")
    assert json.loads(fleetctl("status", "--output=json").stdout) == []


# On this machine

TOOLS = """#!/bin/sh
echo "$(basename "$0") $*"
echo trouble >&2
cat
exit 3
"""


@pytest.fixture
def here(cluster: ScriptedCluster, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs fleetctl with units on this machine, where systemctl, journalctl and sudo only print their arguments."""
    me = Machine(local_machine_id(), address="192.0.2.1")
    cluster.register(me)
    for name, text in (("web.service", "[Service]\nExecStart=/bin/true\n"), ("all.service", GLOBAL)):
        cluster.outcomes[name] = ScriptedOutcome(machine=me)
        cluster.add(name, text, target="launched")
    for tool in ("systemctl", "journalctl", "sudo"):
        (tmp_path / tool).write_text(TOOLS)
        (tmp_path / tool).chmod(0o755)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "fleetctl.cli", f"--endpoint={cluster.unix}", *arguments],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            input="not to be read",
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.mark.covers("3.10.25", "3.10.27", "3.10.31", "10.1.2")
@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        (["status", "web"], "systemctl status -l -- web.service"),
        (["status", "--machine", local_machine_id()[:6], "all"], "systemctl status -l -- all.service"),
        (["journal", "web"], "journalctl --unit=web.service --no-pager -n 10 --output short"),
        (["journal", "-n", "3", "-f", "web"], "journalctl --unit=web.service --no-pager -n 3 --output short -f"),
        (["journal", "--lines=0", "--output=cat", "web"], "journalctl --unit=web.service --no-pager -n 0 --output cat"),
        (["journal", "--sudo", "web"], "sudo journalctl --unit=web.service --no-pager -n 10 --output short"),
    ],
)
def test_a_unit_of_this_machine_needs_no_ssh(
    here: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], ran: str
) -> None:
    done = here(*arguments)
    assert (done.returncode, done.stdout) == (3, f"{ran}\n")
    assert "trouble\n" in done.stderr
    assert "paramiko" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        (["status", "own"], "systemctl --user status -l -- own.service"),
        (["journal", "own"], "journalctl --user-unit=own.service --no-pager -n 10 --output short"),
        (
            ["restart", f"--machine={local_machine_id(True)[:6]}", "everywhere"],
            "systemctl --user restart -- everywhere",
        ),
    ],
)
def test_a_unit_of_ones_own_fleetd_here_is_asked_of_ones_own_systemd(
    here: Callable[..., subprocess.CompletedProcess[str]], cluster: ScriptedCluster, arguments: list[str], ran: str
) -> None:
    own = Machine(local_machine_id(True), address="192.0.2.1")
    cluster.register(own)
    cluster.outcomes["own.service"] = ScriptedOutcome(machine=own)
    cluster.outcomes["everywhere.service"] = ScriptedOutcome(machine=own)
    cluster.add("own.service", target="launched")
    cluster.add("everywhere.service", target="launched", text=GLOBAL)
    done = here("--user", *arguments)
    assert (done.returncode, done.stdout.startswith(ran)) == (3, True), (done.stdout, done.stderr)


@pytest.mark.covers("3.8.41", "3.8.42", "10.2.2")
def test_a_global_unit_on_this_machine_alone_has_a_heading(
    here: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    head = f"{local_machine_id()[:8]}.../192.0.2.1:"
    status = here("status", "all")
    assert (status.returncode, status.stdout) == (3, f"{head}\nsystemctl status -l -- all.service\n")
    assert "trouble\n" in status.stderr
    journal = here("journal", "--follow", "all")
    assert journal.stdout == f"{head} journalctl --unit=all.service --no-pager -n 10 --output short -f\n"
    assert f"{head} trouble\n" in journal.stderr


@pytest.mark.covers("3.10.30")
def test_status_of_several_units_ends_at_the_first_failure(
    here: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert here("status", "web", "all").stdout == "systemctl status -l -- web.service\n"
    (tmp_path / "systemctl").write_text(TOOLS.replace("exit 3", "exit 0"))
    assert (
        here("status", "web", "web").stdout
        == "systemctl status -l -- web.service\n\nsystemctl status -l -- web.service\n"
    )


@pytest.mark.covers("3.10.31")
def test_a_missing_systemctl_is_an_error(
    here: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemctl").chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = here("status", "web")
    assert (done.returncode, done.stdout) == (255, "")
    assert "Error running local command: " in done.stderr


# fd-forward


@pytest.mark.covers("3.10.34", "10.3.8")
def test_fd_forward_prints_the_response_after_the_input_has_ended(cluster: ScriptedCluster) -> None:
    request = b"GET /fleet/v1/machines HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    done = subprocess.run(
        [sys.executable, "-m", "fleetctl.cli", "fd-forward", cluster.unix.removeprefix("unix://")],
        input=request,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"HTTP/1.1 200 OK\r\n")
    assert M1.id.encode() in done.stdout


@pytest.mark.covers("3.10.34", "10.3.8")
def test_fd_forward_ends_when_its_output_is_closed(cluster: ScriptedCluster) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fleetctl.cli", "fd-forward", cluster.unix.removeprefix("unix://")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"GET /fleet/v1/machines HTTP/1.1\r\nHost: x\r\n\r\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"HTTP/1.1 200 OK\r\n"
    process.stdout.close()
    assert process.wait(60) == 0
    process.stdin.close()


@pytest.mark.covers("3.10.34", "10.3.8")
def test_fd_forward_names_the_address_that_it_cannot_reach(bare_fleetctl: Fleetctl) -> None:
    assert bare_fleetctl("fd-forward") == Result(1, "", "Provide a single argument\n")
    assert bare_fleetctl("fd-forward", "/nonesuch") == Result(
        1, "", "Failed dialing remote address: dial unix /nonesuch: no such file or directory\n"
    )
