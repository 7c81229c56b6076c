"""The API on sockets: those that systemd hands over, and those that the configuration names.

The only module of the API that knows aiohttp. What is answered is decided in handlers.py; here is how it travels, and
who may reach it: a unix socket is for root and the group `fleet`, TCP stays on this machine unless told otherwise.
"""

import asyncio
import errno
import grp
import ipaddress
import logging
import math
import os
import resource
import socket
import stat
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fleetd import __version__, metrics
from fleetd.api.crowd import MAX_CONNECTIONS, Crowd, Load
from fleetd.api.handlers import Api, body_too_large
from fleetd.api.message import MAX_BODY_BYTES, ApiError, Request, Response, render_error
from fleetd.http import LineTooLong, web
from fleetd.options import Address

GROUP = "fleet"
FIRST_INHERITED_FD = 3

PATIENCE_S = 30.0  # with a client that sends its request or its body, or takes its answer, slowly
_IDLE_TIMEOUT_S = 75.0
_READ_AHEAD_BYTES = 64 * 1024  # of what a client sends before it is read
_ACCEPTED_AT_ONCE = 16  # by the loop, several times over, before the first of them can be cut off
_CROWDED_LOG_S = 60.0  # how often it is said that there are too many clients
_STOP_TIMEOUT_S = 0.8  # aiohttp waits so long twice: for the handlers, then for their cancellation
_TOO_MUCH = "requests and answers of other clients are all that fleetd can hold at once: try again in a moment"
_LATER = (("Retry-After", "1"),)
_METHODS = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "POST")  # what is timed by name; others are rare
_SERVER = ("Server", f"fleetd/{__version__}")

log = logging.getLogger(__name__)
_protocol_log = logging.getLogger(f"{__name__}.protocol")
_protocol_log.setLevel(logging.CRITICAL)  # what is no HTTP is answered with 400, and is the client's matter, not ours


class ListenError(Exception):
    """The API cannot be served there. The message names the address, the cause and the remedy."""


def inherited_sockets(environ: MutableMapping[str, str], pid: int) -> list[socket.socket]:
    """The listening stream sockets that systemd handed to this process; the variables are taken out of `environ`."""
    count = environ.pop("LISTEN_FDS", "0")
    owner = environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if owner != str(pid) or not count.isdecimal():
        return []
    sockets = []
    for descriptor in range(FIRST_INHERITED_FD, FIRST_INHERITED_FD + int(count)):
        os.set_inheritable(descriptor, False)
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            continue
        inherited = socket.socket(fileno=descriptor)
        if inherited.type == socket.SOCK_STREAM and inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sockets.append(inherited)
        else:
            inherited.detach()
    return sockets


def check_exposure(where: str, host: str, insecure: bool) -> None:
    """Raises ListenError for a TCP address that other machines could reach, unless that is asked for."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    if not mapped.is_loopback and not insecure:
        raise ListenError(
            f"cannot listen on {where}: other machines could reach it, and whoever reaches the API is root on the "
            "whole cluster; listen on 127.0.0.1, or set insecure=true (--insecure) on a network that you trust"
        )


def open_socket(address: Address, insecure: bool) -> socket.socket:
    """Listen on this address. Raises ListenError."""
    try:
        return _open_unix(address.path) if address.path else _open_tcp(address, insecure)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {_explain(error)}") from error


def _explain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process listens there; stop it, or choose another address"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return "this machine has no such address; choose one that `ip address` shows"
    return error.strerror or str(error)


def _open_tcp(address: Address, insecure: bool) -> socket.socket:
    if not address.host and socket.has_dualstack_ipv6():
        check_exposure(str(address), "::", insecure)
        return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, type=socket.SOCK_STREAM)  # noqa: S104 (checked)
    family, _, _, _, place = found[0]
    check_exposure(str(address), str(place[0]), insecure)
    return socket.create_server((str(place[0]), address.port), family=family)


def _open_unix(path: str) -> socket.socket:
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o117)  # no moment may pass in which others can connect
    try:
        opened.bind(path)
        with suppress(KeyError):
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
        opened.listen()
    except OSError:
        opened.close()
        raise
    finally:
        os.umask(umask)
    return opened


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more. Raises OSError for one that somebody does, and other files."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket is in the way")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except TimeoutError:
            pass  # its queue is full: somebody listens, if badly
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


class _Connection(web.RequestHandler):
    """One client's connection, as one of many. Its first request is not waited for for ever, and what is no HTTP is
    answered as every other mistake is."""

    def __init__(self, server: "Server", *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._server = server
        self._overdue: asyncio.TimerHandle | None = None
        self._has_sent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.welcome(self)
        self.expect_request()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.crowd.leave(self)
        self.note_request()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._has_sent = True
        super().data_received(data)

    def expect_request(self) -> None:
        """From now on it is for the client to send a whole request, without its body."""
        self._overdue = asyncio.get_running_loop().call_later(self._server.patience_s, self._end_overdue)

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
            said = f"the request did not arrive within {self._server.patience_s:g} s"
            self.transport.write(_render_raw(render_error(408, said)))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what never became a request; aiohttp says in `message` what is wrong with it."""
        what = " ".join(message.split()) if message else "fleetd could not take in this request"
        if isinstance(exc, LineTooLong) or "Too many headers" in what:
            status = 431
        outgoing = _render(render_error(status, what))
        outgoing.force_close()
        return outgoing


