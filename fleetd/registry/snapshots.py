"""Snapshots of the whole cluster, made of the records of the store."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from fleetd.model.machine import Machine
from fleetd.model.placement import Decision
from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.records import (
    APPLIES,
    CLUSTER_SETTINGS,
    COMMANDS,
    DECISIONS,
    MACHINE_IDENTITIES,
    MACHINES,
    MOVES,
    PLACEMENTS,
    REBOOT_REQUESTS,
    REBOOTS,
    ROLLOUTS,
    SEALED_SECRETS,
    SECRETS,
    SERVICES,
    SETTINGS,
    STATES,
    SYNCED,
    UNITS,
    USAGE,
    Change,
    KeySpace,
    Kind,
    MalformedRecord,
    NewerRecord,
    Record,
    Synced,
)
from fleetd.scheduler import affected
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.protocol import KeyValue

log = logging.getLogger(__name__)


def make_snapshot(keys: KeySpace, items: Collection[KeyValue]) -> Snapshot:
    """The snapshot of these items, which are all there are below the prefix. Raises NewerRecord."""
    snapshot = begin_snapshot(keys, items)
    for item in items:
        change = read_change(keys, item.key, item, item.mod_revision)
        if change is not None:
            _load(snapshot, change)
    return snapshot


def begin_snapshot(keys: KeySpace, items: Iterable[KeyValue]) -> Snapshot:
    """An empty snapshot, to which these items, which are all there are, can be applied."""
    snapshot = Snapshot()
    restored = (item.mod_revision for item in items if item.key == keys.history_key)
    snapshot.restored_at = max(restored, default=0)
    return snapshot


def read_change(keys: KeySpace, key: str, item: KeyValue | None, revision: int) -> Change | None:
    """The change that this item means (None: it was deleted), or None for a key of no record. A malformed record counts
    as deleted. Raises NewerRecord."""
    try:
        return keys.change(key, item, revision)
    except NewerRecord:
        raise  # it exists: a snapshot without it would be wrong
    except MalformedRecord as error:
        log.error("%s", error)
    change = keys.change(key, None, revision)
    if change is not None and change.key.kind is DECISIONS:  # its revision guards the write that replaces it
        decision = Decision(change.key.names[0], generation=0, revision=revision)
        return msgspec.structs.replace(change, record=decision)
    if change is not None and change.key.kind is REBOOTS:
        given_up = Reboot("", "", RebootPhase.GAVE_UP, RebootFailure.RESTORED, revision=revision)
        return msgspec.structs.replace(change, record=given_up)
    return change


def apply_change(snapshot: Snapshot, change: Change) -> Affected:
    """Make one change in the snapshot. Returns the units that this affects."""
    return apply_record(snapshot, change.key.kind, change.key.names, _record_of(snapshot, change))


def _load(snapshot: Snapshot, change: Change) -> None:
    """The same, without asking what it affects: the kinds with many records are read in half the time."""
    kind, names = change.key.kind, change.key.names
    loader = _LOADERS.get(kind)
    if loader is None:
        apply_change(snapshot, change)
    elif affected.has_suffix(names[-1]):
        loader(snapshot, *names, _record_of(snapshot, change))


def _record_of(snapshot: Snapshot, change: Change) -> Record | None:
    """The record as the snapshot has it."""
    record = change.record
    if isinstance(record, UnitState) and change.revision < snapshot.restored_at:
        record = msgspec.structs.replace(record, outdated=True)
    return record


def _set_synced(snapshot: Snapshot, machine: str, synced: Synced | None) -> Affected:
    return affected.set_session(snapshot, machine, synced.session if synced else None)


def _set_machine(snapshot: Snapshot, id_: str, machine: Machine | None) -> Affected:
    if machine is not None and machine.host_keys:  # most of the record, and nothing is decided by them
        machine = msgspec.structs.replace(machine, host_keys=())
    return affected.set_machine(snapshot, id_, machine)


def _set_unit(snapshot: Snapshot, name: str, unit: Unit | None) -> Affected:
    return affected.set_unit(snapshot, name, _without_time(unit))


def _load_unit(snapshot: Snapshot, name: str, unit: Unit | None) -> None:
    snapshot.set_unit(name, _without_time(unit))


def _without_time(unit: Unit | None) -> Unit | None:
    """The unit without the time of its last change: nothing is decided by it, and each is an object of its own."""
    return msgspec.structs.replace(unit, at=0.0) if unit is not None and unit.at else unit


_SETTERS: Mapping[Kind[Record], Callable[..., Affected]] = {
    UNITS: _set_unit,
    SETTINGS: affected.set_settings,
    CLUSTER_SETTINGS: affected.set_cluster_settings,
    MACHINES: _set_machine,
    PLACEMENTS: affected.set_placement,
    DECISIONS: affected.set_decision,
    SYNCED: _set_synced,
    STATES: affected.set_state,
    USAGE: affected.set_usage,
    ROLLOUTS: affected.set_rollout,
    COMMANDS: affected.set_command,
    APPLIES: affected.set_apply,
    MOVES: affected.set_move,
    REBOOT_REQUESTS: affected.set_reboot_request,
    REBOOTS: affected.set_reboot,
    SECRETS: affected.set_secret,
    SEALED_SECRETS: affected.set_sealed_secret,
    SERVICES: affected.set_service,
    MACHINE_IDENTITIES: affected.set_identity,
}


_LOADERS: Mapping[Kind[Record], Callable[..., None]] = {
    UNITS: _load_unit,
    PLACEMENTS: Snapshot.set_placement,
    DECISIONS: Snapshot.set_decision,
    STATES: Snapshot.set_state,
}


def apply_record(snapshot: Snapshot, kind: Kind[Record], names: tuple[str, ...], record: Record | None) -> Affected:
    """Set one record in the snapshot (None: it is deleted). Returns the units that this affects."""
    setter = _SETTERS.get(kind)
    return setter(snapshot, *names, record) if setter else Affected()
