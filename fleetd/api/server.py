"""The API as it travels over HTTP: connections, their bounds, requests and answers.

The only module of the API that knows aiohttp. What is answered is decided in routes.py, what is listened on and who
may use it stands in sockets.py.
"""

import asyncio
import logging
import math
import os
import resource
import socket
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fleetd import __version__, aiohttp_import, metrics
from fleetd.api.http import MAX_BODY_BYTES, ApiError, Request, Response, render_error
from fleetd.api.limits import LATER, MAX_CONNECTIONS, TOO_MUCH, ConnectionLimiter, Load
from fleetd.api.routes import Api, body_too_large
from fleetd.api.sockets import (
    ListenError,
    check_exposure,
    check_openness,
    open_metrics_socket,
    open_socket,
    refuse_peer,
)
from fleetd.config.options import Address

PATIENCE_S = 30.0  # with a client that sends its request or its body, or takes its answer, slowly
_IDLE_TIMEOUT_S = 75.0
_READ_AHEAD_BYTES = 64 * 1024  # of what a client sends before it is read
_ACCEPTED_AT_ONCE = 16  # by the loop, several times over, before the first of them can be cut off
METRICS_CONNECTIONS = 32
METRICS_BYTES = 4 * 1024 * 1024
_CROWDED_LOG_S = 60.0  # how often it is said that there are too many clients
_STOP_TIMEOUT_S = 0.8  # aiohttp waits so long twice: for the handlers, then for their cancellation
_METHODS = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "POST")  # what is timed by name; others are rare
_SERVER = ("Server", f"fleetd/{__version__}")

log = logging.getLogger(__name__)
_protocol_log = logging.getLogger(f"{__name__}.protocol")
_protocol_log.setLevel(logging.CRITICAL)  # what is no HTTP is answered with 400, and is the client's matter, not ours