class _HttpServer(web.Server):
    """Makes a _Connection of each connection."""

    def __init__(
        self, server: "Server", handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **options: Any
    ) -> None:
        super().__init__(handler, **options)
        self._server = server
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._server, self, loop=asyncio.get_running_loop(), **self._options)


def _render(response: Response) -> web.Response:
    """The answer as aiohttp sends it: counted, for it is sent."""
    metrics.ANSWERS.labels(str(response.status)).inc()
    return web.Response(status=response.status, headers=[*response.headers, _SERVER], body=response.body)


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

    def __init__(self, api: Api, patience_s: float = PATIENCE_S, crowd: Crowd | None = None) -> None:
        self.api = api
        self.patience_s = patience_s
        self.crowd = crowd if crowd is not None else Crowd(_max_connections())
        self._crowded_said_s = -math.inf
        handler = _HttpServer(
            self,
            self._handle,
            access_log=None,
            logger=_protocol_log,
            keepalive_timeout=_IDLE_TIMEOUT_S,
            lingering_time=1.0,
            read_bufsize=_READ_AHEAD_BYTES,
            auto_decompress=False,  # the bound on bodies is a bound on what they would become, too
        )
        self._runner = web.ServerRunner(handler, shutdown_timeout=_STOP_TIMEOUT_S)
        self._paths: list[str] = []

    async def start(
        self, addresses: Sequence[Address], insecure: bool, inherited: Sequence[socket.socket] = ()
    ) -> None:
        """Serve on the inherited sockets and on these addresses: on all, or (ListenError) on none."""
        await self._runner.setup()
        opened: list[socket.socket] = []
        try:
            for sock in inherited:
                if sock.family != socket.AF_UNIX:
                    host, port = sock.getsockname()[:2]
                    check_exposure(str(Address(host=host, port=port)), host, insecure)
            for address in addresses:
                opened.append(open_socket(address, insecure))
                self._paths += [address.path] if address.path else []
        except ListenError:
            for sock in opened:
                sock.close()
            await self.stop()
            raise
        for sock in (*inherited, *opened):
            await web.SockSite(self._runner, sock, backlog=_ACCEPTED_AT_ONCE).start()
            sock.listen(self.crowd.max_connections)  # who waits in the queue takes no descriptor of ours

    async def stop(self) -> None:
        """Stop serving, within two seconds, whatever is going on."""
        await self._runner.cleanup()
        for path in self._paths:
            with suppress(OSError):
                os.unlink(path)
        self._paths.clear()

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

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        connection = incoming.protocol
        assert isinstance(connection, _Connection)
        connection.note_request()
        with self.crowd.load() as load:
            with metrics.ANSWER_S.labels(incoming.method if incoming.method in _METHODS else "other").time():
                response = await self._answer(incoming, connection, load)
            load.clear()
            if not load.add(len(response.body)):
                response = render_error(503, _TOO_MUCH, _LATER)
            return await self._send(incoming, response)

    async def _send(self, incoming: web.BaseRequest, response: Response) -> web.StreamResponse:
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

    async def _answer(self, incoming: web.BaseRequest, connection: _Connection, load: Load) -> Response:
        try:
            async with asyncio.timeout(self.patience_s):
                request = await _read_request(incoming, load)
        except TimeoutError:
            return render_error(408, f"the request's body did not arrive within {self.patience_s:g} s")
        except ApiError as error:
            return render_error(error.status, str(error), error.headers)
        self.crowd.serve(connection)
        try:
            return await self.api.handle(request)
        except Exception:  # a bug of ours, and loud: but it ends one request, not the daemon
            log.exception("cannot answer a request", extra={"method": request.method, "path": request.path})
            return render_error(500, "fleetd made a mistake while it answered this; its log says which")
        finally:
            self.crowd.wait_for(connection)


async def _read_request(incoming: web.BaseRequest, load: Load) -> Request:
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
            raise ApiError(503, _TOO_MUCH, _LATER)
    connection = incoming.get_extra_info("socket")
    return Request(
        method=incoming.method,
        path=incoming.path,
        query=tuple(incoming.query.items()),
        headers=tuple(incoming.headers.items()),
        body=bytes(body),
        local=connection is not None and connection.family == socket.AF_UNIX,
    )
