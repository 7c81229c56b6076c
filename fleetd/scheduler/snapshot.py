"""One snapshot of the cluster with its indexes, and the placements proposed on it.

Snapshot is updated record by record and returns which units each record affects, so that a plan need not look at all
units. A plan only reads it: its changes are made on a Proposal on top, which is thrown away.
"""

from collections.abc import Iterable, MutableMapping
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from fleetd.model.constraints import Requirements, parse_requirements
from fleetd.model.machine import Machine, MachineMode, MachineSettings, effective_metadata
from fleetd.model.names import is_template, parse_name, template_of
from fleetd.model.ordered import Names, Ordered
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage, size_of_text
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.model.unitfile import UnitFileError, parse_unit_file
from fleetd.scheduler.machine_index import MachineIndex
from fleetd.scheduler.occupancy import Occupancy

R = TypeVar("R", Unit | None, Placement | None)

# What a change affects: names of units, or `<machine>/<unit>` for a global unit that is affected on one machine only.
Concerns = Names


@lru_cache(maxsize=32768)
def requirements_of(text: str, name: str) -> Requirements:
    """The requirements of a unit of this text and name. A text that does not parse has none: systemd will refuse it."""
    try:
        return parse_requirements(parse_unit_file(text), parse_name(name))
    except UnitFileError:
        return Requirements()


def _placed_requirements(text: str, name: str) -> Requirements:
    """The requirements that count on the unit's machine. A template has none: it is placed where its sockets are."""
    return Requirements() if is_template(name) else requirements_of(text, name)