class _Connection(aiohttp_import.RequestHandler):
    """One client's connection, as one of many. Its first request is not waited for for ever, and what is no HTTP is
    answered as every other mistake is."""

    def __init__(self, entrance: "_Entrance", *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.entrance = entrance
        self._patience_s = entrance.server.patience_s
        self.is_local = False  # it came over a unix socket
        self.refusal = ""  # why this client is not answered
        self._overdue: asyncio.TimerHandle | None = None
        self._has_sent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.is_local = connection is not None and connection.family == socket.AF_UNIX
        if self.is_local and not self.entrance.metrics_only:
            self.refusal = refuse_peer(connection)
        self.entrance.welcome(self)
        self.expect_request()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.entrance.crowd.leave(self)
        self.note_request()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._has_sent = True
        super().data_received(data)

    def expect_request(self) -> None:
        """From now on it is for the client to send a whole request, without its body."""
        self._overdue = asyncio.get_running_loop().call_later(self._patience_s, self._end_overdue)

    def note_request(self) -> None:
        """A request is here."""
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None

    def end(self) -> None:
        """End it at once, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def _end_overdue(self) -> None:
        self._overdue = None
        if isinstance(self.transport, asyncio.WriteTransport) and self._has_sent:
            said = f"the request did not arrive within {self._patience_s:g} s"
            self.transport.write(_render_raw(render_error(408, said)))
        self.force_close()

    def handle_error(
        self,
        request: aiohttp_import.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> aiohttp_import.StreamResponse:
        """The answer to what never became a request; aiohttp says in `message` what is wrong with it."""
        what = " ".join(message.split()) if message else "fleetd could not take in this request"
        if isinstance(exc, aiohttp_import.LineTooLong) or "Too many headers" in what:
            status = 431
        outgoing = _render(render_error(status, what))
        outgoing.force_close()
        return outgoing


class _Entrance(aiohttp_import.Server):
    """A way in for clients, and the bounds on what they take together. It makes a _Connection of each connection;
    over one for `metrics_only`, figures are all that there is."""

    def __init__(self, server: "Server", crowd: ConnectionLimiter, *, metrics_only: bool = False) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "logger": _protocol_log,
            "keepalive_timeout": _IDLE_TIMEOUT_S,
            "lingering_time": 1.0,
            "read_bufsize": _READ_AHEAD_BYTES,
            "auto_decompress": False,  # the bound on bodies is a bound on what they would become, too
        }
        super().__init__(server.handle, **self._options)
        self.server = server
        self.crowd = crowd
        self.metrics_only = metrics_only
        self._crowded_said_s = -math.inf

    def __call__(self) -> aiohttp_import.RequestHandler:
        return _Connection(self, self, loop=asyncio.get_running_loop(), **self._options)

    def welcome(self, connection: _Connection) -> None:
        """Take in a connection; if that is one too many, end the one that has kept us waiting longest."""
        found_room = self.crowd.enter(connection, connection.end)
        now_s = asyncio.get_running_loop().time()
        if not found_room and now_s - self._crowded_said_s > _CROWDED_LOG_S:
            self._crowded_said_s = now_s
            log.warning(
                "%d clients are connected to the API, which is as many as it takes: for each one more, the one that "
                "keeps it waiting longest is cut off",
                self.crowd.max_connections,
            )


def _render(response: Response) -> aiohttp_import.Response:
    """The answer as aiohttp sends it: counted, for it is sent."""
    metrics.ANSWERS.labels(str(response.status)).inc()
    return aiohttp_import.Response(status=response.status, headers=[*response.headers, _SERVER], body=response.body)


def _render_raw(response: Response) -> bytes:
    """The answer to what aiohttp has not taken for a request yet; the connection ends with it."""
    metrics.ANSWERS.labels(str(response.status)).inc()
    headers = (*response.headers, _SERVER, ("Content-Length", str(len(response.body))), ("Connection", "close"))
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}", *(f"{k}: {v}" for k, v in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + response.body


def _max_connections() -> int:
    """As many as leave descriptors for everything else: the store, the bus, files, and connections that are just being
    accepted or closed."""
    return min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


class Server:
    """Serves an Api, which may be replaced by another at any time, until it is stopped."""

    def __init__(self, api: Api, patience_s: float = PATIENCE_S, crowd: ConnectionLimiter | None = None) -> None:
        self.api = api
        self.patience_s = patience_s
        self.crowd = crowd if crowd is not None else ConnectionLimiter(_max_connections())
        self._entrances = (
            _Entrance(self, self.crowd),
            _Entrance(self, ConnectionLimiter(METRICS_CONNECTIONS, METRICS_BYTES), metrics_only=True),
        )
        self._listeners: list[asyncio.Server] = []
        self._paths: list[str] = []

    async def start(
        self,
        addresses: Sequence[Address],
        insecure: bool,
        inherited: Sequence[socket.socket] = (),
        metrics_addresses: Sequence[Address] = (),
    ) -> None:
        """Serve on the inherited sockets and on these addresses, figures alone on `metrics_addresses`: on all, or
        (ListenError) on none."""
        opened: list[socket.socket] = []
        for_metrics: list[socket.socket] = []
        try:
            for sock in inherited:
                _check_inherited(sock, insecure)
            for address in addresses:
                opened.append(open_socket(address, insecure))
                self._paths += [address.path] if address.path else []
            for address in metrics_addresses:
                for_metrics.append(open_metrics_socket(address))
                self._paths += [address.path] if address.path else []
        except ListenError:
            for sock in (*opened, *for_metrics):
                sock.close()
            await self.stop()
            raise
        served = ((*inherited, *opened), for_metrics)
        loop = asyncio.get_running_loop()
        for entrance, sockets in zip(self._entrances, served, strict=True):
            for sock in sockets:
                self._listeners.append(await loop.create_server(entrance, sock=sock, backlog=_ACCEPTED_AT_ONCE))
                sock.listen(entrance.crowd.max_connections)  # who waits in the queue takes no descriptor of ours

    async def stop(self) -> None:
        """Stop serving, within two seconds, whatever is going on."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        await asyncio.sleep(0)  # requests that have just come in are to be seen as such
        for entrance in self._entrances:
            entrance.pre_shutdown()
        await asyncio.gather(*(entrance.shutdown(_STOP_TIMEOUT_S) for entrance in self._entrances))
        for path in self._paths:
            with suppress(OSError):
                os.unlink(path)
        self._paths.clear()

    async def handle(self, incoming: aiohttp_import.BaseRequest) -> aiohttp_import.StreamResponse:
        """Answer one request."""
        connection = incoming.protocol
        assert isinstance(connection, _Connection)
        connection.note_request()
        with connection.entrance.crowd.load() as load:
            with metrics.ANSWER_S.labels(incoming.method if incoming.method in _METHODS else "other").time():
                response = await self._answer(incoming, connection, load)
            load.clear()
            if not load.add(len(response.body)):
                response = render_error(503, TOO_MUCH, LATER)
            return await self._send(incoming, response)

    async def _send(self, incoming: aiohttp_import.BaseRequest, response: Response) -> aiohttp_import.StreamResponse:
        outgoing = _render(response)
        if response.status in (408, 413) or not incoming.content.is_eof():  # the rest of the body is still on its way
            outgoing.force_close()
        try:
            async with asyncio.timeout(self.patience_s):
                await outgoing.prepare(incoming)
                await outgoing.write_eof()
        except TimeoutError:
            if incoming.transport:
                incoming.transport.abort()
        return outgoing

    async def _answer(self, incoming: aiohttp_import.BaseRequest, connection: _Connection, load: Load) -> Response:
        if connection.refusal:
            return render_error(403, connection.refusal)
        try:
            async with asyncio.timeout(self.patience_s):
                request = await _read_request(incoming, connection, load)
        except TimeoutError:
            return render_error(408, f"the request's body did not arrive within {self.patience_s:g} s")
        except ApiError as error:
            return render_error(error.status, str(error), error.headers)
        connection.entrance.crowd.serve(connection)
        try:
            return await self.api.handle(request)
        except Exception:  # a bug of ours, and loud: but it ends one request, not the daemon
            log.exception("cannot answer a request", extra={"method": request.method, "path": request.path})
            return render_error(500, "fleetd made a mistake while it answered this; its log says which")
        finally:
            connection.entrance.crowd.wait_for(connection)


def _check_inherited(sock: socket.socket, insecure: bool) -> None:
    """Say what should be known of a socket that systemd handed over. Raises ListenError."""
    if sock.family == socket.AF_UNIX:
        if doubt := check_openness(sock):
            log.warning("%s", doubt)
        return
    host, port = sock.getsockname()[:2]
    check_exposure(str(Address(host=host, port=port)), host, insecure)


async def _read_request(incoming: aiohttp_import.BaseRequest, connection: _Connection, load: Load) -> Request:
    """The whole request. Raises ApiError for a body that is too large, by itself or beside those of others."""
    if (incoming.content_length or 0) > MAX_BODY_BYTES:
        raise body_too_large()
    if incoming.headers.get("Expect", "").lower() == "100-continue":  # the body is sent when this has come
        await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        incoming.writer.output_size = 0
    body = bytearray()
    async for chunk in incoming.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise body_too_large()
        if not load.add(len(chunk)):
            raise ApiError(503, TOO_MUCH, LATER)
    return Request(
        method=incoming.method,
        path=incoming.path,
        query=tuple(incoming.query.items()),
        headers=tuple(incoming.headers.items()),
        body=bytes(body),
        local=connection.is_local,
        metrics_only=connection.entrance.metrics_only,
    )
