"""Refuses what cannot be of units that MachineOf= joins."""

from collections.abc import Callable, Iterable, Mapping

from fleetd.api.http import ApiError
from fleetd.model.content import Content
from fleetd.model.group import mentions_joining, needed_peers, refuse_joined
from fleetd.model.unit import Unit
from fleetd.registry.records import UNITS
from fleetd.registry.registry import Reader, Registry


async def check_joined(
    reader: Reader | Registry, changed: Iterable[Unit | None], known: Mapping[str, Unit | None]
) -> None:
    """Raises ApiError if one of the changed units may not be so beside those that it names in MachineOf=, or `known`
    ones that name it. `known` are units as they will be; others are read."""
    written = [unit for unit in changed if unit is not None]
    units = [unit for unit in written if mentions_joining(unit.content)]
    if not units:
        return
    contents = {name: unit.content for name, unit in known.items() if unit is not None}
    contents |= {unit.name: unit.content for unit in written}
    needed = {each: None for unit in units for each in needed_peers(unit.name, unit.content) if each not in known}
    if needed:
        found = await reader.get_many(UNITS, [(name,) for name in needed])
        contents |= {unit.name: unit.content for unit in found.values() if unit.name not in contents}
    _refuse(units, contents)


def check_joined_in(
    find: Callable[[str], Unit | None], changed: Iterable[Unit | None], known: Mapping[str, Unit | None]
) -> None:
    """The same in a cluster on paper, in which `find` finds the others. Raises ApiError."""
    written = [unit for unit in changed if unit is not None]
    units = [unit for unit in written if mentions_joining(unit.content)]
    if not units:
        return
    needed = {each for unit in units for each in needed_peers(unit.name, unit.content)}
    beside = [find(name) for name in needed]
    _refuse(units, {unit.name: unit.content for unit in (*beside, *known.values(), *written) if unit is not None})


def _refuse(units: Iterable[Unit], contents: Mapping[str, Content]) -> None:
    for unit in units:
        if refusal := refuse_joined(unit.name, contents):
            raise ApiError(400, refusal)
