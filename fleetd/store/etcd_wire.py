"""The shapes of etcd's v3 JSON gateway, and their translation to the protocol's values.

The gateway speaks protobuf's JSON: bytes are base64 (msgspec does that for `bytes`), 64-bit integers are strings (hence
decoders that are not strict), and whatever is zero, false or empty is left out (hence a default on every field). Pure:
no connection is known here.
"""

from collections.abc import Sequence
from functools import partial
from typing import Generic, TypeVar

import msgspec

from fleetd.model.decoding import UNREADABLE, Count
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
    Unchanged,
)

T = TypeVar("T")

# etcd's words for: authenticate (again), and repeat; the request was not carried out
_ASKS_FOR_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")

# statuses by which a member says that it cannot answer now, though another might: 408 and 429 besides all of 5xx
_MEMBER_TROUBLE = (408, 429)

_FULL = "database space exceeded"


class EndpointFailed(Exception):
    """This endpoint gives no answer that can be used; another one might. The message is the cause."""


class Refused(Exception):
    """etcd answers that it will not; every endpoint would say so. The message is etcd's own."""


# Requests. Fields that must be seen, even when zero, stand in structs that omit nothing.


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
    """One of the three."""

    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRangeRequest | None = None


class CompareRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Holds where the key's `target` equals the one field that is given."""

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
    """Of keepalive, timetolive and revoke."""

    ID: int


class CompactionRequest(msgspec.Struct, frozen=True):
    revision: int


class AuthenticateRequest(msgspec.Struct, frozen=True):
    name: str
    password: str


# Answers.


class Header(msgspec.Struct, frozen=True):
    """`revision` is that of the answering member's store, after the request."""

    cluster_id: int = 0
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
    """What a range within a transaction found; nothing is wanted of the answers to puts and deletes."""

    response_range: RangeResponse = RangeResponse()


class TxnResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    succeeded: bool = False
    responses: tuple[OperationResponse, ...] = ()


class LeaseGrantResponse(msgspec.Struct, frozen=True):
    ID: Count


class LeaseKeepAliveResponse(msgspec.Struct, frozen=True):
    """A lease that is gone has no TTL."""

    header: Header = Header()
    TTL: int = 0


class LeaseTimeToLiveResponse(msgspec.Struct, frozen=True):
    """A lease that is gone has a TTL of -1."""

    TTL: int = 0


class EmptyResponse(msgspec.Struct, frozen=True):
    """An answer of which nothing is wanted."""


class AuthenticateResponse(msgspec.Struct, frozen=True):
    token: str = ""


class WireEvent(msgspec.Struct, frozen=True):
    kv: WireKeyValue
    type: str = "PUT"


class WatchResponse(msgspec.Struct, frozen=True):
    """`fragment`: more of the same revisions follows. The header's revision may lie behind events still to come."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    compact_revision: Count = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: tuple[WireEvent, ...] = ()


class ErrorResponse(msgspec.Struct, frozen=True):
    """The body of an error; also what a stream says as it dies."""

    message: str = ""


class Streamed(msgspec.Struct, Generic[T], frozen=True):
    """One line of a stream: a result, or an error where the status has long been 200."""

    result: T | None = None
    error: ErrorResponse | None = None


LEASE_KEEP_ALIVE = msgspec.json.Decoder(Streamed[LeaseKeepAliveResponse], strict=False)
WATCH = msgspec.json.Decoder(Streamed[WatchResponse], strict=False)
ERROR = msgspec.json.Decoder(ErrorResponse)


def parse_refusal(status: int, body: bytes) -> EndpointFailed | Refused:
    """What an answer that is no success means."""
    try:
        message = ERROR.decode(body).message
    except UNREADABLE:  # a proxy in between has its own words
        message = body[:200].decode("utf-8", "replace").strip()
    message = message or f"HTTP status {status}"
    if _FULL in message:
        return Refused(f"{message} (compact and defragment it, then `etcdctl alarm disarm`)")
    if status >= 500 or status in _MEMBER_TROUBLE:
        return EndpointFailed(message)
    return Refused(message)


def asks_for_token(message: str) -> bool:
    """Whether a refusal in these words of etcd's ends with a new token."""
    return any(words in message for words in _ASKS_FOR_TOKEN)


