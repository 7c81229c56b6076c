"""Imports are most of the start-up time of a command. Modules are counted, since times differ by machine."""

import subprocess
import sys

import pytest

from fleetctl.commands import SUMMARIES
from tests.fleetctl.scripted_cluster import ScriptedCluster

# Modules that help may import beyond those of click: fleetctl's own, and those of msgspec.
MOST_BEYOND_CLICK = 40
MOST_OF_A_LIST = 107  # the standard library's HTTP client is half of them
COSTLY = (
    "aiohttp",
    "asyncio",
    "difflib",
    "email",
    "http",
    "importlib.metadata",
    "logging",
    "paramiko",
    "rich",
    "ssl",
    "textual",
)


def imported(program: str, *arguments: str) -> set[str]:
    """The modules that the program has imported when it ends."""
    report = "import sys; print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}\n{report}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.splitlines())


RUN = "from fleetctl.cli import run; assert run(sys.argv[1:]) == 0"


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["--version"], []])
def test_the_overview_imports_little_beyond_the_parser(arguments: list[str]) -> None:
    modules = imported(RUN, *arguments)
    assert not {*COSTLY} & modules
    assert len(modules - imported("import click")) <= MOST_BEYOND_CLICK


@pytest.mark.parametrize("name", sorted(SUMMARIES))
def test_the_help_of_a_command_imports_no_network_modules(name: str) -> None:
    modules = imported(RUN, name, "--help")
    assert not {*COSTLY} & modules


@pytest.mark.parametrize("name", ["list-units", "list-unit-files", "list-machines"])
def test_a_list_imports_no_ssh_no_event_loop_and_no_daemon(name: str, cluster: ScriptedCluster) -> None:
    modules = imported(RUN, "--endpoint", cluster.unix, name)
    assert "http.client" in modules
    assert not {"aiohttp", "asyncio", "difflib", "logging", "paramiko", "sqlite3"} & modules
    assert len(modules - imported("import click")) <= MOST_OF_A_LIST
    of_fleetd = {name for name in modules if name.startswith("fleetd.") and not name.startswith("fleetd.model")}
    schemas = (
        "schema",
        "cause_schema",
        "cluster_schema",
        "insight_schema",
        "event_schema",
        "explain_schema",
        "join_schema",
        "lock_schema",
        "login_schema",
        "plan_schema",
        "rollout_schema",
        "service_schema",
    )
    assert of_fleetd <= {"fleetd.api", *(f"fleetd.api.{each}" for each in schemas)}
