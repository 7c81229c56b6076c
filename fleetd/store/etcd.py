"""The store on etcd v3 (3.4 and newer): the protocol's methods as requests to etcd.

etcd_gateway.py sends the requests, etcd_wire.py has their format.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeVar

from fleetd.aio import Backoff
from fleetd.store import etcd_wire as wire
from fleetd.store.etcd_gateway import EtcdGateway
from fleetd.store.etcd_tls import EtcdTls
from fleetd.store.etcd_wire import Refused, parse_line
from fleetd.store.http_gateway import AnswerTooLarge, Stream
from fleetd.store.limits import check_keys, check_transaction
from fleetd.store.protocol import (
    Changes,
    Compacted,
    Comparison,
    Conflict,
    CreatedAt,
    KeepAlive,
    KeyValue,
    LeaseNotFound,
    Operation,
    PrefixDigest,
    Put,
    RangeResult,
    StoreMember,
    Unavailable,
)

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1  # before a broken watch is opened again; doubled each time
LONGEST_PAUSE_S = 3.0

MANY_BYTES = 192 * 1024 * 1024  # the largest answer to get_many: MAX_OPERATIONS values of 1.5 MiB
ATTEMPTS = 3  # at a range whose revision is compacted while it is read

_NO_LEASE = "the lease does not exist in etcd: it has expired or was revoked"


class EtcdStore:
    """An etcd cluster (see fleetd/store/protocol.py). Needs a running event loop.

    `request_timeout_s` is how long one endpoint may be silent before the next one is tried. Transactions are not
    retried and get twice as long. `identity_key` holds the cluster's id and is read to learn the revision: if etcd's
    authorization is on, the user needs the permission to read and write it. `tls` is for https: endpoints; each
    heartbeat checks whether its files have changed.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        request_timeout_s: float = 1.0,
        username: str = "",
        password: str = "",
        tls: EtcdTls | None = None,
        identity_key: str = "/fleet/cluster",
        new_identity: Callable[[], str] = secrets.token_hex,
    ) -> None:
        self._gateway = EtcdGateway(
            endpoints, request_timeout_s=request_timeout_s, username=username, password=password, tls=tls
        )
        self._call = self._gateway.call
        self._tls = tls
        self._identity_key = identity_key
        self._new_identity = new_identity

    async def cluster_id(self) -> str:
        """etcd's cluster id, joined with an id from a key: etcd's own is a hash of its configuration, so a cluster that
        is created again, without data, has the same one."""
        answer = await self._read(self._identity_key)
        if not answer.kvs:
            identity = self._new_identity().encode()
            try:
                await self.transact([CreatedAt(self._identity_key, 0)], [Put(self._identity_key, identity)])
            except Conflict:
                log.debug("another machine wrote the id of this etcd cluster first")
            answer = await self._read(self._identity_key)
            if not answer.kvs:
                raise Unavailable(f"{self._identity_key} was just written to etcd and does not exist: who deletes it?")
        return f"{answer.header.cluster_id:x}-{answer.kvs[0].value.decode('utf-8', 'replace')}"

    async def get(self, key: str) -> KeyValue | None:
        answer = await self._read(key)
        return wire.parse_key_value(answer.kvs[0]) if answer.kvs else None

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        check_keys(keys)
        if not keys:
            return RangeResult((), revision or await self.revision())
        request = wire.render_reads(keys, revision)
        answer = await self._call("/v3/kv/txn", request, wire.parse_txn, most_bytes=MANY_BYTES)
        found = (kv for response in answer.responses for kv in response.response_range.kvs)
        return RangeResult(tuple(map(wire.parse_key_value, found)), revision or answer.header.revision)

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        """Read in pages, all at one revision, so that a large answer does not block the event loop. If the revision is
        compacted meanwhile, it starts again, unless the caller asked for that revision."""
        for _ in range(1 if revision else ATTEMPTS):
            found = await self._read_pages(prefix, after, limit, revision)
            if found is not None:
                return found
            log.debug("etcd was compacted while %s was read", prefix)
        raise Unavailable(f"etcd was compacted while {prefix} was read; let it keep at least a minute of history")

    async def _read_pages(self, prefix: str, after: str, limit: int, revision: int) -> RangeResult | None:
        """The range; None if its revision was compacted, or is in the future because etcd was restored."""
        items: list[KeyValue] = []
        has_answered = False
        pages = wire.Pages(prefix, after)
        while True:
            request = pages.request(revision, limit - len(items) if limit else 0)
            try:
                answer = await self._call("/v3/kv/range", request, wire.parse_range, most_bytes=wire.PAGE_BYTES)
            except Refused as refusal:
                if revision and refusal.says(wire.COMPACTED, wire.FUTURE_REVISION):
                    return None
                raise
            except Unavailable as error:
                is_down = not has_answered and not isinstance(error, AnswerTooLarge)
                if is_down or not pages.shrink():
                    raise Unavailable(f"{prefix} cannot be read: {error}") from error
                continue
            has_answered = True
            revision = revision or answer.header.revision
            items += map(wire.parse_key_value, answer.kvs)
            if not pages.advance(answer) or len(items) == limit:
                return RangeResult(tuple(items), revision)

    async def digest(self, prefix: str) -> PrefixDigest:
        answer = await self._call("/v3/kv/range", wire.render_digest(prefix), wire.parse_range)
        newest = answer.kvs[0].mod_revision if answer.kvs else 0
        return PrefixDigest(answer.count, newest, answer.header.revision)

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        check_transaction(comparisons, operations)
        request = wire.render_transaction(comparisons, operations)
        try:
            answer = await self._call("/v3/kv/txn", request, wire.parse_txn, repeat=False)
        except Refused as refusal:
            if refusal.says(wire.LEASE_NOT_FOUND):
                raise LeaseNotFound(_NO_LEASE) from refusal
            raise
        if not answer.succeeded:
            keys = ", ".join(comparison.key for comparison in comparisons)
            raise Conflict(f"changed in etcd meanwhile: one of {keys}")
        return answer.header.revision

    async def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        position = wire.WatchPosition(prefix, after_revision, end)
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            stream: Stream | None = None
            cause: Exception
            try:
                stream = await self._gateway.open_stream("/v3/watch", position.request())
                while True:
                    changes = await self._next_changes(stream, position)
                    backoff.reset()
                    if changes:
                        yield changes
            except Unavailable as failure:
                cause = failure
            finally:
                if stream:
                    self._gateway.close_stream(stream)
            if await self._gateway.closed_within(backoff.next_s()):
                return
            log.info("the watch on %s ended, opening it again: %s", prefix, cause)

    async def _next_changes(self, stream: Stream, position: wire.WatchPosition) -> Changes | None:
        """Handle one line of a watch. Raises Compacted, and Unavailable if the stream has ended."""
        answer = parse_line(wire.WATCH, await stream.part())
        changes = position.take(answer)
        if answer.canceled:
            refusal = Refused(answer.cancel_reason or "the watch was cancelled")
            if refusal.says(*wire.NEED_TOKEN):
                self._gateway.forget_token(stream.token)
            raise refusal
        if answer.created and answer.header.revision < position.revision:
            await self._check_not_set_back(position)
        return changes

    async def _check_not_set_back(self, position: wire.WatchPosition) -> None:
        """A member that lags behind will catch up; a store that was restored from a backup will not."""
        revision = await self.revision()
        if revision < position.revision:
            raise Compacted(revision, was_set_back=True)

    async def grant(self, ttl_s: float) -> int:
        answer = await self._call("/v3/lease/grant", wire.LeaseGrantRequest(math.ceil(ttl_s)), wire.parse_lease_grant)
        return answer.ID

    async def keep_alive(self, lease: int) -> KeepAlive:
        if self._tls:
            self._tls.refresh()
        answer = await self._call("/v3/lease/keepalive", wire.LeaseRequest(lease), wire.parse_keep_alive)
        if not answer.TTL:
            raise LeaseNotFound(_NO_LEASE)
        return KeepAlive(answer.TTL, answer.header.revision)

    async def time_to_live(self, lease: int) -> float | None:
        answer = await self._call("/v3/lease/timetolive", wire.LeaseRequest(lease), wire.parse_lease_time_to_live)
        return answer.TTL if answer.TTL >= 0 else None

    async def revoke(self, lease: int) -> None:
        try:
            await self._call("/v3/lease/revoke", wire.LeaseRequest(lease), wire.parse_empty)
        except Refused as refusal:
            if not refusal.says(wire.LEASE_NOT_FOUND):
                raise

    async def compact(self, revision: int) -> None:
        """Compact at the revision before: etcd keeps the keys of the compacted revision, but not its deletions."""
        if revision <= 1:
            return
        try:
            await self._call("/v3/kv/compaction", wire.CompactionRequest(revision - 1), wire.parse_empty)
        except Refused as refusal:
            if refusal.says(wire.FUTURE_REVISION):
                raise ValueError(f"cannot compact to revision {revision}: it is still to come") from refusal
            if not refusal.says(wire.COMPACTED):
                raise

    async def revision(self) -> int:
        return (await self._read(self._identity_key)).header.revision

    async def members(self) -> tuple[StoreMember, ...]:
        answer = await self._call("/v3/cluster/member/list", wire.EmptyRequest(), wire.parse_member_list)
        return wire.parse_members(answer)

    async def is_healthy(self, member: StoreMember) -> bool:
        """The member that answers says which one it is. So the addresses of etcd_servers are asked too: the ones that
        the member itself announces may be those of its own machine (localhost)."""
        request = wire.RangeRequest(self._identity_key.encode())
        endpoints = dict.fromkeys((*member.client_urls, *self._gateway.endpoints))
        answers = await asyncio.gather(
            *(self._gateway.ask(endpoint, "/v3/kv/range", request, wire.parse_range) for endpoint in endpoints),
            return_exceptions=True,
        )
        return any(
            isinstance(answer, wire.RangeResponse) and f"{answer.header.member_id:x}" == member.id for answer in answers
        )

    async def close(self) -> None:
        await self._gateway.close()

    async def _read(self, key: str) -> wire.RangeResponse:
        return await self._call("/v3/kv/range", wire.RangeRequest(key.encode()), wire.parse_range)
