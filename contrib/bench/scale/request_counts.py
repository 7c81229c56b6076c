"""Requests to stores, counted by operation and by kind of key.

Bytes are those of keys and values, as the registry gives and gets them; what JSON and base64 make of them on the way
shows in etcd's own counters (gauges.py).
"""

from collections.abc import Iterable, Sequence
from typing import cast

import msgspec

from fleetd.registry.records import DEFAULT_PREFIX
from fleetd.store.protocol import Changes, Event, KeyValue, Operation, Put, RangeResult

USAGE = f"{DEFAULT_PREFIX}usage"

_LABELS = {
    "cluster_id": ("read", "cluster"),
    "revision": ("read", "cluster"),
    "grant": ("lease", "granted"),
    "keep_alive": ("lease", "beat"),
    "time_to_live": ("lease", "looked at"),
    "revoke": ("lease", "revoked"),
    "compact": ("compaction", ""),
}


class Count(msgspec.Struct, frozen=True):
    """So many requests, about so many keys, with so many bytes."""

    requests: int = 0
    keys: int = 0
    size: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.requests + other.requests, self.keys + other.keys, self.size + other.size)

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.requests - other.requests, self.keys - other.keys, self.size - other.size)


Counts = dict[str, Count]  # by "operation kind"


class RequestCounts:
    """What was asked of stores. One is shared by all stores of a process."""

    def __init__(self) -> None:
        self.counts: Counts = {}

    def observe(self, operation: str, asked: object, answer: object) -> None:
        """Count one request: the observer of an InstrumentedStore."""
        match asked, answer:
            case str() as key, KeyValue() | RangeResult() | None if operation in ("get", "range"):
                items = answer.items if isinstance(answer, RangeResult) else (answer,)
                self._add("read", key, len(items), sum(map(_size_of, items)))
            case _, RangeResult(items=items):
                keys = cast(Sequence[str], asked)
                self._add("read", keys[0] if keys else "", len(keys), sum(map(_size_of, items)))
            case _ if operation == "transact":
                operations = cast(Sequence[Operation], asked)
                size = sum(len(each.key) + (len(each.value) if isinstance(each, Put) else 0) for each in operations)
                self._add("transaction", _subject_of(operations), len(operations), size)
            case str() as prefix, None if operation == "watch":
                self._add("watch opened", prefix)
            case str() as prefix, Changes(events=events):
                self._add("watch told", prefix, len(events), sum(map(_size_of_event, events)))
            case str() as prefix, _ if operation == "digest":
                self._add("digest", prefix)
            case _ if operation in _LABELS:
                self._add(*_LABELS[operation])

    def _add(self, operation: str, key: str, keys: int = 1, size: int = 0) -> None:
        kind = key.removeprefix(DEFAULT_PREFIX).partition("/")[0]
        label = f"{operation} {kind}".rstrip()
        self.counts[label] = self.counts.get(label, Count()) + Count(1, keys, size)


def difference(after: Counts, before: Counts) -> Counts:
    """What came to the counts in between; only what did."""
    grown = {label: count - before.get(label, Count()) for label, count in after.items()}
    return {label: count for label, count in grown.items() if count.requests}


def total(parts: Iterable[Counts]) -> Counts:
    """All counts together, by their labels' order."""
    together: Counts = {}
    for part in parts:
        for label, count in part.items():
            together[label] = together.get(label, Count()) + count
    return dict(sorted(together.items()))


def _subject_of(operations: Sequence[Operation]) -> str:
    """The last key, but for the count of all units, which the leader brings up to date along with what it decides, and
    for the record of the events, which stands beside what it tells of."""
    keys = [operation.key for operation in operations]
    told = (key for key in reversed(keys) if key.startswith(DEFAULT_PREFIX) and key != USAGE)
    return next(told, keys[-1] if keys else "")


def _size_of(item: KeyValue | None) -> int:
    return len(item.key) + len(item.value) if item else 0


def _size_of_event(event: Event) -> int:
    return _size_of(event.item) or len(event.key)
