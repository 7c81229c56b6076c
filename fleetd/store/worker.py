"""The store of a worker: the protocol's methods as requests to the servers of the cluster.

A worker has no access to etcd. Each server answers for it what concerns its own machine (fleetd/api/worker).
worker_wire.py has the format, worker_watches.py the watches, http_gateway.py the failover between servers.
"""

import asyncio
import logging
import math
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from fleetd.model.decoding import UNREADABLE
from fleetd.store import worker_wire as wire
from fleetd.store.failures import EndpointFailed
from fleetd.store.http_gateway import ANSWER_BYTES, Gateway
from fleetd.store.limits import check_keys, check_transaction
from fleetd.store.protocol import (
    Changes,
    Compacted,
    Comparison,
    Conflict,
    KeepAlive,
    KeyValue,
    LeaseNotFound,
    Operation,
    PrefixDigest,
    RangeResult,
    Refused,
    StoreError,
    StoreMember,
)
from fleetd.store.worker_watches import Position, Watches

A = TypeVar("A", bound=wire.Answer)

log = logging.getLogger(__name__)

MOST_BYTES = 256 * 1024 * 1024  # of a range: every placement of one machine
ASK_SERVERS_S = 600.0
SILENCE_S = 3 * wire.WATCH_HEARTBEAT_S
_REFUSALS = (401, wire.FORBIDDEN)


class Forbidden(Refused):
    """A worker may not do that; every server would refuse it."""


class WorkerStore:
    """The servers of a cluster, at https: URLs (see fleetd/store/protocol.py). Needs a running event loop.

    `context` returns the TLS context of a new connection, with this machine's certificate (None: for http: in tests).
    `request_timeout_s` is how long one server may be silent before the next one is tried. `epoch` and
    `highest_revision` are what an earlier fleetd knew of the store (membership/store_epoch.py; '' and 0: nothing).
    After `silence_s` without a word from it, the stream of the watches is taken for dead. Servers say which others
    there are: those are used besides the given ones, and `on_servers` is called with them when they have changed.
    `learned` are those of an earlier fleetd. `arrange` returns the order in which servers are asked. `make_gateway`
    makes the connections.
    """

    def __init__(
        self,
        servers: Sequence[str],
        context: Callable[[], ssl.SSLContext] | None,
        *,
        request_timeout_s: float = 2.0,
        epoch: str = "",
        highest_revision: int = 0,
        silence_s: float = SILENCE_S,
        arrange: Callable[[Iterable[str]], Sequence[str]] = tuple,
        learned: Sequence[str] = (),
        on_servers: Callable[[Sequence[str]], None] = lambda servers: None,
        make_gateway: Callable[..., Gateway] = Gateway,
    ) -> None:
        self._given = tuple(servers)
        self._on_servers = on_servers
        self._now = asyncio.get_running_loop().time
        self._asked_s = -math.inf  # when the servers were last asked for
        self._arrange = arrange
        endpoints = self._in_turn(learned)
        self._gateway = make_gateway(endpoints, _Format(), request_timeout_s=request_timeout_s, context=context)
        self._seen = Position(wire.history_mark(epoch), highest_revision if epoch else 0)
        self._watches = Watches(self._gateway, self._seen, silence_s)

    async def cluster_id(self) -> str:
        answer = await self._ask("cluster-id", wire.Request, wire.ClusterIdAnswer)
        self._asked_s = self._now()
        servers = self._in_turn(answer.servers)
        if answer.servers and servers != self._gateway.endpoints:
            self._gateway.use(servers)
            self._on_servers(answer.servers)
        return answer.cluster_id

    async def get(self, key: str) -> KeyValue | None:
        return (await self._ask("get", wire.KeyRequest, wire.KeyAnswer, {"key": key})).item

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        check_keys(keys)
        asked = {"keys": tuple(keys), "revision": revision}
        return (await self._ask("get-many", wire.KeysRequest, wire.RangeAnswer, asked, most_bytes=MOST_BYTES)).found

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        asked = {"prefix": prefix, "after": after, "limit": limit, "revision": revision}
        return (await self._ask("range", wire.RangeRequest, wire.RangeAnswer, asked, most_bytes=MOST_BYTES)).found

    async def digest(self, prefix: str) -> PrefixDigest:
        return (await self._ask("digest", wire.PrefixRequest, wire.DigestAnswer, {"prefix": prefix})).digest

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        check_transaction(comparisons, operations)
        asked = {"comparisons": tuple(comparisons), "operations": tuple(operations)}
        return (await self._ask("transact", wire.TransactRequest, wire.TransactAnswer, asked, repeat=False)).revision

    def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        return self._watches.watch(prefix, after_revision, end=end)

    async def grant(self, ttl_s: float) -> int:
        return (await self._ask("grant", wire.GrantRequest, wire.GrantAnswer, {"ttl_s": ttl_s})).lease

    async def keep_alive(self, lease: int) -> KeepAlive:
        """One heartbeat. From time to time it also asks which servers there are."""
        beat = (await self._ask("keep-alive", wire.LeaseRequest, wire.KeepAliveAnswer, {"lease": lease})).beat
        if self._now() - self._asked_s > ASK_SERVERS_S:
            self._asked_s = self._now()
            with suppress(StoreError):
                await self.cluster_id()
        return beat

    async def time_to_live(self, lease: int) -> float | None:
        return (await self._ask("time-to-live", wire.LeaseRequest, wire.TimeToLiveAnswer, {"lease": lease})).ttl_s

    async def revoke(self, lease: int) -> None:
        await self._ask("revoke", wire.LeaseRequest, wire.Answer, {"lease": lease})

    async def compact(self, revision: int) -> None:
        raise Forbidden("only servers compact the history of the store")

    async def revision(self) -> int:
        return (await self._ask("revision", wire.Request, wire.Answer)).store_revision

    async def ask_lock(self, action: str, unit: str, session: str) -> wire.LockAnswer:
        """Take, renew or release the lock of a unit here (worker_wire.LockRequest)."""
        asked = {"action": action, "unit": unit, "session": session}
        return await self._ask("lock", wire.LockRequest, wire.LockAnswer, asked)

    async def members(self) -> tuple[StoreMember, ...]:
        return ()

    async def is_healthy(self, member: StoreMember) -> bool:
        return False  # a worker knows none

    async def reconnect(self) -> None:
        """End all connections. What goes on is over new ones."""
        await self._gateway.reconnect()

    async def close(self) -> None:
        await self._watches.close()
        await self._gateway.close()

    def _in_turn(self, learned: Sequence[str]) -> tuple[str, ...]:
        """All servers, in the order in which they are asked."""
        return tuple(self._arrange(dict.fromkeys((*self._given, *learned))))

    async def _ask(
        self,
        call: str,
        request: type[wire.Request],
        answer: type[A],
        asked: Mapping[str, object] | None = None,
        *,
        repeat: bool = True,
        most_bytes: int = ANSWER_BYTES,
    ) -> A:
        """Make one of wire.CALLS with these fields of its request."""
        body = request(highest_revision=self._seen.revision, history=self._seen.history, **(asked or {}))

        def parse(received: bytes) -> A:
            return parse_answer(received, answer)

        found = await self._gateway.call(wire.PREFIX + call, body, parse, repeat=repeat, most_bytes=most_bytes)
        self._seen.note(found)
        return found


