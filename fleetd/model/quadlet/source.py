"""The files that a service was made of, kept in its unit: in sections that systemd and fleet pass over.

The section `[X-Source hello.container Unit]` holds what stands in [Unit] of hello.container. So the source goes
wherever the unit goes: into records, versions, exports, and through fleets that know nothing of containers.
"""

from collections.abc import Iterable, Sequence

import msgspec

from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import render_unit_file

_PREFIX = "X-Source "


class SourceFile(msgspec.Struct, frozen=True):
    """A file that a service was made of: its name, and its text without comments."""

    name: str
    text: str


def keep_source(file: str, options: Iterable[UnitOption]) -> list[UnitOption]:
    """The options of a file as those that a unit keeps of it."""
    return [UnitOption(f"{_PREFIX}{file} {each.section}", each.name, each.value) for each in options]


def sources_of(options: Sequence[UnitOption]) -> tuple[SourceFile, ...]:
    """The files that a unit with these options was made of: the container first; none for a unit of no container."""
    files: dict[str, list[UnitOption]] = {}
    for each in options:
        if each.section.startswith(_PREFIX):
            file, _, section = each.section.removeprefix(_PREFIX).partition(" ")
            files.setdefault(file, []).append(UnitOption(section, each.name, each.value))
    return tuple(SourceFile(file, render_unit_file(kept)) for file, kept in files.items())


def without_sources(options: Iterable[UnitOption]) -> tuple[UnitOption, ...]:
    """The options that systemd and fleet read."""
    return tuple(each for each in options if not each.section.startswith(_PREFIX))
