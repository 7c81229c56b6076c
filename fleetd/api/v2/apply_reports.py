"""Plans, sets and versions as version 2 shows them. Pure."""

from collections.abc import Iterable, Mapping

from fleetd.api import schema
from fleetd.model.apply import ApplyPlan, ChangeKind, PlannedUnit
from fleetd.model.content import Content, DropIn
from fleetd.model.group import group_of
from fleetd.model.placement import Decision
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unit_set import UnitSet, group_options_of
from fleetd.model.version import Version


def describe_plan(plan: ApplyPlan, decisions: Mapping[str, Decision], with_contents: bool) -> schema.Applied:
    """The plan, and `with_contents` what the cluster has of its units."""
    shown = [unit for unit in plan.units if unit.change is not ChangeKind.UNCHANGED or unit.owner]
    return schema.Applied(
        units=tuple(_describe_unit(unit, with_contents) for unit in shown),
        groups=tuple(_describe_groups(plan, decisions)),
        unchanged=len(plan.units) - len(shown),
        refusals=plan.refusals,
        reverted=plan.reverted,
        notes=plan.notes,
    )


def _describe_unit(unit: PlannedUnit, with_contents: bool) -> schema.PlannedUnit:
    record = unit.after or unit.before
    assert record is not None
    return schema.PlannedUnit(
        name=unit.name,
        change=unit.change,
        target=record.target,
        impact=unit.impact if unit.change is ChangeKind.CHANGED else "",
        because=unit.because,
        owner=unit.owner,
        is_global=_is_global(record),
        before=_describe_content(unit.name, unit.before.content) if with_contents and unit.before else None,
    )


def _is_global(unit: Unit) -> bool:
    return requirements_of(unit.content, unit.name).is_global


def _describe_groups(plan: ApplyPlan, decisions: Mapping[str, Decision]) -> Iterable[schema.PlannedGroup]:
    groups: dict[str, list[PlannedUnit]] = {}
    for unit in plan.units:
        groups.setdefault(group_of(unit.name), []).append(unit)
    for group, units in groups.items():
        changed = [unit for unit in units if unit.change is ChangeKind.CHANGED]
        if not changed:
            continue
        running = sum(_count_running(unit, decisions) for unit in units)
        head = next((unit for unit in units if unit.name == group), changed[0])
        assert head.after is not None
        options = group_options_of(head.after.content)
        share = options.max_unavailable
        limit = f"{share.number}{'%' if share.is_percentage else ''}"
        yield schema.PlannedGroup(group, running, options.unavailable_limit(running), limit)


def _count_running(unit: PlannedUnit, decisions: Mapping[str, Decision]) -> int:
    """The members of a group that a unit is."""
    if unit.before is None or unit.after is None or unit.before.target is not TargetState.LAUNCHED:
        return 0
    decision = decisions.get(unit.name)
    return decision.machines if decision is not None and _is_global(unit.before) else 1


def _describe_content(name: str, content: Content) -> schema.AppliedUnit:
    return schema.AppliedUnit(name, content.text, _describe_dropins(content.dropins))


def _describe_dropins(dropins: Iterable[DropIn]) -> tuple[schema.DropIn, ...]:
    return tuple(schema.DropIn(dropin.name, dropin.text) for dropin in dropins)


def describe_set(name: str, found: UnitSet) -> schema.UnitSet:
    """A set."""
    return schema.UnitSet(name, found.members)


def describe_version(version: Version) -> schema.Version:
    """A version of a group."""
    return schema.Version(
        number=version.number,
        at=version.at,
        by=version.by,
        note=version.note,
        apply=version.apply,
        text=version.held.text,
        dropins=_describe_dropins(version.held.dropins),
        instances=tuple(
            schema.AppliedUnit(unit.name, unit.text, _describe_dropins(unit.dropins)) for unit in version.held.instances
        ),
    )
