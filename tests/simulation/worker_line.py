"""The way of a simulated worker to the servers: what fleet's own client of servers (store/http_gateway.py) sends goes
to the API of another simulated machine instead of a socket, and can be late, lost, or cut off.

The worker's network (wire.Link) is between it and all servers; the way to one of them can be cut, too. A request that
was sent arrives although its caller gave up, unless its server dies.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fleetd.api.http import Request, StreamedResponse
from fleetd.model.certificate import MACHINE, WORKER, CertificateIdentity
from fleetd.store import worker_wire
from fleetd.store.failures import EndpointFailed
from fleetd.store.http_gateway import Format, Gateway, Sending, Stream, failures_named
from tests.simulation.wire import RECONNECT_S, IsFatal, acting_for

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine

_HEADERS = (("Content-Type", worker_wire.CONTENT_TYPE),)

FindServer = Callable[[str], "SimulatedMachine | None"]  # the machine at that URL
IsCut = Callable[[str, str], bool]  # whether this worker does not reach this server
AnswerObserver = Callable[[str, str, bytes], None]  # gets the worker, the call, and an answer or a frame


class Exchange:
    """One request, and what has arrived of its answer. `content` and `close` are those of aiohttp's response."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
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
    """What one fleetd of a worker sends to servers. `requests` counts by call; `on_answer` gets what comes back,
    `on_failure` what no server would raise, and `is_fatal` is asked about each transaction."""

    def __init__(
        self,
        machine: "SimulatedMachine",
        find_server: FindServer,
        is_cut: IsCut,
        on_answer: AnswerObserver,
        on_failure: Callable[[str, BaseException], None],
        is_fatal: IsFatal,
    ) -> None:
        self.requests: dict[str, int] = {}
        self._owner = machine.name
        self._link = machine.link
        self._certificate = CertificateIdentity(MACHINE, machine.id, WORKER)
        self._find_server = find_server
        self._is_cut = is_cut
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._is_fatal = is_fatal
        self._is_closed = False
        self._underway: dict[asyncio.Task[None], None] = {}

    def make_gateway(self, endpoints: Sequence[str], store_format: Format, **options: Any) -> Gateway:
        """The client of a WorkerStore that sends on this line."""
        return LineGateway(self, endpoints, store_format, **options)

    def cut(self) -> None:
        """Send nothing more. What is on its way arrives."""
        self._is_closed = True

    async def close(self) -> None:
        self.cut()

    async def send(self, endpoint: str, path: str, body: bytes, sending: Sending) -> Exchange:
        """Send a request. Raises EndpointFailed if nothing listens there."""
        call = path.removeprefix(worker_wire.PREFIX)
        self.requests[call] = self.requests.get(call, 0) + 1
        await self._link.awake.wait()
        server = self._find_server(endpoint)
        if self._is_closed or server is None:
            raise EndpointFailed("the network is unreachable")
        if server.is_up and server.node is None and not self._is_cut(self._owner, server.name):
            raise EndpointFailed("cannot connect: Connection refused")
        if call == "transact" and self._is_fatal(f"before {_describe(body)}"):
            raise EndpointFailed("who asked is dead")
        sending.begun = True
        exchange = Exchange()
        request = Request("POST", path, headers=_HEADERS, body=body, certificate=self._certificate)
        exchange.task = task = asyncio.create_task(self._carry(server, request, exchange))
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
            self._on_failure(f"a request of {self._owner} to a server", error)

    async def _carry(self, server: "SimulatedMachine", request: Request, exchange: Exchange) -> None:
        """One request's way to a server, and that of the answer back."""
        acting_for.set(self._owner)
        await asyncio.sleep(self._link.delay_s())
        if not self._link.carries_request() or self._is_cut(self._owner, server.name) or not server.is_up:
            return  # no answer at all: the worker gives up some time
        node = server.node
        if node is None:
            exchange.fail("cannot connect: Connection refused")
            return
        server.connections[exchange] = None
        try:
            await server.link.awake.wait()
            response = await node.api.handle(request)
            await server.link.awake.wait()
            if isinstance(response, StreamedResponse):
                await self._stream(server, response, exchange)
                return
            await asyncio.sleep(self._link.delay_s())
            if self._link.carries_answer() and not self._is_cut(self._owner, server.name):
                if response.status == 200:
                    self._on_answer(self._owner, request.path.removeprefix(worker_wire.PREFIX), response.body)
                exchange.put(response.body)
                exchange.put(b"")
                exchange.begin(response.status)
        finally:
            server.connections.pop(exchange, None)

    async def _stream(self, server: "SimulatedMachine", response: StreamedResponse, exchange: Exchange) -> None:
        exchange.begin(response.status)
        try:
            async for chunk in response.chunks:
                await self._let_through(server)
                self._on_answer(self._owner, worker_wire.WATCH, chunk[worker_wire.LENGTH_BYTES :])
                exchange.put(chunk)
        finally:
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
    """The gateway of a WorkerStore, which sends on a WorkerLine instead of over https."""

    def __init__(self, line: WorkerLine, endpoints: Sequence[str], store_format: Format, **options: Any) -> None:
        super().__init__(endpoints, store_format, **options)
        self._line = line

    async def _post(
        self, endpoint: str, path: str, body: bytes, sending: Sending, timeout_s: float, most_bytes: int
    ) -> bytes:
        self._check_open()
        try:
            with failures_named(timeout_s):
                async with asyncio.timeout(timeout_s):
                    exchange = await self._line.send(endpoint, path, body, sending)
                    status = await exchange.status
                    answer = await exchange.readany()
        finally:
            await self._line.rest(path, body)
        if status != 200:
            raise self._format.parse_refusal(status, answer)
        return answer

    async def _connect_stream(self, endpoint: str, path: str, body: bytes, token: str) -> Stream:
        with failures_named(self._timeout_s):
            async with asyncio.timeout(self._timeout_s):
                exchange = await self._line.send(endpoint, path, body, Sending())
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


def _describe(body: bytes) -> str:
    request = worker_wire.decode_request("transact", body)
    assert isinstance(request, worker_wire.TransactRequest)
    return f"the transaction of {', '.join(operation.key for operation in request.operations)}"
