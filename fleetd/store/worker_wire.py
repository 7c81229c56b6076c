"""The format of requests of a worker to the store of its cluster, which the servers answer.

`POST /fleet/worker/v1/<call>` with a msgpack body; every call of store/protocol.py that a worker may make is in CALLS,
with the types of its request and of its answer, and one for the locks of its units. An answer has status 200. Any other
status has a Failure as its body, and STATUSES says which error it is. worker.py is the client; fleetd/api/worker is the
server.

How far behind a server may be: a request says the highest revision that the worker has seen, and the mark of the
`history` that the store had then. A server whose store has a lower revision refuses with `lagging`, unless the history
is another one: then the store was restored or created again, and the worker has to learn of it. Both are judged by a
linearizable read. A watch from a revision that is still to come, when neither is the case, is Compacted
(`was_set_back`).

A `watch` asks for all that a worker watches, so that one connection is enough, and is answered by a stream of frames:
four bytes, big-endian, the length, then as many bytes of msgpack, a WatchFrame. The first is sent when the watches are
open; another at least every WATCH_HEARTBEAT_S, without events if there are none. The worker adds a watch by opening
another stream for all of them, each from where it is, and closing this one.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from fleetd.store.protocol import (
    Comparison,
    Event,
    KeepAlive,
    KeyValue,
    Operation,
    PrefixDigest,
    RangeResult,
)

PREFIX = "/fleet/worker/v1/"
CONTENT_TYPE = "application/msgpack"
WATCH = "watch"
TAKE_LOCK, RENEW_LOCK, RELEASE_LOCK = "take", "renew", "release"

WATCH_HEARTBEAT_S = 10.0  # the lease's heartbeats find a server that is gone; these, one whose watches are mute
LENGTH_BYTES = 4  # before each frame
MOST_FRAME_BYTES = 32 * 1024 * 1024  # a frame has whole revisions, each of at most MAX_TRANSACTION_BYTES and a lease


def history_mark(epoch: str) -> str:
    """A short name of the store's history: of the epoch that membership/store_epoch.py finds in `cluster` and
    `history`, as `<cluster id>/<entries>` or, without a restore, `<cluster id>`. ('' stays '': the worker has seen no
    store yet.)"""
    return epoch and hashlib.sha256(epoch.encode()).hexdigest()[:16]


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request. `highest_revision` is the highest that the worker has seen since `history` is what it is; 0 and '' at
    first."""

    highest_revision: int = 0
    history: str = ""


class KeyRequest(Request, frozen=True):
    key: str


class KeysRequest(Request, frozen=True):
    keys: tuple[str, ...]
    revision: int = 0


class PrefixRequest(Request, frozen=True):
    prefix: str


class RangeRequest(PrefixRequest, frozen=True):
    after: str = ""
    limit: int = 0
    revision: int = 0


class TransactRequest(Request, frozen=True):
    comparisons: tuple[Comparison, ...] = ()
    operations: tuple[Operation, ...] = ()


class WatchFrom(msgspec.Struct, frozen=True):
    """One watch (see Store.watch)."""

    prefix: str
    after_revision: int
    end: str = ""


class WatchRequest(Request, frozen=True):
    watches: tuple[WatchFrom, ...]


class GrantRequest(Request, frozen=True):
    ttl_s: float


class LeaseRequest(Request, frozen=True):
    lease: int


