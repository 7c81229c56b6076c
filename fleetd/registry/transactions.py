"""Write sets, joined into transactions that the store accepts."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from fleetd.model.event import ClusterEvent
from fleetd.store.limits import size_of
from fleetd.store.protocol import MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Comparison, Operation

RECORD_BYTES = 1024  # of a record of events without the events, and of its key in a comparison and an operation

_encode = msgspec.json.Encoder().encode


class WriteSet(msgspec.Struct, frozen=True):
    """Operations that are written together, and the comparisons that must hold for them. `events` are what they
    mean."""

    comparisons: tuple[Comparison, ...]
    operations: tuple[Operation, ...]
    events: tuple[ClusterEvent, ...] = ()


RecordEvents = Callable[[Sequence[ClusterEvent]], WriteSet]  # EventLog.write_set


class Batch:
    """Write sets, in order, that fit into one transaction together with the `guards`. With `record`, what it makes of
    their events is part of the transaction; without, the events are not recorded."""

    def __init__(self, guards: Sequence[Comparison] = (), record: RecordEvents | None = None) -> None:
        self._comparisons = list(guards)
        self._operations: list[Operation] = []
        self._events: list[ClusterEvent] = []
        self._record = record
        self._size = 0

    def add(self, write_set: WriteSet) -> bool:
        """Add a write set, unless it does not fit."""
        size = self._size + sum(map(size_of, (*write_set.comparisons, *write_set.operations)))
        events = write_set.events if self._record else ()
        if events:
            size += sum(len(_encode(event)) + 1 for event in events) + (0 if self._events else RECORD_BYTES)
        most = MAX_OPERATIONS - 1 if events or self._events else MAX_OPERATIONS
        if (
            len(self._operations) + len(write_set.operations) > most
            or len(self._comparisons) + len(write_set.comparisons) > most
            or size > MAX_TRANSACTION_BYTES
        ):
            return False
        self._comparisons += write_set.comparisons
        self._operations += write_set.operations
        self._events += events
        self._size = size
        return True

    def join(self) -> WriteSet:
        """All of them as one write set, with the record of their events."""
        comparisons, operations = tuple(self._comparisons), tuple(self._operations)
        if not self._events or self._record is None:
            return WriteSet(comparisons, operations)
        recorded = self._record(self._events)
        return WriteSet((*comparisons, *recorded.comparisons), (*operations, *recorded.operations))


def cut_into_transactions(
    write_sets: Iterable[WriteSet], guards: Sequence[Comparison] = (), record: RecordEvents | None = None
) -> Iterator[WriteSet]:
    """Join write sets, in order, into as few transactions as the store's limits allow. No write set is split. The
    input is consumed lazily, one transaction at a time.

    `guards` are part of every transaction, and so is what `record` makes of its events. Raises ValueError for a write
    set that no transaction can hold.
    """
    batch = Batch(guards, record)
    for write_set in write_sets:
        if batch.add(write_set):
            continue
        if (joined := batch.join()).operations:
            yield joined
        batch = Batch(guards, record)
        if not batch.add(write_set):
            raise ValueError(
                f"a write set of {len(write_set.comparisons)} comparisons and {len(write_set.operations)} operations, "
                f"{sum(map(size_of, write_set.operations))} bytes, fits into no transaction: at most {MAX_OPERATIONS} "
                f"of each and {MAX_TRANSACTION_BYTES} bytes are allowed"
            )
    if (joined := batch.join()).operations:
        yield joined
