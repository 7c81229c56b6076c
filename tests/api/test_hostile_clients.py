"""Clients that are slow, vanish, lie, never end or come by the thousand, against an API in a process of its own. Other
clients are served meanwhile, memory is bounded, and descriptors are released."""

import asyncio
import json
import logging
import re
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from fleetd.api.connection_limits import ConnectionLimiter
from fleetd.api.server import Server
from fleetd.config.options import Address
from tests.api.served import Client, Echo, ask
from tests.api.served_process import ServedProcess, served_process

BOUND_S = 20.0  # of any wait in which the clock is not moved forward
SERVED_S = 10.0  # within which another client is served on a busy machine
MEMORY_MIB = 96.0  # of which requests and answers take 64 at most
HEALTH = b"GET /health HTTP/1.1\r\nHost: fleet\r\n\r\n"
LISTING = b"GET /fleet/v1/units?limit=1000 HTTP/1.1\r\nHost: fleet\r\n\r\n"
PUT = b"PUT /fleet/v1/units/a.service HTTP/1.1\r\nHost: fleet\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """A thousand connections need a thousand descriptors, in this process and in the other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    with served_process(tmp_path_factory.mktemp("served")) as process:
        health(process.path)
        yield process


@pytest.fixture
def process(shared: ServedProcess) -> Iterator[ServedProcess]:
    """The process. After the test its memory and descriptors are as before."""
    descriptors, memory_mib = shared.descriptors, shared.memory_mib
    yield shared
    until(lambda: shared.descriptors <= descriptors, "its descriptors are not what they were")
    assert shared.memory_mib < memory_mib + MEMORY_MIB
    assert "Traceback" not in shared.log


def until(holds: Callable[[], bool], otherwise: str) -> None:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < BOUND_S, otherwise
        time.sleep(0.05)


def connect(path: str, sent: bytes = b"") -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)  # which waits to be served
    client.settimeout(BOUND_S)
    client.sendall(sent)
    return client


def read_to_end(client: socket.socket) -> bytes:
    """Everything that is answered until the connection ends in any way."""
    received = b""
    with suppress(ConnectionError):
        while chunk := client.recv(65536):
            received += chunk
    client.close()
    return received


def statuses(received: bytes) -> list[int]:
    """The statuses in what was received; the body of each error has its status too."""
    found = [int(part[:3]) for part in re.split(rb"HTTP/1\.[01] ", received)[1:]]
    if found and found[-1] >= 400:
        assert json.loads(received.rpartition(b"\r\n\r\n")[2])["error"]["code"] == found[-1]
    return found


def lose_patience(process: ServedProcess) -> None:
    """Move the clock until the server has read everything and waits for the client."""
    health(process.path)
    process.pass_time()
    process.pass_time()


def health(path: str) -> None:
    """Another client is served in time."""
    began = time.monotonic()
    client = connect(path, HEALTH)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    client.close()
    assert time.monotonic() - began < SERVED_S


@contextmanager
def many(process: ServedProcess, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(process.path, sent)) for _ in range(count)]


# Slow clients.


@pytest.mark.covers("H.4")
@pytest.mark.parametrize(
    "sent", [b"GET /he", b"GET /health HTTP/1.1\r\nHost: fl", PUT + b"Content-Length: 99\r\n\r\n{"]
)
def test_a_client_that_sends_slowly_is_answered_408_and_closed(process: ServedProcess, sent: bytes) -> None:
    with many(process, 50, sent) as clients:
        for _ in range(2):
            for client in clients:
                client.sendall(b" ")
            health(process.path)
            process.pass_time()
        answers = [read_to_end(client) for client in clients]
    assert [statuses(answer) for answer in answers] == [[408]] * 50


def test_a_client_that_sends_nothing_is_closed_without_an_answer(process: ServedProcess) -> None:
    client = connect(process.path)
    lose_patience(process)
    assert read_to_end(client) == b""


@pytest.mark.covers("H.4")
def test_a_client_that_reads_no_answer_is_closed_and_delays_no_other(process: ServedProcess) -> None:
    with many(process, 60, LISTING):
        health(process.path)
        assert process.memory_mib < 400

        def are_cut_off() -> bool:  # each some time after its answer was ready
            process.pass_time()
            return process.descriptors < 40

        until(are_cut_off, "slow takers of answers are held")


# Clients that vanish.


@pytest.mark.covers("H.4")
@pytest.mark.parametrize("sent", [b"GET", HEALTH, LISTING, PUT + b"Content-Length: 1000\r\n\r\n{"])
def test_clients_that_vanish_leave_nothing_behind(process: ServedProcess, sent: bytes) -> None:
    for number in range(100):
        client = connect(process.path, sent)
        if sent == LISTING and number % 2:
            client.recv(1)
        if number % 3 == 0:  # not only closed, but reset
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    health(process.path)


# Many clients.


@pytest.mark.covers("H.4")
@pytest.mark.parametrize("sent", [b"", b"GET /health HT", HEALTH])
def test_a_thousand_connections_at_once_delay_no_other_client(process: ServedProcess, sent: bytes) -> None:
    before_mib = process.memory_mib
    with many(process, 1000, sent):
        for _ in range(5):
            health(process.path)
        assert process.memory_mib < before_mib + MEMORY_MIB


