"""The messages of etcd's v3 JSON gateway, and their translation to the protocol's values. Pure.

The gateway uses protobuf's JSON encoding: bytes are base64 (msgspec encodes `bytes` so), 64-bit integers are strings
(hence decoders that are not strict), and zero, false and empty values are omitted (hence a default for every field).
"""

from collections.abc import Sequence
from functools import partial
from typing import Generic, TypeVar

import msgspec

from fleetd.model.decoding import UNREADABLE, Count
from fleetd.store.failures import EndpointFailed
from fleetd.store.limits import end_of_prefix, start_of_range
from fleetd.store.protocol import (
    Changes,
    Compacted,
    Comparison,
    CreatedAt,
    Event,
    KeyValue,
    Operation,
    Put,
    StoreMember,
    Unavailable,
    Unchanged,
)

T = TypeVar("T")

# Errors of etcd. Messages tell them apart, in etcd's own client too (api/v3rpc/rpctypes/error.go).
LEASE_NOT_FOUND = "requested lease not found"
COMPACTED = "required revision has been compacted"
FUTURE_REVISION = "required revision is a future revision"
AUTHENTICATION_IS_OFF = "authentication is not enabled"
NEED_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")
_FULL = "database space exceeded"

_MEMBER_TROUBLE = (408, 429)  # HTTP statuses that concern one member only, besides 5xx


class Refused(Unavailable):
    """etcd rejects the request, with this error; every endpoint would."""

    def __init__(self, error: str) -> None:
        super().__init__(f"etcd refused the request: {error}")
        self.error = error

    def says(self, *errors: str) -> bool:
        """True if it is one of these errors of etcd."""
        return any(error in self.error for error in errors)


# Requests. Structs whose zero values must be sent do not omit defaults.


class RangeRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    keys_only: bool = False
    sort_order: str = ""
    sort_target: str = ""


class PutRequest(msgspec.Struct, frozen=True):
    key: bytes
    value: bytes
    lease: int


class DeleteRangeRequest(msgspec.Struct, frozen=True):
    key: bytes


class RequestOperation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one of the fields is set."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None


class CompareRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """True if the key's `target` equals the one field that is set."""

    key: bytes
    target: str
    mod_revision: int | None = None
    create_revision: int | None = None
    value: bytes | None = None


class TxnRequest(msgspec.Struct, frozen=True):
    compare: tuple[CompareRequest, ...]
    success: tuple[RequestOperation, ...]


class WatchCreateRequest(msgspec.Struct, frozen=True):
    key: bytes
    range_end: bytes
    start_revision: int
    fragment: bool = True
    progress_notify: bool = True


class WatchRequest(msgspec.Struct, frozen=True):
    create_request: WatchCreateRequest


class LeaseGrantRequest(msgspec.Struct, frozen=True):
    TTL: int


class LeaseRequest(msgspec.Struct, frozen=True):
    """For keepalive, timetolive and revoke."""

    ID: int


class CompactionRequest(msgspec.Struct, frozen=True):
    revision: int


class EmptyRequest(msgspec.Struct, frozen=True):
    """A request that says nothing but what it is."""


class AuthenticateRequest(msgspec.Struct, frozen=True):
    name: str
    password: str


# Answers.


class Header(msgspec.Struct, frozen=True):
    """`revision` is that of the answering member, `member_id`, after the request."""

    cluster_id: int = 0
    member_id: int = 0
    revision: Count = 0


class WireKeyValue(msgspec.Struct, frozen=True):
    key: bytes = b""
    value: bytes = b""
    create_revision: Count = 0
    mod_revision: Count = 0
    lease: Count = 0


class RangeResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    kvs: tuple[WireKeyValue, ...] = ()
    more: bool = False
    count: int = 0


class OperationResponse(msgspec.Struct, frozen=True):
    """The answer to a range in a transaction; the answers to puts and deletes are ignored."""

    response_range: RangeResponse = RangeResponse()


class TxnResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    succeeded: bool = False
    responses: tuple[OperationResponse, ...] = ()


class LeaseGrantResponse(msgspec.Struct, frozen=True):
    ID: Count


class LeaseKeepAliveResponse(msgspec.Struct, frozen=True):
    """`TTL` is 0 if the lease does not exist."""

    header: Header = Header()
    TTL: int = 0


class LeaseTimeToLiveResponse(msgspec.Struct, frozen=True):
    """`TTL` is -1 if the lease does not exist."""

    TTL: int = 0


class EmptyResponse(msgspec.Struct, frozen=True):
    """An answer whose content is ignored."""


class WireMember(msgspec.Struct, frozen=True):
    ID: int
    name: str = ""
    peer_urls: tuple[str, ...] = msgspec.field(default=(), name="peerURLs")
    client_urls: tuple[str, ...] = msgspec.field(default=(), name="clientURLs")
    is_learner: bool = msgspec.field(default=False, name="isLearner")


