"""Sockets on which questions are answered: over UDP, and over TCP."""

import asyncio
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fleetd.dns.responder import MAX_BYTES, Responder
from fleetd.dns.table_file import TableFile

LOOK_S = 5.0  # how often the file is looked at without a question
IDLE_S = 10.0  # for a client over TCP to send a whole message, or to take an answer
MOST_CONNECTIONS = 256
REPORT_EVERY_S = 3600.0
_BURST = 64  # messages over UDP that are answered before other sockets have their turn
_RECEIVE_BUFFER_BYTES = 1024 * 1024


class CannotListen(Exception):
    """An address could not be listened on. The message says which one, and why."""


class Server:
    """Answers from a file, until that is gone."""

    def __init__(self, file: TableFile, *, idle_s: float = IDLE_S, look_s: float = LOOK_S) -> None:
        self._file = file
        self._next_report_s = 0.0
        self._responder = self._make_responder()
        self._idle_s = idle_s
        self._look_s = look_s
        self._ended = asyncio.Event()
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], None] = {}  # the one that was idle the longest first
        self.listens: tuple[str, ...] = ()

    async def run(self) -> None:
        """Answer until the file is gone. Raises CannotListen."""
        try:
            while not self._ended.is_set():
                if self._file.table.listen != self.listens:
                    self.close()
                    await self._listen(self._file.table.listen)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await self._ended.wait()
                self._look()
        finally:
            self.close()

    def close(self) -> None:
        """Listen no longer."""
        for listener in self._listeners:
            listener.close()
        loop = asyncio.get_running_loop()
        for udp in self._sockets:
            loop.remove_reader(udp)
            udp.close()
        for connection in self._connections:
            connection.cancel()
        self._listeners, self._sockets, self.listens = [], [], ()

    def end(self) -> None:
        """Have `run` return."""
        self._ended.set()

    async def _listen(self, addresses: tuple[str, ...]) -> None:
        for address in addresses:
            host, _, port = address.rpartition(":")
            host = host.strip("[]")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            udp = socket.socket(family, socket.SOCK_DGRAM)
            self._sockets.append(udp)
            try:
                udp.setblocking(False)
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
                udp.bind((host, int(port)))
                self._listeners.append(await asyncio.start_server(self._serve_tcp, host, int(port), family=family))
            except OSError as error:
                raise CannotListen(f"cannot listen on {address}: {error.strerror or error}") from error
            asyncio.get_running_loop().add_reader(udp, self._serve_udp, udp)
        self.listens = addresses

    def _look(self) -> None:
        """Go on with the present file."""
        try:
            if self._file.was_replaced():
                self._responder = self._make_responder()
        except FileNotFoundError:
            self._ended.set()

    def _make_responder(self) -> Responder:
        return Responder(self._file.table, self._report)

    def _report(self, error: Exception) -> None:
        """Tell of a question that was answered with SERVFAIL, seldom: strangers may ask it all the time."""
        now_s = time.monotonic()
        if now_s >= self._next_report_s:
            self._next_report_s = now_s + REPORT_EVERY_S
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._file.complain(
                f"a question was answered with SERVFAIL; please report this as a bug: {type(error).__name__}: {error} "
                f"({Path(where.filename).name}, line {where.lineno})"
            )

    def _serve_udp(self, udp: socket.socket) -> None:
        self._look()
        answer: Callable[[bytes], bytes | None] = self._responder.answer
        for _ in range(_BURST):
            try:
                request, client = udp.recvfrom(MAX_BYTES)
            except OSError:  # nothing more has come, or a client that is gone has refused its answer
                return
            response = answer(request)
            if response is not None:
                with suppress(OSError):  # one that takes no answer, or a full buffer: it asks again
                    udp.sendto(response, client)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MOST_CONNECTIONS:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.cancel()
        try:
            while True:
                self._connections.pop(task, None)
                self._connections[task] = None
                async with asyncio.timeout(self._idle_s):
                    size = int.from_bytes(await reader.readexactly(2))
                    request = await reader.readexactly(size)
                    self._look()
                    response = self._responder.answer(request, over_tcp=True)
                    if response is None:
                        return
                    writer.write(len(response).to_bytes(2) + response)
                    await writer.drain()
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError, TimeoutError):
            return  # closed, by one of both, or too slow
        finally:
            self._connections.pop(task, None)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
