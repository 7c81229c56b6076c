"""How units are related beyond placement: which are restarted along with which, and which rollouts wait for others."""

from collections.abc import Iterable

from fleetd.model.group import group_of
from fleetd.model.ordered import Names
from fleetd.scheduler.snapshot import Snapshot, requirements_of


def restarted_along(snapshot: Snapshot, name: str, machine: str) -> Names:
    """The other units on the machine that are restarted when this one is, directly or with another one of them: by
    systemd, or, with a socket, by the agent."""
    found: Names = {}
    pending = [name]
    while pending:
        along = {other: None for other in _restarted_with(snapshot, pending.pop(), machine) if other != name}
        pending += [other for other in along if other not in found]
        found |= along
    return found


def _restarted_with(snapshot: Snapshot, name: str, machine: str) -> Iterable[str]:
    """The units on the machine that are restarted directly with this one."""
    if name in snapshot.restarting_others:
        here = snapshot.occupancy(machine).units
        if name in here and here[name].restarts in here:
            yield here[name].restarts
        yield from (other for other, requirements in here.items() if name in requirements.restarts_with)


def restarted_before(snapshot: Snapshot, name: str, machine: str) -> Names:
    """The units placed on the machine with which this one, placed there too, is restarted, directly or through
    others."""
    found: Names = {}
    pending = [name]
    while pending:
        each = pending.pop()
        placement = snapshot.placements.get(each, {}).get(machine)
        if placement is not None:
            socket = f"{each.removesuffix('.service')}.socket"
            socket_order = snapshot.placements.get(socket, {}).get(machine)
            is_served = socket_order is not None and requirements_of(socket_order.content, socket).restarts == each
            others = (*requirements_of(placement.content, each).restarts_with, *((socket,) if is_served else ()))
            new = [other for other in others if other not in found]
            found |= dict.fromkeys(new)
            pending += new
    return {other: None for other in found if other != name and machine in snapshot.placements.get(other, {})}


def rolling_with(snapshot: Snapshot, names: Iterable[str]) -> Names:
    """The units that a rollout changes together with these: what happens to one decides when the next may be changed.
    Of groups whose units name each other, all that are being rolled out."""
    groups = {group_of(name): None for name in names} if snapshot.under_way else {}
    found = [group for group in groups if group in snapshot.under_way and snapshot.is_rolling(group)]
    return {name: None for group in _related_groups(snapshot, found) for name in snapshot.rolling[group]}


def _related_groups(snapshot: Snapshot, groups: list[str]) -> Names:
    """These groups, and those under way that are related to them, directly or through others."""
    found = dict.fromkeys(groups)
    if not found or len(snapshot.under_way) == 1:
        return found
    edges: dict[str, Names] = {}
    for group in snapshot.under_way:
        for name in snapshot.rolling.get(group, ()):
            for other in map(group_of, snapshot.comes_after(name)):
                if other != group and other in snapshot.under_way:
                    edges.setdefault(group, {})[other] = None
                    edges.setdefault(other, {})[group] = None
    pending = list(found)
    while pending:
        new = [group for group in edges.get(pending.pop(), ()) if group not in found and snapshot.is_rolling(group)]
        found |= dict.fromkeys(new)
        pending += new
    return found
