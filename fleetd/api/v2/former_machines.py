"""Where units were before, as far as the latest events of the cluster tell."""

import sys
from collections.abc import Collection, Mapping

from fleetd.api.v2.event_lines import Selection
from fleetd.api.v2.kept_events import KeptEvents
from fleetd.model.name_patterns import NamePatterns


async def find_former_machines(kept: KeptEvents, places: Mapping[str, Collection[str]], now_s: float) -> dict[str, str]:
    """The machine on which each of these units was last that it is not on now (`places`), of those that were moved or
    taken away. `now_s` is Unix time. Raises Unavailable, and ApiError if there is no room for the events."""
    selection = Selection(units=NamePatterns(places))
    moments, _ = await kept.read_latest(selection, now_s, 0, sys.maxsize)
    found: dict[str, str] = {}
    for moment in reversed(moments):
        for line in reversed(moment.lines):
            if line.former and line.former not in places.get(line.unit, (line.former,)):
                found.setdefault(line.unit, line.former)
    return found
