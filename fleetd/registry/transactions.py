"""Write sets, joined into transactions that the store accepts."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from fleetd.store.limits import size_of
from fleetd.store.protocol import MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Comparison, Operation


class WriteSet(msgspec.Struct, frozen=True):
    """Operations that are written together, and the comparisons that must hold for them."""

    comparisons: tuple[Comparison, ...]
    operations: tuple[Operation, ...]


def cut_into_transactions(write_sets: Iterable[WriteSet], guards: Sequence[Comparison] = ()) -> Iterator[WriteSet]:
    """Join write sets, in order, into as few transactions as the store's limits allow. No write set is split. The
    input is consumed lazily, one transaction at a time.

    `guards` are part of every transaction. Raises ValueError for a write set that no transaction can hold.
    """
    comparisons: list[Comparison] = list(guards)
    operations: list[Operation] = []
    size = 0
    for write_set in write_sets:
        added_size = sum(map(size_of, (*write_set.comparisons, *write_set.operations)))
        if len(write_set.operations) > MAX_OPERATIONS or len(guards) + len(write_set.comparisons) > MAX_OPERATIONS:
            raise ValueError(
                f"a write set of {len(write_set.comparisons)} comparisons and {len(write_set.operations)} operations "
                f"fits into no transaction: at most {MAX_OPERATIONS} of each are allowed"
            )
        full = (
            len(operations) + len(write_set.operations) > MAX_OPERATIONS
            or len(comparisons) + len(write_set.comparisons) > MAX_OPERATIONS
            or size + added_size > MAX_TRANSACTION_BYTES
        )
        if full and operations:
            yield WriteSet(tuple(comparisons), tuple(operations))
            comparisons, operations, size = list(guards), [], 0
        comparisons.extend(write_set.comparisons)
        operations.extend(write_set.operations)
        size += added_size
    if operations:
        yield WriteSet(tuple(comparisons), tuple(operations))
