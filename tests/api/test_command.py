"""The command fleetd at a terminal: output, exit status, and `fleetd leave`."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fleetd import __version__
from fleetd.__main__ import build_parser, main, parse_overrides
from fleetd.api.http import ApiError
from fleetd.api.schema import Leaving
from fleetd.api.server import Server
from fleetd.config.options import Address


@pytest.mark.covers("5.1.2")
@pytest.mark.parametrize("argument", ["-version", "--version", "version"])
def test_the_version_is_printed(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument], {}) == 0
    assert capsys.readouterr().out == f"fleetd version {__version__}\n"


@pytest.mark.covers("5.1.3")
@pytest.mark.parametrize("argument", ["-h", "--help"])
def test_help_goes_to_standard_error(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([argument], {})
    assert ended.value.code == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("usage: fleetd ")


@pytest.mark.covers("5.1.4", "5.1.7")
def test_an_unknown_option_is_usage_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--agent-ttl", "3s"], {})
    assert ended.value.code == 2
    assert "usage: fleetd " in capsys.readouterr().err


@pytest.mark.covers("5.1.5")
@pytest.mark.parametrize("arguments", [["start"], ["version", "now"], ["leave", "it"]])
def test_an_unexpected_argument_is_usage_and_status_1(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, {}) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"fleetd: unknown command '{' '.join(arguments)}': use version, leave, join,")
    assert "usage: fleetd " in error


@pytest.mark.covers("5.1.1", "5.2.2", "5.4.1")
@pytest.mark.parametrize("flag", ["-config", "--config"])
def test_an_unusable_configuration_is_one_line_and_status_1(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.conf"
    assert main([flag, str(path)], {}) == 1
    assert capsys.readouterr().err == f"fleetd: Unable to use config file {path}: No such file or directory\n"
    path.write_text("agent_ttl=30\n")
    assert main([f"{flag}={path}"], {}) == 1
    assert capsys.readouterr().err.startswith(f"fleetd: {path}:1: agent_ttl: '30' is not a duration")
    path.write_text("")
    assert main([flag, str(path)], {"FLEET_TOKEN_LIMIT": "x"}) == 1
    assert capsys.readouterr().err.startswith("fleetd: FLEET_TOKEN_LIMIT: token_limit: 'x' is not a whole number")


@pytest.mark.covers("5.1.7")
def test_flags_are_options_of_the_configuration() -> None:
    parse = build_parser().parse_args
    assert parse_overrides(parse([])) == {}
    assert parse_overrides(parse(["--standalone", "--listen", "/a", "--listen", ":1", "--insecure"])) == {
        "standalone": "true",
        "insecure": "true",
        "listen": "/a,:1",
    }


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "fleetd", "version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fleetd version {__version__}\n"


def test_the_version_suits_packages_and_clients_that_compare_versions() -> None:
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", __version__)


def test_a_process_is_found_by_its_name() -> None:
    name = f"fleetd-{os.getpid()}"[:15]
    program = (
        "import sys; from fleetd.process.identity import name_process; name_process(sys.argv[1], sys.argv[2:]); "
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, name, "--config", "x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        found = subprocess.run(["pidof", name], capture_output=True, text=True, check=False).stdout
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.communicate()
    assert found.split() == [str(process.pid)]
    assert shown.rstrip(b"\0").split(b"\0") == [name.encode(), b"--config", b"x"]


# leave


class ShutdownMode:
    """The daemon's answers to `leave`: one step further each time it is asked."""

    def __init__(self, *steps: Leaving | ApiError) -> None:
        self.steps = list(steps)

    async def __call__(self) -> Leaving:
        step = self.steps.pop(0)
        if isinstance(step, ApiError):
            raise step
        return step


async def leave_at(fleet: Any, path: Path, departure: ShutdownMode) -> int:
    """Run `fleetd leave` against a daemon at this socket. Return its exit status."""
    fleet.reconfigure(leave=departure)
    server = Server(fleet.api)
    await server.start([Address(path=str(path))], insecure=False)
    config = path.with_suffix(".conf")
    config.write_text(f"listen=127.0.0.1:1,{path}\n")
    try:
        return await asyncio.to_thread(main, ["--config", str(config), "leave"], {})
    finally:
        await server.stop()


@pytest.mark.covers("5.1.5")
async def test_leave_says_what_it_waits_for_whenever_that_changes(
    fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    departure = ShutdownMode(
        Leaving(waiting_for=("a.service", "b.service")),
        Leaving(waiting_for=("a.service", "b.service")),
        Leaving(),
        Leaving(left=True),
    )
    assert await leave_at(fleet, tmp_path / "s", departure) == 0
    assert departure.steps == []
    assert capsys.readouterr().out == (
        "waiting for a.service, b.service\nwaiting for the leader\n"
        "this machine has left the cluster; systemctl restart fleet.service makes it join again\n"
    )


async def test_a_daemon_that_refuses_is_quoted(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s"
    assert await leave_at(fleet, path, ShutdownMode(ApiError(503, "not yet"))) == 1
    assert capsys.readouterr().err == f"fleetd: the daemon at {path} refused: not yet\n"


def test_a_missing_daemon_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s"
    assert main(["--listen", str(path), "leave"], {}) == 1
    assert capsys.readouterr().err == (
        f"fleetd: no daemon answers at {path}: No such file or directory; is fleet.service running?\n"
    )


async def test_a_server_that_is_not_fleetd_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        writer.close()

    path = os.fspath(tmp_path / "s")
    async with await asyncio.start_unix_server(answer, path):
        assert await asyncio.to_thread(main, ["--listen", path, "leave"], {}) == 1
    assert capsys.readouterr().err.startswith(f"fleetd: the server at {path} is not fleetd: ")
