"""Runs inside a fleetd (see tampering.py): its first life ends at its first write, its second at its second, and so on,
until one lives for a whole story; then it begins again.

What counts as a write: a file below /run made, renamed or removed; a commit of its own store; a request that changes
etcd, once before it leaves and once when it is answered, the answer unread. The file that the environment names DEATHS
has a line for each life that ended.
"""

import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

DEATHS = Path(os.environ["DEATHS"])
FILES = "/run/fleet/"
LINKS = ("os.rename", "os.remove", "os.symlink")
LEASES = ("/grant", "/revoke")
LONGEST = 25  # writes: a life in which a unit is started, stopped and destroyed has about as many
CHANGES = (b'"request_put"', b'"request_delete_range"')


class Life:
    """What is left of it."""

    def __init__(self) -> None:
        self._writes_left = len(DEATHS.read_text().splitlines()) % LONGEST if DEATHS.exists() else 0

    def write(self, what: str) -> None:
        """fleetd writes: if it was to be the last, it is not even that."""
        if self._writes_left:
            self._writes_left -= 1
            return
        with DEATHS.open("a") as deaths:
            deaths.write(f"{what}\n")
        os.kill(os.getpid(), signal.SIGKILL)


life = Life()


def hear(event: str, arguments: Any) -> None:
    """What the interpreter is about to do."""
    if event == "open" and not isinstance(arguments[0], int):
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR) and os.fsdecode(path).startswith(FILES):
            life.write(f"open {path}")
    elif event in LINKS:
        life.write(f"{event} {arguments[0]}")


connect = sqlite3.connect


def connect_as_if_each_commit_were_the_last(path: str, **options: Any) -> sqlite3.Connection:
    connection = connect(path, **options)
    connection.set_trace_callback(lambda statement: life.write("commit") if statement == "COMMIT" else None)
    return connection


post = aiohttp.ClientSession.post


def post_as_if_it_were_the_last(
    session: aiohttp.ClientSession, url: str, *, data: bytes, **options: Any
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    if url.endswith(LEASES) or any(change in data for change in CHANGES):
        return exchange(session, url, data=data, **options)
    return post(session, url, data=data, **options)


@asynccontextmanager
async def exchange(session: aiohttp.ClientSession, url: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    action = url.rpartition("/")[2]
    life.write(f"ask etcd: {action}")
    async with post(session, url, **options) as response:
        life.write(f"hear etcd: {action}")
        yield response


sqlite3.connect = connect_as_if_each_commit_were_the_last  # type: ignore[assignment]
aiohttp.ClientSession.post = post_as_if_it_were_the_last  # type: ignore[method-assign,assignment]
sys.addaudithook(hear)
