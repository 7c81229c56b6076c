"""The protocol of every store: ordered keys with revisions, guarded transactions, watches, leases.

It is the part of etcd v3 that fleet uses. The contract suite (tests/contract/test_store*.py) specifies what an
implementation must do.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import msgspec

MAX_OPERATIONS = 128  # etcd's default for one transaction; comparisons have the same bound
MAX_TRANSACTION_BYTES = 1024 * 1024  # below etcd's default of 1.5 MiB a request


class StoreError(Exception):
    """The store failed. The message names the store, the cause and, if there is one, the remedy."""


class Conflict(StoreError):
    """A comparison of a transaction did not hold. Nothing was written: read again and retry."""


class Unavailable(StoreError):
    """No answer, or no usable one. A write may or may not have happened; every write is safe to repeat."""


class Refused(Unavailable):
    """This client may not do that: to ask again, or elsewhere, does not help until something else has changed."""


class Compacted(StoreError):
    """The revision that a watch asked for was compacted. Or (`was_set_back`) it does not exist yet, because the store
    was restored or created again. Read everything again."""

    def __init__(self, revision: int, *, was_set_back: bool = False) -> None:
        where = "was set back to" if was_set_back else "begins at"
        super().__init__(f"the store's history {where} revision {revision}")
        self.revision = revision
        self.was_set_back = was_set_back


class LeaseNotFound(StoreError):
    """The lease has expired or was revoked, and its keys with it."""


class KeyValue(msgspec.Struct, frozen=True):
    """One key. Revisions count the store's transactions; `lease` is 0 where there is none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class RangeResult(msgspec.Struct, frozen=True):
    """What a range read saw, all at one revision, in key order."""

    items: tuple[KeyValue, ...]
    revision: int


class PrefixDigest(msgspec.Struct, frozen=True):
    """The number of keys below a prefix, and the revision at which one of them was last written (0: there are none), at
    one revision."""

    count: int
    written_at: int
    revision: int


class Event(msgspec.Struct, frozen=True):
    """One change: the key as of `revision`, or None if it was deleted or its lease ended."""

    key: str
    item: KeyValue | None
    revision: int


class Changes(msgspec.Struct, frozen=True):
    """Events of whole revisions, in order. After them the watcher has seen everything up to `revision`."""

    events: tuple[Event, ...]
    revision: int


class StoreMember(msgspec.Struct, frozen=True):
    """One of the servers that the store consists of. `name` is '' for one that has never been started. A learner has a
    copy of the store and no vote, so that the store does not depend on it."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    has_vote: bool = True


# Comparisons of a transaction: all must hold, or it is a Conflict.


class Unchanged(msgspec.Struct, frozen=True, tag=True):
    """The key's last change was at this revision; 0: the key does not exist."""

    key: str
    mod_revision: int


class CreatedAt(msgspec.Struct, frozen=True, tag=True):
    """The key was created at this revision and has existed since; 0: it does not exist."""

    key: str
    create_revision: int


class HasValue(msgspec.Struct, frozen=True, tag=True):
    """The key exists with this value."""

    key: str
    value: bytes


Comparison = Unchanged | CreatedAt | HasValue


# Operations of a transaction: all happen, at one revision, or none does. No key stands in two of them.


class Put(msgspec.Struct, frozen=True, tag=True):
    """Write the key, attached to this lease (0: to none; it is detached from a former one)."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, tag=True):
    """Delete the key. No error if it does not exist."""

    key: str


Operation = Put | Delete


class KeepAlive(msgspec.Struct, frozen=True):
    """The answer to a heartbeat: the lease's full time to live, and the store's current revision."""

    ttl_s: float
    revision: int


class Store(Protocol):
    """A store. Every method may raise Unavailable; other errors are named with it. Safe to call concurrently."""

    async def cluster_id(self) -> str:
        """A name that identifies this store, and changes if it is created again. Never empty."""

    async def get(self, key: str) -> KeyValue | None:
        """The latest version of the key (linearizable)."""

    async def get_many(self, keys: Sequence[str], *, revision: int = 0) -> RangeResult:
        """Those of the keys that exist, in the order asked, at most MAX_OPERATIONS keys. `revision` as for `range`."""

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> RangeResult:
        """All keys that begin with the prefix, however many they are; or only those after the key `after`, or only the
        first `limit` of them (0: all). They are as of one revision: the latest (0, linearizable), or that of an earlier
        read, which is Unavailable once the store's history begins later."""

    async def digest(self, prefix: str) -> PrefixDigest:
        """The number of keys below the prefix, and the last write to them (linearizable). A mirror of the prefix that
        has the same two is complete."""

    async def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> int:
        """Do all operations if all comparisons hold; the revision after it. Raises Conflict, LeaseNotFound (a Put on
        a lease that is gone), ValueError (over the bounds above: the caller's mistake)."""

    def watch(self, prefix: str, after_revision: int, *, end: str = "") -> AsyncGenerator[Changes, None]:
        """Every change below the prefix after that revision, in order, none missed and none twice, also across lost
        connections and failover, which it mends by itself (an outage shows as silence). With `end`, of all keys from
        `prefix` on and before `end`, in the order of UTF-8. Raises Compacted. Ends only when it is closed (aclose)."""

    async def grant(self, ttl_s: float) -> int:
        """A new lease that expires after so long without a heartbeat. Returns its id, never 0. Stores round up to whole
        seconds."""

    async def keep_alive(self, lease: int) -> KeepAlive:
        """One heartbeat. Raises LeaseNotFound."""

    async def time_to_live(self, lease: int) -> float | None:
        """Seconds that the lease has left, or None if there is no such lease."""

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys. No error if the lease is gone."""

    async def compact(self, revision: int) -> None:
        """Drop the history before this revision. Repeating it is no error. Raises ValueError for a future revision."""

    async def revision(self) -> int:
        """The store's current revision (linearizable)."""

    async def members(self) -> tuple[StoreMember, ...]:
        """The servers that the store consists of, by id. None if it has no servers of its own, as in this process."""

    async def is_healthy(self, member: StoreMember) -> bool:
        """True if this very member answers a linearizable read, so that it reaches the majority."""

    async def close(self) -> None:
        """Close connections and files. Watches end."""
