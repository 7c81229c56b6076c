"""Unified diffs of the units of a folder against those of the cluster."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fleetctl import terminal
from fleetctl.plan_lines import CHANGED, DESTROYED, GONE, NEW, VALUES
from fleetd.api import schema
from fleetd.model.content import Content
from fleetd.model.names import template_of
from fleetd.model.quadlet.source import keeps_source, sources_of
from fleetd.model.unitfile import parse_unit_file

_NOTHING = "/dev/null"
_SOURCE = "/"  # in no name of a drop-in
_COLOURS = {"+": terminal.GREEN, "-": terminal.RED}


def render_differences(
    units: Iterable[schema.PlannedUnit], contents: Mapping[str, Content], folder: str
) -> Iterator[str]:
    """The diffs of the units that change. Instances that change as their template does are left out."""
    by_template: dict[str, list[str]] = {}
    for unit in sorted(units, key=lambda unit: (template_of(unit.name) != unit.name, unit.name)):
        changed = _changed_lines(unit, contents)
        if by_template.get(template_of(unit.name)) == changed:
            continue
        by_template.setdefault(unit.name, changed)
        if text := render_difference(unit, contents, folder):
            yield text


def _changed_lines(unit: schema.PlannedUnit, contents: Mapping[str, Content]) -> list[str]:
    """What changes of a unit, without its name."""
    before, after = _files(unit.before), _files_of(unit, contents)
    return [unit.change, *(f"{name}\0{before.get(name)}\0{after.get(name)}" for name in sorted({**before, **after}))]


def render_difference(unit: schema.PlannedUnit, contents: Mapping[str, Content], folder: str) -> str:
    """The diffs of one unit, file by file; '' if it does not change."""
    if unit.change not in (NEW, CHANGED, DESTROYED):
        return ""
    before, after = _files(unit.before), _files_of(unit, contents)
    texts: list[str] = []
    for file in sorted({**before, **after}):
        path = _path(unit.name, file)
        old, new = before.get(file, ""), after.get(file, "")
        lines = difflib.unified_diff(
            old.splitlines(keepends=True),
            new.splitlines(keepends=True),
            f"cluster/{path}" if file in before else _NOTHING,
            os.path.join(folder, path) if file in after else _NOTHING,
        )
        texts += lines
    return "".join(texts)


def _path(unit: str, file: str) -> str:
    if file.startswith(_SOURCE):
        return file.removeprefix(_SOURCE)
    return f"{unit}.d/{file}" if file else unit


def _files(unit: schema.AppliedUnit | Content | None) -> dict[str, str]:
    """The unit file (''), or the files that it was made of (after _SOURCE), and the drop-ins by name."""
    if unit is None:
        return {}
    files = {"": unit.text}
    if keeps_source(unit.text) and (sources := sources_of(parse_unit_file(unit.text))):
        files = {f"{_SOURCE}{source.name}": source.text for source in sources}
    return {**files, **{dropin.name: dropin.text for dropin in unit.dropins}}


def _files_of(unit: schema.PlannedUnit, contents: Mapping[str, Content]) -> dict[str, str]:
    if unit.change == DESTROYED:
        return {}
    content = contents.get(unit.name) or contents.get(template_of(unit.name))  # an instance that follows its template
    return _files(content)


def describe_rest(units: Iterable[schema.PlannedUnit], contents: Mapping[str, Content], folder: str) -> Iterator[str]:
    """Sentences about units of which no diff tells."""
    for unit in units:
        if unit.change == GONE:
            yield f"{unit.name} is of the set and not in {folder}: it stays, unless --prune is given"
        if unit.change == CHANGED and not render_difference(unit, contents, folder):
            yield f"{unit.name}: {unit.because}"
        if unit.owner:
            yield f'{unit.name} is of the set "{unit.owner}", and would be taken out of it'


def diff_values(contents: Mapping[str, Content], folder: str) -> Mapping[str, Callable[[schema.PlannedUnit], Any]]:
    """The fields of the objects that `diff --output=json` prints."""
    return {**VALUES, "diff": lambda unit: render_difference(unit, contents, folder) or None}


def paint(text: str) -> str:
    """The diff in colours at a terminal."""
    return "".join(
        terminal.paint(line.rstrip("\n"), _COLOURS.get(line[:1], ""), sys.stdout) + "\n" for line in text.splitlines()
    )