class LockRequest(Request, frozen=True):
    """Take, renew or release the lock of a unit (Lock=) of this machine: the first is asked for by the unit, the others
    by the session that holds it."""

    action: str
    unit: str = ""
    session: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer; to `revision` and `revoke`, the whole of it. `store_revision` is a revision that the store has
    reached, not before anything else in the answer, and `history` the mark of its history then."""

    store_revision: int
    history: str


class ClusterIdAnswer(Answer, frozen=True):
    """`servers` are the https URLs of the servers of the cluster."""

    cluster_id: str
    servers: tuple[str, ...] = ()


class KeyAnswer(Answer, frozen=True):
    item: KeyValue | None = None


class RangeAnswer(Answer, frozen=True):
    found: RangeResult


class DigestAnswer(Answer, frozen=True):
    digest: PrefixDigest


class TransactAnswer(Answer, frozen=True):
    revision: int


class GrantAnswer(Answer, frozen=True):
    lease: int


class KeepAliveAnswer(Answer, frozen=True):
    beat: KeepAlive


class TimeToLiveAnswer(Answer, frozen=True):
    ttl_s: float | None = None


class LockAnswer(Answer, frozen=True):
    """`session` is that which holds the lock, with its `token` if it was just taken; '': it is still waited for, and
    `words` say for whom. `gone` is why the session does not hold it, or cannot have it. `age_s` before it was asked to,
    a server has sent the renewal that this answer is about."""

    session: str = ""
    token: str = ""
    words: str = ""
    gone: str = ""
    age_s: float = 0.0


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request failed, in words for the log. `revision` and `was_set_back` are those of a Compacted; `lagging`
    says that another server may answer, and that nothing was written."""

    message: str
    revision: int = 0
    was_set_back: bool = False
    lagging: bool = False


class WatchFrame(Answer, frozen=True):
    """Events of whole revisions, in order, for the watch with this index in the request: after them it has seen
    everything up to `store_revision`. Without events and failure, a heartbeat: all watches of the stream have. With a
    `failure`, whose status is given, this watch is over, and the others go on."""

    number: int = 0
    events: tuple[Event, ...] = ()
    status: int = 200
    failure: Failure | None = None


MALFORMED = 400  # ValueError: over the limits of a transaction, or not understood
FORBIDDEN = 403  # a worker may not do that, or its certificate is not accepted
LEASE_NOT_FOUND = 404
CONFLICT = 409
COMPACTED = 410
UNAVAILABLE = 503  # the server's store does not answer; or `lagging`
STATUSES = (MALFORMED, FORBIDDEN, LEASE_NOT_FOUND, CONFLICT, COMPACTED, UNAVAILABLE)


class Call(msgspec.Struct, frozen=True):
    """The types of one call. For WATCH, the answer is the type of one frame."""

    request: type[Request]
    answer: type[Answer]


CALLS: Mapping[str, Call] = {
    "cluster-id": Call(Request, ClusterIdAnswer),
    "get": Call(KeyRequest, KeyAnswer),
    "get-many": Call(KeysRequest, RangeAnswer),
    "range": Call(RangeRequest, RangeAnswer),
    "digest": Call(PrefixRequest, DigestAnswer),
    "transact": Call(TransactRequest, TransactAnswer),
    WATCH: Call(WatchRequest, WatchFrame),
    "grant": Call(GrantRequest, GrantAnswer),
    "keep-alive": Call(LeaseRequest, KeepAliveAnswer),
    "time-to-live": Call(LeaseRequest, TimeToLiveAnswer),
    "revoke": Call(LeaseRequest, Answer),
    "revision": Call(Request, Answer),
    "lock": Call(LockRequest, LockAnswer),
}

_encoder = msgspec.msgpack.Encoder()


def encode(body: msgspec.Struct) -> bytes:
    """The body of a request or an answer."""
    return _encoder.encode(body)


def decode_request(call: str, body: bytes) -> Request:
    """The request of one of CALLS. Raises msgspec.DecodeError, a ValueError, for a body that is not one."""
    return msgspec.msgpack.decode(body, type=CALLS[call].request)


def encode_frame(frame: WatchFrame) -> bytes:
    """One frame of a watch, with its length."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def take_frame(buffer: bytearray) -> bytes | None:
    """Remove the first frame of a stream from the buffer, and return its body; None if it is not complete. Raises
    ValueError if it is longer than MOST_FRAME_BYTES."""
    if len(buffer) < LENGTH_BYTES:
        return None
    length = int.from_bytes(buffer[:LENGTH_BYTES], "big")
    if length > MOST_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes: at most {MOST_FRAME_BYTES} are allowed")
    if len(buffer) < LENGTH_BYTES + length:
        return None
    body = bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + length])
    del buffer[: LENGTH_BYTES + length]
    return body


def decode_body(body: bytes, kind: Any) -> Any:
    """An answer, a frame or a failure. Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(body, type=kind)
