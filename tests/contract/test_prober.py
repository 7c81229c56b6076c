"""Checks on this host: each kind, with servers and programs that do what they should not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fleetd.agent.prober import LOOPBACK, MAX_PROGRAMS, HostProber, _addresses
from fleetd.model.announce_options import EXEC, HTTP, TCP, Check

PATIENCE_S = 60.0
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def probe(check: Check, address: str = "", timeout_s: float = 20.0) -> str:
    """Why the check fails, '' if it passes."""
    prober = HostProber()
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    prober.begin(check, address, timeout_s, found.set_result)
    async with asyncio.timeout(PATIENCE_S):
        return await found


@asynccontextmanager
async def listening(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def answering(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"), request
        for byte in answer:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        writer.close()

    return serve


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 302 Found\r\nLocation: /\r\n\r\n", ""),
        (b"HTTP/1.1 204\n\n", ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404"),
        (b"SSH-2.0-x\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n", "the answer is not HTTP"),
        (b"x" * 2000, "the answer is not HTTP"),
        (b"", "the connection was closed without an answer"),
    ],
)
async def test_an_answer_over_http_is_judged_by_its_status(answer: bytes, failure: str) -> None:
    async with listening(answering(answer)) as port:
        assert await probe(Check(HTTP, port, "/healthz")) == failure


async def test_a_port_is_well_if_it_takes_connections_at_the_own_address_or_the_loopback_one() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with listening(serve) as port:
        for address in ("", "127.0.0.1", "127.0.0.2", "no-such-name"):
            assert await probe(Check(TCP, port), address) == ""
    assert await probe(Check(TCP, port)) == "connection refused"


def test_a_host_name_is_not_resolved_for_each_check() -> None:
    assert _addresses("this-machine.example") == _addresses("") == LOOPBACK
    assert _addresses("fd00::1") == ("fd00::1", *LOOPBACK)


async def test_a_server_that_hangs_or_resets_has_failed() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

    async with listening(hang) as port:
        assert await probe(Check(HTTP, port, "/"), timeout_s=0.2) == "no answer within 0.2 s"
    async with listening(reset) as port:
        assert "connection" in await probe(Check(HTTP, port, "/"))


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        ("/bin/true", ""),
        ("/bin/false", "exit status 1"),
        ("/no/such/program", "/no/such/program cannot be started: No such file or directory"),
        ("/dev/null", "/dev/null cannot be started: Permission denied"),
    ],
)
async def test_a_program_is_well_if_it_exits_with_zero(command: str, failure: str) -> None:
    assert await probe(Check(EXEC, command=tuple(command.split()))) == failure


async def test_how_a_program_failed_is_told(tmp_path: Path) -> None:
    for line, failure in (
        ("no-such-program", "exit status 127: a program that it runs was not found"),
        ("kill -9 $$", "killed by signal 9"),
    ):
        script = tmp_path / "script"
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
        assert await probe(Check(EXEC, command=(str(script),))) == failure


async def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    script, mark = tmp_path / "script", tmp_path / "mark"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {mark}\nwait\n")
    script.chmod(0o755)
    assert await probe(Check(EXEC, command=(str(script),)), timeout_s=1.0) == "not done within 1 s"
    if number := mark.read_text().strip() if mark.exists() else "":
        async with asyncio.timeout(PATIENCE_S):
            while runs(number):  # noqa: ASYNC110 (nothing says so)
                await asyncio.sleep(0.01)


def runs(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_only_some_programs_run_at_once(tmp_path: Path) -> None:
    script, gate = tmp_path / "script", tmp_path / "gate"
    script.write_text(f"#!/bin/sh\necho > {tmp_path}/run.$$\nwhile ! [ -e {gate} ]; do sleep 0.05; done\n")
    script.chmod(0o755)
    prober, results = HostProber(), asyncio.Queue[str]()
    for _ in range(MAX_PROGRAMS + 3):
        prober.begin(Check(EXEC, command=(str(script),)), "", PATIENCE_S, results.put_nowait)
    async with asyncio.timeout(PATIENCE_S):
        while len(list(tmp_path.glob("run.*"))) < MAX_PROGRAMS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(list(tmp_path.glob("run.*"))) == MAX_PROGRAMS
        gate.touch()
        assert [await results.get() for _ in range(MAX_PROGRAMS + 3)] == [""] * (MAX_PROGRAMS + 3)


async def test_what_is_under_way_ends_without_a_result_when_it_is_closed() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    results: list[str] = []
    async with listening(hang) as port:
        prober = HostProber()
        prober.begin(Check(HTTP, port, "/"), "", 0.2, results.append)
        prober.begin(Check(TCP, port), "", 0.2, results.append)
        prober.begin(Check(EXEC, command=("/bin/sleep", "100")), "", 0.2, results.append)
        prober.close()
        await asyncio.sleep(0.5)
    assert results == []
