"""Bounds on what all clients of the API take together: connections, and bytes of requests and responses.

A client that keeps fleetd waiting (for its request, for its body, to read the response) has the weakest claim: at the
limit, the connection that has been idle longest is closed. Listings of everything run a few at a time.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fleetd.api.http import ApiError
from fleetd.model.certificate import MACHINE, CertificateIdentity

MAX_CONNECTIONS = 1024
MAX_BYTES = 64 * 1024 * 1024
STRANGERS_PART = 4  # a quarter of the bytes is for all clients together whose certificates do not count
WORKERS_PART = 8  # an eighth is for one worker
STREAMS_PART = 4  # a quarter is for all streams of one user together, which last as long as their readers want
MAX_LISTINGS = 2  # at once: their size is unknown before they have been read
OVERLOADED = "requests and responses use all the memory that fleetd allows for them: try again later"
OVERLOADED_BY_USER = (
    "what your readers have not taken yet uses all the memory that fleetd allows for the streams of one user: read "
    "faster, or end some"
)
RETRY_SOON = (("Retry-After", "1"),)


class ConnectionLimiter:
    """All connections at once, each known by the key that its owner gives it."""

    def __init__(self, max_connections: int = MAX_CONNECTIONS, max_bytes: int = MAX_BYTES) -> None:
        self.max_connections = max_connections
        self.max_bytes = max_bytes
        self.reserved = 0  # bytes, for all requests
        self.reserved_by: dict[Hashable, int] = {}  # of that, by who is bounded on their own
        self.listing_slots = asyncio.Semaphore(MAX_LISTINGS)
        self._idle: dict[Hashable, Callable[[], None]] = {}  # connection → how to close it; longest idle first
        self._busy: dict[Hashable, Callable[[], None]] = {}
        self._users: dict[Hashable, Hashable] = {}  # connection → its user

    def add(
        self, connection: Hashable, close: Callable[[], None], user: Hashable = None, most: int = MAX_CONNECTIONS
    ) -> bool:
        """Admit a new, idle connection; False if that closed the one that has been idle longest, maybe this one. One
        `user` (an id, or what a certificate names; None: it is not bounded by users) has a quarter of the connections,
        and no more than `most`."""
        self._idle[connection] = close
        if user is not None:
            self._users[connection] = user
        count = len(self._idle) + len(self._busy)
        own = sum(1 for each in self._users.values() if each == user)
        if count <= self.max_connections and own <= max(1, min(most, self.max_connections // 4)):
            return True
        of_user = (each for each in self._idle if self._users.get(each) == user)
        longest = next(of_user if count <= self.max_connections else iter(self._idle))
        self._users.pop(longest, None)
        self._idle.pop(longest)()
        return False

    def remove(self, connection: Hashable) -> None:
        """Forget a connection that has ended."""
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)
        self._users.pop(connection, None)

    def mark_busy(self, connection: Hashable) -> None:
        """The whole request has arrived: the client waits for fleetd."""
        if connection in self._idle:
            self._busy[connection] = self._idle.pop(connection)

    def mark_idle(self, connection: Hashable) -> None:
        """fleetd waits for the client to read the response and to send the next request."""
        if connection in self._busy:
            self._idle[connection] = self._busy.pop(connection)

    @contextmanager
    def open_budget(self) -> Iterator["RequestBudget"]:
        """The budget of the request that the `with` block answers; nothing is reserved yet."""
        budget = RequestBudget(self)
        token = _current.set(budget)
        try:
            yield budget
        finally:
            _current.reset(token)
            budget.release()


class RequestBudget:
    """The bytes reserved for one request, and its slot for a listing."""

    def __init__(self, limiter: ConnectionLimiter) -> None:
        self._limiter = limiter
        self._client: Hashable = None
        self._part = 1
        self.refusal = OVERLOADED  # why there is no room
        self._reserved = 0
        self._has_slot = False

    def bound(self, certificate: CertificateIdentity | None) -> None:
        """Let this request over https, of a client with this certificate (None: with none that counts), have only a
        part of the bytes, together with others of its kind. Is called before anything is reserved."""
        if certificate is None:
            self._client, self._part = "strangers", STRANGERS_PART
        elif certificate.kind == MACHINE:
            self._client, self._part = certificate.subject, WORKERS_PART

    def bound_stream(self, user: Hashable) -> None:
        """Let this stream of an answer have only a part of the bytes, together with the others of this user. Is called
        before anything is reserved for it; a client that is bounded already stays so."""
        if self._client is None:
            self._client, self._part, self.refusal = ("streams", user), STREAMS_PART, OVERLOADED_BY_USER

    def reserve(self, size: int) -> bool:
        """Reserve this many more bytes, or less if it is negative; False if they do not fit beside other requests'."""
        limiter = self._limiter
        size = max(size, -self._reserved)  # what is given back after `release` was given back by that
        if self._exceeds(limiter.reserved, size, limiter.max_bytes):
            return False
        if self._client is not None:
            own = limiter.reserved_by.get(self._client, 0)
            if self._exceeds(own, size, limiter.max_bytes // self._part):
                return False
            limiter.reserved_by[self._client] = own + size
        limiter.reserved += size
        self._reserved += size
        return True

    def _exceeds(self, reserved: int, size: int, most: int) -> bool:
        """True if `size` more than what is reserved is too much; never for the only request that has something."""
        return size > 0 and reserved > self._reserved and reserved + size > most

    async def wait_for_slot(self) -> None:
        """Become one of the few requests that may list everything, until `release`."""
        if not self._has_slot:
            await self._limiter.listing_slots.acquire()
            self._has_slot = True

    def release(self) -> None:
        """Give back the bytes and the slot."""
        if self._has_slot:
            self._limiter.listing_slots.release()
            self._has_slot = False
        self._limiter.reserved -= self._reserved
        if self._client is not None and (left := self._limiter.reserved_by.pop(self._client, 0) - self._reserved):
            self._limiter.reserved_by[self._client] = left
        self._reserved = 0


_current: ContextVar[RequestBudget | None] = ContextVar("budget", default=None)


async def wait_for_listing_slot() -> None:
    """Wait until the current request may list everything."""
    budget = _current.get()
    if budget is not None:
        await budget.wait_for_slot()


def bound_stream(user: Hashable) -> None:
    """Let the stream that is being made have only a part of the bytes, together with the others of this user."""
    budget = _current.get()
    if budget is not None:
        budget.bound_stream(user)


def reserve_read(size: int) -> None:
    """Reserve bytes that were read from the store for the current request, or give some back (a negative size). Raises
    ApiError if there is no room."""
    budget = _current.get()
    if budget is not None and not budget.reserve(size):
        raise ApiError(503, budget.refusal, RETRY_SOON)
