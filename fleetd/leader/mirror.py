"""The leader's snapshot of the cluster, kept up to date from the store."""

from collections.abc import Callable, Mapping

from fleetd.model.ordered import Names
from fleetd.registry.records import (
    DECISIONS,
    MACHINES,
    PLACEMENTS,
    SETTINGS,
    STATES,
    SYNCED,
    UNITS,
    USAGE,
    Kind,
    Record,
    Synced,
)
from fleetd.scheduler.snapshot import Snapshot


def _set_synced(snapshot: Snapshot, machine: str, synced: Synced | None) -> Names:
    return snapshot.set_session(machine, synced.session if synced else None)


_SETTERS: Mapping[Kind[Record], Callable[..., Names]] = {
    UNITS: Snapshot.set_unit,
    SETTINGS: Snapshot.set_settings,
    MACHINES: Snapshot.set_machine,
    PLACEMENTS: Snapshot.set_placement,
    DECISIONS: Snapshot.set_decision,
    SYNCED: _set_synced,
    STATES: Snapshot.set_state,
    USAGE: Snapshot.set_usage,
}


def apply_record(snapshot: Snapshot, kind: Kind[Record], names: tuple[str, ...], record: Record | None) -> Names:
    """Set one record in the snapshot (None: it is deleted). Returns the units that this affects."""
    setter = _SETTERS.get(kind)
    return setter(snapshot, *names, record) if setter else {}
