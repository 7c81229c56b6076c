"""Runs inside fleetd (see tampering.py) and kills it at a write: the first life at its first write, the second at its
second, and so on, until one life lasts for the whole story. Then it begins again.

A write is: a file below /run created, renamed or removed; a commit to its own store; a request that changes etcd,
counted once before it is sent and once when it is answered and the answer is not read yet. The file that DEATHS in the
environment names has one line for each life that ended.
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
LONGEST = 25  # writes: about as many as a life in which one unit is started, stopped and destroyed
CHANGES = (b'"request_put"', b'"request_delete_range"')


class Life:
    """Count one write; kill fleetd at the last one."""

    def __init__(self) -> None:
        self._writes_left = len(DEATHS.read_text().splitlines()) % LONGEST if DEATHS.exists() else 0

    def write(self, what: str) -> None:
        """Count the write, then send the request unless that write was the last."""
        if self._writes_left:
            self._writes_left -= 1
            return
        with DEATHS.open("a") as deaths:
            deaths.write(f"{what}\n")
        os.kill(os.getpid(), signal.SIGKILL)


life = Life()


def on_audit_event(event: str, arguments: Any) -> None:
    """Count what the interpreter reports as about to happen."""
    if event == "open" and not isinstance(arguments[0], int):
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR) and os.fsdecode(path).startswith(FILES):
            life.write(f"open {path}")
    elif event in LINKS:
        life.write(f"{event} {arguments[0]}")


connect = sqlite3.connect


def connect_and_count_commits(path: str, **options: Any) -> sqlite3.Connection:
    connection = connect(path, **options)
    connection.set_trace_callback(lambda statement: life.write("commit") if statement == "COMMIT" else None)
    return connection


post = aiohttp.ClientSession.post


def post_and_count(
    session: aiohttp.ClientSession, url: str, *, data: bytes, **options: Any
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    if url.endswith(LEASES) or any(change in data for change in CHANGES):
        return count_and_exchange(session, url, data=data, **options)
    return post(session, url, data=data, **options)


@asynccontextmanager
async def count_and_exchange(
    session: aiohttp.ClientSession, url: str, **options: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    action = url.rpartition("/")[2]
    life.write(f"ask etcd: {action}")
    async with post(session, url, **options) as response:
        life.write(f"hear etcd: {action}")
        yield response


sqlite3.connect = connect_and_count_commits  # type: ignore[assignment]
aiohttp.ClientSession.post = post_and_count  # type: ignore[method-assign,assignment]
sys.addaudithook(on_audit_event)
