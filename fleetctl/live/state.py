"""All that the live view shows, made of what was read. Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from itertools import chain

import msgspec

from fleetctl.live.changes import EVENT_COLUMNS, Happening, event_row, machine_changes, unit_changes
from fleetctl.live.pane import Pane, Query
from fleetctl.live.rows import MACHINE_COLUMNS, READY, UNIT_COLUMNS, Level, Row, machine_rows, unit_row
from fleetd.api import schema
from fleetd.model.names import is_template

MOST_EVENTS = 2000  # that are kept; the oldest go


class Lists(msgspec.Struct, frozen=True):
    """What a read has found: all machines by id, all units by name, what units announce as cells by unit."""

    machines: Mapping[str, schema.Machine]
    units: Mapping[str, schema.UnitReport]
    announced: Mapping[str, str] = {}


class LiveState:
    """The three panes, and what they are made of."""

    def __init__(self) -> None:
        self.machines = Pane(MACHINE_COLUMNS)
        self.units = Pane(UNIT_COLUMNS, Query(sort=-1))
        self.events = Pane(EVENT_COLUMNS)
        self.lists: Lists | None = None
        self.summary = ""
        self._rows: dict[str, tuple[schema.UnitReport, str, Row]] = {}
        self._events: deque[Row] = deque(maxlen=MOST_EVENTS)
        self._told = 0

    def take(self, lists: Lists, now_s: float, *, tell: bool = True) -> bool:
        """Show these lists; returns whether anything has changed in them. With `tell`, each change becomes an event,
        but for the first lists."""
        former = self.lists
        units = {name: report for name, report in lists.units.items() if not is_template(name)}
        lists = Lists(lists.machines, units, lists.announced)
        if former == lists:
            return False
        self.lists = lists
        if former is not None and tell:
            known = {**former.machines, **lists.machines}
            self.tell(
                chain(
                    machine_changes(former.machines, lists.machines, now_s),
                    unit_changes(former.units, units, known, now_s),
                )
            )
        self._rows = {name: self._row_of(report, lists.announced.get(name, "")) for name, report in units.items()}
        of_machines = machine_rows(lists.machines.values(), units.values())
        of_units = [row for *_, row in self._rows.values()]
        self.machines.take(of_machines)
        self.units.take(of_units)
        self.summary = summarise(of_machines, of_units)
        return True

    def tell(self, happenings: Iterable[Happening]) -> None:
        """Show these events, the last one as the newest."""
        for happening in happenings:
            self._told += 1
            self._events.append(event_row(self._told, happening))
        self.events.take(list(self._events))

    def _row_of(self, report: schema.UnitReport, announces: str) -> tuple[schema.UnitReport, str, Row]:
        known = self._rows.get(report.name)
        if known is not None and known[0] == report and known[1] == announces:
            return known
        return report, announces, unit_row(report, announces)


def summarise(machines: Iterable[Row], units: Iterable[Row]) -> str:
    """The cluster in one line."""
    machines = list(machines)
    unready = Counter(row.cells[2] for row in machines if row.cells[2] != READY)
    levels = Counter(row.level for row in units)
    parts = [f"{count} {state}" for state, count in sorted(unready.items())]
    text = f"{_count(len(machines), 'machine')}{_in_brackets(parts)}, {_count(levels.total(), 'unit')}"
    words = ((Level.BAD, "in trouble"), (Level.CHANGING, "changing"), (Level.GOOD, "active"), (Level.IDLE, "at rest"))
    return text + _in_brackets([f"{levels[level]} {word}" for level, word in words if levels[level]])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s'[: number != 1]}"


def _in_brackets(parts: list[str]) -> str:
    return f" ({', '.join(parts)})" if parts else ""
