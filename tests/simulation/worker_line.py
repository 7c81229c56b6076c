"""The way of a simulated worker to the servers: what fleet's own client of servers (store/http_gateway.py) sends goes
to the API of another simulated machine instead of a socket, and can be late, lost, or cut off.

The worker's network (wire.Link) is between it and all servers; the way to one of them can be cut, too. A request that
was sent arrives although its caller gave up, unless its server dies. In a run with certificates, both sides decide by
them whether there is a connection, which is kept for the next requests, and the server by them what it answers.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from fleetd.api import schema
from fleetd.api.http import Request, Response, StreamedResponse
from fleetd.api.tls_clients import TlsClient, read_client
from fleetd.model.certificate import MACHINE, WORKER, CertificateIdentity, parse_peer_certificate
from fleetd.process.node import Node
from fleetd.store import worker_wire
from fleetd.store.failures import EndpointFailed
from fleetd.store.http_gateway import Format, Gateway, Sending, Stream, failures_named
from fleetd.trust.renewal import RENEW, TIMEOUT_S
from tests.simulation.certificates import SimulatedTls, TlsRefused, read_paper, shake_hands
from tests.simulation.wire import RECONNECT_S, IsFatal, acting_for

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine

_HEADERS = (("Content-Type", worker_wire.CONTENT_TYPE),)
_JSON = (("Content-Type", schema.JSON_TYPE),)

FindServer = Callable[[str], "SimulatedMachine | None"]  # the machine at that URL
IsCut = Callable[[str, str], bool]  # whether this worker does not reach this server


class LineHooks(msgspec.Struct, frozen=True):
    """What lines need of the world: servers and the ways to them, and who observes. `on_answer` gets the worker, the
    call, and an answer or a frame; `on_served` the worker, a server that does something for it, and the certificate by
    which it knows it; `on_refused` both, and why; `on_failure` what no server would raise."""

    find_server: FindServer
    is_parted: IsCut
    on_answer: Callable[[str, str, bytes], None]
    on_served: Callable[[str, str, CertificateIdentity], None]
    on_refused: Callable[[str, str, str], None]
    on_failure: Callable[[str, BaseException], None]


class Breakable(Protocol):
    """What ends with a server's fleetd."""

    def break_off(self) -> None: ...


class Connection:
    """A TLS connection to a server, which is made when its first request arrives there: then it is known who the
    `client` is, and by which context of the server it was made."""

    def __init__(self, endpoint: str, context: SimulatedTls) -> None:
        self.endpoint = endpoint
        self.context = context
        self.client: TlsClient | None = None
        self.server_context: object = None
        self.server: SimulatedMachine | None = None
        self.exchange: Exchange | None = None
        self.is_closed = False
        self.idle_since_s = 0.0

    def make(self, server: "SimulatedMachine", node: Node, now_s: float) -> None:
        """Make it. Raises TlsRefused."""
        assert node.trust is not None
        context = node.trust.server_context()
        self.client = read_client(shake_hands(self.context, cast(SimulatedTls | None, context), now_s))
        self.server, self.server_context = server, context
        server.connections[self] = None

    def close(self) -> None:
        """End it. What its server is doing goes on."""
        self.is_closed = True
        if self.server is not None:
            self.server.connections.pop(self, None)

    def break_off(self) -> None:
        """End it, and what is on it."""
        self.close()
        if self.exchange is not None:
            self.exchange.break_off()