class Snapshot:
    """The cluster as the store shows it. `machines` are registered, `away` are absent but may be alive; any other
    machine is dead. Whatever is listed by machine is in order of machine ids."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}
        self.text_bytes = 0  # of all units together
        self.usage: Usage | None = None  # as stored last
        self.machines: dict[str, Machine] = Ordered()
        self.settings: dict[str, MachineSettings] = {}
        self.synced: dict[str, str] = Ordered()  # machine → session
        self.decisions: dict[str, Decision] = {}
        self.placements: dict[str, dict[str, Placement]] = {}  # unit → machine → placement
        self.states: dict[str, dict[str, UnitState]] = {}  # unit → machine → state
        self.away: frozenset[str] = frozenset()
        self.occupancies: dict[str, Occupancy] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.superseded: dict[tuple[str, str], None] = {}  # (machine, unit)
        self._unplaced: Names = {}  # units that are wanted and have no machine
        self._globals: Names = {}
        self._rejected: Names = {}  # units whose decision counts rejections
        self._with_replacers: Names = {}  # machines that hold a unit with Replaces
        self._placed: dict[str, Names] = {}  # machine → the units with placements there
        self._reported: dict[str, Names] = {}  # machine → the units it reports
        self._followers: dict[str, Names] = {}  # peer → the units that name it in MachineOf
        self._sockets: dict[str, Names] = {}  # template → the sockets that start instances of it for connections
        self._machines_with: dict[str, Names] = {}  # template → the machines that hold instances of it
        self._requirements: dict[str, Requirements] = {}
        self._machine_index: MachineIndex | None = None
        self._gone: Names = {}  # not registered, but with placements or a stored session
        self._unsynced: Names = {}  # machines that have not been planned for in their session

    # Reading.

    def requirements(self, name: str) -> Requirements:
        """What a known unit requires."""
        return self._requirements[name]

    @property
    def machine_index(self) -> MachineIndex:
        """The registered machines by mode, id and metadata."""
        if self._machine_index is None:
            self._machine_index = MachineIndex(self.machines, self.metadata)
        return self._machine_index

    def is_wanted(self, name: str) -> bool:
        """True if the unit is to be on some machine: its target is not inactive, or it is the template of such a
        socket."""
        unit = self.units.get(name)
        if unit is None:
            return False
        if is_template(name):
            return any(map(self.is_wanted, self.sockets(name)))
        return unit.target is not TargetState.INACTIVE

    def sockets(self, template: str) -> Names:
        """The sockets that start instances of this template for connections."""
        return self._sockets.get(template, {})

    def assigned_machine(self, name: str) -> str:
        """The machine that the unit is assigned to, or ''."""
        for machine, order in self.placements.get(name, {}).items():
            if order.is_active:
                return machine
        return ""

    def colocated_with(self, name: str) -> Names:
        """The units that MachineOf= joins to this one: those that it names, and those that name it."""
        requirements = self._requirements.get(name)
        bound = dict.fromkeys(requirements.machine_of) if requirements and requirements.machine_of else {}
        followers = self._followers.get(name)
        return bound | followers if followers else bound

    def with_colocated(self, names: Iterable[str]) -> list[str]:
        """These units; the unplaced ones, and those on absent machines, that MachineOf= joins to them, directly or
        through others; and the templates of sockets among them. In order."""
        found = dict.fromkeys(names)
        pending = list(found)
        while pending:
            companions = [other for other in self.colocated_with(pending.pop()) if self._needs_machine(other)]
            pending += [other for other in companions if other not in found]
            found |= dict.fromkeys(companions)
        templates = (self.requirements(name).template for name in list(found) if name in self.units)
        return sorted(found | dict.fromkeys(filter(None, templates)))

    def _needs_machine(self, name: str) -> bool:
        assigned = self.assigned_machine(name)
        return name in self._unplaced or (assigned != "" and assigned not in self.machines)

    def occupancy(self, machine: str) -> Occupancy:
        """The units placed on this machine."""
        return self.occupancies.get(machine) or Occupancy()

    def machines_with(self, name: str) -> Names:
        """The machines with the unit, or with instances of the template, of this name; perhaps others."""
        return dict.fromkeys(self.placements.get(name, ())) | self._machines_with.get(name, {})

    def is_dead(self, machine: str) -> bool:
        """True if the machine is neither registered nor possibly alive."""
        return machine not in self.machines and machine not in self.away

    def accepts_work(self, machine: str) -> bool:
        """True if the machine is registered and takes new units."""
        found = self.machines.get(machine)
        return found is not None and found.mode is MachineMode.READY

    def is_running_on(self, name: str, machine: str) -> bool:
        """True if the machine reports that processes of the unit may exist."""
        state = self.states.get(name, {}).get(machine)
        return state is not None and state.runs

    def refusal(self, name: str, machine: str) -> str:
        """Why the machine takes no unit of this name, as a predicate, or ''."""
        state = self.states.get(name, {}).get(machine)
        if state is not None:  # a missing unit that the cluster has is placed with it
            return "" if state.lacks in self.units else state.refusal
        order = self.placements.get(name, {}).get(machine)
        return "takes no unit of this name" if order is not None and order.declined else ""

    def known_units(self) -> list[str]:
        """Every unit with something to decide, in order."""
        return sorted({**dict.fromkeys(self.units), **dict.fromkeys(self.decisions), **dict.fromkeys(self.placements)})

    def absent(self) -> list[str]:
        """The machines that have placements and are not registered, in order."""
        return sorted(machine for machine in self._gone if self._placed.get(machine))

    def forgotten(self) -> list[str]:
        """The dead machines whose sessions are still stored, in order."""
        return sorted(machine for machine in self._gone if machine in self.synced and machine not in self.away)

    def unsynced(self) -> list[tuple[str, str]]:
        """(machine, session) of the machines that have not been planned for in this session, in order."""
        return [(machine, self.machines[machine].session) for machine in sorted(self._unsynced)]

    # Updates from the store. Each returns what it affects.

    def set_unit(self, name: str, unit: Unit | None) -> Concerns:
        """Set a unit (None: it is gone). As in the other setters, an invalid unit name affects nothing."""
        return self._set_unit(name, unit) if _has_suffix(name) else {}

    def set_placement(self, machine: str, name: str, placement: Placement | None) -> Concerns:
        """Set the placement of a unit on a machine (None: it is gone)."""
        return self._narrow(machine, self._set_placement(name, machine, placement)) if _has_suffix(name) else {}

    def set_state(self, machine: str, name: str, state: UnitState | None) -> Concerns:
        """Set what a machine reports of a unit (None: nothing)."""
        return self._narrow(machine, self._set_state(name, machine, state)) if _has_suffix(name) else {}

    def set_decision(self, name: str, decision: Decision | None) -> Concerns:
        """Set the decision about a unit (None: it is gone)."""
        if not _has_suffix(name):
            return {}
        _set(self.decisions, name, decision)
        _mark(self._rejected, name, decision is not None and bool(decision.rejections))
        return {name: None} if decision is None else {}

    def set_machine(self, machine: str, record: Machine | None) -> Concerns:
        """Set a registered machine (None: it is absent)."""
        former = self.machines.get(machine)
        _set(self.machines, machine, record)
        self._refresh_session(machine)
        self._refresh_metadata(machine)
        return {} if _relevant_machine(former) == _relevant_machine(record) else self.concerned_by(machine)

    def set_settings(self, machine: str, settings: MachineSettings | None) -> Concerns:
        """Set the settings of a machine (None: there are none)."""
        _set(self.settings, machine, settings)
        self._refresh_metadata(machine)
        return self.concerned_by(machine)

    def set_session(self, machine: str, session: str | None) -> Concerns:
        """Set the session of a machine that was planned for (None: none is)."""
        _set(self.synced, machine, session)
        self._refresh_session(machine)
        return {}

    def set_usage(self, usage: Usage | None) -> Concerns:
        """Set the usage as it was written last."""
        self.usage = usage
        return {}

    def measure_usage(self) -> Usage:
        """How much this cluster holds."""
        return Usage(len(self.units), self.text_bytes)

    def set_away(self, away: frozenset[str]) -> Concerns:
        """Say which of the absent machines may be alive; what this concerns."""
        concerned: Concerns = {}
        for machine in self.away ^ away:
            concerned |= self.concerned_by(machine)
        self.away = away
        return concerned

    def concerned_by(self, machine: str) -> Concerns:
        """What a change of this machine concerns: what is there, and what might come or go."""
        there = self._placed.get(machine, {}) | self._reported.get(machine, {})
        return self._narrow(machine, there | self._movable())

    def _narrow(self, machine: str, concerned: Names) -> Concerns:
        """Units that something on this machine concerns: global ones on this machine alone."""
        for name in [name for name in self._globals if name in concerned]:
            del concerned[name]
            concerned[f"{machine}/{name}"] = None
        return concerned

    def _movable(self) -> Names:
        """The units that may move as soon as there is room: unplaced ones, global ones, and those beside a unit with
        Replaces=."""
        movable = self._unplaced | self._globals
        for machine in self._with_replacers:
            movable |= self.occupancies[machine].staying
        return movable

    def _set_unit(self, name: str, unit: Unit | None) -> Names:
        concerned = {name: None} | self.colocated_with(name)
        unit = _with_text_of(unit, next(iter(self.placements.get(name, {}).values()), None))
        concerned |= self.sockets(name)
        if name in self.units:
            for peer in self.requirements(name).machine_of:
                self._followers.get(peer, {}).pop(name, None)
            concerned |= self._mark_socket(name, belongs=False)
        former = self.units.get(name)
        self.text_bytes += size_of_text(unit.text if unit else None) - size_of_text(former.text if former else None)
        _set(self.units, name, unit)
        _set(self._requirements, name, _placed_requirements(unit.text, name) if unit else None)
        self._globals.pop(name, None)
        if unit is not None:
            requirements = self.requirements(name)
            for peer in requirements.machine_of:
                self._followers.setdefault(peer, {})[name] = None
            concerned |= self._mark_socket(name, belongs=True)
            if requirements.is_global:
                self._globals[name] = None
        self._refresh_unplaced(name)
        return concerned | self.colocated_with(name)

    def _mark_socket(self, name: str, *, belongs: bool) -> Names:
        """Have this unit among the sockets of its template, or not; that template, if it has one."""
        template = self.requirements(name).template
        if not template:
            return {}
        _mark(self._sockets.setdefault(template, {}), name, belongs)
        return {template: None}

    def _set_placement(self, name: str, machine: str, placement: Placement | None) -> Names:
        former = self.placements.get(name, {}).get(machine)
        placement = _with_text_of(placement, self.units.get(name))
        _set_by_machine(self.placements, name, machine, placement)
        _mark(self._placed.setdefault(machine, {}), name, placement is not None)
        self._refresh_session(machine)
        _mark(self.superseded, (machine, name), placement is not None and placement.superseded)
        occupancy = self.occupancies.setdefault(machine, Occupancy())
        concerned = {name: None} | self.colocated_with(name) | self._neighbours(machine)
        if name in self.units and self.requirements(name).template:
            concerned[self.requirements(name).template] = None
        if former is not None:  # room may have been made
            concerned |= self._movable()
        occupancy.discard(name)
        if placement is not None and placement.occupies:
            requirements = _placed_requirements(placement.text, name)
            occupancy.add(name, requirements, staying=placement.is_active)
            concerned |= self._newly_conflicting(name, requirements)
        _mark(self._with_replacers, machine, bool(occupancy.replaces))
        template = template_of(name)
        if template:
            _mark(self._machines_with.setdefault(template, {}), machine, template in occupancy.templates)
        self._refresh_unplaced(name)
        return concerned | self._neighbours(machine)

    def _neighbours(self, machine: str) -> Names:
        """The units on a machine that are affected when its units change."""
        occupancy = self.occupancies[machine]
        superseded = {name: None for where, name in self.superseded if where == machine}
        return superseded | dict.fromkeys(occupancy.units) if occupancy.has_patterns() else superseded

    def _newly_conflicting(self, name: str, requirements: Requirements) -> Names:
        """The rejected units that this one conflicts with: their count of rejections changes."""
        return {
            other: None
            for other in self._rejected
            if other in self.units
            and (requirements.conflicts.match(other) or self.requirements(other).conflicts.match(name))
        }

    def _set_state(self, name: str, machine: str, state: UnitState | None) -> Names:
        former = self.states.get(name, {}).get(machine)
        _set_by_machine(self.states, name, machine, state)
        _mark(self._reported.setdefault(machine, {}), name, state is not None)
        return {} if _relevant_state(former) == _relevant_state(state) else {name: None}

    def _refresh_session(self, machine: str) -> None:
        record = self.machines.get(machine)
        is_known = bool(self._placed.get(machine)) or machine in self.synced
        _mark(self._gone, machine, record is None and is_known)
        session = record.session if record else ""
        _mark(self._unsynced, machine, session not in ("", self.synced.get(machine)))

    def _refresh_metadata(self, machine: str) -> None:
        record = self.machines.get(machine)
        settings = self.settings.get(machine)
        _set(self.metadata, machine, effective_metadata(record, settings) if record else None)
        self._machine_index = None

    def _refresh_unplaced(self, name: str) -> None:
        is_alone = name not in self._globals and not is_template(name)  # others are on many machines
        unplaced = is_alone and self.is_wanted(name) and not self.assigned_machine(name)
        _mark(self._unplaced, name, unplaced)


class Proposal:
    """Placements proposed on top of a snapshot, which stays as it is. An occupancy is copied when it is first
    changed."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._occupancies: dict[str, Occupancy] = {}
        self._assigned: dict[str, str] = {}
        self._arrivals: dict[str, Names] = {}  # unit or template → the machines that it is newly placed on

    def occupancy(self, machine: str) -> Occupancy:
        """The units placed on the machine, with the proposal."""
        return self._occupancies.get(machine) or self.snapshot.occupancy(machine)

    def assigned_machine(self, name: str) -> str:
        """The machine that the unit is assigned to with the proposal, or ''."""
        found = self._assigned.get(name)
        return self.snapshot.assigned_machine(name) if found is None else found

    def machines_with(self, name: str) -> Names:
        """The machines with the unit, or with instances of the template, of this name, with the proposal; perhaps
        others."""
        return self.snapshot.machines_with(name) | self._arrivals.get(name, {})

    def place(self, name: str, machine: str, requirements: Requirements) -> None:
        """Assign the unit to this machine."""
        self.renew(name, machine, requirements)
        self._assigned[name] = machine
        self._arrivals.setdefault(name, {})[machine] = None
        template = template_of(name)
        if template:
            self._arrivals.setdefault(template, {})[machine] = None

    def renew(self, name: str, machine: str, requirements: Requirements) -> None:
        """Keep the unit on this machine, with these requirements."""
        occupancy = self._touch(machine)
        occupancy.discard(name)
        occupancy.add(name, requirements, staying=True)

    def withdraw(self, name: str, machine: str, requirements: Requirements) -> None:
        """Withdraw the unit. It still conflicts with others until it has stopped."""
        occupancy = self._touch(machine)
        occupancy.discard(name)
        occupancy.add(name, requirements, staying=False)
        self._leave(name, machine)

    def vacate(self, name: str, machine: str) -> None:
        """The unit is gone from this machine, or superseded there."""
        self._touch(machine).discard(name)
        self._leave(name, machine)

    def _leave(self, name: str, machine: str) -> None:
        if self.assigned_machine(name) == machine:
            self._assigned[name] = ""

    def _touch(self, machine: str) -> Occupancy:
        occupancy = self._occupancies.get(machine)
        if occupancy is None:
            occupancy = self._occupancies[machine] = self.snapshot.occupancy(machine).copy()
        return occupancy


