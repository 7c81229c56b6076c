"""Checks that all stores share: the limits of a transaction, and the key range of a prefix."""

from collections import Counter
from collections.abc import Sequence

from fleetd.store.protocol import (
    MAX_OPERATIONS,
    MAX_TRANSACTION_BYTES,
    Comparison,
    HasValue,
    Operation,
    Put,
)


def size_of(part: Comparison | Operation) -> int:
    """The bytes of key and value that a comparison or an operation adds to its transaction."""
    value = part.value if isinstance(part, HasValue | Put) else b""
    return len(part.key.encode()) + len(value)


def check_transaction(comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
    """Raises ValueError if the transaction exceeds the protocol's limits, or if two operations have the same key."""
    if max(len(comparisons), len(operations)) > MAX_OPERATIONS:
        raise ValueError(
            f"a transaction of {len(comparisons)} comparisons and {len(operations)} operations: "
            f"at most {MAX_OPERATIONS} of each are allowed"
        )
    size = sum(map(size_of, comparisons)) + sum(map(size_of, operations))
    if size > MAX_TRANSACTION_BYTES:
        raise ValueError(f"a transaction of {size} bytes: at most {MAX_TRANSACTION_BYTES} are allowed")
    twice = [key for key, count in Counter(operation.key for operation in operations).items() if count > 1]
    if twice:
        raise ValueError(f"a transaction with several operations on {twice[0]}: one is allowed")


def check_keys(keys: Sequence[str]) -> None:
    """Raises ValueError for more keys than one request may ask for."""
    if len(keys) > MAX_OPERATIONS:
        raise ValueError(f"{len(keys)} keys asked for at once: at most {MAX_OPERATIONS} are allowed")


def start_of_range(prefix: str, after: str) -> bytes:
    """The first possible key, in UTF-8, with this prefix and after that key ('': any)."""
    start = prefix.encode()
    return max(start, after.encode() + b"\0") if after else start


def is_watched(key: str, prefix: str, end: str) -> bool:
    """True if a watch with this prefix and end (see Store.watch) reports changes of the key."""
    return prefix <= key < end if end else key.startswith(prefix)


def end_of_prefix(prefix: str) -> bytes:
    """The first key, in UTF-8, after all keys with this prefix."""
    if not prefix:
        return b"\xff"  # no byte of UTF-8 text is as high
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])
