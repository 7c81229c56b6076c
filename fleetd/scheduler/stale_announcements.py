"""What workers announce although it does not run there any more. Pure."""

from fleetd.model.announce_options import announce_options_of
from fleetd.scheduler.snapshot import Snapshot

Place = tuple[str, str]  # machine and unit


def find_stale(snapshot: Snapshot) -> dict[Place, tuple[str, ...]]:
    """The names that workers announce of units that are not placed on them, or that they say to run with another
    content. The machine takes them back itself, soon after it has learnt of that; root of it can prevent that, and so
    would keep drawing the requests of others."""
    found: dict[Place, tuple[str, ...]] = {}
    for machine in snapshot.workers:
        for service, unit in snapshot.announced.get(machine, ()):
            if not _may_announce(snapshot, machine, unit, service):
                found[machine, unit] = (*found.get((machine, unit), ()), service)
    return found


def _may_announce(snapshot: Snapshot, machine: str, unit: str, service: str) -> bool:
    placement = snapshot.placements.get(unit, {}).get(machine)
    if placement is None:
        return False
    state = snapshot.states.get(unit, {}).get(machine)
    if state is None or (state.hash, state.generation) != (placement.content.hash, placement.generation):
        return True  # it may run with its former content, whose names are its own
    return any(service == name for name, _ in announce_options_of(placement.content, unit).services)
