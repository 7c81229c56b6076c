"""The files that a service was made of, kept in its unit: in sections that systemd and fleet pass over.

The section `[X-Source hello.container Unit]` holds what stands in [Unit] of hello.container. So the source goes
wherever the unit goes: into records, versions, exports, and through fleets that know nothing of containers. The section
`[X-Image]` holds the image by its digest, where that was asked for.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import parse_unit_file, render_unit_file

_PREFIX = "X-Source "
_IMAGE = "X-Image"
_EMPTY = "X-Empty"  # the option that stands for a file without any
_BLANKS_AFTER_BACKSLASH = re.compile(r"\\[ \t]+$", re.MULTILINE)


class SourceFile(msgspec.Struct, frozen=True):
    """A file that a service was made of: its name, and its text without comments."""

    name: str
    text: str


def parse_quadlet_file(text: str) -> tuple[UnitOption, ...]:
    """The options of a file. Quadlet continues a line also where blanks follow the backslash. Raises UnitFileError."""
    return parse_unit_file(_BLANKS_AFTER_BACKSLASH.sub(r"\\", text))


def keep_source(file: str, options: Iterable[UnitOption]) -> list[UnitOption]:
    """The options of a file as those that a unit keeps of it."""
    kept = [UnitOption(f"{_PREFIX}{file} {each.section}", each.name, each.value) for each in options]
    return kept or [UnitOption(f"{_PREFIX}{file} {file.rpartition('.')[2].capitalize()}", _EMPTY, "yes")]


def keep_image(image: str) -> UnitOption:
    """The image by its digest as the option that a unit keeps of it."""
    return UnitOption(_IMAGE, "Image", image)


def resolved_image(options: Iterable[UnitOption]) -> str:
    """The image by its digest that a unit was made with; '' if it was made with that of its file."""
    return next((each.value for each in options if each.section == _IMAGE), "")


def source_value(options: Iterable[UnitOption], section: str, key: str) -> str:
    """The last value of an option in this section of the files that a unit was made of; '' if there is none."""
    end = f" {section}"
    found = [
        each.value
        for each in options
        if each.name == key and each.section.endswith(end) and each.section.startswith(_PREFIX)
    ]
    return found[-1] if found else ""


def keeps_source(text: str) -> bool:
    """Whether a rendered unit file keeps files that it was made of, or an image by its digest."""
    return f"[{_PREFIX}" in text or f"[{_IMAGE}]" in text


def sources_of(options: Sequence[UnitOption]) -> tuple[SourceFile, ...]:
    """The files that a unit with these options was made of: the container first; none for a unit of no container."""
    files: dict[str, list[UnitOption]] = {}
    for each in options:
        if each.section.startswith(_PREFIX):
            file, _, section = each.section.removeprefix(_PREFIX).partition(" ")
            files.setdefault(file, []).append(UnitOption(section, each.name, each.value))
    return tuple(SourceFile(file, _render(kept)) for file, kept in files.items())


def _render(options: Sequence[UnitOption]) -> str:
    first = options[0]
    return f"[{first.section}]\n" if first.name == _EMPTY else render_unit_file(options)


def without_sources(options: Iterable[UnitOption]) -> tuple[UnitOption, ...]:
    """The options that systemd and fleet read."""
    return tuple(each for each in options if each.section != _IMAGE and not each.section.startswith(_PREFIX))