def parse(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode an answer. Raises EndpointFailed if it is not from etcd."""
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise EndpointFailed(f"this is no answer of etcd's: {error}") from error


def parse_line(decoder: msgspec.json.Decoder[Streamed[T]], line: bytes) -> T:
    """Decode one line of a stream. Raises EndpointFailed if it is the error that ends the stream."""
    streamed = parse(decoder, line)
    if streamed.result is None:
        raise EndpointFailed(streamed.error.message if streamed.error else "a line of the stream says nothing")
    return streamed.result


def parse_keep_alive(body: bytes) -> LeaseKeepAliveResponse:
    """The answer to a heartbeat, which is a stream of one line."""
    return parse_line(LEASE_KEEP_ALIVE, body)


parse_range = partial(parse, msgspec.json.Decoder(RangeResponse, strict=False))
parse_txn = partial(parse, msgspec.json.Decoder(TxnResponse, strict=False))
parse_lease_grant = partial(parse, msgspec.json.Decoder(LeaseGrantResponse, strict=False))
parse_lease_time_to_live = partial(parse, msgspec.json.Decoder(LeaseTimeToLiveResponse, strict=False))
parse_empty = partial(parse, msgspec.json.Decoder(EmptyResponse))
parse_authenticate = partial(parse, msgspec.json.Decoder(AuthenticateResponse))


def render_range(prefix: str, after: str = "") -> RangeRequest:
    """The request for the keys that begin with the prefix: all, or those after a key."""
    return RangeRequest(key=start_of_range(prefix, after) or b"\0", range_end=end_of_prefix(prefix))


def render_digest(prefix: str) -> RangeRequest:
    """The request for the newest key that begins with the prefix, without its value; its answer counts them all."""
    whole = render_range(prefix)
    return RangeRequest(whole.key, whole.range_end, limit=1, keys_only=True, sort_order="DESCEND", sort_target="MOD")


def render_reads(keys: Sequence[str]) -> TxnRequest:
    """A transaction that reads these keys, all at one revision."""
    return TxnRequest((), tuple(RequestOperation(request_range=RangeRequest(key.encode())) for key in keys))


def render_transaction(comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> TxnRequest:
    """The transaction in etcd's words."""
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


def parse_key_value(kv: WireKeyValue) -> KeyValue:
    """The protocol's value. A key that someone wrote in no UTF-8 reads with U+FFFD: it is none of ours."""
    return KeyValue(_parse_key(kv), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def _parse_event(event: WireEvent) -> Event:
    item = None if event.type == "DELETE" else parse_key_value(event.kv)
    return Event(_parse_key(event.kv), item, event.kv.mod_revision)


def _parse_key(kv: WireKeyValue) -> str:
    return kv.key.decode("utf-8", "replace")


FIRST_PAGE = 32  # keys: as unit files of the largest size they are 11 MiB, which etcd tells well within a second
MOST_KEYS = 2048
PAGE_TARGET_BYTES = 2 * 1024 * 1024  # of values, so that a page is decoded in some ten milliseconds
PAGE_BYTES = 32 * 1024 * 1024  # of an answer; where a page is larger, fewer keys are asked for


class Pages:
    """How one range is read: page by page, each with as many keys as those before it let one expect to be of a good
    size. Keys in one folder (the first below the prefix) are alike in that; in each it begins with few."""

    def __init__(self, prefix: str, after: str) -> None:
        self._prefix = prefix.encode()
        self._start = start_of_range(prefix, after) or b"\0"
        self._end = end_of_prefix(prefix)
        self._folder_end = self._end  # the first page may go through several folders
        self._keys = FIRST_PAGE

    def request(self, revision: int, limit: int) -> RangeRequest:
        """The request for the next page, at this revision (0: the latest), of at most so many keys (0: any number)."""
        keys = min(self._keys, limit) if limit else self._keys
        return RangeRequest(key=self._start, range_end=self._folder_end, limit=keys, revision=revision)

    def shrink(self) -> bool:
        """The page was too large: ask for less of it. False: that is not possible."""
        if self._keys == 1:
            return False
        self._keys = max(1, self._keys // 8)
        return True

    def turn(self, answer: RangeResponse) -> bool:
        """Go on to what follows this page; whether there may be anything."""
        if answer.more:
            last = answer.kvs[-1].key
            self._start = last + b"\0"
            size = sum(len(kv.value) for kv in answer.kvs) // len(answer.kvs)
            self._folder_end = self._end_of_folder(last)
            is_of_one = self._folder_end == self._end_of_folder(answer.kvs[0].key)
            grown = 4 * self._keys if is_of_one else FIRST_PAGE
            self._keys = max(1, min(PAGE_TARGET_BYTES // (size + 1), grown, MOST_KEYS))
            return True
        self._start, self._folder_end, self._keys = self._folder_end, self._end, FIRST_PAGE
        return self._start != self._end

    def _end_of_folder(self, key: bytes) -> bytes:
        """Where the folder of this key ends."""
        folder, slash, _ = key.removeprefix(self._prefix).partition(b"/")
        return self._prefix + folder + b"0" if slash else self._end  # 0 is what follows the slash


class WatchPosition:
    """How far one watch has come, over all the streams that serve it in turn."""

    def __init__(self, prefix: str, after_revision: int) -> None:
        self.revision = after_revision
        self._range = render_range(prefix)
        self._cluster_id = 0
        self._fragments: list[WireEvent] = []

    def request(self) -> WatchRequest:
        """What to ask of a new stream. It begins with the revision already seen, whose events `take` drops: etcd before
        3.4.36 and 3.5.18 loses deletions that stand at the very revision it was compacted to."""
        self._fragments = []
        start = max(1, self.revision)  # 0 would mean: from now on
        return WatchRequest(WatchCreateRequest(self._range.key, self._range.range_end, start))

    def take(self, answer: WatchResponse) -> Changes | None:
        """Take in one answer; what it has to tell, if anything. Raises Compacted, also where another cluster answers:
        its revisions are not ours."""
        if answer.compact_revision:
            raise Compacted(answer.compact_revision + 1)
        self._cluster_id = self._cluster_id or answer.header.cluster_id
        if answer.header.cluster_id != self._cluster_id:
            raise Compacted(answer.header.revision)
        self._fragments += answer.events
        if answer.fragment or answer.canceled or answer.created:
            return None
        if not self._fragments:  # a progress notification: nothing happened below the prefix until now
            self.revision = max(self.revision, answer.header.revision)
            return None
        events = tuple(_parse_event(event) for event in self._fragments if event.kv.mod_revision > self.revision)
        self._fragments = []
        if not events:
            return None
        self.revision = events[-1].revision
        return Changes(events, self.revision)
