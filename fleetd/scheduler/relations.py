"""How units are related: by MachineOf=, by being restarted along with others, by rollouts that wait for each other."""

from collections.abc import Iterable
from functools import partial

from fleetd.model.group import group_of
from fleetd.model.ordered import Names, reachable
from fleetd.model.requirements import requirements_of
from fleetd.scheduler.snapshot import Snapshot


def joined_with(snapshot: Snapshot, name: str) -> Names:
    """The unit, and those that MachineOf= joins to it, directly or through others."""
    return reachable((name,), snapshot.colocated_with)


def to_be_moved(snapshot: Snapshot) -> Names:
    """The units that operators have moved, and those that go with them: whether they may move depends on others."""
    return {each: None for name in snapshot.moves for each in joined_with(snapshot, name)}


def with_colocated(snapshot: Snapshot, names: Iterable[str]) -> list[str]:
    """These units; the unplaced ones, those on absent machines, and those for which one is made ready, that MachineOf=
    joins to them, directly or through others, and all that it joins to the last; and the templates of sockets among
    them. In order."""
    needs_machine = partial(_needs_machine, snapshot)

    def peers(name: str) -> Iterable[str]:
        joined = snapshot.colocated_with(name)
        return joined if not joined or _is_prepared_for(snapshot, name) else filter(needs_machine, joined)

    found = reachable(names, peers)
    templates = (snapshot.requirements(name).template for name in found if name in snapshot.units)
    return sorted(found | dict.fromkeys(filter(None, templates)))


def _needs_machine(snapshot: Snapshot, name: str) -> bool:
    assigned = snapshot.assigned_machine(name)
    is_absent = assigned != "" and assigned not in snapshot.machines
    return name in snapshot.unplaced or is_absent or _is_prepared_for(snapshot, name)


def _is_prepared_for(snapshot: Snapshot, name: str) -> bool:
    """True while a machine gets what the unit needs, before it moves there."""
    return any(placement.prepares for placement in snapshot.placements.get(name, {}).values())


def restarted_along(snapshot: Snapshot, name: str, machine: str) -> Names:
    """The other units on the machine that are restarted when this one is, directly or with another one of them: by
    systemd, or, with a socket, by the agent."""
    found = reachable((name,), lambda each: _restarted_with(snapshot, each, machine))
    del found[name]
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
    found = reachable((name,), lambda each: _restarted_directly_before(snapshot, each, machine))
    return {other: None for other in found if other != name and machine in snapshot.placements.get(other, {})}


def _restarted_directly_before(snapshot: Snapshot, name: str, machine: str) -> tuple[str, ...]:
    """What this unit is restarted with directly; nothing if it is not placed on the machine."""
    placement = snapshot.placements.get(name, {}).get(machine)
    if placement is None:
        return ()
    socket = f"{name.removesuffix('.service')}.socket"
    order = snapshot.placements.get(socket, {}).get(machine)
    is_served = order is not None and requirements_of(order.content, socket).restarts == name
    return (*requirements_of(placement.content, name).restarts_with, *((socket,) if is_served else ()))


def rolling_with(snapshot: Snapshot, names: Iterable[str]) -> Names:
    """The units that a rollout changes together with these: what happens to one decides when the next may be changed.
    Of groups whose units name each other, all that are being rolled out."""
    groups = {group_of(name): None for name in names} if snapshot.under_way else {}
    found = [group for group in groups if group in snapshot.under_way and snapshot.is_rolling(group)]
    return {name: None for group in _related_groups(snapshot, found) for name in snapshot.rolling[group]}


def _related_groups(snapshot: Snapshot, groups: list[str]) -> Names:
    """These groups, and those under way that are related to them, directly or through others."""
    if not groups or len(snapshot.under_way) == 1:
        return dict.fromkeys(groups)
    edges: dict[str, Names] = {}
    for group in snapshot.under_way:
        for name in snapshot.rolling.get(group, ()):
            for other in map(group_of, snapshot.comes_after(name)):
                if other != group and other in snapshot.under_way:
                    edges.setdefault(group, {})[other] = None
                    edges.setdefault(other, {})[group] = None
    return reachable(groups, lambda group: filter(snapshot.is_rolling, edges.get(group, ())))
