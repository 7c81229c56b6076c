"""Limits on how many units a cluster holds and how large their contents are together: every leader keeps all units in
memory and every listing carries their contents, so a cluster that grows too large could not be led."""

import msgspec

from fleetd.model.content import Content
from fleetd.model.decoding import FORMAT


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """How much a cluster holds, may hold, or grows by. The leader stores the first under `usage`."""

    units: int = 0
    text_bytes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.units + other.units, self.text_bytes + other.text_bytes)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.units - other.units, self.text_bytes - other.text_bytes)


def measure_growth(before: Content | None, after: Content | None) -> Usage:
    """How much a cluster grows when a unit's content changes from `before` to `after` (None: no unit). Never negative:
    a unit that shrinks is always accepted."""
    units = (after is not None) - (before is not None)
    return Usage(max(0, units), max(0, size_of(after) - size_of(before)))


def size_of(content: Content | None) -> int:
    """Bytes of the content in UTF-8; 0 for None."""
    return content.size if content is not None else 0


def refuse_growth(used: Usage, growth: Usage, allowed: Usage) -> str:
    """Why the cluster may not grow this much, and what to do about it; '' if it may."""
    remedy = "destroy what is not needed, or raise it with `fleetctl settings set`"
    if growth.units and used.units + growth.units > allowed.units:
        return f"the cluster has {used.units} units, and max_units={allowed.units} of them are allowed: {remedy}"
    if growth.text_bytes and used.text_bytes + growth.text_bytes > allowed.text_bytes:
        return (
            f"the unit files of the cluster have {used.text_bytes} bytes together, and max_units_bytes="
            f"{allowed.text_bytes} are allowed: {remedy}"
        )
    return ""
