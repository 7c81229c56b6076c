"""What fleetd leaves for fleet-credentials.service, so that this needs neither fleetd nor the store."""

import msgspec


class Delivered(msgspec.Struct, frozen=True):
    """One version of a secret, sealed to this machine: the file UNIT/NAME below /run/fleet/credentials. `recipient` is
    the public half of the key that opens it."""

    version: int
    key: bytes
    box: bytes
    recipient: str = ""
