"""Unit files: text to options and back, and the hash of their content.

The grammar is CoreOS fleet's: a little stricter and a little looser than systemd's. Hashes depend on it to the byte.
Continued lines and comments follow systemd.syntax(7). Options are not interpreted here: constraints.py reads [X-Fleet],
systemd the rest.
"""

import hashlib
import itertools
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Self

import msgspec

from fleetd.model.unit_option import UnitOption

MAX_UNIT_FILE_BYTES = 256 * 1024

# Unicode's White_Space property. str.strip() would also strip U+001C to U+001F, which belong to values.
WHITESPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

_BYTE_ORDER_MARK = "\ufeff"
_BEFORE_FIRST_SECTION = re.compile(r"[^\[#;]*")
_COMMENTS = ("#", ";")
_BACKSLASH = ("\\", "\\\r")  # at the end of a line
_END_OF_LINE_THAT_GOES_ON = re.compile(r"(?<![ \t])[ \t]*+\\\n[ \t]*")
_SHORT = 256  # characters of an option, far below the limit of a line


class UnitFileError(ValueError):
    """The text cannot be read as a unit file, or the options not be written as one. `line` counts from 1; 0 if
    unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class UnitFile(msgspec.Struct, frozen=True):
    """The content of a unit: the options in the order given, the text they render to, and the hash of that text."""

    options: tuple[UnitOption, ...]
    text: str
    hash: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The content of this text. Raises UnitFileError if it is not a unit file."""
        return cls.from_options(parse_unit_file(text))

    @classmethod
    def from_options(cls, options: Iterable[UnitOption]) -> Self:
        """The content of these options. Call check_options first if they do not come from a unit file."""
        options = tuple(options)
        text = render_unit_file(options)
        return cls(options, text, hash_unit_file(text))


def decode_unit_file(data: bytes) -> str:
    """The text of a unit file. Raises UnitFileError if there are too many bytes, or they are not UTF-8."""
    if len(data) > MAX_UNIT_FILE_BYTES:
        raise UnitFileError(
            f"the unit file has {len(data)} bytes, and at most {MAX_UNIT_FILE_BYTES} are allowed: "
            "move what is large into a file of its own"
        )
    nul = data.find(0)
    if nul >= 0:
        line = _line_of(data, nul)
        raise UnitFileError(f"NUL byte at offset {nul} (line {line}) of the unit file: remove it", line)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = _line_of(data, error.start)
        raise UnitFileError(
            f"byte 0x{data[error.start]:02x} at offset {error.start} (line {line}) of the unit file is not UTF-8: "
            "save the file in UTF-8",
            line,
        ) from error


