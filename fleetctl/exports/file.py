"""The file of an export: lines of JSON, one object each, of which the first says what this is. Pure.

    {"kind":"fleet","format":1,"units":1,"settings":1,"machines":1}
    {"kind":"setting","name":"failover_delay","value":"45s"}
    {"kind":"machine","id":"9678f7a7…","address":"10.0.0.1","metadata":{"disk":"ssd"}}
    {"kind":"unit","name":"web.service","target":"launched","text":"[Service]\\nExecStart=/bin/web\\n"}

There are no secrets in it, and nothing that a cluster decides or finds out by itself, but where each unit is (`on`),
which an import does not read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

import msgspec

from fleetd.model.admission import refuse_unit
from fleetd.model.content import Content, DropIn, InvalidDropIn, make_dropins, own_dropins, refuse_size
from fleetd.model.decoding import UNREADABLE
from fleetd.model.group import refuse_instance_options
from fleetd.model.names import is_template, template_of
from fleetd.model.unit import TargetState
from fleetd.model.unit_set import refuse_set_name
from fleetd.model.unitfile import UnitFileError, parse_unit_file, render_unit_file

FORMAT = 1
MAX_FAULTS = 20  # that are listed
_MACHINE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)  # that of a machine has 32 hexadecimal digits
_Number = Annotated[int, msgspec.Meta(ge=0)]


class BrokenExport(ValueError):
    """A file that is no export, or a broken one. `faults` say what is wrong with which lines."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class Head(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind", tag="fleet"):
    """The first line: the format of the others, how many there are of each kind (None: not said, as in a file written
    by hand), the version of fleetctl that wrote it, and when (Unix time, s)."""

    format: int
    units: _Number | None = None
    settings: _Number | None = None
    machines: _Number | None = None
    version: str = ""
    at: float = 0.0


class ExportedSetting(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind", tag="setting"
):
    """A setting of the cluster that is set."""

    name: str
    value: str


class ExportedMachine(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind", tag="machine"
):
    """A machine. `cordon` is why it is cordoned, None if it is not."""

    id: str
    address: str = ""
    metadata: dict[str, str] = {}
    cordon: str | None = None


class ExportedUnit(
    msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="kind", tag="unit"
):
    """A unit with its unit file and all of its drop-ins, those of its template among them. `set` is the set that it is
    a member of, '' for none; `on` are the ids of the machines where it is."""

    name: str
    text: str
    target: TargetState = TargetState.INACTIVE
    dropins: tuple[DropIn, ...] = ()
    set: str = ""
    on: tuple[str, ...] = ()

    @property
    def content(self) -> Content:
        """The unit file with the drop-ins."""
        return Content(self.text, self.dropins)


_Line = Head | ExportedSetting | ExportedMachine | ExportedUnit


class Exported(msgspec.Struct, frozen=True):
    """What an export holds: settings, machines and units, by name or id."""

    settings: Mapping[str, ExportedSetting] = {}
    machines: Mapping[str, ExportedMachine] = {}
    units: Mapping[str, ExportedUnit] = {}


def render_export(exported: Exported, *, version: str = "", at: float = 0.0) -> Iterator[str]:
    """The lines of the file, each with its newline, in an order that does not depend on anything else: two exports of
    one cluster differ where that has changed, and in the first line."""
    counts = len(exported.units), len(exported.settings), len(exported.machines)
    yield _render(Head(FORMAT, *counts, version=version, at=at))
    for records in (exported.settings, exported.machines, exported.units):
        for name in sorted(records):
            yield _render(records[name])


def _render(line: msgspec.Struct) -> str:
    return msgspec.json.encode(line).decode() + "\n"


def parse_export(data: bytes) -> Exported:
    """What the file holds, with its unit files as the cluster keeps them. Raises BrokenExport."""
    numbered = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    head = _parse_head(numbered)
    found: dict[type, dict[str, _Line]] = {ExportedSetting: {}, ExportedMachine: {}, ExportedUnit: {}}
    faults = []
    for number, raw in numbered[1:]:
        try:
            line = _parse_line(raw)
            name = line.id if isinstance(line, ExportedMachine) else line.name
            if name in found[type(line)]:
                raise ValueError(f'"{name}" is there twice: remove one of them')
            found[type(line)][name] = line
        except (*UNREADABLE, ValueError) as error:
            faults.append(f"line {number}: {error}")
    exported = Exported(found[ExportedSetting], found[ExportedMachine], found[ExportedUnit])  # type: ignore[arg-type]
    faults = faults or [*_refuse_counts(head, exported), *_refuse_own_dropins(exported)]
    if faults:
        raise BrokenExport(_shorten(faults))
    return exported


