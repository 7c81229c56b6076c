"""The connection of one fleetd to the store: a Store of the same protocol whose requests and answers can be late, lost,
or cut off in either direction.

A request that was sent arrives although its caller gave up; a watch resumes at its last revision, and skips nothing.
Faults of the store itself are in server.py.
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from random import Random
from typing import Any, TypeVar

from fleetd.store.protocol import (
    Changes,
    Compacted,
    Comparison,
    KeepAlive,
    KeyValue,
    Operation,
    PrefixDigest,
    RangeResult,
    StoreError,
    StoreMember,
    Unavailable,
)
from tests.simulation.server import ObservedStore, StoreServer

T = TypeVar("T")

REQUEST_TIMEOUT_S = 1.0
RECONNECT_S = 0.5
QUICK_S = 0.002

# the worker for whom a server asks the store at present, '' if it asks for itself
acting_for: contextvars.ContextVar[str] = contextvars.ContextVar("acting_for", default="")

Observer = Callable[[str, Sequence[Comparison], Sequence[Operation]], None]
IsFatal = Callable[[str], bool]  # told of each write just before and just after it: is its fleetd dead now?


class Link:
    """A machine's network to the store. It outlives each fleetd that uses it; `random` draws what is late and lost."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.latency_s = QUICK_S
        self.loses_requests = 0.0  # shares of requests and answers
        self.loses_answers = 0.0
        self.awake = asyncio.Event()  # whether the machine's fleetd gets processor time
        self.awake.set()
        self.hears = asyncio.Event()  # whether watches report anything
        self.hears.set()

    def mend(self) -> None:
        """End all faults of the network."""
        self.latency_s, self.loses_requests, self.loses_answers = QUICK_S, 0.0, 0.0
        self.hears.set()

    def delay_s(self) -> float:
        """The delay of this message: mostly short, sometimes the longest."""
        return self.latency_s * self._random.random() ** 2

    def carries_request(self) -> bool:
        """True if this request arrives."""
        return self.loses_requests == 0 or self._random.random() >= self.loses_requests

    def carries_answer(self) -> bool:
        """True if this answer arrives."""
        return self.loses_answers == 0 or self._random.random() >= self.loses_answers


class Wire:
    """One fleetd's connection to the store (fleetd/store/protocol.py). `on_write` gets each arriving transaction and
    its machine (a worker, if a server writes for one), `on_failure` what no store would raise; `is_fatal` is asked
    about each transaction; `requests` counts them by kind."""

    def __init__(
        self,
        owner: str,
        server: StoreServer,
        link: Link,
        on_write: Observer,
        on_failure: Callable[[str, BaseException], None],
        is_fatal: IsFatal,
    ) -> None:
        self._owner = owner
        self._server = server
        self._link = link
        self._on_write = on_write
        self._on_failure = on_failure
        self._is_fatal = is_fatal
        self._is_closed = False
        self._underway: dict[asyncio.Task[None], None] = {}
        self.requests: dict[str, int] = {}

    async def cluster_id(self) -> str:
        return await self._ask("cluster_id", lambda store: store.cluster_id())

    async def get(self, key: str) -> KeyValue | None:
        return await self._ask("get", lambda store: store.get(key))

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        return await self._ask("get_many", lambda store: store.get_many(keys, revision=revision))

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        return await self._ask("range", lambda store: store.range(prefix, after=after, limit=limit, revision=revision))

    async def digest(self, prefix: str) -> PrefixDigest:
        return await self._ask("digest", lambda store: store.digest(prefix))

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        what = f"the transaction of {', '.join(operation.key for operation in operations)}"

        async def write(store: ObservedStore) -> int:
            self._on_write(acting_for.get() or self._owner, comparisons, operations)
            if not self._is_closed and self._is_fatal(f"before {what}"):
                raise Unavailable("who asked is dead")
            revision = await store.transact(comparisons, operations)
            if not self._is_closed:
                self._is_fatal(f"after {what}")
            return revision

        return await self._ask("transact", write)

    async def grant(self, ttl_s: float) -> int:
        return await self._ask("grant", lambda store: store.grant(ttl_s))

    async def keep_alive(self, lease: int) -> KeepAlive:
        return await self._ask("keep_alive", lambda store: store.keep_alive(lease))

    async def time_to_live(self, lease: int) -> float | None:
        return await self._ask("time_to_live", lambda store: store.time_to_live(lease))

    async def revoke(self, lease: int) -> None:
        await self._ask("revoke", lambda store: store.revoke(lease))

    async def compact(self, revision: int) -> None:
        await self._ask("compact", lambda store: store.compact(revision))

    async def revision(self) -> int:
        return await self._ask("revision", lambda store: store.revision())

    async def members(self) -> tuple[StoreMember, ...]:
        return ()  # the simulated store runs on none of the machines

    async def is_healthy(self, member: StoreMember) -> bool:
        raise AssertionError(f"there is no member {member.id}")

    async def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        position = after_revision
        while not self._is_closed:
            store = await self._server.found_up()
            try:
                async for changes in store.watch(prefix, position, end=end):
                    await self._let_through()
                    if store is not self._server.store:
                        break  # they were still on their way when the store died
                    position = changes.revision
                    yield changes
            except Compacted:
                await self._let_through()
                raise
            await asyncio.sleep(RECONNECT_S)

    async def _let_through(self) -> None:
        """Wait until an answer comes through: a stream delivers what was lost once it can."""
        await asyncio.sleep(self._link.delay_s())
        while not (self._link.carries_answer() and self._server.answers):  # noqa: ASYNC110 (each try is drawn anew)
            await asyncio.sleep(RECONNECT_S)
        await self._link.hears.wait()
        await self._link.awake.wait()

    async def close(self) -> None:
        self.cut()

    def cut(self) -> None:
        """Send nothing more. What is on its way arrives."""
        self._is_closed = True

    async def _ask(self, kind: str, work: Callable[[ObservedStore], Awaitable[T]]) -> T:
        """Send a request, and wait for its answer until its timeout. Raises what the store raises."""
        self.requests[kind] = self.requests.get(kind, 0) + 1
        await self._link.awake.wait()
        if self._is_closed:
            raise Unavailable("the connection to the store is closed")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        underway = asyncio.create_task(self._carry(work, answer))
        self._underway[underway] = None
        underway.add_done_callback(self._note_end)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await answer
        except TimeoutError:
            raise Unavailable("the store does not answer") from None
        finally:
            await self._link.awake.wait()

    def _note_end(self, underway: asyncio.Task[None]) -> None:
        del self._underway[underway]
        error = None if underway.cancelled() else underway.exception()
        if error is not None:
            self._on_failure(f"a request of {self._owner}", error)

    async def _carry(self, work: Callable[[ObservedStore], Awaitable[T]], answer: asyncio.Future[T]) -> None:
        """One request's way to the store and back."""
        incarnation = self._server.incarnation
        await asyncio.sleep(self._link.delay_s())
        if not self._link.carries_request():
            return
        result: Any = None
        error: StoreError | None = None
        try:
            store = await self._server.answering()
            if self._server.incarnation != incarnation:
                raise Unavailable("the store has ended the connection")
            result = await work(store)
        except StoreError as failure:
            error = failure
        await asyncio.sleep(self._link.delay_s())
        if answer.done() or not self._link.carries_answer():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)
