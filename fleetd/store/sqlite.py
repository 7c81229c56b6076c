"""The embedded store's tables in one SQLite file: keys with revisions, leases, and the id of the store.

Every method blocks, and only one may run at a time.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from fleetd.store.limits import end_of_prefix, start_of_range
from fleetd.store.protocol import (
    Comparison,
    Conflict,
    CreatedAt,
    Event,
    HasValue,
    KeyValue,
    LeaseNotFound,
    Operation,
    PrefixDigest,
    Put,
    RangeResult,
    StoreError,
    Unavailable,
    Unchanged,
)

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE store (cluster_id TEXT NOT NULL, revision INTEGER NOT NULL, last_lease INTEGER NOT NULL);
CREATE TABLE keys (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    create_revision INTEGER NOT NULL,
    mod_revision INTEGER NOT NULL,
    lease INTEGER NOT NULL
);
CREATE INDEX keys_by_lease ON keys (lease) WHERE lease != 0;
CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl_s REAL NOT NULL);
"""

_COLUMNS = "key, value, create_revision, mod_revision, lease"
_FIRST_REVISION = 1  # of an empty store, as etcd has it
_NO_LIMIT = -1  # as SQLite has it


class Written(msgspec.Struct, frozen=True):
    """The result of one write: its events (none: nothing changed), the store's revision after it, and for each event
    what its key held before (None: nothing)."""

    events: tuple[Event, ...]
    revision: int
    replaced: tuple[KeyValue | None, ...] = ()


_Change = tuple[Event, KeyValue | None]  # and what the key held before