def _parse_head(numbered: list[tuple[int, bytes]]) -> Head:
    """The first line. Raises BrokenExport."""
    try:
        head = msgspec.json.decode(numbered[0][1], type=_Line) if numbered else None
    except UNREADABLE:
        head = None
    if not isinstance(head, Head):
        raise BrokenExport(
            [
                f'its first line is not {{"kind":"fleet","format":{FORMAT}}}, with which an export begins: '
                "fleetctl export writes one"
            ]
        )
    if head.format != FORMAT:
        raise BrokenExport(
            [f"it has format {head.format}, and this fleetctl reads {FORMAT}: use the fleetctl that wrote it, or newer"]
        )
    return head


def _parse_line(raw: bytes) -> ExportedSetting | ExportedMachine | ExportedUnit:
    """One of the other lines. Raises ValueError, and what UNREADABLE lists."""
    line: _Line = msgspec.json.decode(raw, type=_Line)
    if isinstance(line, Head):
        raise ValueError("another export begins here: import one file after the other")
    if isinstance(line, ExportedUnit):
        return _check_unit(line)
    if isinstance(line, ExportedMachine) and not _MACHINE_ID.fullmatch(line.id):
        raise ValueError('a machine has an id of letters, digits, "-" and "_", at most 64')
    return line


def _check_unit(unit: ExportedUnit) -> ExportedUnit:
    """The unit with its texts as the cluster keeps them. Raises ValueError if no cluster takes it."""
    try:
        text = render_unit_file(parse_unit_file(unit.text))
        dropins = make_dropins((dropin.name, dropin.text) for dropin in unit.dropins)
        options = Content(text, dropins).options()
    except UnitFileError as error:
        where = f"line {error.line} of its text: " if error.line else ""
        raise ValueError(f'unit "{unit.name}": {where}{error}') from error
    except InvalidDropIn as error:
        raise ValueError(f'unit "{unit.name}": {error}') from error
    refusal = refuse_unit(unit.name, options) or refuse_size(Content(text, dropins))
    if not refusal and not options:
        refusal = "its unit file has no options"
    if not refusal and is_template(unit.name) and unit.target is not TargetState.INACTIVE:
        refusal = f"a template does not run, so that its target is not {unit.target}: leave it out"
    if not refusal and unit.set:
        refusal = refuse_set_name(unit.set)
    if refusal:
        raise ValueError(f'unit "{unit.name}": {refusal}')
    return msgspec.structs.replace(unit, text=text, dropins=dropins)


def _refuse_own_dropins(exported: Exported) -> Iterator[str]:
    """What is wrong with drop-ins that instances have of their own."""
    for unit in exported.units.values():
        template = exported.units.get(template_of(unit.name))
        inherited = template.dropins if template is not None and template.name != unit.name else ()
        for dropin in own_dropins(unit.dropins, inherited) if template_of(unit.name) else ():
            if refusal := refuse_instance_options(unit.name, parse_unit_file(dropin.text)):
                yield f'unit "{unit.name}": drop-in "{dropin.name}": {refusal}'


def _refuse_counts(head: Head, exported: Exported) -> Iterator[str]:
    """Says that the file was cut off, or that lines were added to it or removed."""
    for kind in ("units", "settings", "machines"):
        said, there_are = getattr(head, kind), len(getattr(exported, kind))
        if said is not None and said != there_are:
            yield (
                f"its first line says {said} {kind}, and there are {there_are}: it was cut off, or changed; remove "
                f'"{kind}" from the first line if this is all right'
            )


def _shorten(faults: list[str]) -> list[str]:
    more = len(faults) - MAX_FAULTS
    return [*faults[:MAX_FAULTS], f"and {more} more"] if more > 0 else faults