class MemberListResponse(msgspec.Struct, frozen=True):
    members: tuple[WireMember, ...] = ()


class AuthenticateResponse(msgspec.Struct, frozen=True):
    token: str = ""


class WireEvent(msgspec.Struct, frozen=True):
    kv: WireKeyValue
    type: str = "PUT"


class WatchResponse(msgspec.Struct, frozen=True):
    """`fragment`: more events of the same revisions follow. Events of the header's revision may still be to come."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: Count = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: tuple[WireEvent, ...] = ()


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of an error response, and the last message of a stream that fails."""

    message: str = ""


class Streamed(msgspec.Struct, Generic[T], frozen=True):
    """One line of a stream: a result, or an error after the status 200 was sent."""

    result: T | None = None
    error: ErrorResponse | None = None


LEASE_KEEP_ALIVE = msgspec.json.Decoder(Streamed[LeaseKeepAliveResponse], strict=False)
WATCH = msgspec.json.Decoder(Streamed[WatchResponse], strict=False)
ERROR = msgspec.json.Decoder(ErrorResponse)


def parse_refusal(status: int, body: bytes) -> EndpointFailed | Refused:
    """The error that a response with another status than 200 means."""
    try:
        message = ERROR.decode(body).message
    except UNREADABLE:  # from a proxy
        message = body[:200].decode("utf-8", "replace").strip()
    message = message or f"HTTP status {status}"
    if _FULL in message:
        return Refused(f"{message} (compact and defragment it, then `etcdctl alarm disarm`)")
    if status >= 500 or status in _MEMBER_TROUBLE:
        return EndpointFailed(message)
    return Refused(message)


