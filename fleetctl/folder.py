"""Reads a folder of unit files, as apply and diff take it.

`list_files` looks at the folder; `parse_folder` is pure and does the rest. The folder may hold unit files, folders of
drop-ins (`NAME.d/*.conf`) of its units, links of instances to their template (`web@eu.service → web@.service`), and
containers, volumes and networks, of which services are made.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from fleetctl.errors import CommandFailed, cause_of
from fleetctl.local_files import OTHER_QUADLETS
from fleetd.model.content import Content, DropIn, InvalidDropIn, check_dropin_name, make_dropins
from fleetd.model.names import UNIT_TYPES, InvalidName, is_template, parse_name, template_of, validate_name, visible
from fleetd.model.quadlet.container import named_files
from fleetd.model.quadlet.errors import InvalidQuadlet
from fleetd.model.quadlet.names import CONTAINER_SUFFIX, SUFFIXES, service_name
from fleetd.model.quadlet.source import parse_quadlet_file
from fleetd.model.quadlet.translation import translate
from fleetd.model.unit_option import UnitOption
from fleetd.model.unit_set import InvalidSet, SetUnit, expand, refuse_members
from fleetd.model.unit_warnings import advise
from fleetd.model.unitfile import (
    MAX_UNIT_FILE_BYTES,
    UnitFileError,
    decode_unit_file,
    parse_unit_file,
    render_unit_file,
    surprising_lines,
)

_DROPINS = ".d"
_MAY_BE_EMPTY = (".network", ".volume")  # files of Quadlet's: all that they hold has a default
# Hidden files, what is written for people, and what editors, patch and package managers leave beside a file.
_LEFTOVER = re.compile(
    r"\..* | README(?:\..*)? | .*~ | \#.*\# "
    r"| .*\.(?: bak | orig | rej | sw[a-p] | tmp | dpkg-.* | rpm(?:new|save|orig) )",
    re.VERBOSE,
)
_OPTION = re.compile("[A-Z][A-Za-z]+")  # in the text of a refusal


class Entry(msgspec.Struct, frozen=True):
    """One file of the folder: its path there, and its bytes, or the name of the file in the folder that it is a link
    to, or why it cannot be read."""

    path: str
    data: bytes = b""
    link: str = ""
    fault: str = ""


class Folder(msgspec.Struct, frozen=True):
    """What a folder holds: its units, the contents that they stand for, and warnings."""

    units: tuple[SetUnit, ...]
    contents: Mapping[str, Content]
    warnings: tuple[str, ...] = ()


class BrokenFolder(Exception):
    """The folder cannot be applied; `faults` are all errors found, each with file and line."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


def read_folder(path: str) -> Folder:
    """The units in a folder. Raises CommandFailed, and BrokenFolder for what is in it."""
    try:
        entries, left_out = list_files(path)
    except NotADirectoryError as error:
        raise CommandFailed(f"{path} is not a folder: name the folder that holds the unit files") from error
    except OSError as error:
        raise CommandFailed(f"cannot read the folder {path}: {cause_of(error)}") from error
    return parse_folder(path, entries, left_out)


# Looking at the file system.


def list_files(path: str) -> tuple[list[Entry], list[str]]:
    """The unit files, links and drop-ins of a folder, by name, and what else is in it. Raises OSError."""
    entries: list[Entry] = []
    left_out: list[str] = []
    for name in sorted(os.listdir(path)):
        full = os.path.join(path, name)
        if _LEFTOVER.fullmatch(name):
            continue
        if os.path.isdir(full):
            if name.endswith(_DROPINS):
                _list_dropins(path, name, entries, left_out)
            else:
                left_out.append(f"{name}/")
        elif name.rpartition(".")[2] in UNIT_TYPES or name.endswith(SUFFIXES):
            entries.append(_read(path, name))
        else:
            left_out.append(name)
    return entries, left_out


def _list_dropins(path: str, folder: str, entries: list[Entry], left_out: list[str]) -> None:
    for name in sorted(os.listdir(os.path.join(path, folder))):
        inner = os.path.join(folder, name)
        if _LEFTOVER.fullmatch(name):
            continue
        if name.endswith(".conf"):
            entries.append(_read(path, inner))
        else:
            left_out.append(inner)


def _read(path: str, name: str) -> Entry:
    full = os.path.join(path, name)
    try:
        is_dropin = "/" in name
        if os.path.islink(full) and not is_dropin and (target := _link_within(path, full)):
            return Entry(name, link=target)
        found = os.stat(full)
        if not stat.S_ISREG(found.st_mode):
            return Entry(name, fault="it is not a regular file")
        if found.st_size > MAX_UNIT_FILE_BYTES:
            return Entry(name, fault=f"it has {found.st_size} bytes, and at most {MAX_UNIT_FILE_BYTES} are allowed")
        with open(full, "rb") as file:
            return Entry(name, data=file.read(MAX_UNIT_FILE_BYTES + 1))
    except OSError as error:
        if os.path.islink(full):
            return Entry(name, fault=f"it is a link to {os.readlink(full)}, which cannot be read: {cause_of(error)}")
        return Entry(name, fault=f"cannot be read: {cause_of(error)}")


