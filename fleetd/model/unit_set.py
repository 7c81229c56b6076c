"""Sets: units that are applied together, as from a folder, and the units that its templates stand for."""

import re
from collections.abc import Iterable, Mapping

import msgspec

from fleetd.model.admission import Shadows, refuse_unit, shadows_nothing
from fleetd.model.constraints import split_list
from fleetd.model.content import Content, DropIn, merge_dropins, refuse_size
from fleetd.model.decoding import FORMAT, Count
from fleetd.model.fleet_options import FLEET_SECTION
from fleetd.model.group import GroupOptions, parse_group_options, refuse_instance_options
from fleetd.model.names import UnitName, is_template, parse_name, template_of
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError, parse_unit_file

MAX_MEMBERS = 10_000  # of a set; its record has to fit into a transaction of the store
MAX_RECORD_BYTES = 512 * 1024

_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class InvalidSet(ValueError):
    """A set that cannot be applied. The message names the unit, the cause and the remedy."""


class UnitSet(msgspec.Struct, frozen=True, omit_defaults=True, gc=False, tag_field="format", tag=FORMAT):
    """The members of a set, in order: units that were applied with it, and were neither destroyed by it nor taken over
    since. Stored under `sets/<name>`. `revision` is the store's revision of this record, which guards the next write;
    it is not part of the stored value."""

    members: tuple[str, ...]
    revision: Count = 0


class SetUnit(msgspec.Struct, frozen=True, gc=False):
    """One unit as a folder has it: the rendered unit file ('': an instance that has its template's), and its own
    drop-ins in order of their names."""

    name: str
    text: str = ""
    dropins: tuple[DropIn, ...] = ()


def refuse_set_name(name: str) -> str:
    """Why no set can have this name, or ''."""
    if _SET_NAME.fullmatch(name):
        return ""
    return (
        f'"{name}" is no name of a set: it has to begin with a letter or digit, to hold letters, digits and "._-" '
        "only, and to have at most 100 characters"
    )


def _options(content: Content) -> tuple[UnitOption, ...]:
    """The options of a content; none where it does not parse."""
    try:
        return content.options()
    except UnitFileError:
        return ()


def group_options_of(content: Content) -> GroupOptions:
    """The group options in this content; the defaults where it does not parse."""
    return parse_group_options(_options(content))


def raw_instances(content: Content) -> str:
    """The value of Instances= as it is written, '' if there is none."""
    values = [each.value for each in _options(content) if (each.section, each.name) == (FLEET_SECTION, "Instances")]
    return " ".join(" ".join(split_list(values[-1])).split()) if values else ""


def instance_name(template: UnitName, instance: str) -> str:
    """The name of this instance of the template."""
    return f"{template.prefix}@{instance}.{template.suffix}"


def expand(units: Iterable[SetUnit]) -> dict[str, Content]:
    """The contents of all units that these stand for, by name: each of them, and the instances that the Instances= of
    a template names. An instance carries the drop-ins of its template. Raises InvalidSet."""
    given: dict[str, SetUnit] = {}
    for unit in units:
        if unit.name in given:
            raise InvalidSet(f'unit "{unit.name}" is given twice: give it once')
        given[unit.name] = unit
    for template in [name for name in given if is_template(name)]:
        for name in _named_instances(given[template]):
            given.setdefault(name, SetUnit(name))
    if len(given) > MAX_MEMBERS:
        raise InvalidSet(f"these are {len(given)} units, and a set may have {MAX_MEMBERS}: make several sets of them")
    templates = {name: Content(unit.text, unit.dropins) for name, unit in given.items() if is_template(name)}
    return {name: _content(given[name], templates.get(template_of(name))) for name in sorted(given)}


def _named_instances(template: SetUnit) -> list[str]:
    options = group_options_of(Content(template.text, template.dropins))
    return [instance_name(parse_name(template.name), instance) for instance in options.instances or ()]


def _content(unit: SetUnit, template: Content | None) -> Content:
    """What the unit carries. Instances without anything of their own share the content of their template."""
    if not unit.text and (template is None or is_template(unit.name)):
        raise InvalidSet(f'unit "{unit.name}" has no unit file, and there is no template of it: add one')
    if template is None:
        return Content(unit.text, unit.dropins)
    if is_template(unit.name) or not (unit.text or unit.dropins):
        return template
    return Content(unit.text or template.text, merge_dropins(template.dropins, unit.dropins))


def refuse_members(
    units: Iterable[SetUnit], contents: Mapping[str, Content], shadows: Shadows = shadows_nothing
) -> dict[str, str]:
    """Why units of these contents may not be in the cluster: unit → cause."""
    refusals = {name: refusal for name in contents if (refusal := _refuse(name, contents[name], shadows))}
    for unit in units:
        if unit.name not in refusals:
            own = [option for dropin in unit.dropins for option in parse_unit_file(dropin.text)]
            refusals |= {unit.name: refusal} if (refusal := refuse_instance_options(unit.name, own)) else {}
    return refusals


def _refuse(name: str, content: Content, shadows: Shadows) -> str:
    options = content.options()
    if not options:
        return "its unit file has no options"
    return refuse_unit(name, options, shadows) or refuse_size(content)