class Exchange:
    """One request, and what has arrived of its answer. `content` and `close` are those of aiohttp's response."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.connection: Connection | None = None
        self.content = self
        self._parts: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def begin(self, status: int) -> None:
        """The answer has this status."""
        if not self.status.done():
            self.status.set_result(status)

    def put(self, part: bytes) -> None:
        """A part of the answer has arrived; b"" is its end."""
        self._parts.put_nowait(part)

    def fail(self, why: str) -> None:
        """The connection is broken."""
        error = EndpointFailed(why)
        if not self.status.done():
            self.status.set_exception(error)
            self.status.exception()  # whoever asked may have given up
        self._parts.put_nowait(error)

    def break_off(self) -> None:
        """The server is dead, and does nothing more."""
        self.fail("Server disconnected")
        if self.connection:
            self.connection.close()
        if self.task:
            self.task.cancel()

    async def readany(self) -> bytes:
        """The next part."""
        part = await self._parts.get()
        if isinstance(part, Exception):
            raise part
        return part

    def close(self) -> None:
        """The worker ends the connection."""
        self.break_off()


class WorkerLine:
    """What one fleetd of a worker sends to servers. `requests` counts by call, and `is_fatal` is asked about each
    transaction."""

    def __init__(self, machine: "SimulatedMachine", hooks: LineHooks, is_fatal: IsFatal) -> None:
        self.requests: dict[str, int] = {}
        self._owner = machine.name
        self._machine = machine
        self._link = machine.link
        self._certificate = CertificateIdentity(MACHINE, machine.id, WORKER)
        self._hooks = hooks
        self._is_cut = hooks.is_parted
        self._is_fatal = is_fatal
        self._is_closed = False
        self._underway: dict[asyncio.Task[None], None] = {}
        self.has_certificates = machine.trust is not None

    def make_gateway(self, endpoints: Sequence[str], store_format: Format, **options: Any) -> Gateway:
        """The client of a WorkerStore that sends on this line."""
        return LineGateway(self, endpoints, store_format, **options)

    def cut(self) -> None:
        """Send nothing more. What is on its way arrives."""
        self._is_closed = True

    async def close(self) -> None:
        self.cut()

    async def ask(self, endpoint: str, method: str, path: str, body: bytes, context: SimulatedTls) -> tuple[int, bytes]:
        """Send a request of another process than fleetd, on a connection of its own; the status and body of the answer.
        Raises OSError."""
        connection = Connection(endpoint, context)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                exchange = await self.send(endpoint, path, body, Sending(), connection, method)
                return await exchange.status, await exchange.readany()
        except EndpointFailed as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    async def send(
        self,
        endpoint: str,
        path: str,
        body: bytes,
        sending: Sending,
        connection: Connection | None = None,
        method: str = "POST",
    ) -> Exchange:
        """Send a request, in a run with certificates on a connection. Raises EndpointFailed if nothing listens
        there."""
        call = path.removeprefix(worker_wire.PREFIX)
        self.requests[call] = self.requests.get(call, 0) + 1
        await self._link.awake.wait()
        server = self._hooks.find_server(endpoint)
        if self._is_closed or server is None:
            raise EndpointFailed("the network is unreachable")
        if server.is_up and server.node is None and not self._is_cut(self._owner, server.name):
            raise EndpointFailed("cannot connect: Connection refused")
        if call == "transact" and self._is_fatal(f"before {_describe(body)}"):
            raise EndpointFailed("who asked is dead")
        sending.begun = connection is None or connection.client is not None
        exchange = Exchange()
        headers = _HEADERS if path.startswith(worker_wire.PREFIX) else _JSON
        request = Request(method, path, headers=headers, body=body, certificate=self._certificate)
        if connection is not None:
            exchange.connection, connection.exchange = connection, exchange
        exchange.task = task = asyncio.create_task(self._carry(server, request, exchange, sending))
        self._underway[task] = None
        task.add_done_callback(self._note_end)
        return exchange

    async def rest(self, path: str, body: bytes) -> None:
        """After an exchange: nothing goes on in a fleetd that is paused, or has just died."""
        await self._link.awake.wait()
        if path.endswith("/transact") and not self._is_closed:
            self._is_fatal(f"after {_describe(body)}")

    def _note_end(self, task: asyncio.Task[None]) -> None:
        del self._underway[task]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._hooks.on_failure(f"a request of {self._owner} to a server", error)

    async def _carry(self, server: "SimulatedMachine", request: Request, exchange: Exchange, sending: Sending) -> None:
        """One request's way to a server, and that of the answer back."""
        acting_for.set(self._owner)
        await asyncio.sleep(self._link.delay_s())
        if not self._link.carries_request() or self._is_cut(self._owner, server.name) or not server.is_up:
            return  # no answer at all: the worker gives up some time
        node = server.node
        if node is None:
            exchange.fail("cannot connect: Connection refused")
            return
        connection = exchange.connection
        if connection is None:
            server.connections[exchange] = None
        try:
            await server.link.awake.wait()
            if connection is not None:
                if connection.client is None:
                    connection.make(server, node, self._machine.unix_now())
                sending.begun = True
                request = self._identify(server, node, connection, request)
            response = await node.api.handle(request)
            await server.link.awake.wait()
            if connection is not None:
                self._observe(server, request, response)
            if isinstance(response, StreamedResponse):
                await self._stream(server, response, exchange)
                return
            await asyncio.sleep(self._link.delay_s())
            if self._link.carries_answer() and not self._is_cut(self._owner, server.name):
                if response.status == 200 and request.path.startswith(worker_wire.PREFIX):
                    self._hooks.on_answer(self._owner, request.path.removeprefix(worker_wire.PREFIX), response.body)
                exchange.put(response.body)
                exchange.put(b"")
                exchange.begin(response.status)
        except TlsRefused as error:
            self._hooks.on_refused(self._owner, server.name, str(error))
            exchange.fail(str(error))
        finally:
            server.connections.pop(exchange, None)

    def _identify(self, server: "SimulatedMachine", node: Node, connection: Connection, request: Request) -> Request:
        """The request as the server has it that knows the client by its certificate (api/server.py)."""
        client, trust = connection.client, node.trust
        assert client is not None
        assert trust is not None
        refusal = client.refuse(server.unix_now(), trust.is_revoked, trust.why_unsure())
        if refusal[0] and request.path.startswith(worker_wire.PREFIX):
            self._hooks.on_refused(self._owner, server.name, refusal[1])
        certificate = None if refusal[0] else client.certificate
        return msgspec.structs.replace(request, refusal=refusal, certificate=certificate, actor=client.actor())

    def _observe(self, server: "SimulatedMachine", request: Request, response: Response | StreamedResponse) -> None:
        """Tell of what a server does for a worker."""
        if response.status != 200:
            return
        if request.path.startswith(worker_wire.PREFIX) and request.certificate is not None:
            self._hooks.on_served(self._owner, server.name, request.certificate)
        if request.path == RENEW:
            shown = msgspec.json.decode(request.body, type=schema.RenewalRequest).certificate
            self._hooks.on_served(self._owner, server.name, parse_peer_certificate(read_paper(shown).describe()))

    async def _stream(self, server: "SimulatedMachine", response: StreamedResponse, exchange: Exchange) -> None:
        """Stream, until the client's certificate expires."""
        exchange.begin(response.status)
        connection = exchange.connection
        known = connection.client.certificate if connection and connection.client else None
        left_s = None if known is None else max(0.0, known.expires_at_s - server.unix_now())
        try:
            async with asyncio.timeout(left_s):
                async for chunk in response.chunks:
                    await self._let_through(server)
                    self._hooks.on_answer(self._owner, worker_wire.WATCH, chunk[worker_wire.LENGTH_BYTES :])
                    if known is not None:
                        self._hooks.on_served(self._owner, server.name, known)
                    exchange.put(chunk)
        except TimeoutError:
            exchange.fail("Server disconnected")
        finally:
            if connection is not None:
                connection.close()
            await response.chunks.aclose()
        exchange.put(b"")

    async def _let_through(self, server: "SimulatedMachine") -> None:
        """Wait until a part of a stream comes through: it delivers what was lost once it can."""
        await asyncio.sleep(self._link.delay_s())
        while not self._link.carries_answer() or self._is_cut(self._owner, server.name):  # noqa: ASYNC110
            await asyncio.sleep(RECONNECT_S)
        await self._link.hears.wait()
        await self._link.awake.wait()
        await server.link.awake.wait()


