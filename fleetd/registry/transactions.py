"""Write sets, joined into transactions that the store accepts."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from fleetd.store.limits import size_of
from fleetd.store.protocol import MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Comparison, Operation


class WriteSet(msgspec.Struct, frozen=True):
    """Operations that are written together, and the comparisons that must hold for them."""

    comparisons: tuple[Comparison, ...]
    operations: tuple[Operation, ...]


class Batch:
    """Write sets, in order, that fit into one transaction together with the `guards`."""

    def __init__(self, guards: Sequence[Comparison] = ()) -> None:
        self._comparisons = list(guards)
        self._operations: list[Operation] = []
        self._size = 0

    def add(self, write_set: WriteSet) -> bool:
        """Add a write set, unless it does not fit."""
        size = self._size + sum(map(size_of, (*write_set.comparisons, *write_set.operations)))
        if (
            len(self._operations) + len(write_set.operations) > MAX_OPERATIONS
            or len(self._comparisons) + len(write_set.comparisons) > MAX_OPERATIONS
            or size > MAX_TRANSACTION_BYTES
        ):
            return False
        self._comparisons += write_set.comparisons
        self._operations += write_set.operations
        self._size = size
        return True

    def join(self) -> WriteSet:
        """All of them as one write set."""
        return WriteSet(tuple(self._comparisons), tuple(self._operations))


def cut_into_transactions(write_sets: Iterable[WriteSet], guards: Sequence[Comparison] = ()) -> Iterator[WriteSet]:
    """Join write sets, in order, into as few transactions as the store's limits allow. No write set is split. The
    input is consumed lazily, one transaction at a time.

    `guards` are part of every transaction. Raises ValueError for a write set that no transaction can hold.
    """
    batch = Batch(guards)
    for write_set in write_sets:
        if batch.add(write_set):
            continue
        if (joined := batch.join()).operations:
            yield joined
        batch = Batch(guards)
        if not batch.add(write_set):
            raise ValueError(
                f"a write set of {len(write_set.comparisons)} comparisons and {len(write_set.operations)} operations, "
                f"{sum(map(size_of, write_set.operations))} bytes, fits into no transaction: at most {MAX_OPERATIONS} "
                f"of each and {MAX_TRANSACTION_BYTES} bytes are allowed"
            )
    if (joined := batch.join()).operations:
        yield joined
