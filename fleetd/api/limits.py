"""How much the API gives to all its clients together: so many connections, so many bytes of requests and answers.

A client that keeps us waiting (for its request, for its body, to take its answer) has the weakest claim: where there is
no room for one more, the one that has done so longest makes way. Few listings of everything are made at once; others
wait for their turn. No sockets here, and no clock.
"""

import asyncio
from collections.abc import Callable, Hashable
from contextvars import ContextVar, Token

from fleetd.api.http import ApiError

MAX_CONNECTIONS = 1024
MAX_BYTES = 64 * 1024 * 1024
LISTINGS_AT_ONCE = 2  # that read all there is: before it has come, nobody knows how much it is
TOO_MUCH = "requests and answers of other clients are all that fleetd can hold at once: try again in a moment"
LATER = (("Retry-After", "1"),)


class ConnectionLimiter:
    """All connections at once. A connection is whatever the caller knows one by."""

    def __init__(self, max_connections: int = MAX_CONNECTIONS, max_bytes: int = MAX_BYTES) -> None:
        self.max_connections = max_connections
        self.max_bytes = max_bytes
        self.held = 0  # bytes, of all loads together
        self.turns = asyncio.Semaphore(LISTINGS_AT_ONCE)
        self._waiting: dict[Hashable, Callable[[], None]] = {}  # connection → how to end it; the longest waiting first
        self._served: dict[Hashable, Callable[[], None]] = {}

    def enter(self, connection: Hashable, end: Callable[[], None]) -> bool:
        """A client has connected, and is waited for; `end` ends a connection. Whether it found room without another
        one being ended: if none can be, it is itself."""
        self._waiting[connection] = end
        if len(self._waiting) + len(self._served) <= self.max_connections:
            return True
        longest = next(iter(self._waiting))
        self._waiting.pop(longest)()
        return False

    def leave(self, connection: Hashable) -> None:
        """The connection has ended."""
        self._waiting.pop(connection, None)
        self._served.pop(connection, None)

    def serve(self, connection: Hashable) -> None:
        """The client's whole request is here: it waits for us."""
        if connection in self._waiting:
            self._served[connection] = self._waiting.pop(connection)

    def wait_for(self, connection: Hashable) -> None:
        """It is for the client to take the answer, and to send the next request."""
        if connection in self._served:
            self._waiting[connection] = self._served.pop(connection)

    def load(self) -> "Load":
        """What is held for one request, nothing yet."""
        return Load(self)


class Load:
    """The bytes that are held for one request, until the end of the `with` at the latest."""

    def __init__(self, crowd: ConnectionLimiter) -> None:
        self._crowd = crowd
        self._size = 0
        self._former: Token[Load | None] | None = None
        self._has_turn = False

    def __enter__(self) -> "Load":
        self._former = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            _current.reset(self._former)
        self.clear()

    def add(self, size: int) -> bool:
        """Hold so many bytes more; False where that would be too much beside what is held for others."""
        others = self._crowd.held - self._size
        if others and self._crowd.held + size > self._crowd.max_bytes:
            return False
        self._crowd.held += size
        self._size += size
        return True

    async def wait_for_turn(self) -> None:
        """Be one of the few requests for which everything is read, until `clear`."""
        if not self._has_turn:
            await self._crowd.turns.acquire()
            self._has_turn = True

    def clear(self) -> None:
        """Let go of them, and of the turn."""
        if self._has_turn:
            self._crowd.turns.release()
            self._has_turn = False
        self._crowd.held -= self._size
        self._size = 0


_current: ContextVar[Load | None] = ContextVar("load", default=None)


async def wait_for_turn() -> None:
    """Wait until everything may be read for the request that is being answered."""
    load = _current.get()
    if load is not None:
        await load.wait_for_turn()


def note_read(size: int) -> None:
    """Hold so many bytes more for the request that is being answered: they were read from the store for it. Raises
    ApiError where that is too much beside what is held for others."""
    load = _current.get()
    if load is not None and not load.add(size):
        raise ApiError(503, TOO_MUCH, LATER)
