"""Writing cluster events: one record for each transaction, with all of its events."""

from collections.abc import Callable, Sequence
from itertools import count

from fleetd.model.event import ClusterEvent, EventRecord, record_name
from fleetd.registry.records import EVENTS, KeySpace, encode
from fleetd.registry.transactions import WriteSet
from fleetd.store.protocol import Put, Unchanged


class EventLog:
    """Makes the records of events. `keys` are those of the cluster, `unix_now` gives Unix time, and `writer` a name
    that no other EventLog of the cluster has at that time."""

    def __init__(self, keys: KeySpace, unix_now: Callable[[], float], writer: Callable[[], str]) -> None:
        self._archive = KeySpace(keys.archive_prefix)
        self._unix_now = unix_now
        self._writer = writer
        self._numbers = count(1)

    def write_set(self, events: Sequence[ClusterEvent]) -> WriteSet:
        """What writes these events. It is written once, even if a transaction is repeated whose answer was lost."""
        at_s = self._unix_now()
        key = self._archive.key(EVENTS, record_name(at_s, f"{self._writer()}-{next(self._numbers)}"))
        return WriteSet((Unchanged(key, 0),), (Put(key, encode(EventRecord(at_s, tuple(events)))),))
