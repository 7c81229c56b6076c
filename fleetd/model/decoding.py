"""Decoding of bytes from a store, a disk or the network: what it may raise, and the numbers that a record may hold."""

from typing import Annotated

import msgspec

# What msgspec raises for bytes that it cannot decode: its own error, one for invalid UTF-8, and one for too deeply
# nested brackets.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# Revisions, generations and counts. A larger number could be decoded, but not encoded again or passed to etcd.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

# The format of stored records, raised by a change that an older fleetd would misread. Their structs have it as tag, so
# that each is stored with it and decoding checks it; a value without one is of format 1. A record of a later format
# cannot be read, and must be neither deleted nor overwritten.
FORMAT = 1