class Database:
    """The tables. Opening raises StoreError; every method raises Unavailable, with nothing written, if SQLite fails.

    A write is on the disk when its method returns: SQLite syncs its log at every commit (WAL, synchronous=FULL). The
    file is locked while it is open.
    """

    def __init__(self, path: str, new_cluster_id: str) -> None:
        self._path = path
        with ExitStack() as undo:
            try:
                self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
                undo.callback(self._connection.close)
                self._set_up(new_cluster_id)
            except sqlite3.Error as error:
                raise StoreError(self._explain_opening(error)) from error
            undo.pop_all()

    def _set_up(self, new_cluster_id: str) -> None:
        connection = self._connection
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self._path} was written by a later version of fleetd (format {version}): update fleetd here"
            )
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO store VALUES (?, ?, 0)", (new_cluster_id, _FIRST_REVISION))
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _explain_opening(self, error: sqlite3.Error) -> str:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            return f"the store {self._path} is in use by another process; only one fleetd may run on it"
        return f"cannot open the store {self._path}: {error}"

    def cluster_id(self) -> str:
        return str(self._one("SELECT cluster_id FROM store"))

    def revision(self) -> int:
        return int(self._one("SELECT revision FROM store"))

    def leases(self) -> dict[int, float]:
        """Lease → its full time to live in seconds, in the order in which they were granted."""
        return dict(self._read("SELECT id, ttl_s FROM leases ORDER BY id"))

    def get_many(self, keys: Sequence[str]) -> RangeResult:
        """Those of these keys that exist, in this order."""
        found = (self._find(key) for key in keys)
        return RangeResult(tuple(item for item in found if item), self.revision())

    def range(self, prefix: str, after: str, limit: int) -> RangeResult:
        rows = self._read(
            f"SELECT {_COLUMNS} FROM keys WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",  # noqa: S608 (a constant)
            (start_of_range(prefix, after), end_of_prefix(prefix), limit or _NO_LIMIT),
        )
        return RangeResult(tuple(map(_parse_row, rows)), self.revision())

    def digest(self, prefix: str) -> PrefixDigest:
        rows = self._read(
            "SELECT count(*), coalesce(max(mod_revision), 0) FROM keys WHERE key >= ? AND key < ?",
            (prefix.encode(), end_of_prefix(prefix)),
        )
        count, written_at = rows[0]
        return PrefixDigest(count, written_at, self.revision())

    def transact(self, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> Written:
        """Execute all operations if all comparisons hold. Raises Conflict, LeaseNotFound."""
        with self._writing():
            for comparison in comparisons:
                self._compare(comparison)
            for operation in operations:
                self._check_lease(operation)
            revision = self.revision() + 1
            changes = [self._apply(operation, revision) for operation in operations]
            return self._written(revision, [change for change in changes if change])

    def grant(self, ttl_s: float) -> int:
        """A new lease. Ids are never reused."""
        with self._writing():
            self._connection.execute("UPDATE store SET last_lease = last_lease + 1")
            lease = int(self._one("SELECT last_lease FROM store"))
            self._connection.execute("INSERT INTO leases VALUES (?, ?)", (lease, ttl_s))
            return lease

    def revoke(self, lease: int) -> Written:
        """End the lease and delete its keys, all at one revision. Does nothing if the lease is gone."""
        with self._writing():
            revision = self.revision() + 1
            held = f"SELECT {_COLUMNS} FROM keys WHERE lease = ? AND lease != 0 ORDER BY key"  # noqa: S608 (a constant)
            items = map(_parse_row, self._read(held, (lease,)))
            changes = [(Event(item.key, None, revision), item) for item in items]
            self._connection.execute("DELETE FROM keys WHERE lease = ? AND lease != 0", (lease,))
            self._connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
            return self._written(revision, changes)

    def close(self) -> None:
        self._connection.close()

    def _find(self, key: str) -> KeyValue | None:
        rows = self._read(f"SELECT {_COLUMNS} FROM keys WHERE key = ?", (key.encode(),))  # noqa: S608 (a constant)
        return _parse_row(rows[0]) if rows else None

    def _compare(self, comparison: Comparison) -> None:
        item = self._find(comparison.key)
        match comparison:
            case Unchanged(mod_revision=expected):
                holds = (item.mod_revision if item else 0) == expected
            case CreatedAt(create_revision=expected):
                holds = (item.create_revision if item else 0) == expected
            case HasValue(value=value):
                holds = item is not None and item.value == value
        if not holds:
            raise Conflict(f"{comparison.key} has changed meanwhile")

    def _check_lease(self, operation: Operation) -> None:
        lease = operation.lease if isinstance(operation, Put) else 0
        if lease and not self._read("SELECT id FROM leases WHERE id = ?", (lease,)):
            raise LeaseNotFound(f"lease {lease} of {operation.key} has expired or was revoked")

    def _apply(self, operation: Operation, revision: int) -> _Change | None:
        """Execute one operation. None if it changes nothing."""
        before = self._find(operation.key)
        if isinstance(operation, Put):
            created = before.create_revision if before else revision
            item = KeyValue(operation.key, operation.value, created, revision, operation.lease)
            row = (operation.key.encode(), operation.value, created, revision, operation.lease)
            self._connection.execute("INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?)", row)
            return Event(operation.key, item, revision), before
        if before is None:
            return None
        self._connection.execute("DELETE FROM keys WHERE key = ?", (operation.key.encode(),))
        return Event(operation.key, None, revision), before

    def _written(self, revision: int, changes: Sequence[_Change]) -> Written:
        """A write that changes nothing does not take a revision."""
        if not changes:
            return Written((), revision - 1)
        self._connection.execute("UPDATE store SET revision = ?", (revision,))
        events, replaced = zip(*changes, strict=True)
        return Written(events, revision, replaced)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Commits all writes of the `with` block, or none."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        finally:
            if self._connection.in_transaction:  # an error before the commit, or the commit failed
                self._connection.execute("ROLLBACK")

    def _read(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _one(self, statement: str) -> Any:
        return self._read(statement)[0][0]

    def _unavailable(self, error: sqlite3.Error) -> Unavailable:
        return Unavailable(f"the store {self._path} fails: {error}; make room, or see to the disk")


def _parse_row(row: tuple[bytes, bytes, int, int, int]) -> KeyValue:
    key, value, create_revision, mod_revision, lease = row
    return KeyValue(key.decode(), value, create_revision, mod_revision, lease)
