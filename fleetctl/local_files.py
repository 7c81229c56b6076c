"""Parses unit arguments, and reads local unit files."""

import os
import stat
from collections.abc import Iterable
from functools import partial

import msgspec

from fleetctl.errors import CommandFailed, cause_of
from fleetd.model.names import InvalidName, UnitName, parse_name, validate_name, with_default_suffix
from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.names import CONTAINER_SUFFIX, SUFFIXES, service_name
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import (
    MAX_UNIT_FILE_BYTES,
    UnitFile,
    UnitFileError,
    decode_unit_file,
    surprising_lines,
)

OTHER_QUADLETS = (".build", ".image", ".kube", ".pod")


class UnitArgument(msgspec.Struct, frozen=True):
    """A unit argument: the text as written, the unit's name, the directory part, and the name of the file, which for a
    container is not that of the unit."""

    text: str
    name: UnitName
    directory: str
    file: UnitName

    @property
    def path(self) -> str:
        """Path of the unit's own file."""
        return os.path.join(self.directory, self.file.full)

    @property
    def template_path(self) -> str:
        """Path of its template's file, '' unless it is an instance."""
        return os.path.join(self.directory, self.file.template) if self.file.is_instance else ""


class LocalFile(msgspec.Struct, frozen=True):
    """A local unit file. `surprises` are (line number, warning). `is_stored`: it is a container that the cluster has,
    and the content is what it has of it."""

    path: str
    content: UnitFile
    surprises: tuple[tuple[int, str], ...] = ()
    is_stored: bool = False


def parse_argument(argument: str) -> UnitArgument:
    """The unit that an argument names: the last part of the path, `.service` if no type is given. A container is the
    service that is made of it."""
    directory, base = os.path.split(argument.rstrip("/") or argument)
    if base.endswith(SUFFIXES):
        return UnitArgument(argument, parse_name(service_name(base)), directory, parse_name(base))
    name = parse_name(with_default_suffix(base))
    return UnitArgument(argument, name, directory, name)


def parse_arguments(arguments: Iterable[str]) -> list[UnitArgument]:
    """The units that the arguments name, in order, each once. Raises CommandFailed for an invalid name, and for a unit
    that is given twice by files that differ.
    """
    found: dict[str, UnitArgument] = {}
    for argument in map(parse_argument, arguments):
        check_name(argument)
        _refuse_resource(argument)
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


def refuse_other_quadlet(argument: UnitArgument) -> None:
    """Raises CommandFailed for a file of Quadlet's that no unit is made of."""
    if argument.text.endswith(OTHER_QUADLETS) and os.path.isfile(argument.text):
        raise CommandFailed(
            f"Error creating units: {argument.text} makes no unit: of Quadlet's files, fleet takes .container, .volume "
            "and .network"
        )


def _refuse_resource(argument: UnitArgument) -> None:
    """Raises CommandFailed for a volume or a network, and for a file of Quadlet's that no unit is made of."""
    refuse_other_quadlet(argument)
    file = argument.file.full
    if file.endswith(SUFFIXES) and not file.endswith(CONTAINER_SUFFIX):
        raise CommandFailed(
            f"Error creating units: {argument.text} is no unit of its own: each container that names {file} takes it "
            "along; submit the container"
        )


def explain_missing(argument: UnitArgument) -> str:
    """A hint if the argument is a directory, or if there is a container of that name, else ''."""
    if os.path.isdir(argument.text):
        return f" ({argument.text} is a directory: name the unit files in it)"
    container = os.path.join(argument.directory, f"{argument.name.stem}{CONTAINER_SUFFIX}")
    is_service = argument.name.suffix == "service" and not argument.file.full.endswith(SUFFIXES)
    return f" ({container} is there: name that)" if is_service and os.path.isfile(container) else ""


def read_local_file(path: str) -> LocalFile | None:
    """The unit file at a path, None if there is none or no path; of a container the service that it makes. Raises
    CommandFailed if it is invalid."""
    try:
        text = _read_text(path) if path else None
        if text is None:
            return None
        if path.endswith(SUFFIXES):
            from fleetd.model.quadlet.translation import translate  # no list needs it

            options = translate(os.path.basename(path), _read_quadlet(path, text), partial(_read_beside, path))
            return LocalFile(path, UnitFile.from_options(options), surprising_lines(text))
        return LocalFile(path, UnitFile.parse(text), surprising_lines(text))
    except UnitFileError as error:
        where = f" (line {error.line})" if error.line is not None and f"line {error.line}" not in str(error) else ""
        why = f"{error}{where}"
    except InvalidQuadlet as error:
        why = str(error)
    except OSError as error:
        why = cause_of(error)
    raise CommandFailed(f"Error creating units: failed getting Unit({path}) from file: {why}")


def _read_beside(path: str, name: str) -> tuple[UnitOption, ...] | None:
    """The options of the file of this name in the folder of the file `path`, None if there is none. Raises
    CommandFailed."""
    beside = os.path.join(os.path.dirname(path), name)
    try:
        text = _read_text(beside)
        return None if text is None else _read_quadlet(beside, text)
    except UnitFileError as error:
        why = f"{error} (line {error.line})" if error.line else str(error)
    except OSError as error:
        why = cause_of(error)
    raise CommandFailed(f"Error creating units: cannot read {beside}: {why}")


def _read_quadlet(path: str, text: str) -> tuple[UnitOption, ...]:
    """The options of a file of Quadlet's with this text, and after them those of its drop-ins (`NAME.d/*.conf`) by
    name; an instance has those of its template, too, but for names of its own. Raises UnitFileError and OSError."""
    from fleetd.model.quadlet.source import parse_quadlet_file

    options = parse_quadlet_file(text)
    directory, base = os.path.split(path)
    dropins: dict[str, str] = {}
    for name in (parse_name(base).template, base):
        folder = os.path.join(directory, f"{name}.d")
        if name and os.path.isdir(folder):
            found = (each for each in os.listdir(folder) if each.endswith(".conf") and not each.startswith("."))
            dropins |= {each: os.path.join(folder, each) for each in found}
    for name, dropin in sorted(dropins.items()):
        try:
            options += parse_quadlet_file(_read_text(dropin) or "")
        except UnitFileError as error:
            raise UnitFileError(f"drop-in {name}: {error}", error.line) from error
    return options


def _read_text(path: str) -> str | None:
    """The text of the unit file at a path, None if there is none. Raises UnitFileError and OSError."""
    data = _read_bounded(path)
    return None if data is None else decode_unit_file(data)


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
