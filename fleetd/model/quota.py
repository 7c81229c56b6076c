"""How much a cluster may hold: how many units, and how many bytes their texts have together.

Every fleetd that leads keeps all units in memory and plans for them, and every listing carries their texts: beyond some
size a cluster has no leader any more. So what would make it larger is refused before.
"""

import msgspec

from fleetd.model.decoding import FORMAT


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """What a cluster holds, or is allowed to, or is to grow by. Stored by the leader under `usage`."""

    units: int = 0
    text_bytes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.units + other.units, self.text_bytes + other.text_bytes)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.units - other.units, self.text_bytes - other.text_bytes)


def measure_growth(before: str | None, after: str | None) -> Usage:
    """What a cluster grows by where a unit's text changes like this (None: there is no unit). Nothing in it is below
    zero: what becomes smaller is free."""
    units = (after is not None) - (before is not None)
    return Usage(max(0, units), max(0, size_of_text(after) - size_of_text(before)))


def size_of_text(text: str | None) -> int:
    """Its bytes; None has none."""
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())


def refuse_growth(used: Usage, growth: Usage, allowed: Usage) -> str:
    """Why a cluster may not grow like this, and what to do; '' where it may."""
    remedy = "destroy what is not needed, or raise it in fleet.conf on every machine"
    if growth.units and used.units + growth.units > allowed.units:
        return f"the cluster has {used.units} units, and max_units={allowed.units} of them are allowed: {remedy}"
    if growth.text_bytes and used.text_bytes + growth.text_bytes > allowed.text_bytes:
        return (
            f"the unit files of the cluster have {used.text_bytes} bytes together, and max_units_bytes="
            f"{allowed.text_bytes} are allowed: {remedy}"
        )
    return ""
