"""Which machine a unit likes best, found without asking them all.

Machines are kept in sets (sites.py) by how many units they hold, and by how many of a template: intersected with those
that are what the unit asks for, they give the machines that may do, the best first. Whether one of them does, is for
the rules to say (feasibility.py). Nothing is placed here.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from fleetd.core.cluster import Trial
from fleetd.core.feasibility import Question, why_not_beside
from fleetd.core.names import template_of
from fleetd.core.sites import Machines

Levels = list[Machines]  # at n: the machines that have more than n of something; each is part of the one before


class Choice(msgspec.Struct, frozen=True):
    """The best machine, and whether it is the only one that fits."""

    machine: str
    is_only: bool


class Ranking:
    """The machines of a trial, in the order in which each unit likes them.

    First one where it runs already; then one where nothing would push it away; then the one with the fewest instances
    of its template, so that a machine that comes up empty does not get them all; then the one with the fewest units;
    then by id. Has to be told what is placed on the trial from now on (`note`).
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._view = trial.view
        self._sites = trial.view.sites
        rooms = {machine: trial.room(machine) for machine in self._sites.machines}
        self._loads = self._levels({machine: len(room.staying) for machine, room in rooms.items()})
        self._instances: dict[str, Levels] = {}
        self._pushing = self._sites.collect(machine for machine, room in rooms.items() if room.replaces)

    def choose(self, group: Sequence[str]) -> Choice | None:
        """The best machine for the first of these units that takes all of them together, or None."""
        fitting = self._fitting(group, group)
        best = next(fitting, None)
        return Choice(best, next(fitting, None) is None) if best else None

    def takes(self, name: str, company: Sequence[str]) -> bool:
        """Whether the unit fits anywhere, in this company."""
        return any(self._fitting([name], company))

    def note(self, name: str, machine: str) -> None:
        """The unit has been placed on this machine."""
        room = self._trial.room(machine)
        bit = self._sites.bits[machine]
        _rise(self._loads, len(room.staying), bit)
        template = template_of(name)
        if template in self._instances:
            _rise(self._instances[template], room.templates[template], bit)
        if room.replaces:
            self._pushing |= bit

    def _fitting(self, names: Sequence[str], company: Sequence[str]) -> Iterator[str]:
        """The machines that take all these units in this company, the best for the first of them first."""
        along = tuple(company)
        wanted = [(name, self._view.requirements(name)) for name in names]
        may = -1
        for name, requirements in wanted:
            may &= self._sites.suiting_for_work(requirements)
            for peer in requirements.machine_of:
                if peer not in company and peer != name:
                    may &= self._sites.collect(self._trial.hosts(peer))
        for machine in self._in_order(names[0], may):
            if not any(why_not_beside(Question(self._trial, *each, machine, along)) for each in wanted):
                yield machine

    def _in_order(self, name: str, machines: Machines) -> Iterator[str]:
        """These machines, the one that the unit likes best first."""
        states = self._view.states.get(name)
        running = machines & self._sites.collect(at for at, state in states.items() if state.runs) if states else 0
        for some in (running, machines ^ running):
            suspects = some & self._pushing
            pushed = suspects and self._sites.collect(
                machine for machine in self._sites.list(suspects) if self._is_pushed(name, machine)
            )
            yield from self._by_load(name, some ^ pushed)
            yield from self._by_load(name, pushed)

    def _is_pushed(self, name: str, machine: str) -> bool:
        """Whether something on this machine would push the unit away."""
        return any(self._trial.room(machine).replacing(name, self._view.requirements(name)))

    def _by_load(self, name: str, machines: Machines) -> Iterator[str]:
        """These machines: those with the fewest instances of the unit's template first, then those with the fewest
        units, then by id."""
        if not machines:
            return
        template = template_of(name)
        for fewest in _rising(machines, self._levels_of(template)) if template else (machines,):
            for lightest in _rising(fewest, self._loads):
                yield from self._sites.list(lightest)

    def _levels_of(self, template: str) -> Levels:
        if template not in self._instances:
            hosts = self._trial.hosts(template)
            counts = {machine: self._trial.room(machine).templates.get(template, 0) for machine in hosts}
            self._instances[template] = self._levels(counts)
        return self._instances[template]

    def _levels(self, counts: dict[str, int]) -> Levels:
        by_count: dict[int, Machines] = {}
        for machine, count in counts.items():
            by_count[count] = by_count.get(count, 0) | self._sites.bits.get(machine, 0)
        levels, more = [], 0
        for count in range(max(by_count, default=0), 0, -1):
            more |= by_count.get(count, 0)
            levels.append(more)
        return levels[::-1]


def _rise(levels: Levels, count: int, bit: Machines) -> None:
    """A machine has this many now, one more than before."""
    if count > len(levels):
        levels.append(0)
    levels[count - 1] |= bit


def _rising(machines: Machines, levels: Levels) -> Iterator[Machines]:
    """These machines, parted by how many they have, the fewest first."""
    while machines:
        level = bisect_left(levels, True, key=partial(_leaves_out, machines))
        more = machines & levels[level] if level < len(levels) else 0
        yield machines ^ more
        machines = more


def _leaves_out(machines: Machines, level: Machines) -> bool:
    return machines & level != machines
