"""What has happened: events of fleetd, or, where it tells none, what differs between two reads of the lists. Pure."""

from collections.abc import Iterator, Mapping

import msgspec

from fleetctl import output
from fleetctl.event_lines import describe_event
from fleetctl.live.rows import Level, Row, name_machine
from fleetd.api import schema
from fleetd.api.event_schema import GAP, STATE
from fleetd.model.event import EventKind

EVENT_COLUMNS = ("AGE", "EVENT")

_LEVELS = {
    EventKind.PLACED: Level.CHANGING,
    EventKind.MOVED: Level.CHANGING,
    EventKind.UNPLACED: Level.CHANGING,
    EventKind.JOINED: Level.GOOD,
    EventKind.BACK: Level.GOOD,
    EventKind.LOST: Level.BAD,
    GAP: Level.CHANGING,
}

Machines = Mapping[str, schema.Machine]
Reports = Mapping[str, schema.UnitReport]


class Happening(msgspec.Struct, frozen=True):
    """Something that has happened at `at` (Unix time), as a sentence, and the unit that it is about, '' for none."""

    at: float
    text: str
    unit: str = ""
    level: Level = Level.IDLE


def happening_of(event: schema.Event, now_s: float) -> Happening:
    """An event that fleetd tells."""
    level = _LEVELS.get(event.kind, Level.IDLE)
    if event.kind == STATE:
        level = {"failed": Level.BAD, "active": Level.GOOD}.get(event.active, Level.CHANGING)
    elif event.kind == EventKind.UNPLACED and not event.former:
        level = Level.BAD
    return Happening(event.at or now_s, describe_event(event)[1], event.unit, level)


def event_row(number: int, happening: Happening) -> Row:
    """The row of an event; the newest come first."""
    text = output.printable(happening.text)
    return Row(
        f"{number:015}",
        ("", text),
        (-number, text),
        happening.level,
        text.lower(),
        happening.unit,
        since=happening.at,
    )


def machine_changes(before: Machines, after: Machines, now_s: float) -> Iterator[Happening]:
    """Machines that have come, gone, or changed."""
    for id_ in sorted(before.keys() | after.keys()):
        old, new = before.get(id_), after.get(id_)
        name = name_machine(id_, new.primary_ip if new else old.primary_ip if old else "")
        if old is None:
            yield Happening(now_s, f"machine {name} has joined", level=Level.GOOD)
        elif new is None:
            yield Happening(now_s, f"machine {name} is gone", level=Level.BAD)
        elif (said := _condition(new)) != _condition(old):
            yield Happening(now_s, f"machine {name} {said}", level=Level.CHANGING)


def _condition(machine: schema.Machine) -> str:
    if machine.mode:
        return f"is {machine.mode}"
    if machine.reboot:
        return f"is to be rebooted: {machine.reboot}"
    if machine.drain:
        return "is drained"
    return "is cordoned" if machine.cordon else "takes units"


def unit_changes(before: Reports, after: Reports, machines: Machines, now_s: float) -> Iterator[Happening]:
    """Units that have been made, destroyed, or placed otherwise, and states that have changed."""
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if new is None:
            yield Happening(now_s, f"{name} was destroyed", name)
        elif old is None:
            yield Happening(now_s, f"{name} was submitted (target {new.target})", name)
        elif old != new:
            yield from _changes_of(old, new, machines, now_s)


def _changes_of(
    old: schema.UnitReport, new: schema.UnitReport, machines: Machines, now_s: float
) -> Iterator[Happening]:
    name = new.name
    if new.target != old.target:
        by = f" by {new.by}" if new.by else ""
        yield Happening(now_s, f"{name}: target {new.target} instead of {old.target}{by}", name)
    if new.machine != old.machine:
        yield Happening(now_s, _moved(old, new, machines), name, Level.CHANGING)
    states = {each.machine: (each.active, each.sub) for each in old.allocations}
    for each in new.allocations:
        if (each.active, each.sub) == states.get(each.machine, ("", "")):
            continue
        state = f"{each.active} ({each.sub})" if each.active else "not reported any more"
        said = f": {each.error.splitlines()[0]}" if each.error else ""
        level = {"failed": Level.BAD, "active": Level.GOOD}.get(each.active, Level.CHANGING)
        yield Happening(now_s, f"{name} is {state} on {_place(machines, each.machine)}{said}", name, level)


def _moved(old: schema.UnitReport, new: schema.UnitReport, machines: Machines) -> str:
    if not new.machine:
        return f"{new.name} was taken off {_place(machines, old.machine)}"
    if not old.machine:
        return f"{new.name} was placed on {_place(machines, new.machine)}"
    return f"{new.name} moves from {_place(machines, old.machine)} to {_place(machines, new.machine)}"


def _place(machines: Machines, id_: str) -> str:
    known = machines.get(id_)
    return name_machine(id_, known.primary_ip if known else "")
