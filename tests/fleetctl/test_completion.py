"""Completion: the candidates, and the scripts for bash, zsh and fish."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetctl.settings import GLOBAL_OPTIONS
from tests.fleetctl.conftest import HELLO, Fleetctl
from tests.fleetctl.scripted_cluster import M2, ScriptedCluster, always
from tests.fleetctl.terminal import Terminal

SCRIPTS = Path(__file__).parents[2] / "contrib/completions"
SETTINGS = [
    "failover_delay",
    "handover_timeout",
    "max_units",
    "max_units_bytes",
    "reboot_slots",
    "reboot_when_required",
    "reboot_window",
    "rerun_after_failover",
]
Complete = Callable[..., list[str]]


@pytest.fixture
def complete(fleetctl: Fleetctl, cluster: ScriptedCluster) -> Complete:
    """Returns the candidates for the last of the words."""
    cluster.add("web@1.service", HELLO, target="launched")
    cluster.add("web@2.service", HELLO)
    cluster.add("db.service", HELLO)

    def ask(*words: str) -> list[str]:
        result = fleetctl("__complete", "--", *words)
        assert (result.status, result.stderr) == (0, "")
        return [line.partition("\t")[0] for line in result.stdout.splitlines()]

    return ask


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["sto"], ["stop"]),
        (["list-"], ["list-machines", "list-unit-files", "list-units"]),
        (["--debug", "--endpoint", "stop", "unlo"], ["unload", "unlock"]),
        (["help", "ver"], ["verify", "version"]),
        (["help", "_"], []),
        (["stop", ""], ["db.service", "web@1.service", "web@2.service"]),
        (["stop", "db.service", "web@"], ["web@1.service", "web@2.service"]),
        (["plan", ""], ["drain", "apply", "start", "destroy", "lose", "join"]),
        (["plan", "destroy", "web@"], ["web@1.service", "web@2.service"]),
        (["plan", "lose", "1"], ["1" * 32]),
        (["plan", "join", ""], []),
        (["explain", "d"], ["db.service"]),
        (["move", ""], ["db.service", "web@1.service", "web@2.service"]),
        (["move", "db.service", ""], ["1" * 32, "2" * 32]),
        (["move", "--force", "db.service", "1"], ["1" * 32]),
        (["move", "db.service", "1" * 32, ""], []),
        (["sto", "d"], ["db.service"]),
        (["start", "--no-b"], ["--no-block"]),
        (["start", "--block-attempts", ""], []),
        (["start", "--block-attempts=2", "--replace", "db"], ["db.service"]),
        (["list-units", "--fields", "unit,ma"], ["unit,machine"]),
        (["list-machines", "--fields=m"], ["--fields=machine", "--fields=metadata", "--fields=mode"]),
        (["list-units", "--output="], ["--output=table", "--output=json"]),
        (["journal", "--output", "short-i"], ["short-iso"]),
        (["ssh", "--machine", "2"], [M2.id]),
        (["ssh", "we"], ["web@1.service", "web@2.service"]),
        (["--debug="], ["--debug=true", "--debug=false"]),
        (["--strict-host-key-checking=a"], ["--strict-host-key-checking=accept-new"]),
        (["nonsense", ""], []),
        (["list-units", "d"], ["db.service"]),
        (["list-machines", "2"], [M2.id]),
        (["cordon", "2"], [M2.id]),
        (["uncordon", "2"], [M2.id]),
        (["reboot", "2"], [M2.id]),
        (["reboot", "--n"], ["--needed", "--now", "--no-block", "--no-legend"]),
        (["settings", ""], ["get", "set", "unset", *SETTINGS, *(f"{name}=" for name in SETTINGS)]),
        (["settings", "set", "fail"], ["failover_delay", "failover_delay="]),
        (["secret", ""], ["list", "set", "revert", "rm"]),
        (["secret", "rm", ""], []),
        (["version", ""], []),
        (["__c"], []),
    ],
)
def test_the_candidates_for_a_word(complete: Complete, words: list[str], candidates: list[str]) -> None:
    assert complete(*words) == candidates


def test_every_command_and_every_global_option_is_offered(complete: Complete, fleetctl: Fleetctl) -> None:
    listed = fleetctl("help").stdout.partition("COMMANDS:\n")[2].partition("\n\n")[0].splitlines()[:-1]
    assert complete("") == [line.split()[0] for line in listed]
    offered = {word.rstrip("=") for word in complete("--")}
    assert offered == {"--help", "--version"} | {"--" + option.name.replace("_", "-") for option in GLOBAL_OPTIONS}


def test_each_candidate_has_a_description(fleetctl: Fleetctl, complete: Complete) -> None:
    assert fleetctl("__complete", "--", "cat", "web@1").stdout == "web@1.service\tlaunched\n"
    assert fleetctl("__complete", "--", "sto").stdout == "stop\tStop units; they stay on their machines\n"


def test_files_are_offered_for_file_arguments(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "a.service").touch()
    (tmp_path / "units" / "notes.txt").touch()
    (tmp_path / "ca.pem").touch()
    assert complete("submit", "") == ["units/"]
    assert complete("submit", "units/") == complete("verify", "units/") == ["units/a.service"]
    assert complete("start", "") == ["db.service", "web@1.service", "web@2.service", "units/"]
    assert complete("--ca-file", "ca") == complete("list-units", "--ca-file", "ca") == ["ca.pem"]
    assert complete("submit", "nowhere/") == []
    assert complete("apply", "") == complete("diff", "--prune", "") == ["units/"]
    assert complete("apply", "units/") == []


def test_only_templates_are_offered_where_one_is_scaled(complete: Complete, cluster: ScriptedCluster) -> None:
    assert complete("scale", "") == []
    cluster.add("web@.service", HELLO)
    assert complete("scale", "") == ["web@.service"]


def test_completion_asks_the_endpoint_named_on_the_line(
    complete: Complete, cluster: ScriptedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETCTL_ENDPOINT", "http://127.0.0.1:1")
    assert complete("stop", "db") == []
    assert complete("--endpoint", cluster.unix, "stop", "db") == ["db.service"]
    assert complete("stop", f"--endpoint={cluster.tcp}", "db") == ["db.service"]
    assert complete("--endpoint", "nonsense", "stop", "db") == []


def test_completion_opens_no_tunnel(complete: Complete, cluster: ScriptedCluster) -> None:
    cluster.requests.clear()
    assert complete("--tunnel", "bastion", "stop", "") == []
    assert cluster.requests == []


def test_a_failing_api_completes_nothing_and_prints_no_error(complete: Complete, cluster: ScriptedCluster) -> None:
    for answer in ((500, b"oops", "text/plain"), (200, b"<html>", "text/html"), (200, b"[]")):
        cluster.intercept = always(*answer)
        assert complete("stop", "") == []


# Shells


@pytest.fixture
def shell_environment(cluster: ScriptedCluster, tmp_path: Path) -> dict[str, str]:
    """The variables of a shell in which `fleetctl` is this one, and reaches the cluster."""
    cluster.add("web@1.service", HELLO, target="launched")
    cluster.add("web@2.service", HELLO)
    programs = tmp_path / "bin"
    programs.mkdir()
    script = programs / "fleetctl"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m fleetctl.cli "$@"\n')
    script.chmod(0o755)
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "FLEETCTL_ENDPOINT": cluster.unix,
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
    }


LINES = [
    ("fleetctl sto", ["stop"]),
    ("fleetctl --endpoint http://127.0.0.1:1 sto", ["stop"]),
    ("fleetctl stop web@", ["web@1.service", "web@2.service"]),
    ("fleetctl list-units --output=j", ["--output=json"]),
    ("fleetctl start --block-att", ["--block-attempts="]),
    ("fleetctl nonsense ", []),
]


@pytest.mark.parametrize(("line", "candidates"), LINES)
def test_fish_completes(shell_environment: dict[str, str], line: str, candidates: list[str]) -> None:
    program = f"source {SCRIPTS}/fleetctl.fish; complete --do-complete '{line}'"
    done = subprocess.run(["fish", "-c", program], env=shell_environment, capture_output=True, text=True, check=True)
    assert [found.partition("\t")[0] for found in done.stdout.splitlines()] == candidates
    assert done.stderr == ""


@pytest.mark.parametrize(("line", "candidates"), LINES)
def test_bash_completes(shell_environment: dict[str, str], line: str, candidates: list[str]) -> None:
    program = (
        f"source {SCRIPTS}/fleetctl.bash; COMP_LINE=$1 COMP_POINT=${{#1}}; _fleetctl; "
        'for word in "${COMPREPLY[@]}"; do echo "$word"; done'
    )
    done = subprocess.run(
        ["bash", "-c", program, "bash", line], env=shell_environment, capture_output=True, text=True, check=True
    )
    begun = line.rpartition(" ")[2]
    has = begun[
        : max(begun.rfind("@"), begun.rfind("=") + 1, 0)
    ]  # bash breaks words at @ and =, and completes what follows
    assert [has + word for word in done.stdout.splitlines()] == candidates
    assert done.stderr == ""


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, shell_environment: dict[str, str], tmp_path: Path) -> Iterator[Terminal]:
    """A shell at a terminal that has loaded fleetctl's completion."""
    commands = {
        "bash": ["bash", "--noprofile", "--norc", "-i"],
        "zsh": ["zsh", "-f", "-i"],
        "fish": ["fish", "--no-config", "-i"],
    }
    set_up = {
        "bash": f"PS1=; source {SCRIPTS}/fleetctl.bash; echo re''ady\r",
        "zsh": f"PS1=; fpath=({SCRIPTS} $fpath); autoload -Uz compinit; compinit -u -D; echo re''ady\r",
        "fish": f"source {SCRIPTS}/fleetctl.fish; echo re''ady\r",
    }
    terminal = Terminal(commands[request.param], shell_environment)
    terminal.type(set_up[request.param])
    terminal.read_until(lambda written: "ready" in written)
    yield terminal
    terminal.process.kill()
    terminal.finish()


def test_tab_completes_the_name_of_a_unit(shell: Terminal, cluster: ScriptedCluster) -> None:
    shell.type("fleetctl destr\twe\t1\t\r")
    shell.read_until(lambda written: "Destroyed web@1.service" in written)
    assert sorted(cluster.units) == ["web@2.service"]
