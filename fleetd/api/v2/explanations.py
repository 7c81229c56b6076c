"""Explanations: why a unit is where it is, and on no other machine. The server that is asked computes it, in a thread,
from what it reads at one revision; nothing is written."""

from collections.abc import Awaitable, Callable

import msgspec
from msgspec.structs import replace

from fleetd.aio import Offload, paused_collector
from fleetd.api import schema
from fleetd.api.http import ApiError, Request, Response, render_json
from fleetd.model.constraints import Requirements
from fleetd.model.decoding import UNREADABLE
from fleetd.model.names import is_template
from fleetd.model.placement import Placement
from fleetd.model.requirements import placed_requirements
from fleetd.registry.records import (
    DECISIONS,
    MACHINES,
    PLACEMENTS,
    REBOOTS,
    SETTINGS,
    STATES,
    UNITS,
    KeySpace,
)
from fleetd.registry.registry import Reader, Registry
from fleetd.registry.snapshots import make_snapshot, read_change
from fleetd.scheduler.affected import has_suffix
from fleetd.scheduler.occupancy import Occupancy
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import KeyValue

_TARGET = b'"target":'  # in the decision about a unit that is still to come to a machine
_PATTERNS = (b"Conflicts", b"Replaces")  # in the content of a unit that may keep others away
_NOTHING = Requirements()
_decode_placement = msgspec.json.Decoder(Placement).decode


class Explanations:
    """The resource. `history` gives what has happened to a unit of late."""

    def __init__(
        self, registry: Registry, offload: Offload, history: Callable[[str], Awaitable[tuple[schema.Event, ...]]]
    ) -> None:
        self._history = history
        self._registry = registry
        self._offload = offload
        self._is_busy = False

    async def get(self, _: Request, name: str) -> Response:
        """Explain why a unit is on its machine, and on no other: all rules that keep it from each. One explanation at a
        time is made by each fleetd."""
        if self._is_busy:
            raise ApiError(503, "this fleetd is making another explanation: try again, or ask another machine's fleetd")
        self._is_busy = True
        try:
            with paused_collector():
                reader = self._registry.at_one_revision()
                items, revision = await read_relevant(reader, name)
                explanation = await self._offload(lambda: _explain(reader, items, name, revision))
        finally:
            self._is_busy = False
        return render_json(replace(explanation, history=await self._history(name)))


async def read_relevant(reader: Reader, name: str) -> tuple[list[KeyValue], int]:
    """What an explanation of this unit goes by, and its revision: the machines, all that is placed on them, and the
    unit itself. Of other units, those that are still to come to a machine, and for a template its sockets."""
    machines = await reader.range_of(MACHINES)
    items = await reader.items_of(UNITS, [(name,)])
    if not items:
        return [], machines.revision
    items += machines.items
    for kind in (SETTINGS, REBOOTS, PLACEMENTS):
        items += (await reader.range_of(kind)).items
    decisions = (await reader.range_of(DECISIONS)).items
    relevant = [each for each in decisions if _TARGET in each.value or _last(each) == name]
    items += relevant
    if is_template(name):
        items += (await reader.range_of(UNITS)).items
    else:
        items += await reader.items_of(UNITS, [(_last(each),) for each in relevant])
    items += await reader.items_of(STATES, [(_last(each), name) for each in machines.items])
    return items, machines.revision


def _last(item: KeyValue) -> str:
    """The last name in its key."""
    return item.key.rpartition("/")[2]


def _explain(keys: KeySpace, items: list[KeyValue], name: str, revision: int) -> schema.Explanation:
    from fleetd.api.v2.explain_reports import describe_explanation  # most daemons are never asked

    return describe_explanation(make_relevant(keys, items, name), name, revision)


def make_relevant(keys: KeySpace, items: list[KeyValue], name: str) -> Snapshot:
    """The snapshot of what was read for an explanation of this unit. It has the placements of this unit alone. Of the
    others it has what matters to this one: the occupants of each machine, of which few have patterns that others have
    to be parsed for. Raises NewerRecord."""
    prefix, own = keys.key(PLACEMENTS) + "/", f"/{name}"
    rest: list[KeyValue] = []
    others: list[KeyValue] = []
    for item in items:
        is_other = item.key.startswith(prefix) and not item.key.endswith(own)
        (others if is_other else rest).append(item)
    snapshot = make_snapshot(keys, rest)
    for item in others:
        machine, _, unit = item.key[len(prefix) :].partition("/")
        placement = _read_placement(keys, item, machine, unit)
        if placement is not None and placement.occupies and has_suffix(unit):
            has_patterns = placement.dropins or any(pattern in item.value for pattern in _PATTERNS)
            requirements = placed_requirements(placement.content, unit) if has_patterns else _NOTHING
            occupancy = snapshot.occupancies.get(machine)
            if occupancy is None:
                occupancy = snapshot.occupancies[machine] = Occupancy()
            occupancy.discard(unit)  # its place was kept there
            occupancy.add(unit, requirements, staying=placement.is_active)
    return snapshot


def _read_placement(keys: KeySpace, item: KeyValue, machine: str, unit: str) -> Placement | None:
    """The placement, None for none. Most are as they are to be, and are read in a fraction of the time."""
    try:
        placement = _decode_placement(item.value)
    except UNREADABLE:
        placement = None
    if placement is not None and (placement.machine, placement.unit) == (machine, unit) and not placement.dropins:
        return placement
    change = read_change(keys, item.key, item, item.mod_revision)
    record = change.record if change else None
    return record if isinstance(record, Placement) else None
