"""Withdraw a name before its unit is stopped: which actions of a plan have to wait for that.

A client that has asked for the address of a name a moment ago still uses it. So a unit that is announced is stopped or
restarted only when its name has been gone for AnnounceDelay=; the same holds for what takes it down with it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from fleetd.model.placement import Placement
from fleetd.model.requirements import requirements_of
from fleetd.reconciler.actions import Action, Restart, Stop


class HeldPlan(msgspec.Struct, frozen=True):
    """What of a plan can be done now; and by unit whose actions wait, the announced units that have to be withdrawn
    first."""

    plan: tuple[Action, ...]
    waits: Mapping[str, tuple[str, ...]]


def hold_back(
    plan: Sequence[Action],
    announced: Collection[str],
    placements: Mapping[str, Placement],
    is_withdrawn: Callable[[str], bool],
) -> HeldPlan:
    """Take out the actions of units whose stop or restart takes down one of the `announced` units that is not withdrawn
    yet, itself included."""
    stops = dict.fromkeys(action.unit for action in plan if isinstance(action, Stop | Restart))
    if not stops or not announced:
        return HeldPlan(tuple(plan), {})
    causes = {name: frozenset(_go_down_before(name, placements)) for name in sorted(announced)}
    waits: dict[str, tuple[str, ...]] = {}
    for unit in stops:
        taken_down = tuple(name for name, before in causes.items() if unit in before)
        if not all(map(is_withdrawn, taken_down)):
            waits[unit] = taken_down
    return HeldPlan(tuple(action for action in plan if action.unit not in waits), waits)


def _go_down_before(name: str, placements: Mapping[str, Placement]) -> Iterator[str]:
    """The unit, and the units here whose stop stops it: those that it requires or is part of, and its socket."""
    found = {name: None}
    left = [name]
    while left:
        unit = left.pop()
        yield unit
        named = requirements_of(placements[unit].content, unit).restarts_with if unit in placements else ()
        socket = f"{unit.removesuffix('.service')}.socket" if unit.endswith(".service") else ""
        for other in (*named, socket):
            if other in placements and other not in found:
                found[other] = None
                left.append(other)
