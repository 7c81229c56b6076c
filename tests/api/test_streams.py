"""Responses whose bodies are made while they are sent."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator

import pytest

from fleetd.api.http import Request, StreamedResponse
from fleetd.api.server import Server
from fleetd.config.options import Address
from tests.api.served import serving

PATIENCE_S = 60.0


class Streaming:
    """Answers each request with a stream of these chunks, and then of no more until it is closed; or the first again
    and again (`endless`)."""

    def __init__(self, *chunks: bytes, endless: bool = False, fails: bool = False) -> None:
        self.chunks = chunks
        self.endless = endless
        self.fails = fails
        self.made = 0
        self.closed = asyncio.Event()

    async def handle(self, request: Request) -> StreamedResponse:
        return StreamedResponse(200, self._make(), (("Content-Type", "application/x-frames"),))

    async def _make(self) -> AsyncGenerator[bytes, None]:
        try:
            for chunk in self.chunks:
                self.made += 1
                yield chunk
            while self.endless:
                self.made += 1
                yield self.chunks[0]
            if self.fails:
                raise RuntimeError("a bug")
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def ask(path: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path.path)
    writer.write(b"GET /stream HTTP/1.1\r\nHost: fleet\r\n\r\n")
    return reader, writer


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        length = int(await reader.readline(), 16)
        chunk = await reader.readexactly(length)
        assert await reader.readexactly(2) == b"\r\n"
    return chunk


async def test_each_part_of_a_stream_arrives_when_it_is_made(path: Address) -> None:
    handler = Streaming(b"one", b"two")
    async with serving(handler, path):
        reader, writer = await ask(path)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"Content-Type: application/x-frames" in head
        assert await read_chunk(reader) == b"one"
        assert await read_chunk(reader) == b"two"
        assert not handler.closed.is_set()
        writer.close()


async def test_a_stream_is_closed_as_soon_as_its_client_is_gone(path: Address) -> None:
    handler = Streaming(b"one")
    async with serving(handler, path):
        reader, writer = await ask(path)
        await reader.readuntil(b"one")
        writer.close()
        await asyncio.wait_for(handler.closed.wait(), 1.0)


async def test_a_client_that_does_not_read_its_stream_is_closed_and_costs_little_until_then(path: Address) -> None:
    handler = Streaming(b"x" * 65536, endless=True)
    server = Server(handler, client_timeout_s=0.3)
    await server.start([path], insecure=True)
    _, writer = await ask(path)
    await asyncio.wait_for(handler.closed.wait(), PATIENCE_S)
    assert handler.made < 64  # what the sockets and their buffers hold
    writer.close()
    await server.stop()


async def test_open_streams_do_not_delay_the_end_of_the_server(path: Address) -> None:
    took_s: list[float] = []
    for _ in range(5):  # a busy machine may be late, but not each time
        handler = Streaming(b"one")
        async with serving(handler, path):
            reader, writer = await ask(path)
            await reader.readuntil(b"one")
            began_s = time.monotonic()
        took_s.append(time.monotonic() - began_s)
        assert handler.closed.is_set()
        writer.close()
    assert min(took_s) < 0.5


async def test_a_bug_in_a_stream_ends_the_stream_alone(path: Address, caplog: pytest.LogCaptureFixture) -> None:
    handler = Streaming(b"one", fails=True)
    async with serving(handler, path):
        with caplog.at_level(logging.ERROR):
            reader, writer = await ask(path)
            with contextlib.suppress(ConnectionError):
                assert not (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()
        assert "cannot go on with an answer" in caplog.text
        reader, writer = await ask(path)
        await reader.readuntil(b"one")
        writer.close()
