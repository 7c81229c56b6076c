"""Sends answers of this machine as streams to the servers that ask (model/answer_stream.py)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import asynccontextmanager

from fleetd.aio import first_of
from fleetd.model.answer_stream import (
    ACCEPTED,
    ALIVE,
    ALIVE_S,
    BEGIN_S,
    begin_line,
    end_line,
    entry_line,
)
from fleetd.model.machine_request import MachineAnswer
from fleetd.trust.dialing import CannotDial as CannotDial

# Connects to the server at this address that is this machine. Raises CannotDial.
Dial = Callable[[str, str], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class AnswerStream:
    """One answer on its way to the server that asked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, lines: AsyncIterable[bytes]) -> None:
        """Send these entries, and signs of life, until there are no more, or the server has gone. Raises OSError."""
        await first_of(self._send_entries(lines), self._stay_alive(), self._wait_for_end())

    async def end(self, answer: MachineAnswer) -> None:
        """Say what is to be said beside the entries. Raises OSError."""
        self._writer.write(end_line(answer))
        await self._writer.drain()
        self._writer.close()
        async with asyncio.timeout(BEGIN_S):
            await self._writer.wait_closed()

    async def _send_entries(self, lines: AsyncIterable[bytes]) -> None:
        async for line in lines:
            self._writer.write(entry_line(line))
            await self._writer.drain()

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(ALIVE_S)
            self._writer.write(ALIVE)
            await self._writer.drain()

    async def _wait_for_end(self) -> None:
        """Wait until the server closes the connection. It says nothing more."""
        if not await self._reader.read(1):
            raise ConnectionResetError("the server that asked has gone")


@asynccontextmanager
async def open_stream(dial: Dial, address: str, asker: str, id_: str) -> AsyncGenerator[AnswerStream, None]:
    """A stream to the server `asker` at this address for the request of this id. Raises CannotDial, also if that server
    refuses it."""
    reader, writer = await dial(address, asker)
    try:
        try:
            async with asyncio.timeout(BEGIN_S):
                writer.write(begin_line(id_))
                said = await reader.readline()
        except (OSError, ValueError, TimeoutError) as error:
            raise CannotDial(f"{address} accepts no stream: {error or 'it does not answer'}") from error
        if said != ACCEPTED:
            raise CannotDial(f"{address} accepts no stream: {said.decode('utf-8', 'replace').strip() or 'it hangs up'}")
        yield AnswerStream(reader, writer)
    finally:
        writer.transport.abort()
