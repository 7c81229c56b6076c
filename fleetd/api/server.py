"""The HTTP server: connections, their limits, requests and responses. The only module of the API that uses aiohttp."""

import asyncio
import logging
import math
import os
import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, Protocol

from msgspec.structs import replace

from fleetd import __version__, aiohttp_import, metrics
from fleetd.api.connection_limits import MAX_CONNECTIONS, OVERLOADED, RETRY_SOON, ConnectionLimiter, RequestBudget
from fleetd.api.http import ApiError, Request, Response, StreamedResponse, render_error
from fleetd.api.peer import Peer, PeerRights, identify_peer, socket_group, user_name
from fleetd.api.schema import USER_HEADER
from fleetd.api.sockets import ListenError, check_inherited, open_socket
from fleetd.api.tls_clients import TlsClient, read_client
from fleetd.api.tls_listener import ServerTrust, TlsListener
from fleetd.config.options import Address
from fleetd.model.actor import Actor, claimed_name
from fleetd.model.permission import EVERY_RIGHT, NO_RIGHTS

CLIENT_TIMEOUT_S = 30.0  # for a client to send its request, to send its body, or to read the response
MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_ANONYMOUS_BYTES = 64 * 1024  # of the body of a client over https whose certificate does not count
_IDLE_TIMEOUT_S = 75.0
_READ_AHEAD_BYTES = 64 * 1024  # per connection
_BACKLOG = 16  # connections that the loop accepts at once, before the limiter can close the first of them
WITH_WORKERS = 4  # times as many connections
METRICS_CONNECTIONS = 32
METRICS_BYTES = 4 * 1024 * 1024
_MAX_REFUSED = 64  # connections of clients without rights that are told so at once; more are closed without a word
_REFUSAL_S = 1.0  # for such a client to read that
_NAME_SERVICE_S = 1.0  # for the name of a user; after that the number has to do
_LIMIT_LOG_S = 60.0  # between warnings about too many clients
_STOP_TIMEOUT_S = 0.8  # aiohttp waits twice as long: for the handlers, then for their cancellation
_METHODS = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "POST")  # labels of the metric; any other method is `other`
_SERVER = ("Server", f"fleetd/{__version__}")
_PLAIN_HTTP = render_error(400, "this port is served over https: write https:// instead of http:// (--endpoint)")

log = logging.getLogger(__name__)
_protocol_log = logging.getLogger(f"{__name__}.protocol")
_protocol_log.setLevel(logging.CRITICAL)  # malformed requests are answered with 400 and not logged


ErrorRenderer = Callable[[int, str, tuple[tuple[str, str], ...]], Response]


class Handler(Protocol):
    """What a Server serves: an Api, or another protocol."""

    async def handle(self, request: Request) -> Response | StreamedResponse:
        """The response to a request."""