def _link_within(path: str, full: str) -> str:
    """The name of the file in the same folder that a link points to, '' if it points elsewhere. Raises OSError."""
    target = os.path.realpath(full, strict=True)
    return os.path.basename(target) if os.path.dirname(target) == os.path.realpath(path) else ""


# Pure from here.


class _File(msgspec.Struct, frozen=True):
    """A file that could be parsed: its path as the user sees it, its text, and what it renders to; of a container what
    its service renders to."""

    path: str
    text: str
    rendered: str


def parse_folder(path: str, entries: Iterable[Entry], left_out: Sequence[str] = ()) -> Folder:
    """The units that the files of a folder make. Raises BrokenFolder."""
    return _Parser(path).parse(entries, left_out)


class _Parser:
    """Parses the files of one folder, and collects what is wrong with them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._faults: list[str] = []
        self._files: dict[str, _File] = {}  # of units, by name
        self._links: set[str] = set()
        self._dropins: dict[str, dict[str, _File]] = {}  # unit → name of the drop-in → file
        self._quadlets: dict[str, _File] = {}  # containers, volumes and networks, by name

    def parse(self, entries: Iterable[Entry], left_out: Sequence[str]) -> Folder:
        for entry in entries:
            self._take(entry)
        self._translate_containers()
        units = [*self._make_units()]
        contents = self._expand(units)
        if self._faults:
            raise BrokenFolder(self._faults)
        return Folder(tuple(units), contents, tuple(self._warn(units, contents, left_out)))

    def _take(self, entry: Entry) -> None:
        folder, slash, name = entry.path.rpartition("/")
        unit = folder.removesuffix(_DROPINS) if slash else name
        if refusal := _refuse_name(service_name(unit) if unit.endswith(SUFFIXES) else unit):
            self._fault(folder or entry.path, 0, refusal)
        elif entry.fault:
            self._fault(entry.path, 0, entry.fault)
        elif slash:
            self._take_dropin(unit, name, entry)
        elif entry.link and template_of(name) == entry.link != name:
            self._links.add(service_name(name) if name.endswith(SUFFIXES) else name)
        elif entry.link:
            self._fault(entry.path, 0, _explain_link(name, entry.link))
        elif file := self._parse_file(entry):
            (self._quadlets if name.endswith(SUFFIXES) else self._files)[name] = file

    def _take_dropin(self, unit: str, name: str, entry: Entry) -> None:
        try:
            check_dropin_name(name)
        except InvalidDropIn as error:
            self._fault(entry.path, 0, str(error))
            return
        if file := self._parse_file(entry):
            self._dropins.setdefault(unit, {})[name] = file

    def _parse_file(self, entry: Entry) -> _File | None:
        try:
            text = decode_unit_file(entry.data)
            is_quadlet = entry.path.partition(f"{_DROPINS}/")[0].endswith(SUFFIXES)
            rendered = render_unit_file(parse_quadlet_file(text) if is_quadlet else parse_unit_file(text))
        except UnitFileError as error:
            self._fault(entry.path, error.line or 0, str(error))
            return None
        if not rendered and not entry.path.endswith(_MAY_BE_EMPTY):
            self._fault(entry.path, 0, "it holds no option")
            return None
        return _File(self._place(entry.path), text, rendered)

    def _translate_containers(self) -> None:
        """Add the services that containers make. The drop-ins of a container, a volume or a network change the file
        that they belong to, as with Quadlet."""
        options = {name: self._merge(name, file) for name, file in sorted(self._quadlets.items())}
        used: set[str] = set()
        for name in options:
            if not name.endswith(CONTAINER_SUFFIX):
                continue
            service, file = service_name(name), self._quadlets[name]
            used.update(named_files(options[name]))
            if service in self._files:
                self._fault(name, 0, f"{service} stands in the folder, too: keep one of them")
                continue
            try:
                rendered = render_unit_file(translate(name, options[name], options.get))
            except InvalidQuadlet as error:
                self._fault_of_file(file, str(error).removeprefix(f"{name}: "))
                continue
            self._files[service] = _File(file.path, file.text, rendered)
        for name in options:
            if not name.endswith(CONTAINER_SUFFIX) and name not in used:
                self._fault(name, 0, "no container of the folder names it: name it in one, or remove it")

    def _merge(self, name: str, file: _File) -> tuple[UnitOption, ...]:
        dropins = self._dropins.pop(name, {})
        texts = [file.rendered, *(dropins[each].rendered for each in sorted(dropins))]
        return tuple(option for text in texts for option in parse_unit_file(text))

    def _make_units(self) -> Iterator[SetUnit]:
        counted = self._instances()
        for name in sorted({*self._files, *self._links, *self._dropins}):
            if name not in self._files and name not in self._links and name not in counted:
                self._fault(f"{name}{_DROPINS}", 0, _explain_stray(name))
                continue
            files = self._dropins.get(name, {})
            try:
                dropins = make_dropins((each, file.rendered) for each, file in files.items())
            except InvalidDropIn as error:
                self._fault(f"{name}{_DROPINS}", 0, str(error))
                continue
            yield SetUnit(name, self._files[name].rendered if name in self._files else "", dropins)

    def _instances(self) -> set[str]:
        """The instances that the templates of the folder name in Instances=."""
        templates = [
            SetUnit(name, file.rendered, tuple(DropIn(each, drop.rendered) for each, drop in sorted(drops.items())))
            for name, file in self._files.items()
            if is_template(name)
            for drops in (self._dropins.get(name, {}),)
        ]
        try:
            return set(expand(templates))
        except InvalidSet:
            return set()  # said when all is expanded

    def _expand(self, units: Sequence[SetUnit]) -> dict[str, Content]:
        if self._faults:
            return {}
        try:
            contents = expand(units)
        except InvalidSet as error:
            self._faults.append(f"{self._path}: {error}")
            return {}
        for name, refusal in refuse_members(units, contents).items():
            self._fault_of_unit(name, refusal)
        return contents

    def _fault_of_unit(self, name: str, refusal: str) -> None:
        """A refusal of a unit, with the file and line of the option that it names."""
        files = self._files_of(name)
        if not files:
            return  # an instance without any file of its own: its template is refused as well
        self._fault_of_file(files[0], refusal, *files[1:])

    def _fault_of_file(self, first: _File, refusal: str, *others: _File) -> None:
        """A refusal of what stands in these files, with the line of the option that it names."""
        for option in _OPTION.findall(refusal):
            for file in (*reversed(others), first):
                if line := _find_option(file.text, option):
                    self._faults.append(f"{file.path}:{line}: {visible(refusal)}")
                    return
        self._faults.append(f"{first.path}: {visible(refusal)}")

    def _files_of(self, name: str) -> list[_File]:
        """The unit file and the drop-ins of a unit, in systemd's order."""
        own = self._dropins.get(name, {})
        return [*([self._files[name]] if name in self._files else []), *(own[each] for each in sorted(own))]

    def _warn(
        self, units: Sequence[SetUnit], contents: Mapping[str, Content], left_out: Sequence[str]
    ) -> Iterator[str]:
        if left_out:
            names = ", ".join(visible(name) for name in left_out)
            yield f"not read, since it is neither a unit file nor a drop-in of one: {names}"
        for name in left_out:
            if name.endswith(OTHER_QUADLETS):
                yield f"{visible(name)} makes no unit: of Quadlet's files, fleet takes .container, .volume and .network"
        for unit in units:
            if unit.text or unit.dropins:
                for sentence in advise(unit.name, contents[unit.name].options()):
                    yield f"Unit {unit.name}: {sentence}"
            for file in self._files_of(unit.name):
                for line, sentence in surprising_lines(file.text):
                    yield f"{file.path}:{line}: {sentence}"

    def _place(self, path: str) -> str:
        return visible(os.path.join(self._path, path))

    def _fault(self, path: str, line: int, text: str) -> None:
        self._faults.append(f"{self._place(path)}{f':{line}' if line else ''}: {visible(text)}")


def _refuse_name(unit: str) -> str:
    try:
        validate_name(unit)
    except InvalidName as error:
        return str(error)
    return ""


def _explain_link(name: str, target: str) -> str:
    if parse_name(name).is_instance:
        return f"it is a link to {target}, which is not its template: link to {template_of(name)}, or write a file"
    return f"it is a link to {target}: write [Install] Alias={name} there, or a file of its own here"


def _explain_stray(name: str) -> str:
    if parse_name(name).is_instance:
        template = template_of(name)
        return f"the folder has no unit {name}: link it to {template}, or name it in the Instances= of {template}"
    return f"the folder has no unit {name}: add its file, or remove these drop-ins"


def _find_option(text: str, name: str) -> int:
    """The last line, counted from 1, that sets this option; 0 if none does."""
    is_set = re.compile(rf"[ \t]*{name}[ \t]*=")
    return max((at for at, line in enumerate(text.split("\n"), 1) if is_set.match(line)), default=0)