def scopes_of(concerns: Iterable[str]) -> dict[str, Names | None]:
    """The units concerned, and on which machines each; None: wherever it is."""
    scopes: dict[str, Names | None] = {}
    for concern in concerns:
        machine, slash, name = concern.rpartition("/")
        if not slash:
            scopes[name] = None
        else:
            scope = scopes.setdefault(name, {})
            if scope is not None:
                scope[machine] = None
    return scopes


def _with_text_of(record: R, other: Unit | Placement | None) -> R:
    """The record with the other's text object if both texts are equal: most of the memory is held once so."""
    if record is None or other is None or record.text is other.text or record.text != other.text:
        return record
    return msgspec.structs.replace(record, text=other.text)


def _relevant_state(state: UnitState | None) -> tuple[Any, ...] | None:
    """The parts of a state that the leader decides by: a change of anything else affects no unit."""
    if state is None:
        return None
    failed = state.active == "failed" or bool(state.error)
    kept = (state.orphan, state.outdated)
    done = (state.target, state.generation, state.completed)
    return (state.runs, state.active == "active", failed, done, kept, state.refusal)


def _relevant_machine(machine: Machine | None) -> tuple[Any, ...] | None:
    """The parts of a machine that the leader decides by."""
    return None if machine is None else (machine.mode, machine.metadata, machine.session)


def _has_suffix(name: str) -> bool:
    """Whether this can be the name of a unit."""
    return "." in name


def _set(mapping: MutableMapping[Any, Any], key: Any, value: Any) -> None:
    """Set the value under the key; None deletes it."""
    if value is None:
        mapping.pop(key, None)
    else:
        mapping[key] = value


def _set_by_machine(index: dict[str, dict[str, Any]], name: str, machine: str, value: Any) -> None:
    """Set a unit's value for a machine; None deletes it."""
    at = index.setdefault(name, Ordered())
    _set(at, machine, value)
    if not at:
        del index[name]


def _mark(names: dict[Any, None], name: Any, belongs: bool) -> None:
    """Add the name to the ordered set, or remove it."""
    if belongs:
        names[name] = None
    else:
        names.pop(name, None)