class LineGateway(Gateway):
    """The gateway of a WorkerStore, which sends on a WorkerLine instead of over https. In a run with certificates it
    keeps connections for the next requests, as the real one does."""

    def __init__(self, line: WorkerLine, endpoints: Sequence[str], store_format: Format, **options: Any) -> None:
        super().__init__(endpoints, store_format, **options)
        self._line = line
        self._connections: list[Connection] = []

    async def reconnect(self) -> None:
        self._end_connections()
        await super().reconnect()

    async def close(self) -> None:
        await super().close()
        for connection in self._connections:
            connection.close()

    async def _post(
        self, endpoint: str, path: str, body: bytes, sending: Sending, timeout_s: float, most_bytes: int
    ) -> bytes:
        self._check_open()
        connection = self._connect(endpoint)
        try:
            with failures_named(timeout_s):
                async with asyncio.timeout(timeout_s):
                    exchange = await self._line.send(endpoint, path, body, sending, connection)
                    status = await exchange.status
                    answer = await exchange.readany()
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        finally:
            await self._line.rest(path, body)
        if connection is not None:
            connection.idle_since_s, connection.exchange = asyncio.get_running_loop().time(), None
        if status != 200:
            raise self._format.parse_refusal(status, answer)
        return answer

    async def _connect_stream(self, endpoint: str, path: str, body: bytes, token: str) -> Stream:
        with failures_named(self._timeout_s):
            async with asyncio.timeout(self._timeout_s):
                connection = self._connect(endpoint, is_new=True)
                exchange = await self._line.send(endpoint, path, body, Sending(), connection)
                stream = Stream(endpoint, token, exchange, self._format.new_splitter())  # type: ignore[arg-type]
                self._streams.append(stream)
                try:
                    status = await exchange.status
                    if status != 200:
                        raise self._format.parse_refusal(status, await exchange.readany())
                    await stream.wait()
                except BaseException:
                    self.close_stream(stream)
                    raise
        return stream

    def _connect(self, endpoint: str, *, is_new: bool = False) -> Connection | None:
        """A connection with the present context: one that is idle, or a new one; None in a run without certificates."""
        if not self._line.has_certificates:
            return None
        context, now_s = cast(SimulatedTls, self._tls), asyncio.get_running_loop().time()
        for connection in self._connections:
            if connection.exchange is None and now_s - connection.idle_since_s > self._format.idle_s:
                connection.close()
        self._connections = [each for each in self._connections if not each.is_closed]
        kept = [each for each in self._connections if each.exchange is None and each.endpoint == endpoint]
        found = next((each for each in kept if each.context is context and not is_new), None)
        if found is None:
            found = Connection(endpoint, context)
            self._connections.append(found)
        found.exchange = Exchange()  # it is taken
        return found

    def _end_connections(self) -> None:
        for connection in self._connections:
            connection.close()
            if connection.exchange is not None:
                connection.exchange.fail("the connection was closed")


def _describe(body: bytes) -> str:
    request = worker_wire.decode_request("transact", body)
    assert isinstance(request, worker_wire.TransactRequest)
    return f"the transaction of {', '.join(operation.key for operation in request.operations)}"
