"""The calls of a worker, carried out on the store within what it may read and write."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from fleetd.api.worker import errors
from fleetd.api.worker.history import StoreHistory
from fleetd.api.worker.leases import LeaseOwners
from fleetd.api.worker.locks import WorkerLocks
from fleetd.api.worker.servers import KnownServers
from fleetd.model.worker_access import Access, Selection
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet
from fleetd.store import worker_wire as wire
from fleetd.store.limits import check_keys, check_transaction
from fleetd.store.protocol import (
    LeaseNotFound,
    Operation,
    PrefixDigest,
    Put,
    RangeResult,
    Unavailable,
)

MOST_INT = 2**63 - 1  # of revisions, leases and limits


class Preparation(Protocol):
    """What is written for the operations of a machine (records.py)."""

    async def prepare(self, machine: str, operations: Sequence[Operation]) -> WriteSet:
        """Raises Forbidden, Unavailable."""


class WorkerCalls:
    """Each call but watch, as a coroutine of who asks and the request. They raise what the store raises, Forbidden,
    Lagging and, for what no WorkerStore asks, ValueError. `note_read` is called with the bytes read."""

    def __init__(
        self,
        registry: Registry,
        records: Preparation,
        history: StoreHistory,
        leases: LeaseOwners,
        servers: KnownServers,
        note_read: Callable[[int], None],
        locks: WorkerLocks | None,
    ) -> None:
        self._store = registry.store
        self._records = records
        self._history = history
        self._leases = leases
        self._servers = servers
        self._note_read = note_read
        self._locks = locks
        self._calls: dict[str, Callable[..., Awaitable[wire.Answer]]] = {
            "cluster-id": self._cluster_id,
            "get": self._get,
            "get-many": self._get_many,
            "range": self._range,
            "digest": self._digest,
            "transact": self._transact,
            "grant": self._grant,
            "keep-alive": self._keep_alive,
            "time-to-live": self._time_to_live,
            "revoke": self._revoke,
            "revision": self._revision,
            "lock": self._lock,
        }

    async def answer(self, call: str, access: Access, request: wire.Request) -> wire.Answer:
        """The answer to a request of this kind."""
        check_numbers(request)
        return await self._calls[call](access, request)

    async def _cluster_id(self, access: Access, request: wire.Request) -> wire.Answer:
        cluster_id = await self._store.cluster_id()
        servers = await self._servers.urls()
        revision, history = await self._now(request)
        return wire.ClusterIdAnswer(cluster_id=cluster_id, servers=servers, store_revision=revision, history=history)

    async def _get(self, access: Access, request: wire.KeyRequest) -> wire.Answer:
        _check_readable(access, [request.key])
        found = self._note(await self._store.get_many([request.key]))
        history = await self._history.judge(request, found.revision)
        item = found.items[0] if found.items else None
        return wire.KeyAnswer(item=item, store_revision=found.revision, history=history)

    async def _get_many(self, access: Access, request: wire.KeysRequest) -> wire.Answer:
        check_keys(request.keys)
        _check_readable(access, request.keys)
        return await self._found(request, await self._store.get_many(request.keys, revision=request.revision))

    async def _range(self, access: Access, request: wire.RangeRequest) -> wire.Answer:
        selection = access.select(request.prefix)
        return await self._found(request, await self._read(selection, request.after, request.limit, request.revision))

    async def _found(self, request: wire.KeysRequest | wire.RangeRequest, found: RangeResult) -> wire.Answer:
        self._note(found)
        if request.revision:  # one that the store has had, and maybe long ago
            revision, history = await self._now(request)
        else:
            revision, history = found.revision, await self._history.judge(request, found.revision)
        return wire.RangeAnswer(found=found, store_revision=revision, history=history)

    async def _digest(self, access: Access, request: wire.PrefixRequest) -> wire.Answer:
        selection = access.select(request.prefix)
        if not selection.keys and len(selection.prefixes) == 1:
            digest = await self._store.digest(selection.prefixes[0])
        else:
            found = self._note(await self._read(selection, "", 0, 0))
            written_at = max((item.mod_revision for item in found.items), default=0)
            digest = PrefixDigest(len(found.items), written_at, found.revision)
        history = await self._history.judge(request, digest.revision)
        return wire.DigestAnswer(digest=digest, store_revision=digest.revision, history=history)

    async def _transact(self, access: Access, request: wire.TransactRequest) -> wire.Answer:
        check_transaction(request.comparisons, request.operations)
        _check_readable(access, [comparison.key for comparison in request.comparisons])
        for operation in request.operations:
            if refusal := _refuse_write(access, operation):
                raise errors.Forbidden(refusal)
        await self._history.check_before(request)
        puts = [operation for operation in request.operations if isinstance(operation, Put)]
        try:
            for lease in {put.lease for put in puts if not access.is_answer(put.key)} - {0}:
                await self._leases.check(access.machine, lease)
            for put in filter(lambda put: access.is_answer(put.key), puts):
                await self._check_answer(access, put)
        except LeaseNotFound:
            await self._store.transact(request.comparisons, [])  # a comparison that does not hold counts more
            raise
        prepared = await self._records.prepare(access.machine, request.operations)
        comparisons = (*request.comparisons, *prepared.comparisons)
        try:
            revision = await self._store.transact(comparisons, prepared.operations)
        except ValueError as error:  # with what was recorded at joining it is over a limit
            raise errors.Forbidden(str(error)) from error
        try:
            history = await self._history.judge(request, revision)
        except errors.Lagging as error:
            raise Unavailable("the store was restored while this was written: read it again") from error
        return wire.TransactAnswer(revision=revision, store_revision=revision, history=history)

    async def _check_answer(self, access: Access, put: Put) -> None:
        """Raises LeaseNotFound unless the answer is on the lease of a request that is there: it ends with that."""
        request = await self._store.get(access.request_of(put.key))
        if request is None or request.lease != put.lease:
            raise LeaseNotFound("the request that this answers is gone, or on another lease")

    async def _grant(self, access: Access, request: wire.GrantRequest) -> wire.Answer:
        await self._history.check_before(request)
        lease = await self._leases.grant(access.machine, request.ttl_s)
        revision, history = await self._now(request)
        return wire.GrantAnswer(lease=lease, store_revision=revision, history=history)

    async def _keep_alive(self, access: Access, request: wire.LeaseRequest) -> wire.Answer:
        await self._leases.check(access.machine, request.lease)
        beat = await self._store.keep_alive(request.lease)
        self._leases.note_beat(access.machine, request.lease, beat.ttl_s)
        history = await self._history.judge(request, beat.revision)
        return wire.KeepAliveAnswer(beat=beat, store_revision=beat.revision, history=history)

    async def _time_to_live(self, access: Access, request: wire.LeaseRequest) -> wire.Answer:
        try:
            await self._leases.check(access.machine, request.lease)
            ttl_s = await self._store.time_to_live(request.lease)
        except LeaseNotFound:
            ttl_s = None
        revision, history = await self._now(request)
        return wire.TimeToLiveAnswer(ttl_s=ttl_s, store_revision=revision, history=history)

    async def _revoke(self, access: Access, request: wire.LeaseRequest) -> wire.Answer:
        await self._history.check_before(request)
        try:
            await self._leases.check(access.machine, request.lease)
            await self._store.revoke(request.lease)
            self._leases.note_end(access.machine, request.lease)
        except LeaseNotFound:
            pass  # it is gone, or it is not for this machine to end
        return await self._revision(access, request)

    async def _revision(self, access: Access, request: wire.Request) -> wire.Answer:
        revision, history = await self._now(request)
        return wire.Answer(store_revision=revision, history=history)

    async def _lock(self, access: Access, request: wire.LockRequest) -> wire.Answer:
        if self._locks is None:
            raise Unavailable("this server takes no locks for workers")
        await self._history.check_before(request)
        answer = await self._locks.answer(access.machine, request)
        revision, history = await self._now(request)
        return msgspec.structs.replace(answer, store_revision=revision, history=history)

    async def _now(self, request: wire.Request) -> tuple[int, str]:
        """The revision of the store, and the mark of its history."""
        revision = await self._store.revision()
        return revision, await self._history.judge(request, revision)

    async def _read(self, selection: Selection, after: str, limit: int, revision: int) -> RangeResult:
        """The first `limit` of these keys (0: all) that come after `after`, all at one revision."""
        if not selection.keys and len(selection.prefixes) == 1:
            return await self._store.range(selection.prefixes[0], after=after, limit=limit, revision=revision)
        found = await self._store.get_many([key for key in selection.keys if key > after], revision=revision)
        items = list(found.items)
        for prefix in selection.prefixes:
            part = await self._store.range(prefix, after=after, limit=limit, revision=found.revision)
            items += part.items
        items.sort(key=lambda item: item.key)
        return RangeResult(tuple(items[:limit] if limit else items), found.revision)

    def _note(self, found: RangeResult) -> RangeResult:
        self._note_read(sum(len(item.value) for item in found.items))
        return found


def _refuse_write(access: Access, operation: Operation) -> str:
    if isinstance(operation, Put):
        return access.refuse_put(operation.key, operation.lease)
    return access.refuse_delete(operation.key)


def _check_readable(access: Access, keys: Sequence[str]) -> None:
    for key in keys:
        if not access.may_read(key):
            raise errors.Forbidden(f"a worker reads only what is of its own machine, not {key!r}")


def check_numbers(request: wire.Request) -> None:
    """Raises ValueError for numbers that no store counts to."""
    numbers = [request.highest_revision, getattr(request, "revision", 0), getattr(request, "limit", 0)]
    numbers.append(getattr(request, "lease", 0))
    if isinstance(request, wire.TransactRequest):
        numbers += [operation.lease for operation in request.operations if isinstance(operation, Put)]
        numbers += [getattr(each, "mod_revision", getattr(each, "create_revision", 0)) for each in request.comparisons]
    if isinstance(request, wire.WatchRequest):
        numbers += [watch.after_revision for watch in request.watches]
    if not all(0 <= number <= MOST_INT for number in numbers):
        raise ValueError(f"a number in the request is negative or above {MOST_INT}")
