"""journal -f: what fleetd streams, and SSH for those machines whose fleetd does not."""

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fleetctl.client import Client
from fleetctl.endpoint import parse_endpoint
from fleetctl.log_following import follow_logs
from fleetctl.logs import LogQuery
from fleetctl.remote import FAILED_STATUS, End, Line
from fleetctl.unit_locations import Location
from fleetd.api.http import Request, Response, StreamedResponse, render_error
from fleetd.api.server import Server
from fleetd.config.options import Address
from tests.fleetctl.background import BackgroundLoop

M1, M2 = Location("1" * 32, "10.0.0.1"), Location("2" * 32, "10.0.0.2")
HERE = Location("3" * 32, "10.0.0.3")


class Fleetd:
    """Answers requests with these lines, and then ends the stream; or refuses them."""

    def __init__(self, loop: BackgroundLoop, path: str) -> None:
        self.path = path
        self.lines: list[dict[str, Any] | None] = []
        self.refusal: Response | None = None
        self.queries: list[tuple[tuple[str, str], ...]] = []
        self._loop = loop
        self._server = loop.do(self._start())

    async def _start(self) -> Server:
        server = Server(self)
        await server.start([Address(path=self.path)], insecure=False)
        return server

    async def handle(self, request: Request) -> Response | StreamedResponse:
        self.queries.append(request.query)
        return self.refusal or StreamedResponse(200, self._stream())

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        for line in self.lines:
            yield json.dumps(line).encode() + b"\n" if line is not None else b"\n"

    def close(self) -> None:
        self._loop.do(self._server.stop())


class ScriptedRemote:
    """Runs commands as they are scripted: each says where it runs."""

    def __init__(self) -> None:
        self.asked: list[Location] = []

    def is_here(self, place: Location) -> bool:
        return place == HERE

    def ask_for_host_keys(self, places: Sequence[Location]) -> None:
        self.asked += places

    def begin(self, place: Location, command: str, emit: Callable[[Line | End], None]) -> None:
        emit(Line(place, command.encode(), False))
        emit(End(place, 0))


@pytest.fixture
def fleetd(background: BackgroundLoop, tmp_path: Path) -> Iterator[Fleetd]:
    one = Fleetd(background, str(tmp_path / "fleet.sock"))
    yield one
    one.close()


def follow(fleetd: Fleetd, *places: Location, remote: ScriptedRemote | None = None) -> list[tuple[str, str | int]]:
    """What is shown, and how each machine ends."""
    client = Client(parse_endpoint(f"unix://{fleetd.path}"), 10.0)
    events = follow_logs(
        client,
        remote or ScriptedRemote(),  # type: ignore[arg-type]
        LogQuery(["web.service"], lines=5, since_s=0.0, grep="x y", form="cat"),
        places,
        "journalctl",
    )
    return [(each.place.machine[0], each.text.decode() if isinstance(each, Line) else each.status) for each in events]


def entry(place: Location, text: str) -> dict[str, Any]:
    return {"machine": place.machine, "MESSAGE": text}


def failure(place: Location, why: str) -> dict[str, Any]:
    return {"machine": place.machine, "failure": why}


def test_entries_are_shown_as_they_come(fleetd: Fleetd, capsys: pytest.CaptureFixture[str]) -> None:
    fleetd.lines = [
        entry(M1, "a"),
        None,
        entry(M2, "b\nc"),
        entry(M1, "d"),
        entry(HERE, "?"),
        failure(M1, "it is cut off"),
    ]
    assert follow(fleetd, M1, M2) == [
        ("1", "a"),
        ("2", "b"),
        ("2", "c"),
        ("1", "d"),
        ("1", FAILED_STATUS),
        ("2", FAILED_STATUS),
    ]
    [query] = fleetd.queries
    assert dict(query)["follow"] == "true"
    assert dict(query)["lines"] == "5"
    assert dict(query)["grep"] == "x y"
    said = capsys.readouterr().err
    assert "The log of machine 11111111.../10.0.0.1 is not followed any more: it is cut off\n" in said
    assert "The log of machine 22222222.../10.0.0.2 is not followed any more: fleetd has ended its stream\n" in said


def test_a_machine_that_cannot_stream_is_followed_over_ssh(fleetd: Fleetd, capsys: pytest.CaptureFixture[str]) -> None:
    fleetd.lines = [failure(M2, "no certificate"), entry(M1, "a"), failure(M1, "gone")]
    remote = ScriptedRemote()
    shown = follow(fleetd, M1, M2, remote=remote)
    assert [each for each in shown if each[0] == "2"] == [("2", "journalctl"), ("2", 0)]
    assert [each for each in shown if each[0] == "1"] == [("1", "a"), ("1", FAILED_STATUS)]
    assert remote.asked == [M2]
    assert "Using SSH for 22222222.../10.0.0.2: no certificate\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("refusal", "why"),
    [
        (render_error(409, "set peer_listen="), "fleetd does not show logs: Error 409: set peer_listen="),
        (Response(404, (), b"not found"), "fleetd does not show logs: "),
        (Response(200, (), b"<html>\n"), "what answers is no fleetd that shows logs"),
    ],
)
def test_a_fleetd_that_does_not_stream_is_done_without(
    fleetd: Fleetd, capsys: pytest.CaptureFixture[str], refusal: Response, why: str
) -> None:
    fleetd.refusal = refusal
    assert sorted(follow(fleetd, M1, M2), key=str) == [("1", "journalctl"), ("1", 0), ("2", "journalctl"), ("2", 0)]
    assert f"Using SSH for 11111111.../10.0.0.1, 22222222.../10.0.0.2: {why}" in capsys.readouterr().err


def test_this_machine_is_read_directly(fleetd: Fleetd) -> None:
    fleetd.lines = [entry(M1, "a"), failure(M1, "gone")]
    assert sorted(follow(fleetd, HERE, M1), key=str) == [
        ("1", "a"),
        ("1", FAILED_STATUS),
        ("3", "journalctl"),
        ("3", 0),
    ]


def test_a_stream_that_breaks_off_is_named(fleetd: Fleetd, capsys: pytest.CaptureFixture[str]) -> None:
    fleetd.close()
    assert follow(fleetd, M1) == [("1", "journalctl"), ("1", 0)]
    assert "Using SSH for 11111111.../10.0.0.1: cannot reach fleetd at " in capsys.readouterr().err
