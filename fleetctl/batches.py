"""Operations in batches that the API takes in one request."""

from collections.abc import Iterable, Iterator

import msgspec

from fleetd.api import schema

_BATCH_UNITS = 128  # one transaction of the store, so that the answer comes within --request-timeout
_BATCH_BYTES = 1024 * 1024


def cut_into_batches(operations: Iterable[schema.UnitOperation]) -> Iterator[list[schema.UnitOperation]]:
    """The operations in their order, in batches of bounded count and size."""
    batch: list[schema.UnitOperation] = []
    size = 0
    for operation in operations:
        length = len(msgspec.json.encode(operation))
        if batch and (len(batch) == _BATCH_UNITS or size + length > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(operation)
        size += length
    if batch:
        yield batch
