"""One connection to the API, read to the byte, without an HTTP library."""

import asyncio
import json
from typing import Any


class Connection:
    """A connection that is kept between requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: str) -> "Connection":
        return cls(*await asyncio.open_unix_connection(path))

    async def ask(self, method: str, target: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
        """Send a request. Return status, headers without the date, and body."""
        sent = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: fleet\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n"
        self._writer.write(f"{head}\r\n".encode() + sent)
        async with asyncio.timeout(60):
            status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in lines)
            length = 0 if method == "HEAD" else int(headers.get("Content-Length", 0))
            answered = await self._reader.readexactly(length)
        assert headers.pop("Date")
        return int(status.split()[1]), headers, answered

    def close(self) -> None:
        self._writer.close()
