"""The content of a unit: its unit file and its drop-ins, which together are what systemd reads of it.

Drop-ins follow systemd.unit(5): they are read after the unit file, in order of their names.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from fleetd.model.fleet_options import FLEET_SECTION, OPTIONS
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import (
    MAX_UNIT_FILE_BYTES,
    WHITESPACE,
    UnitFileError,
    hash_unit_file,
    parse_unit_file,
    render_unit_file,
)

MAX_DROPINS = 64  # of one unit

# Those of unit names. A file that begins with a dot is hidden, and systemd does not read it.
_NAME = re.compile(r"(?!\.)[A-Za-z0-9:_.\\@-]{1,250}\.conf", re.ASCII)
_SINGLE_VALUED = frozenset(spelling for option in OPTIONS if not option.is_list for spelling in option.spellings)


class InvalidDropIn(ValueError):
    """A drop-in that no unit may have. The message names it, the cause and the remedy."""


class DropIn(msgspec.Struct, frozen=True, gc=False):
    """One drop-in: the name of the file (`10-limits.conf`), and its rendered text."""

    name: str
    text: str


class Content(msgspec.Struct, frozen=True, gc=False):
    """What systemd reads of a unit: the rendered unit file, and the drop-ins in order of their names."""

    text: str
    dropins: tuple[DropIn, ...] = ()

    @property
    def hash(self) -> str:
        """40 hex digits that identify the content. Without drop-ins it is CoreOS fleet's hash of the unit file."""
        return _hash(self)

    @property
    def size(self) -> int:
        """Bytes in UTF-8, with the names of the drop-ins."""
        size = size_of_text(self.text)
        for dropin in self.dropins:
            size += size_of_text(dropin.name) + size_of_text(dropin.text)
        return size

    def options(self) -> tuple[UnitOption, ...]:
        """The options of the unit file and of its drop-ins, in the order in which systemd reads them. Raises
        UnitFileError.

        In [X-Fleet], which systemd does not read, a drop-in acts as it would in a section of systemd's: an empty value
        removes what was set before, a list grows, and any other option is replaced.
        """
        options = parse_unit_file(self.text)
        for dropin in self.dropins:
            options = _lay_over(options, parse_unit_file(dropin.text))
        return options


class HasContent(Protocol):
    """A content, or a record that has one."""

    @property
    def text(self) -> str: ...

    @property
    def dropins(self) -> tuple[DropIn, ...]: ...


def is_same_content(one: HasContent, other: HasContent) -> bool:
    """True if both have the same unit file and drop-ins."""
    return one.text == other.text and one.dropins == other.dropins


@lru_cache(maxsize=1024)
def _hash(content: Content) -> str:
    if not content.dropins:
        return hash_unit_file(content.text)
    # No name and no text holds a NUL byte, so that no two contents are joined to the same bytes.
    parts = [content.text, *(part for dropin in content.dropins for part in (dropin.name, dropin.text))]
    return hashlib.sha1("\0".join(parts).encode(), usedforsecurity=False).hexdigest()


def _lay_over(options: tuple[UnitOption, ...], added: tuple[UnitOption, ...]) -> tuple[UnitOption, ...]:
    merged = list(options)
    for option in added:
        is_ours = option.section == FLEET_SECTION
        if is_ours and (option.name in _SINGLE_VALUED or not option.value):
            merged = [each for each in merged if (each.section, each.name) != (FLEET_SECTION, option.name)]
        if option.value or not is_ours:
            merged.append(option)
    return tuple(merged)


def size_of_text(text: str) -> int:
    """Bytes of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def make_dropins(texts: Iterable[tuple[str, str]]) -> tuple[DropIn, ...]:
    """The drop-ins of these (name, text), rendered as unit files are, in order of their names. Raises InvalidDropIn."""
    dropins: dict[str, DropIn] = {}
    for name, text in texts:
        check_dropin_name(name)
        if name in dropins:
            raise InvalidDropIn(f'drop-in "{name}" is given twice: give it once')
        dropins[name] = DropIn(name, _render(name, text))
    check_count(dropins)
    return tuple(dropins[name] for name in sorted(dropins))


def _render(name: str, text: str) -> str:
    if "\0" in text:
        raise InvalidDropIn(f'drop-in "{name}" holds a NUL byte: remove it')
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        words = line.strip(WHITESPACE)
        if words and not words.startswith(("#", ";")):
            if not words.startswith("["):  # systemd would ignore it, with a line in the journal
                raise InvalidDropIn(f'drop-in "{name}", line {number} stands before the first section: put it into one')
            break
    try:
        return render_unit_file(parse_unit_file(text))
    except UnitFileError as error:
        where = f", line {error.line}" if error.line else ""
        raise InvalidDropIn(f'drop-in "{name}"{where}: {error}') from error


def check_dropin_name(name: str) -> None:
    """Raises InvalidDropIn unless systemd reads a file of this name, and its folder is the unit's own."""
    if not _NAME.fullmatch(name):
        raise InvalidDropIn(
            f'"{name}" is no name of a drop-in: it has to end in ".conf", to hold letters, digits and "-_.:@\\" only, '
            "not to begin with a dot, and to have at most 255 characters"
        )


def check_count(dropins: Iterable[object]) -> None:
    """Raises InvalidDropIn for more drop-ins than a unit may have."""
    if (count := sum(1 for _ in dropins)) > MAX_DROPINS:
        raise InvalidDropIn(f"{count} drop-ins, and at most {MAX_DROPINS} are allowed: put several into one file")


def refuse_size(content: Content) -> str:
    """Why a unit may not have a content of this size, or ''."""
    if not content.dropins or content.size <= MAX_UNIT_FILE_BYTES:
        return ""  # a unit file alone is checked as such
    return (
        f"the unit file and its drop-ins have {content.size} bytes together, and at most {MAX_UNIT_FILE_BYTES} are "
        "allowed: move what is large into a file of its own"
    )


def merge_dropins(template: Sequence[DropIn], own: Sequence[DropIn]) -> tuple[DropIn, ...]:
    """What an instance carries: the drop-ins of its template, and its own ones, which replace those of their names."""
    merged = {dropin.name: dropin for dropin in (*template, *own)}
    return tuple(merged[name] for name in sorted(merged))


def own_dropins(carried: Sequence[DropIn], template: Sequence[DropIn]) -> tuple[DropIn, ...]:
    """The drop-ins of an instance that are not as its template has them."""
    return tuple(dropin for dropin in carried if dropin not in template)
