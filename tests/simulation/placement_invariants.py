"""What must hold of placements at the moment of each write, whoever makes it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.names import is_template, matches_glob
from fleetd.model.placement import Placement
from fleetd.model.reason import KEPT, NotMoved
from fleetd.model.requirements import requirements_of
from fleetd.registry.records import PLACEMENTS, SETTINGS, RecordKey
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now

if TYPE_CHECKING:
    from tests.simulation.world import World

CORDON_KNOWN_S = 30.0  # a leader whose watch is mute learns of a cordon so late


class OneMachinePerUnit(Checker):
    """Rule 3, as placed: a unit that is not global has at most one placement that is not superseded. A template, of
    which nothing runs, may be left on a machine that is away, where its socket was."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        placed = [path.names[1] for path, _ in events if path.kind is PLACEMENTS]
        for name in dict.fromkeys(name for name in placed if not is_template(name)):
            assigned_machines = [
                machine
                for machine in self.records.assigned_machines(name)
                if not requirements_of(self.records.placements[machine, name].content, name).is_global
            ]
            if len(assigned_machines) > 1:
                self.fail(f"{name} is placed on {', '.join(assigned_machines)}")


class ConflictsApart(Checker):
    """No two conflicting units have placements on one machine (a superseded allocation blocks no other)."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for machine in dict.fromkeys(path.names[0] for path, _ in events if path.kind is PLACEMENTS):
            placements = {n: o for (m, n), o in self.records.placements.items() if m == machine and o.is_active}
            for name, placement in placements.items():
                patterns = requirements_of(placement.content, name).conflicts
                other = next((o for o in placements if o != name and any(matches_glob(p, o) for p in patterns)), None)
                if other:
                    self.fail(f"{name} and {other}, which conflict, are both on {machine}")


class CordonedMachinesGetNothingNew(Checker):
    """A unit that does not run there is not placed on a machine which has been cordoned for a while, unless it is
    global, or a template, or was to move from there and fits nowhere else."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._since_s: dict[str, float] = {}  # cordoned machines

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for machine in (path.names[0] for path, _ in events if path.kind is SETTINGS):
            settings = self.records.settings.get(machine)
            if settings is not None and settings.cordon is not None:
                self._since_s.setdefault(machine, now())
            else:
                self._since_s.pop(machine, None)
        for path, _ in events:
            if path.kind is PLACEMENTS and now() - self._since_s.get(path.names[0], now()) > CORDON_KNOWN_S:
                self._judge(*path.names, before)

    def _judge(self, machine: str, name: str, before: dict[Key, Placement]) -> None:
        former, placement = before.get((machine, name)), self.records.placements.get((machine, name))
        if placement is None or not placement.is_active or (former is not None and former.is_active):
            return
        state = self.records.states.get((machine, name))
        is_on_many = is_template(name) or requirements_of(placement.content, name).is_global
        decision = self.records.decisions.get(name)
        has_returned = decision is not None and (decision.reason == KEPT or isinstance(decision.reason, NotMoved))
        if not is_on_many and not has_returned and not (state is not None and state.runs):
            self.fail(f"{name} is placed on {machine}, which is cordoned")

    def see_restore(self, before: dict[Key, Placement]) -> None:
        cordoned = [machine for machine, settings in self.records.settings.items() if settings.cordon is not None]
        self._since_s = dict.fromkeys(cordoned, now())
