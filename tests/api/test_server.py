"""The API on real sockets: its answers, and its shutdown."""

import asyncio
import contextlib
import json
import os
import time
from typing import Any

import pytest

from contrib.testbed.etcd import free_port
from fleetd import __version__
from fleetd.api.http import Request, Response
from fleetd.api.server import MAX_BODY_BYTES, Server
from fleetd.config.options import Address
from tests.api.served import LOOPBACK, Client, Echo, ask, serving
from tests.metrics import Counted


@pytest.mark.covers("4.1.19", "4.9.1")
async def test_a_unit_is_sent_over_a_unix_socket_and_over_tcp(fleet: Any, path: Address) -> None:
    tcp = Address(host=LOOPBACK, port=free_port())
    body = json.dumps({"options": [{"section": "A", "name": "B", "value": "c"}]})
    async with serving(fleet.api, path, tcp):
        put, nothing = await ask(
            Client(path),
            "PUT",
            "/fleet/v1/units/a%401.service",
            body=body,
            headers={"Content-Type": "application/json"},
        )
        assert (put.status, nothing) == (201, b"")
        got, shown = await ask(Client(tcp), "GET", "/fleet/v1/units/a@1.service")
        assert (got.status, got.getheader("Content-Type")) == (200, "application/json")
        assert json.loads(shown)["name"] == "a@1.service"
        gone, nothing = await ask(Client(path), "DELETE", "/fleet/v1/units/a@1.service")
        assert (gone.status, nothing) == (204, b"")


@pytest.mark.covers("4.1.2")
async def test_every_response_names_the_server(fleet: Any, path: Address) -> None:
    async with serving(fleet.api, path):
        for method, resource in (("GET", "/fleet/v1/units"), ("GET", "/none"), ("HEAD", "/health"), ("POST", "/")):
            response, _ = await ask(Client(path), method, resource)
            assert response.headers.get_all("Server") == [f"fleetd/{__version__}"]


async def test_a_connection_is_kept_for_further_requests_also_after_errors(fleet: Any, path: Address) -> None:
    async with serving(fleet.api, path):
        client = Client(path)
        for resource, status in (("/fleet/v1/units", 200), ("/none", 404), ("/fleet/v1/units/x.service", 404)):
            response, _ = await ask(client, "GET", resource)
            kept = client.sock
            assert response.status == status
            assert kept is not None
        response, _ = await ask(client, "PATCH", "/fleet/v1/units")
        assert (response.status, response.getheader("Allow"), client.sock) == (405, "GET, HEAD", kept)


async def test_head_answers_the_length_without_a_body(fleet: Any, path: Address) -> None:
    async with serving(fleet.api, path):
        client = Client(path)
        got, body = await ask(client, "GET", "/fleet/v1/discovery")
        head, nothing = await ask(client, "HEAD", "/fleet/v1/discovery")
        assert (head.status, nothing) == (200, b"")
        assert head.getheader("Content-Length") == got.getheader("Content-Length") == str(len(body))
        after, _ = await ask(client, "GET", "/health")
        assert after.status == 200


async def test_a_request_arrives_decoded_and_marked_as_local_or_not(path: Address) -> None:
    tcp = Address(host=LOOPBACK, port=free_port())
    async with serving(Echo(), path, tcp):
        _, local = await ask(Client(path), "GET", "/a%5Cb%40c%2Fd/../e?x=1+2&x=%26&y", headers={"Content-Type": "t"})
        assert json.loads(local) == {
            "method": "GET",
            "path": "/a\\b@c/d/../e",
            "query": [["x", "1 2"], ["x", "&"], ["y", ""]],
            "types": ["t"],
            "body": 0,
            "local": True,
        }
        _, remote = await ask(Client(tcp), "POST", "/", body=b"x" * 10)
        assert (json.loads(remote)["local"], json.loads(remote)["body"]) == (False, 10)


@pytest.mark.parametrize(
    "target", ["/%FF?nextPageToken=%FF", "/fleet/v1/units/%FF", "/fleet/v1/units?nextPageToken=%FF"]
)
async def test_an_undecodable_query_is_a_client_error(fleet: Any, path: Address, target: str) -> None:
    async with serving(fleet.api, path):
        response, _ = await ask(Client(path), "GET", target)
        assert response.status in (400, 404)


