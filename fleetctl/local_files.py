"""Parses unit arguments, and reads local unit files."""

import os
import stat
from collections.abc import Iterable

import msgspec

from fleetctl.errors import CommandFailed, cause_of
from fleetd.model.names import InvalidName, UnitName, parse_name, validate_name, with_default_suffix
from fleetd.model.unitfile import MAX_UNIT_FILE_BYTES, UnitFile, UnitFileError, decode_unit_file, surprising_lines


class UnitArgument(msgspec.Struct, frozen=True):
    """A unit argument: the text as written, the unit's name, and the directory part."""

    text: str
    name: UnitName
    directory: str

    @property
    def path(self) -> str:
        """Path of the unit's own file."""
        return os.path.join(self.directory, self.name.full)

    @property
    def template_path(self) -> str:
        """Path of its template's file, '' unless it is an instance."""
        return os.path.join(self.directory, self.name.template) if self.name.is_instance else ""


class LocalFile(msgspec.Struct, frozen=True):
    """A local unit file. `surprises` are (line number, warning)."""

    path: str
    content: UnitFile
    surprises: tuple[tuple[int, str], ...] = ()


def parse_argument(argument: str) -> UnitArgument:
    """The unit that an argument names: the last part of the path, `.service` if no type is given."""
    directory, base = os.path.split(argument.rstrip("/") or argument)
    return UnitArgument(argument, parse_name(with_default_suffix(base)), directory)


def parse_arguments(arguments: Iterable[str]) -> list[UnitArgument]:
    """The units that the arguments name, in order, each once. Raises CommandFailed for an invalid name, and for a unit
    that is given twice by files that differ.
    """
    found: dict[str, UnitArgument] = {}
    for argument in map(parse_argument, arguments):
        check_name(argument)
        first = found.setdefault(argument.name.full, argument)
        if first.path != argument.path:
            one, other = read_local_file(first.path), read_local_file(argument.path)
            if one and other and one.content != other.content:
                raise CommandFailed(
                    f"Error creating units: {first.path} and {argument.path} differ, and both are unit "
                    f"{argument.name.full}: give only one of them"
                )
    return list(found.values())


def check_name(argument: UnitArgument) -> None:
    """Raises CommandFailed for an invalid unit name."""
    try:
        validate_name(argument.name.full if argument.text else "")
    except InvalidName as error:
        raise CommandFailed(f"Error creating units: failed creating unit {argument.name.full!r}: {error}") from error


def explain_missing(argument: UnitArgument) -> str:
    """A hint if the argument is a directory, else ''."""
    return f" ({argument.text} is a directory: name the unit files in it)" if os.path.isdir(argument.text) else ""


def read_local_file(path: str) -> LocalFile | None:
    """The unit file at a path, None if there is none or no path. Raises CommandFailed if it is invalid."""
    try:
        data = _read_bounded(path) if path else None
        if data is None:
            return None
        text = decode_unit_file(data)
        return LocalFile(path, UnitFile.parse(text), surprising_lines(text))
    except UnitFileError as error:
        where = f" (line {error.line})" if error.line is not None and f"line {error.line}" not in str(error) else ""
        why = f"{error}{where}"
    except OSError as error:
        why = cause_of(error)
    raise CommandFailed(f"Error creating units: failed getting Unit({path}) from file: {why}")


def _read_bounded(path: str) -> bytes | None:
    """The bytes of a regular file, at most one more than allowed. Raises UnitFileError for pipes and devices."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(mode):
        raise UnitFileError("it is a directory: name the unit files in it")
    if not stat.S_ISREG(mode):
        raise UnitFileError("it is not a regular file")
    if os.path.getsize(path) > MAX_UNIT_FILE_BYTES:
        raise UnitFileError(
            f"the unit file has {os.path.getsize(path)} bytes, and at most {MAX_UNIT_FILE_BYTES} are allowed: "
            "move what is large into a file of its own"
        )
    with open(path, "rb") as file:
        return file.read(MAX_UNIT_FILE_BYTES + 1)
