"""Servers in front of or in place of etcd: one that forwards requests and reports each, and one that misbehaves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from contrib.testbed.etcd import EtcdServer


class Server:
    """A server on loopback that runs while it is entered, at `url`. `paths`, `heads` and `bodies` are those of the
    requests, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.paths: list[str] = []
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(length.partition(b":")[2]))
            self.paths.append(head.split()[1].decode())
            self.heads.append(head)
            self.bodies.append(body)
            await self.answer(head, body, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        """Answer one request; the connection is closed afterwards."""
        raise NotImplementedError


class Proxy(Server):
    """Forwards requests to etcd, and its answers back. `before` is called with the path of each request first."""

    def __init__(self, target: EtcdServer, before: Callable[[str], Awaitable[None]] | None = None) -> None:
        super().__init__()
        _, _, port = target.client_url.rpartition(":")
        self._port = int(port)
        self._before = before

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if self._before:
            await self._before(self.paths[-1])
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            back.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
            while chunk := await there.read(1 << 20):
                writer.write(chunk)
                await writer.drain()
        finally:
            back.close()


class Misbehaving(Server):
    """Answers every request with this head and then this chunk, which is repeated for ever if `endless`."""

    def __init__(self, head: bytes, chunk: bytes = b"", *, endless: bool = False) -> None:
        super().__init__()
        self._head = head
        self._chunk = chunk
        self._endless = endless
        self.sent = 0

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(self._head + b"\r\n\r\n")
        while True:
            writer.write(self._chunk)
            self.sent += len(self._chunk)
            await writer.drain()
            if not self._endless:
                return