def parse(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode an answer. Raises EndpointFailed if it is not from etcd."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise EndpointFailed(f"this is not an answer of etcd: {error}") from error


def parse_line(decoder: msgspec.json.Decoder[Streamed[T]], line: bytes) -> T:
    """Decode one line of a stream. Raises EndpointFailed if it is the error that ends the stream."""
    streamed = parse(decoder, line)
    if streamed.result is None:
        raise EndpointFailed(streamed.error.message if streamed.error else "the stream sent an empty message")
    return streamed.result


def parse_keep_alive(body: bytes) -> LeaseKeepAliveResponse:
    """The answer to a heartbeat, which is a stream of one line."""
    return parse_line(LEASE_KEEP_ALIVE, body)


parse_range = partial(parse, msgspec.json.Decoder(RangeResponse, strict=False))
parse_txn = partial(parse, msgspec.json.Decoder(TxnResponse, strict=False))
parse_lease_grant = partial(parse, msgspec.json.Decoder(LeaseGrantResponse, strict=False))
parse_lease_time_to_live = partial(parse, msgspec.json.Decoder(LeaseTimeToLiveResponse, strict=False))
parse_empty = partial(parse, msgspec.json.Decoder(EmptyResponse))
parse_member_list = partial(parse, msgspec.json.Decoder(MemberListResponse, strict=False))
parse_authenticate = partial(parse, msgspec.json.Decoder(AuthenticateResponse))


def render_range(prefix: str, after: str = "") -> RangeRequest:
    """The request for the keys with this prefix, only those after the key `after` if it is not ''."""
    return RangeRequest(key=start_of_range(prefix, after) or b"\0", range_end=end_of_prefix(prefix))


def render_digest(prefix: str) -> RangeRequest:
    """The request for the last written key with this prefix, without its value; the answer also counts all of them."""
    whole = render_range(prefix)
    return RangeRequest(whole.key, whole.range_end, limit=1, keys_only=True, sort_order="DESCEND", sort_target="MOD")


def render_reads(keys: Sequence[str], revision: int = 0) -> TxnRequest:
    """A transaction that reads these keys, all at this revision (0: the latest)."""
    reads = (RangeRequest(key.encode(), revision=revision) for key in keys)
    return TxnRequest((), tuple(RequestOperation(request_range=read) for read in reads))


def render_transaction(comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> TxnRequest:
    """The transaction as etcd's request."""
    return TxnRequest(tuple(map(_render_comparison, comparisons)), tuple(map(_render_operation, operations)))


def _render_comparison(comparison: Comparison) -> CompareRequest:
    key = comparison.key.encode()
    if isinstance(comparison, Unchanged):
        return CompareRequest(key, "MOD", mod_revision=comparison.mod_revision)
    if isinstance(comparison, CreatedAt):
        return CompareRequest(key, "CREATE", create_revision=comparison.create_revision)
    return CompareRequest(key, "VALUE", value=comparison.value)


def _render_operation(operation: Operation) -> RequestOperation:
    key = operation.key.encode()
    if isinstance(operation, Put):
        return RequestOperation(request_put=PutRequest(key, operation.value, operation.lease))
    return RequestOperation(request_delete_range=DeleteRangeRequest(key))


def parse_members(answer: MemberListResponse) -> tuple[StoreMember, ...]:
    """The members, by id."""
    members = [
        StoreMember(f"{each.ID:x}", each.name, each.peer_urls, each.client_urls, not each.is_learner)
        for each in answer.members
    ]
    return tuple(sorted(members, key=lambda member: member.id))


def parse_key_value(kv: WireKeyValue) -> KeyValue:
    """The protocol's value. A key that is not UTF-8, which fleetd never writes, is returned with U+FFFD in it."""
    return KeyValue(_parse_key(kv), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def _parse_event(event: WireEvent) -> Event:
    item = None if event.type == "DELETE" else parse_key_value(event.kv)
    return Event(_parse_key(event.kv), item, event.kv.mod_revision)


def _parse_key(kv: WireKeyValue) -> str:
    return kv.key.decode("utf-8", "replace")


FIRST_PAGE = 32  # keys: with unit files of the largest size 11 MiB, which etcd sends well within a second
MOST_KEYS = 2048
PAGE_TARGET_BYTES = 2 * 1024 * 1024  # of values: a page is decoded in about ten milliseconds
PAGE_BYTES = 32 * 1024 * 1024  # of an answer; for a larger one, fewer keys are requested


class Pages:
    """Reads one range page by page. The number of keys in a page is estimated from the size of the values before it.
    Keys of one folder (the first path segment after the prefix) have values of similar size; each folder begins with
    few."""

    def __init__(self, prefix: str, after: str) -> None:
        self._prefix = prefix.encode()
        self._start = start_of_range(prefix, after) or b"\0"
        self._end = end_of_prefix(prefix)
        self._folder_end = self._end  # the first page may span folders
        self._keys = FIRST_PAGE

    def request(self, revision: int, limit: int) -> RangeRequest:
        """The request for the next page, at this revision (0: the latest), of at most `limit` keys (0: no limit)."""
        keys = min(self._keys, limit) if limit else self._keys
        return RangeRequest(key=self._start, range_end=self._folder_end, limit=keys, revision=revision)

    def shrink(self) -> bool:
        """Request fewer keys, because the page was too large. False if it was one key already."""
        if self._keys == 1:
            return False
        self._keys = max(1, self._keys // 8)
        return True

    def advance(self, answer: RangeResponse) -> bool:
        """Go on after this page. False if it was the last."""
        if answer.more:
            last = answer.kvs[-1].key
            self._start = last + b"\0"
            size = sum(len(kv.value) for kv in answer.kvs) // len(answer.kvs)
            self._folder_end = self._end_of_folder(last)
            is_one_folder = self._folder_end == self._end_of_folder(answer.kvs[0].key)
            grown = 4 * self._keys if is_one_folder else FIRST_PAGE
            self._keys = max(1, min(PAGE_TARGET_BYTES // (size + 1), grown, MOST_KEYS))
            return True
        self._start, self._folder_end, self._keys = self._folder_end, self._end, FIRST_PAGE
        return self._start != self._end

    def _end_of_folder(self, key: bytes) -> bytes:
        """The end of this key's folder."""
        folder, slash, _ = key.removeprefix(self._prefix).partition(b"/")
        return self._prefix + folder + b"0" if slash else self._end  # in ASCII, 0 follows the slash


class WatchPosition:
    """The progress of one watch, which several streams serve one after another."""

    def __init__(self, prefix: str, after_revision: int, end: str = "") -> None:
        self.revision = after_revision
        self._range = render_range(prefix)
        self._end = end.encode() or self._range.range_end
        self._cluster_id = 0
        self._fragments: list[WireEvent] = []

    def request(self) -> WatchRequest:
        """The request for a new stream. It begins with the last revision that was seen, whose events `take` drops: etcd
        before 3.4.36 and 3.5.18 loses deletions at the very revision it was compacted to."""
        self._fragments = []
        start = max(1, self.revision)  # 0 means from now on
        return WatchRequest(WatchCreateRequest(self._range.key, self._end, start))

    def take(self, answer: WatchResponse) -> Changes | None:
        """Process one answer; returns the changes that it completes. Raises Compacted, also if another cluster answers,
        whose revisions mean nothing here."""
        if answer.compact_revision:
            raise Compacted(answer.compact_revision + 1)
        self._cluster_id = self._cluster_id or answer.header.cluster_id
        if answer.header.cluster_id != self._cluster_id:
            raise Compacted(answer.header.revision)
        self._fragments += answer.events
        if answer.fragment or answer.canceled or answer.created:
            return None
        if not self._fragments:  # a progress notification: no events up to this revision
            self.revision = max(self.revision, answer.header.revision)
            return None
        events = tuple(_parse_event(event) for event in self._fragments if event.kv.mod_revision > self.revision)
        self._fragments = []
        if not events:
            return None
        self.revision = events[-1].revision
        return Changes(events, self.revision)