@pytest.mark.covers("H.4")
def test_the_bodies_of_many_clients_are_not_all_in_memory(process: ServedProcess) -> None:
    before_mib = process.memory_mib
    size = 1_900_000
    with many(process, 100) as clients:
        for client in clients:
            with suppress(OSError):
                client.settimeout(0.2)
                client.sendall(PUT + b"Content-Length: %d\r\n\r\n" % size)
                client.sendall(b" " * (size - 1))
        assert process.memory_mib < before_mib + 2 * MEMORY_MIB
        for client in clients:
            client.settimeout(BOUND_S)
        lose_patience(process)
        found = {status for client in clients for status in statuses(read_to_end(client))}
    assert found == {408, 503}
    health(process.path)


@pytest.mark.covers("H.4")
def test_beyond_the_limit_the_slowest_clients_are_closed(tmp_path: Path) -> None:
    with served_process(tmp_path, max_connections=20) as process:
        descriptors = process.descriptors
        with many(process, 100, b"GET /") as clients:
            health(process.path)
            assert process.descriptors <= descriptors + 20
            assert all(read_to_end(client) == b"" for client in clients[:70])
        assert process.log.count("20 clients are connected to the API, which is its limit") == 1


@pytest.mark.covers("H.4")
def test_clients_never_take_all_descriptors(tmp_path: Path) -> None:
    with served_process(tmp_path, max_connections=0, max_descriptors=200) as process:
        descriptors = process.descriptors
        with many(process, 300):
            health(process.path)
            assert process.descriptors <= descriptors + 50
        assert "50 clients are connected" in process.log
        assert "Too many open files" not in process.log


async def test_a_client_that_waits_for_its_answer_is_not_closed(path: Address) -> None:
    api = Echo()
    server = Server(api, limiter=ConnectionLimiter(max_connections=2))
    await server.start([path], insecure=False)
    asked = asyncio.create_task(ask(Client(path), "GET", "/stall"))
    await api.stalled.wait()
    for _ in range(5):
        response, _ = await ask(Client(path), "GET", "/")
        assert response.status == 200
    assert not asked.done()
    await server.stop()
    with pytest.raises(ConnectionError):
        await asked


async def test_requests_beyond_the_shared_memory_are_refused_with_503(
    path: Address, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    limiter = ConnectionLimiter(max_bytes=1000)
    server = Server(Echo(), limiter=limiter)
    await server.start([path], insecure=False)
    reader, writer = await asyncio.open_unix_connection(path.path)
    writer.write(PUT + b"Content-Length: 900\r\n\r\n" + b" " * 899)
    async with asyncio.timeout(60):
        while limiter.reserved < 899:  # noqa: ASYNC110 (it is not for the server to tell)
            await asyncio.sleep(0.01)
    response, body = await ask(Client(path), "PUT", "/", body=b"x" * 200)
    assert (response.status, response.getheader("Retry-After")) == (503, "1")
    assert "try again later" in json.loads(body)["error"]["message"]
    writer.write(b" ")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    assert limiter.reserved == 0
    response, _ = await ask(Client(path), "PUT", "/", body=b"x" * 2000)
    assert response.status == 200, "one alone may be as large as any"
    writer.close()
    await server.stop()


# Clients that lie, or send without end.


def test_an_endless_body_in_chunks_is_refused_when_it_is_too_large(process: ServedProcess) -> None:
    client = connect(process.path, PUT + b"Transfer-Encoding: chunked\r\n\r\n")
    began = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() - began < BOUND_S:
            client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
    assert time.monotonic() - began < BOUND_S
    client.close()
    health(process.path)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (PUT + b"Content-Length: 99999999999\r\n\r\n{}", [413]),
        (PUT + b"Content-Length: 100\r\n\r\n{}", [408]),
        (PUT + b"Content-Length: 2\r\n\r\n{}surplus\r\n\r\n", [400]),
        (PUT + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", [400]),
        (PUT + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", [400]),
        (PUT + b"Content-Length: -2\r\n\r\n{}", [400]),
        (PUT + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n", [400]),
    ],
    ids=[
        "far too long",
        "too long",
        "too short",
        "two lengths",
        "length and chunks",
        "negative",
        "a chunk without end",
    ],
)
def test_a_wrong_length_of_a_body_is_answered_with_an_error(
    process: ServedProcess, sent: bytes, expected: list[int]
) -> None:
    client = connect(process.path, sent)
    if expected == [408]:
        lose_patience(process)
    assert statuses(read_to_end(client)) == expected


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 10_000_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2_000_000,
        b"GET / HTTP/1.1\r\n" + b"y" * 10_000_000,
    ],
    ids=["path", "one header", "headers without end", "one header's name"],
)
def test_endless_headers_are_refused_and_not_kept(process: ServedProcess, sent: bytes) -> None:
    before_mib = process.memory_mib
    with many(process, 20) as clients:
        for client in clients:
            with suppress(ConnectionError):
                client.sendall(sent)
        assert {status for client in clients for status in statuses(read_to_end(client))} <= {400, 431}
    assert process.memory_mib < before_mib + MEMORY_MIB


@pytest.mark.parametrize("garbage", [b"\0" * 1000, b"\xff" * 1000, b"GET\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"])
def test_garbage_after_a_request_is_answered_and_ends_the_connection(process: ServedProcess, garbage: bytes) -> None:
    assert statuses(read_to_end(connect(process.path, HEALTH + garbage)))[-1] == 400
    client = connect(process.path, HEALTH)
    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    client.sendall(garbage)
    assert statuses(read_to_end(client)) == [400]


def test_answers_to_many_unread_requests_are_not_all_in_memory(process: ServedProcess) -> None:
    before_mib = process.memory_mib
    with many(process, 20) as clients:
        for client in clients:
            client.settimeout(0.1)
            with suppress(OSError):
                client.sendall(LISTING * 20_000)
        health(process.path)
        assert process.memory_mib < before_mib + 2 * MEMORY_MIB
