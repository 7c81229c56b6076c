"""What workers announce although it does not run there any more. Pure."""

from fleetd.scheduler.snapshot import Snapshot

Place = tuple[str, str]  # machine and unit


def find_stale(snapshot: Snapshot) -> dict[Place, tuple[str, ...]]:
    """The names that workers announce of units that are not placed on them. The machine takes them back itself, soon
    after it has learnt of that; root of it can prevent that, and so would keep drawing the requests of others."""
    found: dict[Place, tuple[str, ...]] = {}
    for machine in snapshot.workers:
        for service, unit in snapshot.announced.get(machine, ()):
            if machine not in snapshot.placements.get(unit, ()):
                found[machine, unit] = (*found.get((machine, unit), ()), service)
    return found