class _Connection(aiohttp_import.RequestHandler):
    """A client's connection, with a timeout for each request and our error responses to malformed HTTP."""

    def __init__(self, listener: "_Listener", *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.listener = listener
        self._client_timeout_s = listener.server.client_timeout_s
        self.peer: Peer | None = None  # over a unix socket
        self.tls_client: TlsClient | None = None  # over https
        self.tls_context: object = None
        self.actor = Actor()  # without a name: see Server.identify
        self.is_refused = False
        self.stream: asyncio.Task[None] | None = None  # writes the body of a StreamedResponse
        self._timer: asyncio.TimerHandle | None = None
        self._has_received = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if self.listener.metrics_only:
            self.listener.admit(self)
        elif connection is not None and connection.family == socket.AF_UNIX:
            self.peer = identify_peer(connection)
            rights, groups = self.listener.server.peer_rights.find(self.peer, socket_group(connection))
            self.actor = Actor(rights=rights, groups=groups)
            if not rights:
                self._refuse(self.listener.server.peer_rights.describe_refusal(self.peer))
                return
            self.listener.admit(self, self.peer.user or None)
        elif (tls := transport.get_extra_info("ssl_object")) is not None:
            self.tls_context = tls.context
            self.tls_client = read_client(transport.get_extra_info("peercert"))
            self.actor = self.tls_client.actor()
            self.listener.admit(self, self.tls_client.subject, self.tls_client.most_connections)
        else:
            self.actor = Actor(rights=EVERY_RIGHT)  # insecure=true
            self.listener.admit(self)
        self.start_timer()

    def _refuse(self, why: str) -> None:
        """Tell a client who may do nothing, and read nothing of what it sends."""
        self.is_refused = True
        refused = self.listener.refused
        if len(refused) < _MAX_REFUSED and isinstance(self.transport, asyncio.WriteTransport):
            refused.add(self)
            self.transport.write(_render_raw(render_error(403, why)))
            self.transport.write_eof()
            self._timer = asyncio.get_running_loop().call_later(_REFUSAL_S, self.abort)
        else:
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.listener.limiter.remove(self)
        self.listener.refused.discard(self)
        self.stop_timer()
        if self.stream is not None:
            self.stream.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_refused:
            self._has_received = True
            super().data_received(data)

    def start_timer(self) -> None:
        """The client has `client_timeout_s` from now to send the head of a request."""
        self._timer = asyncio.get_running_loop().call_later(self._client_timeout_s, self._time_out)

    def stop_timer(self) -> None:
        """The head of a request has arrived."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """Close the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def _time_out(self) -> None:
        self._timer = None
        if isinstance(self.transport, asyncio.WriteTransport) and self._has_received:
            message = f"the request did not arrive within {self._client_timeout_s:g} s"
            self.transport.write(_render_raw(self.listener.server.render_error(408, message, ())))
        self.force_close()

    def handle_error(
        self,
        request: aiohttp_import.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> aiohttp_import.StreamResponse:
        """The response to malformed HTTP; aiohttp says in `message` what is wrong."""
        what = " ".join(message.split()) if message else "fleetd could not parse this request"
        if isinstance(exc, aiohttp_import.LineTooLong) or "Too many headers" in what:
            status = 431
        outgoing = _render(self.listener.server.render_error(status, what, ()))
        outgoing.force_close()
        return outgoing


class _Listener(aiohttp_import.Server):
    """Makes a _Connection of each connection to one group of sockets, which share a limiter.

    Those for `metrics_only` serve nothing else.
    """

    def __init__(self, server: "Server", limiter: ConnectionLimiter, *, metrics_only: bool = False) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "logger": _protocol_log,
            "keepalive_timeout": _IDLE_TIMEOUT_S,
            "lingering_time": 1.0,
            "read_bufsize": _READ_AHEAD_BYTES,
            "auto_decompress": False,  # a compressed body must not evade the limit on bodies
        }
        super().__init__(server.handle, **self._options)
        self.server = server
        self.limiter = limiter
        self.metrics_only = metrics_only
        self.refused: set[_Connection] = set()
        self.streams: set[asyncio.Task[None]] = set()
        self._limit_logged_s = -math.inf

    def __call__(self) -> aiohttp_import.RequestHandler:
        return _Connection(self, self, loop=asyncio.get_running_loop(), **self._options)

    def admit(self, connection: _Connection, user: int | str | None = None, most: int = MAX_CONNECTIONS) -> None:
        """Admit a connection of an ordinary user, of what a certificate names ('': of none), or of root or a client
        over TCP (None), who has `most` of them; over a limit, the one that has been idle longest is closed."""
        found_room = self.limiter.add(connection, connection.abort, user, most)
        now_s = asyncio.get_running_loop().time()
        if not found_room and now_s - self._limit_logged_s > _LIMIT_LOG_S:
            self._limit_logged_s = now_s
            log.warning(
                "%d clients are connected to the API, which is its limit: each new connection closes the one that has "
                "been idle longest; find the clients with: ss -xp, ss -tp",
                self.limiter.max_connections,
            )


def _render(response: Response) -> aiohttp_import.Response:
    """The response for aiohttp, counted in the metrics."""
    metrics.ANSWERS.labels(str(response.status)).inc()
    return aiohttp_import.Response(status=response.status, headers=[*response.headers, _SERVER], body=response.body)


def _render_raw(response: Response) -> bytes:
    """The response as bytes, for a connection that aiohttp has no request of yet; the connection is closed after it."""
    metrics.ANSWERS.labels(str(response.status)).inc()
    headers = (*response.headers, _SERVER, ("Content-Length", str(len(response.body))), ("Connection", "close"))
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}", *(f"{k}: {v}" for k, v in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + response.body