class _Format:
    """msgpack, and streams of frames."""

    name = "fleet server"
    remedy = "name the servers themselves in servers="
    content_type = wire.CONTENT_TYPE
    idle_s = 60.0  # a handshake for each heartbeat would cost more; servers keep a connection for longer

    def encode(self, request: msgspec.Struct) -> bytes:
        return wire.encode(request)

    def parse_refusal(self, status: int, body: bytes) -> Exception:
        return parse_refusal(status, body)

    def new_splitter(self) -> "_Frames":
        return _Frames()


class _Frames:
    """Splits a stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def split(self, chunk: bytes) -> Sequence[bytes]:
        self._buffer += chunk
        bodies = []
        try:
            while (body := wire.take_frame(self._buffer)) is not None:
                bodies.append(body)
        except ValueError as error:
            raise EndpointFailed(f"this is not the stream of a fleet server: {error}") from error
        return bodies


def parse_answer(body: bytes, kind: type[A]) -> A:
    try:
        found: A = wire.decode_body(body, kind)
    except UNREADABLE as error:
        raise EndpointFailed(f"this is not an answer of a fleet server: {error}") from error
    return found


def parse_refusal(status: int, body: bytes) -> Exception:
    """The error that an answer with another status than 200 means."""
    try:
        failure: wire.Failure = wire.decode_body(body, wire.Failure)
    except UNREADABLE:  # from what comes before a worker's request is understood: the check of the certificate
        return EndpointFailed(_words_of(status, body), is_lasting=status in _REFUSALS)
    return error_of(status, failure)


def error_of(status: int, failure: wire.Failure) -> Exception:
    """The error that this failure means; EndpointFailed if another server may answer."""
    if status == wire.CONFLICT:
        return Conflict(failure.message)
    if status == wire.COMPACTED:
        return Compacted(failure.revision, was_set_back=failure.was_set_back)
    if status == wire.LEASE_NOT_FOUND:
        return LeaseNotFound(failure.message)
    if status in (wire.FORBIDDEN, wire.MALFORMED):
        return Forbidden(f"the servers of the cluster refuse it: {failure.message}")
    return EndpointFailed(failure.message, was_refused=failure.lagging)


class _ApiError(msgspec.Struct):
    message: str = ""


class _ApiFailure(msgspec.Struct):
    error: _ApiError


def _words_of(status: int, body: bytes) -> str:
    """What a refusal in the API's own format says."""
    try:
        message = msgspec.json.decode(body, type=_ApiFailure).error.message
    except UNREADABLE:
        message = body[:200].decode("utf-8", "replace").strip()
    if status in _REFUSALS:
        return f"it refuses this machine: {message}"
    return message or f"HTTP status {status}"
