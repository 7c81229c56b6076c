"""What must hold of units that start where they move before they stop where they were (Handover=start-first): the
exception to "one copy runs" that a unit can ask for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.group import Handover, group_of, parse_group_options
from fleetd.model.machine import MachineMode
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.registry.records import MOVES, PLACEMENTS, REBOOTS, SETTINGS, STATES, UNITS, RecordKey
from fleetd.scheduler.disruption import judge_member
from fleetd.scheduler.effective_machine import drain_of
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now

if TYPE_CHECKING:
    from tests.simulation.store_model import StoreModel
    from tests.simulation.world import World

NEWS_S = 30.0  # a leader whose watch is mute learns so late of what others write


def runs_on(records: "StoreModel", name: str) -> list[str]:
    """The machines where a unit does its work until it is proven where it moves to."""
    return [
        machine
        for (machine, other), placement in records.placements.items()
        if other == name and placement.hands_over and machine in records.machines and _is_active(records, machine, name)
    ]


def _is_active(records: "StoreModel", machine: str, name: str) -> bool:
    state = records.states.get((machine, name))
    return state is not None and state.active in ("active", "reloading")


class StartFirstIsAskedFor(Checker):
    """A unit starts elsewhere before it stops only if its group asks for that, its machine is drained or it is moved,
    and nothing of it is on a third machine."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._asked_s: dict[str, float] = {}  # unit → when its group was last seen to ask for it
        self._moves_s: dict[str, float] = {}  # machine or unit → when it was last seen to be drained, or moved

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        if any(path.kind in (UNITS, SETTINGS, MOVES, REBOOTS) for path, _ in events):
            self._note()
        for path in (path for path, _ in events if path.kind is PLACEMENTS):
            placement, former = self.records.placements.get(path.names), before.get(path.names)
            if placement is not None and placement.hands_over and not (former is not None and former.hands_over):
                self._judge(*path.names)

    def _note(self) -> None:
        for name, unit in self.records.units.items():
            asking = self.records.units.get(group_of(name), unit)
            if parse_group_options(asking.content.options()).handover is Handover.START_FIRST:
                self._asked_s[name] = now()
        self._moves_s |= dict.fromkeys(self.records.moves, now())
        draining = (machine for machine in (*self.records.settings, *self.records.reboots) if self._is_drained(machine))
        self._moves_s |= dict.fromkeys(draining, now())

    def see_rest(self) -> None:
        moving = (each for each in self._moves_s if each in self.records.moves or self._is_drained(each))
        self._moves_s |= dict.fromkeys(moving, now())

    def _is_drained(self, machine: str) -> bool:
        return drain_of(self.records.settings.get(machine), self.records.reboots.get(machine)) is not None

    def _judge(self, machine: str, name: str) -> None:
        if now() - self._asked_s.get(name, -NEWS_S) > NEWS_S and not self._asks(name):
            self.fail(f"{name} starts elsewhere before it stops on {machine}, which its group does not ask for")
        if now() - max(self._moves_s.get(each, -NEWS_S) for each in (name, machine)) > NEWS_S:
            self.fail(f"{name} starts elsewhere before it stops on {machine}, and nobody moves it")
        there = [
            where
            for (where, other), placement in self.records.placements.items()
            if other == name and not placement.declined and where in self.records.machines
        ]
        if len(there) > 2:
            self.fail(f"{name} is on {', '.join(there)}")

    def _asks(self, name: str) -> bool:
        unit = self.records.units.get(name)
        asking = self.records.units.get(group_of(name), unit)
        return asking is not None and parse_group_options(asking.content.options()).handover is Handover.START_FIRST

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._note()


class StartFirstKeepsWhatRuns(Checker):
    """What runs is told to stop only when the unit is proven where it moves to."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._proven_s: dict[Key, float] = {}

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path in (path for path, _ in events if path.kind is STATES):
            placement, state = self.records.placements.get(path.names), self.records.states.get(path.names)
            if placement is not None and placement.is_active and judge_member(placement, state) is None:
                self._proven_s[path.names] = now()
        for path in (path for path, _ in events if path.kind is PLACEMENTS):
            placement, former = self.records.placements.get(path.names), before.get(path.names)
            if former is not None and former.hands_over and placement is not None and placement.is_withdrawn:
                self._judge(*path.names)

    def _judge(self, machine: str, name: str) -> None:
        unit, record = self.records.units.get(name), self.records.machines.get(machine)
        if unit is None or unit.target is not TargetState.LAUNCHED or not _is_active(self.records, machine, name):
            return
        if record is None or record.mode is not MachineMode.READY:
            return
        for where in self.records.assigned_machines(name):
            placement = self.records.placements[where, name]
            if placement.prove_after_s is None or now() - self._proven_s.get((where, name), -NEWS_S) < NEWS_S:
                return
            if judge_member(placement, self.records.states.get((where, name))) is None:
                return
        self.fail(f"{name} is told to stop on {machine}, and is proven nowhere else")
