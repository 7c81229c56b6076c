"""What an apply does or would do, as lines for people and as objects for programs. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fleetctl.output import printable
from fleetd.api import schema
from fleetd.model.content_change import Impact
from fleetd.model.group import UpdateAction, group_of
from fleetd.model.names import is_template
from fleetd.model.unit import TargetState

NEW, CHANGED, UNCHANGED, GONE, DESTROYED = "new", "changed", "unchanged", "gone", "destroyed"
MOST_SINGLE = 5  # instances that have a line each, though they change alike

VALUES: Mapping[str, Callable[[schema.PlannedUnit], Any]] = {
    "unit": lambda unit: unit.name,
    "change": lambda unit: unit.change,
    "dstate": lambda unit: unit.target,
    "impact": lambda unit: unit.impact or None,
    "because": lambda unit: unit.because or None,
    "owner": lambda unit: unit.owner or None,
}


class _Line(msgspec.Struct, frozen=True):
    """One line: a unit, or units of a group that change alike, under the name of their template."""

    name: str
    units: tuple[schema.PlannedUnit, ...]

    @property
    def unit(self) -> schema.PlannedUnit:
        """One of the units."""
        return self.units[0]

    @property
    def instances(self) -> tuple[schema.PlannedUnit, ...]:
        """The units, without the template, of a line about a template."""
        return tuple(unit for unit in self.units if not is_template(unit.name)) if is_template(self.name) else ()


def render_plan(answer: schema.Applied) -> list[str]:
    """The units that change, aligned: name, change, and what that means."""
    rows = [(line.name, line.unit.change, _words(line, answer.groups)) for line in _lines(answer.units)]
    name_width = max((len(name) for name, _, _ in rows), default=0)
    change_width = max((len(change) for _, change, _ in rows), default=0)
    return [f"  {name:{name_width}}  {change:{change_width}}  {words}".rstrip() for name, change, words in rows]


def summarise(answer: schema.Applied) -> str:
    """How many units change in which way: `2 changed, 1 new, 12 unchanged`."""
    counted = {kind: sum(unit.change == kind for unit in answer.units) for kind in (CHANGED, NEW, DESTROYED, GONE)}
    counted[UNCHANGED] = answer.unchanged + sum(unit.change == UNCHANGED for unit in answer.units)
    return ", ".join(f"{count} {kind}" for kind, count in counted.items() if count)


def _lines(units: Iterable[schema.PlannedUnit]) -> list[_Line]:
    groups: dict[str, list[schema.PlannedUnit]] = {}
    for unit in units:
        groups.setdefault(group_of(unit.name), []).append(unit)
    return [line for group, members in groups.items() for line in _lines_of_group(group, members)]


def _lines_of_group(group: str, members: Sequence[schema.PlannedUnit]) -> list[_Line]:
    """What changes as the template does goes with it, and many instances that change alike are one line."""
    heads = [unit for unit in members if is_template(unit.name)]
    alike: dict[tuple[str, str, str, str], list[schema.PlannedUnit]] = {}
    for unit in members:
        because = "" if unit.change == NEW and [head.change for head in heads] == [NEW] else unit.because
        alike.setdefault((unit.change, unit.impact, because, unit.owner), []).append(unit)
    lines = []
    for units in alike.values():
        if len(units) > MOST_SINGLE or (units and heads and heads[0] in units):
            lines.append(_Line(group, tuple(units)))
        else:
            lines += [_Line(unit.name, (unit,)) for unit in units]
    return lines


def _words(line: _Line, groups: Iterable[schema.PlannedGroup]) -> str:
    unit = line.unit
    words = ""
    if unit.change == NEW:
        words = _describe_new(line)
    elif unit.change == CHANGED:
        default = schema.PlannedGroup("")
        words = _describe_change(line, next((group for group in groups if group.name == group_of(unit.name)), default))
    elif unit.change == GONE:
        words = "is not in the folder, and stays without --prune"
    elif unit.change == DESTROYED:
        words = f"{_count(line, ' ')}({unit.because})"
    taken = f'taken over from the set "{printable(unit.owner)}"' if unit.owner else ""
    return "; ".join(part for part in (words, taken) if part)


def _count(line: _Line, end: str) -> str:
    """The number of instances that a line is about, '' if it is about one unit."""
    count = len(line.instances)
    return f"{count} instance{'s'[: count != 1]}{end}" if count else ""


def _describe_new(line: _Line) -> str:
    targets = {unit.target for unit in line.units if not is_template(unit.name)} - {TargetState.LAUNCHED}
    because = {unit.because for unit in line.units if unit.because}
    words = ", ".join([*sorted(targets), *sorted(because)])
    return f"{_count(line, ' ')}({words})" if words and line.instances else _count(line, "") or words


def _describe_change(line: _Line, group: schema.PlannedGroup) -> str:
    unit = line.unit
    if unit.impact == Impact.NONE:
        return _count(line, ": ") + (unit.because or "nothing restarts")
    running = sum(each.target == TargetState.LAUNCHED for each in line.units if not is_template(each.name))
    if not running:
        return "no instance runs" if is_template(line.name) else f"is {unit.target}: nothing restarts"
    subject = _count(line, ": ")
    if unit.is_global:
        subject = f"{group.running} machine{'s'[: group.running != 1]}: "
    if unit.impact == Impact.RELOAD:
        is_asked = unit.because == f"UpdateAction={UpdateAction.RELOAD}"  # then systemctl reload may follow
        what = "reload without a restart" if is_asked else "daemon-reload is enough"
        return f"{subject}{what} ({unit.because})"
    pace = "one" if group.at_a_time == 1 else str(group.at_a_time)
    limit = f", {pace} at a time (MaxUnavailable={group.max_unavailable})" if group.running > 1 else ""
    return f"{subject}restart ({unit.because}){limit}"