async def test_undecodable_raw_bytes_are_a_client_error(
    fleet: Any, path: Address, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fleet.api, path):
        reader, writer = await asyncio.open_unix_connection(path.path)
        head = b"Host: fleet\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(
            b"PUT /fleet/v1/units/\xff.service HTTP/1.1\r\n" + head + b'Content-Length: 12\r\n\r\n{"name":"x"}'
        )
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.split(b"\r\n")[0].endswith(b" 400 Bad Request")
        assert caplog.text == ""
        writer.close()


async def send(path: Address, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes in pieces and read until the connection ends. Return status, headers and body."""
    reader, writer = await asyncio.open_unix_connection(path.path)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.01)
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    writer.close()
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


HEAD = b"Host: fleet\r\nConnection: close\r\nContent-Type: application/json\r\n"
PUT = b"PUT /fleet/v1/units/a.service HTTP/1.1\r\n" + HEAD
UNIT = b'{"options":[{"section":"A","name":"B","value":"c"}]}'


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "HTTPS"),
        (b"hello\r\n\r\n", 400, "hello"),
        (b"GET / HTTP/9.9\r\n" + HEAD + b"\r\n", 400, "version"),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n" + HEAD + b"\r\n", 431, "8190"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 431, "8190"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "Too many headers"),
        (PUT + b"Content-Length: x\r\n\r\n", 400, "Content-Length"),
        (PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "chunk"),
    ],
    ids=[
        "TLS",
        "no request line",
        "another version",
        "long path",
        "long header",
        "many headers",
        "bad length",
        "bad chunk",
    ],
)
async def test_bytes_that_are_not_http_are_answered_with_an_error_entity(
    fleet: Any, path: Address, sent: bytes, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fleet.api, path):
        answered, headers, body = await send(path, sent)
        assert (answered, headers["Content-Type"]) == (status, "application/json")
        assert headers["Server"] == f"fleetd/{__version__}"
        assert int(headers["Content-Length"]) == len(body)
        error = json.loads(body)["error"]
        assert error["code"] == status
        assert message in error["message"]
        assert "\n" not in error["message"]
        assert caplog.text == ""
        assert (await ask(Client(path), "GET", "/health"))[0].status == 200


async def test_a_body_may_be_whole_or_in_chunks(fleet: Any, path: Address) -> None:
    length = b"Content-Length: %d\r\n\r\n" % len(UNIT)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    pieces = [b"%x\r\n%s\r\n" % (len(part), part) for part in (UNIT[:7], UNIT[7:])] + [b"0\r\n\r\n"]
    async with serving(fleet.api, path):
        for sent in ((PUT + length + UNIT,), (PUT + length, UNIT[:7], UNIT[7:]), (PUT + chunked, *pieces)):
            status, headers, body = await send(path, *sent)
            assert (status, headers["Content-Length"], body) == (201, "0", b"")
            assert await fleet.unit("a.service")
            await ask(Client(path), "DELETE", "/fleet/v1/units/a.service")


async def test_expect_100_continue_is_answered_at_once(fleet: Any, path: Address) -> None:
    async with serving(fleet.api, path):
        reader, writer = await asyncio.open_unix_connection(path.path)
        writer.write(PUT + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(UNIT))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(UNIT)
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 201 Created\r\n")
        writer.close()
        large = b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
        status, _, body = await send(path, PUT + large)
        assert (status, json.loads(body)["error"]["code"]) == (413, 413)


async def test_every_response_has_its_length(fleet: Any, path: Address) -> None:
    async with serving(fleet.api, path):
        for method, resource, status in (
            ("GET", "/fleet/v1/units", 200),
            ("GET", "//fleet/v1/units", 301),
            ("GET", "/none", 404),
            ("POST", "/fleet/v1/units", 405),
            ("PATCH", "/fleet/v1/machines", 400),
        ):
            response, body = await ask(Client(path), method, resource)
            assert response.status == status
            assert response.getheader("Content-Length") == str(len(body))
        response, body = await ask(Client(path), "PATCH", "/fleet/v1/machines", body=b"[]")
        assert (response.status, response.getheader("Content-Length"), body) == (204, None, b"")


async def test_a_body_may_have_the_maximum_size_and_not_more(path: Address) -> None:
    async with serving(Echo(), path):
        response, body = await ask(Client(path), "PUT", "/", body=b"x" * MAX_BODY_BYTES)
        assert (response.status, json.loads(body)["body"]) == (200, MAX_BODY_BYTES)
        response, body = await ask(Client(path), "PUT", "/", body=b"x" * (MAX_BODY_BYTES + 1))
        assert (response.status, json.loads(body)["error"]["code"]) == (413, 413)
        assert response.getheader("Connection") == "close"


async def test_an_internal_error_is_logged_and_ends_one_request(
    path: Address, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Echo(), path):
        client = Client(path)
        response, body = await ask(client, "GET", "/mistake")
        assert (response.status, json.loads(body)["error"]["code"]) == (500, 500)
        assert "ZeroDivisionError" in caplog.text
        assert (await ask(client, "GET", "/"))[0].status == 200


async def test_answers_are_counted_by_status_and_timed_by_method(path: Address) -> None:
    counted = Counted()
    async with serving(Echo(), path):
        client = Client(path)
        for method, target in (("GET", "/"), ("PUT", "/"), ("GET", "/mistake"), ("TRACE", "/")):
            await ask(client, method, target)
        await send(path, b"hello\r\n\r\n")
    statuses = {code: counted("fleet_api_answers_total", code=code) for code in ("200", "400", "500")}
    assert statuses == {"200": 3, "400": 1, "500": 1}
    timed = "fleet_api_answer_duration_seconds_count"
    assert {method: counted(timed, method=method) for method in ("GET", "PUT", "other", "TRACE")} == {
        "GET": 2,
        "PUT": 1,
        "other": 1,
        "TRACE": 0,
    }


@pytest.mark.covers("5.6.2")
async def test_the_api_can_be_replaced_while_it_is_served(fleet: Any, path: Address) -> None:
    async with serving(fleet.api, path) as server:
        fleet.reconfigure(not_ready=lambda: "reloading")
        server.api = fleet.api
        assert (await ask(Client(path), "GET", "/health"))[0].status == 503


# Shutdown


async def test_a_shutdown_takes_two_seconds_at_most_with_an_open_request(path: Address) -> None:
    took_s: list[float] = []
    while min(took_s, default=9.0) >= 2 and len(took_s) < 5:  # a busy machine may be late, but not each time
        api = Echo()
        server = Server(api)
        await server.start([path], insecure=False)
        idle = Client(path)
        await ask(idle, "GET", "/")
        stalled = asyncio.create_task(ask(Client(path), "GET", "/stall"))
        await api.stalled.wait()
        started = time.monotonic()
        await server.stop()
        took_s.append(time.monotonic() - started)
        assert not os.path.exists(path.path)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(stalled, 60)
    assert min(took_s) < 2


async def test_an_incomplete_body_is_waited_for_with_a_limit(path: Address) -> None:
    server = Server(Echo(), client_timeout_s=0.1)
    await server.start([path], insecure=False)
    reader, writer = await asyncio.open_unix_connection(path.path)
    writer.write(b"PUT / HTTP/1.1\r\nHost: fleet\r\nContent-Length: 10\r\n\r\nhalf")
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.1 s" in answer
    writer.close()
    await server.stop()


async def test_an_unread_answer_is_kept_for_a_limited_time(path: Address) -> None:
    answered = asyncio.Event()

    class Large(Echo):
        async def handle(self, request: Request) -> Response:
            answered.set()
            return Response(200, (), b"x" * 50_000_000)

    server = Server(Large(), client_timeout_s=0.1)
    await server.start([path], insecure=False)
    reader, writer = await asyncio.open_unix_connection(path.path, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: fleet\r\n\r\n")
    await answered.wait()
    await asyncio.sleep(0.5)
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while chunk := await asyncio.wait_for(reader.read(65536), 60):
            received += len(chunk)
    assert 0 < received < 50_000_000
    writer.close()
    await server.stop()
