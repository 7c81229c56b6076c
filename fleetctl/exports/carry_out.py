"""Carries an import out: each part that is refused is named, and hinders no other."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from fleetctl.client import Client
from fleetctl.errors import ClientError
from fleetctl.exports.compare import Change, ImportedUnit, ImportPlan
from fleetctl.exports.file import ExportedUnit
from fleetd.api import schema
from fleetd.model.content import DropIn, own_dropins
from fleetd.model.group import group_of
from fleetd.model.names import is_template, template_of
from fleetd.model.unitfile import parse_unit_file

_MOST_BYTES = 1024 * 1024  # of the units in one request
_HARMLESS = ("unchanged", "gone")  # changes of an apply that are none


def carry_out(client: Client, plan: ImportPlan) -> Iterator[str]:
    """Do what the plan says. Yields errors, a line each; afterwards nothing is left but what they name.

    Settings come first, then new units, each with its target state and in no set; then changed contents and sets, by
    applies, so that a change of what runs is a rollout; then the target states of units that were there, and cordons.
    """
    yield from _set_settings(client, plan)
    wanted = [unit for unit in plan.units if unit.change is not Change.KEPT]
    refused = _create(client, [unit.after for unit in wanted if unit.change is Change.NEW])
    yield from (f"{name}: {refusal}" for name, refusal in refused.items())
    yield from _apply(client, [unit for unit in wanted if unit.after.name not in refused])
    retargeted = (unit.after for unit in wanted if unit.has_new_target)
    targets = [schema.UnitOperation(unit.name, desired_state=unit.target) for unit in retargeted]
    yield from (f"{name}: {refusal}" for name, refusal in client.carry_out(targets).items())
    for cordon in plan.cordons:
        id_ = cordon.after.id
        yield from _try(f"machine {id_}", partial(client.cordon, id_, cordon.after.cordon or ""))


def _try(subject: str, act: Callable[[], object]) -> list[str]:
    """Run an action; its error, if any."""
    try:
        act()
    except ClientError as error:
        return [f"{subject}: {error}"]
    return []


def _set_settings(client: Client, plan: ImportPlan) -> list[str]:
    new = {each.after.name: each.after.value for each in plan.settings if each.change is not Change.KEPT}
    return _try("settings", partial(client.change_settings, new)) if new else []


def _create(client: Client, units: Iterable[ExportedUnit]) -> Mapping[str, ClientError]:
    """Create the units, templates first, so that an instance never gets what its template has."""
    ordered = sorted(units, key=lambda unit: (not is_template(unit.name), unit.name))
    operations = (
        schema.UnitOperation(
            unit.name,
            parse_unit_file(unit.text),
            unit.target,
            only_new=True,
            dropins=_describe_dropins(unit.dropins),
        )
        for unit in ordered
    )
    return client.carry_out(list(operations))


def _describe_dropins(dropins: Iterable[DropIn]) -> tuple[schema.DropIn, ...]:
    return tuple(schema.DropIn(dropin.name, dropin.text) for dropin in dropins)


def _apply(client: Client, units: Sequence[ImportedUnit]) -> Iterator[str]:
    """Give units their new content and their set."""
    by_set: dict[str, dict[str, ImportedUnit]] = {}
    for unit in units:
        if unit.has_new_set or (unit.change is Change.CHANGED and unit.has_new_content):
            by_set.setdefault(unit.after.set, {})[unit.after.name] = unit
    for set_, members in sorted(by_set.items()):
        for part in _cut(members.values()):
            subject = f'set "{set_}"' if set_ else "units of no set"
            yield from _try(subject, partial(_apply_part, client, set_, part))


def _cut(units: Iterable[ImportedUnit]) -> Iterator[list[ImportedUnit]]:
    """The units in parts that fit into a request. A group is not cut."""
    groups: dict[str, list[ImportedUnit]] = {}
    for unit in units:
        groups.setdefault(group_of(unit.after.name), []).append(unit)
    part: list[ImportedUnit] = []
    size = 0
    for group in groups.values():
        length = sum(unit.after.content.size for unit in group)
        if part and size + length > _MOST_BYTES:
            yield part
            part, size = [], 0
        part += group
        size += length
    if part:
        yield part


class _WouldChangeMore(ClientError):
    """An apply would change units that the import is not to change."""


def _apply_part(client: Client, set_: str, units: Sequence[ImportedUnit]) -> None:
    """Apply the units as members of the set. Raises ClientError, also if that would change anything else."""
    by_name = {unit.after.name: unit.after for unit in units}
    applied = tuple(_describe(unit, by_name.get(template_of(unit.name))) for unit in by_name.values())
    is_taken = any(unit.before is not None and unit.before.set not in ("", set_) for unit in units)
    request = schema.Apply(applied, set_, take_over=is_taken and set_ != "", note="import", plan=True)
    planned = client.apply(request)
    if planned.refusals:
        raise _WouldChangeMore("; ".join(planned.refusals))
    expected = {unit.after.name for unit in units if unit.has_new_content and unit.change is Change.CHANGED}
    others = [unit.name for unit in planned.units if unit.change not in _HARMLESS and unit.name not in expected]
    if others:
        listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        raise _WouldChangeMore(
            f"is left as it is, because this would also change {listed}, which the templates in it name or stand for: "
            "apply the folder that it is from"
        )
    client.apply(msgspec.structs.replace(request, plan=False))


def _describe(unit: ExportedUnit, template: ExportedUnit | None) -> schema.AppliedUnit:
    """The unit as an apply takes it; an instance with what it has of its own, beside its template."""
    if template is None or template.name == unit.name:
        return schema.AppliedUnit(unit.name, unit.text, _describe_dropins(unit.dropins))
    text = "" if unit.text == template.text else unit.text
    return schema.AppliedUnit(unit.name, text, _describe_dropins(own_dropins(unit.dropins, template.dropins)))
