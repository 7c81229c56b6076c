"""Where units were before, by the events of the cluster: read from the newest on, and no more than MAX_BYTES."""

from collections.abc import Collection, Mapping

from fleetd.model.event import KEPT_S, ClusterEvent, first_name_at
from fleetd.registry.records import EVENTS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import KeyValue

MAX_BYTES = 4 * 2**20  # of records
PAGE = 500
_WINDOWS_S = (-3600.0, 3600.0, 6 * 3600.0, 24 * 3600.0, KEPT_S)  # before now; the clocks of writers differ


async def find_former_machines(
    registry: Registry, places: Mapping[str, Collection[str]], now_s: float
) -> dict[str, str]:
    """The machine on which each of these units was last that it is not on now (`places`), of those that were moved or
    taken away within the time for which events are kept. `now_s` is Unix time. Raises Unavailable."""
    archive = registry.archive
    prefix, found, left = archive.key(EVENTS, ""), dict[str, str](), MAX_BYTES
    until = archive.key(EVENTS, first_name_at(now_s - _WINDOWS_S[0]))
    for window_s in _WINDOWS_S[1:]:
        begin = after = archive.key(EVENTS, first_name_at(max(0.0, now_s - window_s)))
        latest: dict[str, tuple[int, str]] = {}  # by unit: of the revision and the machine
        is_whole = False
        while not is_whole and left > 0:
            page = await archive.store.range(prefix, after=after, limit=PAGE)
            items = [item for item in page.items if item.key < until]
            is_whole = len(items) < PAGE
            for item in items:
                left -= len(item.value)
                for event in _events(item):
                    if event.former and event.former not in places.get(event.unit, (event.former,)):
                        latest[event.unit] = max(
                            latest.get(event.unit, (0, "")), (item.mod_revision, event.former), key=lambda each: each[0]
                        )
            after = items[-1].key if items else after
        found = {unit: former for unit, (_, former) in latest.items()} | found
        if len(found) == len(places) or left <= 0:
            break
        until = begin
    return found


def _events(item: KeyValue) -> tuple[ClusterEvent, ...]:
    """The events of a record; none of one that cannot be read."""
    try:
        return EVENTS.decode(item).events
    except MalformedRecord:
        return ()