def _max_connections(has_workers: bool) -> int:
    """A quarter of the file descriptors; the rest is for the store, D-Bus, files and connections being accepted. Where
    workers may come, room for a thousand of them, each with a stream and a few requests."""
    most = WITH_WORKERS * MAX_CONNECTIONS if has_workers else MAX_CONNECTIONS
    return min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


class Server:
    """Serves an Api, which may be replaced at any time, until it is stopped.

    `render_error` makes the responses to what does not reach the Api: malformed HTTP, for example.
    """

    def __init__(
        self,
        api: Handler,
        client_timeout_s: float = CLIENT_TIMEOUT_S,
        limiter: ConnectionLimiter | None = None,
        render_error: ErrorRenderer = render_error,
        peer_rights: PeerRights | None = None,
        name_of: Callable[[int], str] = user_name,
        trust: ServerTrust | None = None,
        unix_now: Callable[[], float] = time.time,
    ) -> None:
        """`peer_rights`, which may be replaced at any time too, says what local users may do, and `trust` which
        certificates count; https needs it. `name_of` returns the name of a user, and may take its time. `unix_now` is
        the wall clock in seconds."""
        self.api = api
        self.trust = trust
        self._unix_now = unix_now
        self.peer_rights = peer_rights if peer_rights is not None else PeerRights()
        self.client_timeout_s = client_timeout_s
        self.render_error = render_error
        self.limiter = limiter if limiter is not None else ConnectionLimiter(_max_connections(trust is not None))
        self._listeners = (  # of the API, and of metrics alone
            _Listener(self, self.limiter),
            _Listener(self, ConnectionLimiter(METRICS_CONNECTIONS, METRICS_BYTES), metrics_only=True),
        )
        self._name_of = name_of
        self._asked: dict[int, tuple[asyncio.Task[str], asyncio.Task[Any]]] = {}  # by user: the question, and the wait
        self._servers: list[asyncio.Server] = []
        self._tls_listeners: list[TlsListener] = []
        self._paths: list[str] = []

    async def start(
        self,
        addresses: Sequence[Address],
        insecure: bool,
        inherited: Sequence[socket.socket] = (),
        metrics_addresses: Sequence[Address] = (),
        *,
        for_anybody: bool = False,
    ) -> None:
        """Serve the API on the inherited sockets and these addresses, only metrics on `metrics_addresses`.

        TCP without TLS has to be on loopback, and `insecure`, unless the API is `for_anybody`. Raises ListenError, and
        serves on none, if one cannot be used."""
        to_open = [(address, False) for address in addresses] + [(address, True) for address in metrics_addresses]
        opened: list[tuple[socket.socket, Address, bool]] = []
        try:
            for sock in inherited:
                check_inherited(sock, insecure)
            for address, for_metrics in to_open:
                if address.tls and self.trust is None:
                    raise ListenError(f"cannot listen on {address}: this fleetd has no certificates")
                sock = open_socket(address, insecure, for_anybody=for_anybody or for_metrics)
                opened.append((sock, address, for_metrics))
                self._paths += [address.path] if address.path else []
        except ListenError:
            for sock, _, _ in opened:
                sock.close()
            await self.stop()
            raise
        for sock, address, for_metrics in (*((sock, Address(), False) for sock in inherited), *opened):
            listener = self._listeners[for_metrics]
            if address.tls:
                sock.listen(listener.limiter.max_connections)
                self._tls_listeners.append(TlsListener(sock, listener, self._get_trust, _render_raw(_PLAIN_HTTP)))
                continue
            serving = asyncio.get_running_loop().create_server(listener, sock=sock, backlog=_BACKLOG)
            self._servers.append(await serving)
            sock.listen(listener.limiter.max_connections)  # queued connections take no file descriptor

    async def stop(self) -> None:
        """Stop serving within two seconds."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        await asyncio.gather(*(listener.close() for listener in self._tls_listeners))
        self._tls_listeners.clear()
        await asyncio.sleep(0)  # let the loop see requests that have just arrived
        for listener in self._listeners:
            listener.pre_shutdown()
            for stream in listener.streams:
                stream.cancel()
        await asyncio.gather(*(listener.shutdown(_STOP_TIMEOUT_S) for listener in self._listeners))
        for path in self._paths:
            with suppress(OSError):
                os.unlink(path)
        self._paths.clear()

    def close_revoked(self) -> None:
        """Close the open connections of clients whose certificates do not count any more: they were revoked, or perhaps
        of an authority that is not trusted any more, since when there is another context."""
        trust = self._get_trust()
        for connection in list(self._listeners[0].connections):
            assert isinstance(connection, _Connection)
            client, is_former = connection.tls_client, connection.tls_context is not trust.server_context()
            if client and client.certificate and (is_former or trust.is_revoked(client.certificate)):
                connection.abort()

    def _get_trust(self) -> ServerTrust:
        assert self.trust is not None, "https needs it"
        return self.trust

    async def handle(self, incoming: aiohttp_import.BaseRequest) -> aiohttp_import.StreamResponse:
        """Answer one request."""
        connection = incoming.protocol
        assert isinstance(connection, _Connection)
        connection.stop_timer()
        with connection.listener.limiter.open_budget() as budget:
            with metrics.ANSWER_S.labels(incoming.method if incoming.method in _METHODS else "other").time():
                response = await self._answer(incoming, connection, budget)
            budget.release()
            if isinstance(response, StreamedResponse):
                return await self._stream(incoming, connection, response)
            if not budget.reserve(len(response.body)):
                response = self.render_error(503, OVERLOADED, RETRY_SOON)
            return await self._send(incoming, response)

    async def identify(self, connection: _Connection, claimed: Sequence[str]) -> Actor:
        """Who makes a request over this connection. Over TCP without TLS it is the name that the client gives."""
        peer = connection.peer
        if connection.tls_client and connection.tls_client.certificate:
            return connection.actor
        if peer is None:
            host = (incoming := connection.transport) and (incoming.get_extra_info("peername") or ("",))[0]
            name = "" if connection.tls_client else claimed_name(claimed)
            return replace(connection.actor, name=name, identity=f"tcp:{host}")
        name = await self._find_name(peer.user)
        identity = f"uid:{peer.user}({name})"
        if peer.login is not None and peer.login != peer.user:
            name = await self._find_name(peer.login)
            identity += f" login:{peer.login}({name})"
        elif peer.user == 0:  # root may say on whose behalf: sudo without an audit of logins
            name = claimed_name(claimed) or name
        return replace(connection.actor, name=name, identity=identity)

    async def _find_name(self, user: int) -> str:
        """The name of a user, or its number while the name service does not answer: a second is waited, by all."""
        if user not in self._asked:
            asked = asyncio.create_task(asyncio.to_thread(self._name_of, user))
            self._asked[user] = (asked, asyncio.create_task(asyncio.wait({asked}, timeout=_NAME_SERVICE_S)))
        entry = asked, patience = self._asked[user]
        await asyncio.shield(patience)
        if asked.done() and not asked.exception():
            return asked.result()
        if asked.done() and self._asked.get(user) is entry:
            del self._asked[user]  # it failed: the next request asks anew
        return str(user)

    async def _send(self, incoming: aiohttp_import.BaseRequest, response: Response) -> aiohttp_import.StreamResponse:
        outgoing = _render(response)
        if response.status in (408, 413) or not incoming.content.is_eof():  # the rest of the body is still arriving
            outgoing.force_close()
        try:
            async with asyncio.timeout(self.client_timeout_s):
                await outgoing.prepare(incoming)
                await outgoing.write_eof()
        except TimeoutError:
            if incoming.transport:
                incoming.transport.abort()
        return outgoing

    async def _stream(
        self, incoming: aiohttp_import.BaseRequest, connection: _Connection, response: StreamedResponse
    ) -> aiohttp_import.StreamResponse:
        """Send a body while it is made, until the client's certificate expires. A client that does not read it is
        closed; nobody else closes the connection: it is not idle."""
        metrics.ANSWERS.labels(str(response.status)).inc()
        outgoing = aiohttp_import.StreamResponse(status=response.status, headers=[*response.headers, _SERVER])
        outgoing.force_close()
        listener = connection.listener
        stream = connection.stream = asyncio.create_task(self._write_chunks(incoming, outgoing, response))
        listener.streams.add(stream)
        listener.limiter.mark_busy(connection)
        try:
            client = connection.tls_client
            expires_s = client.certificate.expires_at_s if client and client.certificate else math.inf
            left_s = expires_s - self._unix_now()
            await asyncio.wait([stream], timeout=None if math.isinf(left_s) else max(left_s, 0.0))
        finally:
            stream.cancel()
            connection.stream = None
            listener.streams.discard(stream)
            listener.limiter.mark_idle(connection)
        if stream.cancelled() or stream.exception():
            if not stream.cancelled():
                log.error("cannot go on with an answer", exc_info=stream.exception(), extra={"path": incoming.path})
            connection.abort()
        return outgoing

    async def _write_chunks(
        self,
        incoming: aiohttp_import.BaseRequest,
        outgoing: aiohttp_import.StreamResponse,
        response: StreamedResponse,
    ) -> None:
        async with aclosing(response.chunks) as chunks:
            try:
                async with asyncio.timeout(self.client_timeout_s):
                    await outgoing.prepare(incoming)
                async for chunk in chunks:
                    async with asyncio.timeout(self.client_timeout_s):
                        await outgoing.write(chunk)
                async with asyncio.timeout(self.client_timeout_s):
                    await outgoing.write_eof()
            except TimeoutError:
                if incoming.transport:
                    incoming.transport.abort()
            except ConnectionError:
                pass  # the client has gone

    async def _answer(
        self, incoming: aiohttp_import.BaseRequest, connection: _Connection, budget: RequestBudget
    ) -> Response | StreamedResponse:
        request = Request(
            method=incoming.method,
            path=incoming.path,
            query=tuple(incoming.query.items()),
            headers=tuple(incoming.headers.items()),
            local=connection.peer is not None,
            metrics_only=connection.listener.metrics_only,
            actor=await self.identify(connection, incoming.headers.getall(USER_HEADER, [])),
        )
        if (client := connection.tls_client) is not None:
            trust = self._get_trust()
            refusal = client.refuse(self._unix_now(), trust.is_revoked, trust.why_unsure())
            request = replace(request, refusal=refusal, certificate=None if refusal[0] else client.certificate)
            if refusal[0]:
                request = replace(request, actor=replace(request.actor, rights=NO_RIGHTS))
            budget.bound(request.certificate)
        try:
            async with asyncio.timeout(self.client_timeout_s):
                request = replace(request, body=await _read_body(incoming, budget, request))
        except TimeoutError:
            return self.render_error(408, f"the request body did not arrive within {self.client_timeout_s:g} s", ())
        except ApiError as error:
            return self.render_error(error.status, str(error), error.headers)
        connection.listener.limiter.mark_busy(connection)
        try:
            return await self.api.handle(request)
        except Exception:  # a bug: logged, and it ends one request, not the daemon
            log.exception("cannot answer a request", extra={"method": request.method, "path": request.path})
            return self.render_error(500, "internal error in fleetd: see its log, journalctl -u fleet", ())
        finally:
            connection.listener.limiter.mark_idle(connection)


async def _read_body(incoming: aiohttp_import.BaseRequest, budget: RequestBudget, request: Request) -> bytes:
    """The body of the request. Raises ApiError if it is over the limit, alone or together with others."""
    limit = MAX_BODY_BYTES if not request.refusal[0] else MAX_ANONYMOUS_BYTES
    too_large = ApiError(413, f"the request body has more than {limit} bytes")
    if (incoming.content_length or 0) > limit:
        raise too_large
    # The client waits for this before it sends the body.
    if incoming.headers.get("Expect", "").lower() == "100-continue":
        await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        incoming.writer.output_size = 0
    body = bytearray()
    async for chunk in incoming.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise too_large
        if not budget.reserve(len(chunk)):
            raise ApiError(503, OVERLOADED, RETRY_SOON)
    return bytes(body)