def _line_of(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


class _Lines:
    """The physical lines of a text. `left` are those not yet taken, `number` is that of the last one taken."""

    def __init__(self, text: str) -> None:
        lines = text.split("\n")
        self._count = len(lines)
        self.left = iter(lines)

    @property
    def number(self) -> int:
        return self._count - operator.length_hint(self.left)

    @property
    def exhausted(self) -> bool:
        return self.number == self._count


def parse_unit_file(text: str) -> tuple[UnitOption, ...]:
    """The options in the order of the text. Raises UnitFileError, with CoreOS fleet's message where that refused
    too."""
    lines = _Lines(text)
    options: list[UnitOption] = []
    section: str | None = None
    for line in lines.left:
        # Before the first section, anything but a header is ignored, also a byte order mark.
        line = _BEFORE_FIRST_SECTION.sub("", line, count=1) if section is None else line.lstrip(WHITESPACE)
        if not line or line.startswith(_COMMENTS):
            continue
        if section is None or line[0] == "[":
            section = _parse_header(line, lines)
        else:
            options.append(_parse_option(section, line, lines))
    return tuple(options)


def _goes_on(line: str) -> bool:
    """True if the line is continued by the next one: it ends in a backslash that is not escaped."""
    if not line.endswith(_BACKSLASH):
        return False  # most lines
    line = line.removesuffix("\r")
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _is_comment(line: str) -> bool:
    return line.lstrip(WHITESPACE).startswith(_COMMENTS)


def surprising_lines(text: str) -> tuple[tuple[int, str], ...]:
    """(line number, why) of the lines that are ignored although they look like options, or that CoreOS fleet read
    differently. The text is one that parse_unit_file reads."""
    found: list[tuple[int, str]] = []
    has_begun = is_value = False
    lines = [*text.removeprefix(_BYTE_ORDER_MARK).split("\n"), ""]
    for number, (line, following) in enumerate(itertools.pairwise(lines), start=1):
        stripped = line.strip(WHITESPACE)
        if stripped.startswith(_COMMENTS):
            if is_value:
                found.append((number, "is a comment within a continued line: CoreOS fleet took it for a part of that"))
            elif line.removesuffix(" ").endswith("\\") and following.strip(WHITESPACE) and not _is_comment(following):
                found.append((number, "is a comment that ends in a backslash: CoreOS fleet passed over the next line"))
            continue
        if stripped and not has_begun:
            if not stripped.startswith("["):
                found.append((number, "stands before the first section, and is ignored"))
            has_begun = True
        ends_in_backslash = line.removesuffix("\r").endswith("\\")
        is_value = bool(stripped) and _goes_on(line)
        if ends_in_backslash and not is_value and following.strip(WHITESPACE):
            found.append((number, "ends in an escaped backslash: CoreOS fleet took the next line for a part of it"))
    return tuple(found)


def _parse_header(line: str, lines: _Lines) -> str:
    started = lines.number
    parts = [line[1:]]
    while "]" not in parts[-1]:
        following = next(lines.left, None)
        if following is None:
            raise UnitFileError("unable to find end of section", started)
        parts.append(following)
    section, _, rest = "\n".join(parts).partition("]")
    garbage = rest.strip(WHITESPACE)
    if garbage:
        raise UnitFileError(f"found garbage after section name {section!r}: {garbage!r}", lines.number)
    return section


def _parse_option(section: str, line: str, lines: _Lines) -> UnitOption:
    name, equals, rest = line.partition("=")
    if "\r" in name or not (equals or lines.exhausted):
        raise UnitFileError("unexpected newline encountered while parsing option name", lines.number)
    if not equals:
        raise UnitFileError("EOF", lines.number)
    return UnitOption(section, name.rstrip(WHITESPACE), _parse_value(rest, lines))


def _parse_value(first: str, lines: _Lines) -> str:
    """The value that begins with `first`, to its last line, without comments in between. A value that ends at a blank
    line or at the end of the text keeps its newline."""
    if not _goes_on(first):
        return first.strip(WHITESPACE)
    parts = [first.removesuffix("\r")]
    for line in lines.left:
        if not line.strip(WHITESPACE):
            break
        if _is_comment(line):
            continue
        parts.append(line.removesuffix("\r"))
        if not _goes_on(line):
            return "\n".join(parts).strip(WHITESPACE)
    return "\n".join(parts).strip(WHITESPACE) + "\n"


def without_comments(value: str) -> str:
    """The value as it would be read from a file: CoreOS fleet's clients send the comments within continued values."""
    first, *others = value.split("\n")
    kept = [first, *(line for line in others if not _is_comment(line))]
    is_cut = len(kept) <= len(others) and _goes_on(kept[-1])
    return "\n".join([*kept, ""] if is_cut else kept)


def join_continued(value: str) -> str:
    """The value in one line: each continuation becomes one blank, as in systemd."""
    return _END_OF_LINE_THAT_GOES_ON.sub(" ", value).strip(WHITESPACE) if "\\\n" in value else value


def render_unit_file(options: Iterable[UnitOption]) -> str:
    """The text that is stored, hashed and written: sections in order of first appearance, each in one piece, no
    comments."""
    sections: dict[str, list[str]] = {}
    for option in options:
        sections.setdefault(option.section, []).append(f"{option.name}={option.value}\n")
    return "\n".join(f"[{section}]\n{''.join(lines)}" for section, lines in sections.items())


def hash_unit_file(text: str) -> str:
    """SHA-1 of a rendered text, 40 hex digits. It identifies the content, and protects nothing."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def first_value(options: Iterable[UnitOption], section: str, name: str) -> str | None:
    """The value of the first such option; None if there is none."""
    return next((option.value for option in options if option.section == section and option.name == name), None)


def list_values(options: Iterable[UnitOption], section: str, *names: str) -> list[str]:
    """The values of these list options, in the file's order, each in one line. An empty one resets the list, as in
    systemd."""
    values: list[str] = []
    for option in options:
        if option.section == section and option.name in names:
            value = join_continued(option.value)
            values = [*values, value] if value.strip() else []
    return values


def check_options(options: Sequence[UnitOption]) -> None:
    """Raises UnitFileError for options that could not be read back, or would be read differently, once rendered.

    Options from the API need not come from a file: a newline in a value could open a section. What cannot be read at
    all is refused with parse_unit_file's messages, which clients know.
    """
    for option in options:
        fault = _fault(option)
        if fault:
            raise UnitFileError(f"option {option.name!r} of section {option.section!r} cannot be written: {fault}")
    size = len(render_unit_file(options).encode())
    if size > MAX_UNIT_FILE_BYTES:
        raise UnitFileError(
            f"the options make a unit file of {size} bytes, and at most {MAX_UNIT_FILE_BYTES} are allowed: "
            "move what is large into a file of its own"
        )


def _fault(option: UnitOption) -> str | None:
    """Why an option does not survive being rendered, and the remedy; None if it does."""
    section, name, value = option.section, option.name, option.value
    if any("\0" in text or not _is_unicode(text) for text in (section, name, value)):
        return "it holds a NUL byte or half a surrogate pair; remove it"
    if "]" in section:
        return "the section's name holds a closing bracket; remove it"
    if name != name.strip(WHITESPACE) or name.startswith(("[", "#", ";")) or any(mark in name for mark in "=\r\n"):
        return "the name has blanks around it, holds '=' or a line end, or begins like a comment or a section"
    if (
        len(name) + len(value) <= _SHORT
        and "\n" not in value
        and not _goes_on(value)
        and value == value.strip(WHITESPACE)
    ):
        return None  # most options: no need to read them back
    if (section + name + value).isprintable() and not value.endswith("\\") and value == value.strip(WHITESPACE):
        return None  # nearly all others: one line that can be read in one way only
    read_back = parse_unit_file(render_unit_file((option,)))
    if read_back != (option,):
        return (
            "the value has blanks around it, ends in a backslash, holds a comment, or has a line end without a "
            "backslash before it; "
            f"it would be read back as {read_back[0].value!r}"
        )
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
