"""What a plan of an apply writes, in an order of which every beginning leaves the cluster in order. Pure."""

from collections.abc import Iterator, Mapping

from fleetd.api.audit import asked_unit
from fleetd.model.actor import Actor
from fleetd.model.apply import ApplyPlan
from fleetd.model.rollout import Apply
from fleetd.model.unit_set import UnitSet
from fleetd.model.version import Version
from fleetd.registry.records import SETS, VERSIONS
from fleetd.registry.registry import Registry
from fleetd.registry.transactions import WriteSet
from fleetd.store.protocol import Delete, Operation, Unchanged

Versions = tuple[tuple[Version, ...], tuple[int, ...]]  # to write, and the numbers to delete


def write_sets_of(
    registry: Registry,
    plan: ApplyPlan,
    sets: Mapping[str, UnitSet],
    versions: Mapping[str, Versions],
    id_: str,
    apply: Apply,
    actor: Actor,
) -> Iterator[WriteSet]:
    """The write sets of a plan: versions, units, the record of the apply, what is destroyed, and who is in which set.
    `sets` are those that there are, `actor` is who asks."""
    for group, (new, outdated) in versions.items():
        yield from _write_versions(registry.archive, group, new, outdated)
    kept = [unit for unit in plan.written if unit.after is not None]
    for unit in kept:
        asked = asked_unit(actor, unit.before, unit.after)
        yield registry.unit_write_set(unit.name, unit.before, unit.after, asked)
    if any(unit.after is not None and unit.after.rollout == id_ for unit in kept) and id_:
        yield WriteSet((), (registry.put(apply, id_),))
    for unit in plan.written:
        if unit.after is None:
            yield registry.unit_write_set(unit.name, unit.before, None, asked_unit(actor, unit.before, None))
    if plan.sets:
        yield _write_members(registry, plan.sets, sets)


def _write_versions(
    archive: Registry, group: str, new: tuple[Version, ...], outdated: tuple[int, ...]
) -> Iterator[WriteSet]:
    for version in new:
        number = str(version.number)
        is_free = Unchanged(archive.key(VERSIONS, group, number), 0)
        yield WriteSet((is_free,), (archive.put(version, group, number),))
    if outdated:
        yield WriteSet((), tuple(Delete(archive.key(VERSIONS, group, str(number))) for number in outdated))


def _write_members(registry: Registry, after: Mapping[str, UnitSet], before: Mapping[str, UnitSet]) -> WriteSet:
    """Together, so that no unit is in two sets."""
    guards, operations = [], list[Operation]()
    for name, found in after.items():
        key = registry.key(SETS, name)
        guards.append(Unchanged(key, before[name].revision if name in before else 0))
        operations.append(registry.put(UnitSet(found.members), name) if found.members else Delete(key))
    return WriteSet(tuple(guards), tuple(operations))
