"""The worker API: requests of workers to the store of their cluster, as store/worker_wire.py says.

A worker is known by its certificate. What it may read and write is decided by model/worker_access.py, from the machine
that the certificate names and from nothing else.
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from fleetd import metrics
from fleetd.api.connection_limits import reserve_read
from fleetd.api.http import ApiError, Request, Response, StreamedResponse
from fleetd.api.locking import Locking
from fleetd.api.worker.calls import Preparation, WorkerCalls, check_numbers
from fleetd.api.worker.errors import Forbidden, Lagging
from fleetd.api.worker.fanout import Fanout, Subscription
from fleetd.api.worker.history import StoreHistory
from fleetd.api.worker.leases import LeaseOwners
from fleetd.api.worker.limits import Limits, WorkerLimits, WorkerUse
from fleetd.api.worker.locks import WorkerLocks
from fleetd.api.worker.records import WorkerRecords
from fleetd.api.worker.servers import KnownServers
from fleetd.model.certificate import MACHINE, WORKER
from fleetd.model.decoding import UNREADABLE
from fleetd.model.worker_access import Access, find_access, owner_of_request
from fleetd.registry.registry import Registry
from fleetd.store import worker_wire as wire
from fleetd.store.protocol import Compacted, Conflict, LeaseNotFound, StoreError, Unavailable

log = logging.getLogger(__name__)

MOST_WATCHES = 16  # of one stream; a worker has three
_HEADERS = (("Content-Type", wire.CONTENT_TYPE),)
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (Conflict, wire.CONFLICT),
    (Compacted, wire.COMPACTED),
    (LeaseNotFound, wire.LEASE_NOT_FOUND),
    (Forbidden, wire.FORBIDDEN),
    (Unavailable, wire.UNAVAILABLE),
    (ValueError, wire.MALFORMED),
)


class WorkerApi:
    """Answers workers. `not_ready()` returns why it cannot yet, '' if it can. `find_access` returns what a machine may
    do, `records` prepares what it writes; tests of other parts replace them. `now` is a monotonic clock, `epoch()` the
    name of the store's epoch (StoreEpoch) as far as this server knows, '' at first. `locking` takes the locks of their
    units."""

    def __init__(
        self,
        registry: Registry,
        *,
        not_ready: Callable[[], str] = lambda: "",
        find_access: Callable[[str, str], Access] = find_access,
        records: Preparation | None = None,
        limits: Limits | None = None,
        now: Callable[[], float] = time.monotonic,
        note_read: Callable[[int], None] = reserve_read,
        heartbeat_s: float = wire.WATCH_HEARTBEAT_S,
        epoch: Callable[[], str] = lambda: "",
        locking: Locking | None = None,
    ) -> None:
        self._registry = registry
        self._not_ready = not_ready
        self._find_access = find_access
        self._heartbeat_s = heartbeat_s
        self._limits = WorkerLimits(now, limits)
        self._history = StoreHistory(registry)
        self.fanout = Fanout(registry, self._history.forget, epoch)
        self._requests = Fanout(registry, epoch=epoch, prefix=registry.requests_prefix, owner_of=owner_of_request)
        self._locks = WorkerLocks(registry, locking) if locking is not None else None
        self._calls = WorkerCalls(
            registry,
            records if records is not None else WorkerRecords(registry),
            self._history,
            LeaseOwners(registry, now),
            KnownServers(registry, now),
            note_read,
            self._locks,
        )

    def close(self) -> None:
        """End all streams."""
        self.fanout.close()
        self._requests.close()
        if self._locks is not None:
            self._locks.close()

    async def handle(self, request: Request) -> Response | StreamedResponse:
        """The response to a request whose path begins with worker_wire.PREFIX."""
        call = request.path.removeprefix(wire.PREFIX)
        try:
            response = await self._answer(call, request)
        except (StoreError, ApiError, ValueError) as error:
            status, failure = _describe(error)
            response = Response(status, _HEADERS, wire.encode(failure))
        known = call if call in wire.CALLS else "other"
        metrics.WORKER_ANSWERS.labels(known, str(response.status)).inc()
        return response

    async def _answer(self, call: str, request: Request) -> Response | StreamedResponse:
        access = self._identify(request)
        if reason := self._not_ready():
            raise Unavailable(reason)
        with self._limits.request(access.machine, len(request.body)) as use:
            asked = _parse(call, request)
            if isinstance(asked, wire.WatchRequest):
                return await self._watch(access, asked, use)
            body = wire.encode(await self._calls.answer(call, access, asked))
            use.spend_bytes(len(body))
        return Response(200, _HEADERS, body)

    def _identify(self, request: Request) -> Access:
        """What the client may do. Raises Forbidden for others than workers."""
        certificate = request.certificate
        if certificate is None or (certificate.kind, certificate.role) != (MACHINE, WORKER):
            who = "who has no certificate" if certificate is None else certificate.subject
            raise Forbidden(f"only workers ask for this, with the certificate of their machine, not {who}")
        return self._find_access(self._registry.prefix, certificate.name)

    async def _watch(self, access: Access, request: wire.WatchRequest, use: WorkerUse) -> StreamedResponse:
        if len(request.watches) > MOST_WATCHES:
            raise ValueError(f"{len(request.watches)} watches in one stream: at most {MOST_WATCHES} are allowed")
        check_numbers(request)
        revision = await self._registry.store.revision()
        history = await self._history.judge(request, revision)
        use.check_streams()
        return StreamedResponse(200, self._stream(access, request, revision, history, use), _HEADERS)

    async def _stream(
        self, access: Access, request: wire.WatchRequest, revision: int, history: str, use: WorkerUse
    ) -> AsyncGenerator[bytes, None]:
        """The frames of the watches, until they are over or the worker is gone."""
        try:
            with use.stream():
                metrics.WORKERS.set(self._limits.streaming)
                subscription = Subscription(access, request.watches)
                failed: dict[int, Compacted] = {}
                try:
                    for fanout, numbers in self._distribute(request.watches):
                        failed |= await fanout.subscribe(subscription, numbers, revision)
                    for number, error in failed.items():
                        status, failure = _describe(error)
                        yield _frame(revision, history, number=number, status=status, failure=failure)
                    yield _frame(self._seen_by(subscription), history)
                    while not subscription.is_over and subscription.watches:
                        parts = await subscription.next_parts(self._heartbeat_s)
                        self.fanout.check_epoch()
                        for number, events, until in parts:
                            frame = _frame(until, history, number=number, events=events)
                            use.spend_bytes(len(frame))
                            yield frame
                        if not parts and not subscription.is_over:
                            yield _frame(self._seen_by(subscription), history)
                    if (end := subscription.failure) is not None:
                        status, failure = _describe(end)
                        for number in subscription.watches:
                            yield _frame(end.revision, history, number=number, status=status, failure=failure)
                finally:
                    for fanout in (self.fanout, self._requests):
                        fanout.leave(subscription)
        except Unavailable as error:
            log.info("cannot open the watches of worker %s, which tries again: %s", access.machine, error)
        finally:
            metrics.WORKERS.set(self._limits.streaming)

    def _distribute(self, watches: Sequence[wire.WatchFrom]) -> Iterator[tuple[Fanout, list[int]]]:
        """The numbers of these watches by who distributes what they watch. Below a prefix of `/` that is one alone."""
        requests = self._registry.requests_prefix
        is_apart = not requests.startswith(self._registry.prefix)
        to_machines = [number for number, watch in enumerate(watches) if is_apart and watch.prefix.startswith(requests)]
        others = [number for number in range(len(watches)) if number not in to_machines]
        yield from ((fanout, own) for fanout, own in ((self.fanout, others), (self._requests, to_machines)) if own)

    def _seen_by(self, subscription: Subscription) -> int:
        """Up to which revision all watches of the stream have seen everything, but for requests: one that is missed is
        one that stays unanswered for the user."""
        if subscription.has_news:
            return subscription.position
        return max(self.fanout.position, subscription.position)


def _frame(revision: int, history: str, **fields: object) -> bytes:
    return wire.encode_frame(wire.WatchFrame(store_revision=revision, history=history, **fields))  # type: ignore[arg-type]


def _parse(call: str, request: Request) -> wire.Request:
    """Raises ValueError for what is no request of a worker."""
    if request.method != "POST" or call not in wire.CALLS:
        raise ValueError(f"{request.method} {request.path} is no call of a worker; is its fleetd newer than this one?")
    if request.header_values("Content-Type") != [wire.CONTENT_TYPE]:
        raise ValueError(f"only acceptable Content-Type is {wire.CONTENT_TYPE}")
    try:
        return wire.decode_request(call, request.body)
    except RecursionError as error:
        raise ValueError("the body is nested too deeply") from error
    except UNREADABLE as error:
        raise ValueError(str(error)) from error


def _describe(error: Exception) -> tuple[int, wire.Failure]:
    """The status for an error, and its words."""
    if isinstance(error, ApiError):  # too much is read at once
        return wire.UNAVAILABLE, wire.Failure(message=str(error))
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    if isinstance(error, Compacted):
        return status, wire.Failure(message=str(error), revision=error.revision, was_set_back=error.was_set_back)
    return status, wire.Failure(message=str(error), lagging=isinstance(error, Lagging))
