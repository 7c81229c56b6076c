"""Units and machines as rows of the live view. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import IntEnum

import msgspec

from fleetctl import output
from fleetctl.wait_outcome import active_allocations, has_completed_elsewhere, why_unplaced
from fleetd.api import schema
from fleetd.model.names import template_of
from fleetd.model.unit import TargetState

UNIT_COLUMNS = ("UNIT", "STATE", "MACHINE", "AGE", "ANNOUNCES", "NOTE")
MACHINE_COLUMNS = ("MACHINE", "IP", "STATE", "UNITS", "ACTIVE", "FAILED", "METADATA")
AGE = "AGE"
READY = "ready"
_BAD_LOADS = ("not-found", "bad-setting", "error", "masked")
_SPANS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


class Level(IntEnum):
    """How much a row wants to be looked at; the higher, the more."""

    IDLE = 0
    GOOD = 1
    CHANGING = 2
    BAD = 3


class Row(msgspec.Struct, frozen=True):
    """A line of a list. The cursor stays on its `key`, `order` has what each column is sorted by, `words` is what a
    filter looks in, in lower case. `unit` is the unit that it is about, '' for none. `since` is a Unix time, 0 for
    none; the cell AGE is made of it when it is drawn. `is_head`: it stands for the units of a template, which follow if
    they are shown."""

    key: str
    cells: tuple[str, ...]
    order: tuple[str | float, ...]
    level: Level
    words: str
    unit: str = ""
    template: str = ""
    since: float = 0.0
    is_head: bool = False


def announced_by(services: Iterable[schema.Service]) -> dict[str, str]:
    """Unit → what it announces, as a cell: names and ports, each once, `!` before those whose check fails somewhere."""
    found: dict[str, dict[str, bool]] = {}
    for each in services:
        names = found.setdefault(each.unit, {})
        name = f"{each.service}:{each.port}" + ("" if each.protocol == "tcp" else f"/{each.protocol}")
        names[name] = names.get(name, False) or bool(each.failing)
    return {
        unit: output.printable(", ".join(f"{'!' * fails}{name}" for name, fails in sorted(names.items())))
        for unit, names in found.items()
    }


def unit_row(report: schema.UnitReport, announces: str = "") -> Row:
    """The row of a unit that announces this (announced_by)."""
    allocations = active_allocations(report)
    note = _note(report, allocations)
    state, level = _state(report, allocations)
    ids, place = _place(report, allocations)
    name = output.printable(report.name)
    return Row(
        report.name,
        (name, state, place, "", announces, note),
        (report.name, state, place, -report.since, announces, note),
        level,
        " ".join((report.name, state, ids, place, report.target, announces)).lower(),
        report.name,
        template_of(report.name),
        report.since,
    )


def _state(report: schema.UnitReport, allocations: list[schema.AllocationReport]) -> tuple[str, Level]:
    if report.is_global and len(allocations) != 1:
        return count_states(_allocation_state(report, each) for each in allocations)
    if report.target == TargetState.INACTIVE and not allocations:
        return TargetState.INACTIVE.value, Level.IDLE
    if not report.is_global and not report.machine:
        if has_completed_elsewhere(report):
            return "completed", Level.IDLE
        if not allocations:
            return "nowhere", Level.BAD if report.decided >= report.generation else Level.CHANGING
    own = next((each for each in allocations if each.machine == report.machine), None) or next(iter(allocations), None)
    return ("waiting", Level.CHANGING) if own is None else _allocation_state(report, own)


def _allocation_state(report: schema.UnitReport, own: schema.AllocationReport) -> tuple[str, Level]:
    text = output.printable("/".join(filter(None, (own.active, own.sub)))) or "waiting"
    if own.active == "failed" or own.error or own.load in _BAD_LOADS or own.refusal:
        return text, Level.BAD
    if own.active in ("active", "reloading"):
        return text, Level.GOOD if own.active == "active" else Level.CHANGING
    if own.active in ("", "activating", "deactivating", "maintenance"):
        return text, Level.CHANGING
    return ("completed" if own.completed else text), Level.IDLE


def count_states(states: Iterable[tuple[str, Level]]) -> tuple[str, Level]:
    """The states of several as one: how many are in each, the worst first."""
    counted = Counter(states)
    words: Counter[tuple[Level, str]] = Counter()
    for (text, level), count in counted.items():
        words[level, text.partition("/")[0]] += count
    parts = [f"{words[each]} {each[1]}" for each in sorted(words, key=lambda each: (-each[0], each[1]))]
    return ", ".join(parts) or "on no machine", max((level for _, level in counted), default=Level.IDLE)


def _place(report: schema.UnitReport, allocations: list[schema.AllocationReport]) -> tuple[str, str]:
    """The ids of its machines, and the place as a cell."""
    if report.is_global:
        count = len(allocations)
        return " ".join(each.machine for each in allocations), f"{count} machine{'s'[: count != 1]}"
    machine = report.machine or next((each.machine for each in allocations), "")
    address = next((each.address for each in allocations if each.machine == machine), "")
    return machine, name_machine(machine, address)


def name_machine(id_: str, address: str) -> str:
    """A machine as a cell; `-` for none."""
    return output.printable(f"{id_[:8]}/{address}" if address else id_[:8]) if id_ else "-"


def _note(report: schema.UnitReport, allocations: list[schema.AllocationReport]) -> str:
    for each in allocations:
        if said := each.error or each.refusal:
            return output.printable(said.splitlines()[0])
    if why := why_unplaced(report):
        return why.removeprefix("cannot be placed: ")  # its state says so
    if report.target == TargetState.LOADED:
        return "is only loaded"
    return next((output.printable(each.note) for each in allocations if each.note), "")


def machine_rows(machines: Iterable[schema.Machine], reports: Iterable[schema.UnitReport]) -> list[Row]:
    """The rows of the machines, with counts of the units there."""
    units: Counter[str] = Counter()
    active: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for report in reports:
        for each in report.allocations:
            units[each.machine] += 1
            active[each.machine] += each.active == "active"
            failed[each.machine] += each.active == "failed"
    return [_machine_row(each, units[each.id], active[each.id], failed[each.id]) for each in machines]


def _machine_row(machine: schema.Machine, units: int, active: int, failed: int) -> Row:
    state, level = _machine_state(machine)
    metadata = output.printable(",".join(f"{key}={value}" for key, value in sorted(machine.metadata.items()))) or "-"
    address = output.printable(machine.primary_ip) or "-"
    id_ = output.printable(machine.id[:8])
    return Row(
        machine.id,
        (id_, address, state, str(units), str(active), str(failed), metadata),
        (machine.id, address, state, -units, -active, -failed, metadata),
        Level.BAD if failed else level,
        " ".join((machine.id, address, state, metadata)).lower(),
    )


def _machine_state(machine: schema.Machine) -> tuple[str, Level]:
    words = [machine.mode] if machine.mode else []
    if machine.drain:
        words.append("drained")
    elif machine.cordon:
        words.append("cordoned")
    if machine.reboot:
        words.append(f"reboot: {machine.reboot}")
    elif machine.reboot_required:
        words.append("wants a reboot")
    return output.printable(", ".join(words)) or READY, Level.CHANGING if words else Level.GOOD


def template_row(template: str, members: list[Row], is_open: bool) -> Row:
    """The row that stands for the units of a template."""
    state, level = count_states((row.cells[1], row.level) for row in members)
    places = {row.cells[2] for row in members} - {"-"}
    place = next(iter(places)) if len(places) == 1 else f"{len(places)} machines"
    since = max(row.since for row in members)
    count = f"{len(members)} unit{'s'[: len(members) != 1]}"
    return Row(
        template,
        (f"{'-' if is_open else '+'} {output.printable(template)}", state, place, "", "", count),
        (template, state, place, -since, "", count),
        level,
        "",
        "",
        template,
        since,
        is_head=True,
    )


def cells_at(row: Row, columns: Sequence[str], now_s: float) -> tuple[str, ...]:
    """The cells of a row as they are drawn at this Unix time."""
    if AGE not in columns:
        return row.cells
    place = columns.index(AGE)
    return (*row.cells[:place], render_age(now_s - row.since) if row.since else "-", *row.cells[place + 1 :])


def render_age(passed_s: float) -> str:
    """A time span in its two greatest units: `3d4h`, `12s`."""
    left = max(0, int(passed_s))
    parts: list[str] = []
    for seconds, unit in _SPANS:
        if left >= seconds and len(parts) < 2:
            parts.append(f"{left // seconds}{unit}")
            left %= seconds
        elif parts:
            break
    return "".join(parts) or "0s"
