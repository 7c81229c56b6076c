"""Which machine a unit likes best, found without asking them all.

Machines are kept in sets (machine_index.py) by how many units they hold, and by how many instances of a template.
Intersected with those that are what the unit asks for, they give the machines that may do, the best first. Whether one
of them does is for feasibility.py to say. Nothing is placed here.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec

from fleetd.model.constraints import Requirements
from fleetd.model.names import template_of
from fleetd.scheduler.feasibility import Candidate, rejection_by_occupants
from fleetd.scheduler.machine_index import MachineSet
from fleetd.scheduler.snapshot import Proposal

CountBuckets = list[MachineSet]  # at n: the machines that have n of something at most; each is part of the next one


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

    def __init__(self, proposal: Proposal) -> None:
        self._proposal = proposal
        self._snapshot = proposal.snapshot
        self._machine_index = proposal.snapshot.machine_index
        occupancies = {machine: proposal.occupancy(machine) for machine in self._machine_index.machines}
        self._loads = self._levels({machine: len(occupancy.staying) for machine, occupancy in occupancies.items()})
        self._instances: dict[str, CountBuckets] = {}
        self._with_replacers = self._machine_index.mask(
            machine for machine, occupancy in occupancies.items() if occupancy.replaces
        )

    def choose(self, group: Sequence[str]) -> Choice | None:
        """The best machine for the first of these units that takes all of them together, or None."""
        fitting = self._fitting(group, group)
        best = next(fitting, None)
        return Choice(best, next(fitting, None) is None) if best else None

    def is_placeable(self, name: str, group: Sequence[str]) -> bool:
        """Whether the unit fits anywhere, in this company."""
        return any(self._fitting([name], group))

    def record_placement(self, name: str, machine: str) -> None:
        """The unit has been placed on this machine."""
        occupancy = self._proposal.occupancy(machine)
        bit = self._machine_index.bits[machine]
        self._increment(self._loads, len(occupancy.staying), bit)
        template = template_of(name)
        if template in self._instances:
            self._increment(self._instances[template], occupancy.templates[template], bit)
        if occupancy.replaces:
            self._with_replacers |= bit

    def _fitting(self, names: Sequence[str], group: Sequence[str]) -> Iterator[str]:
        """The machines that take all these units in this company, the best for the first of them first."""
        along = tuple(group)
        wanted = [(name, self._snapshot.requirements(name)) for name in names]
        may = self._machine_index.everywhere
        for name, requirements in wanted:
            may &= self._machine_index.matching_ready(requirements)
            for peer in requirements.machine_of:
                if peer not in group and peer != name:
                    may &= self._machine_index.mask(self._proposal.machines_with(peer))
        for alike in self._in_order(names[0], may):
            for machine in self._machine_index.ids(alike):
                if self._takes_all(wanted, machine, along):
                    yield machine

    def _takes_all(self, wanted: list[tuple[str, Requirements]], machine: str, group: tuple[str, ...]) -> bool:
        for name, requirements in wanted:
            if rejection_by_occupants(Candidate(self._proposal, name, requirements, machine, group)):
                return False
        return True

    def _in_order(self, name: str, machines: MachineSet) -> Iterator[MachineSet]:
        """These machines, parted by how the unit likes them, the best first; those that it likes alike are together."""
        states = self._snapshot.states.get(name)
        running = machines & self._machine_index.mask(at for at, state in states.items() if state.runs) if states else 0
        suspects = machines & self._with_replacers
        if not running and not suspects:
            return self._by_load(name, machines)
        pushed = self._machine_index.mask(at for at in self._machine_index.ids(suspects) if self._is_pushed(name, at))
        elsewhere = machines ^ running
        parts = (running & ~pushed, running & pushed, elsewhere & ~pushed, elsewhere & pushed)
        return (alike for part in parts for alike in self._by_load(name, part))

    def _is_pushed(self, name: str, machine: str) -> bool:
        """Whether something on this machine would push the unit away."""
        return any(self._proposal.occupancy(machine).replacing(name, self._snapshot.requirements(name)))

    def _by_load(self, name: str, machines: MachineSet) -> Iterator[MachineSet]:
        """These machines: those with the fewest instances of the unit's template first, then those with the fewest
        units."""
        template = template_of(name)
        if not template:
            return _ascending(machines, self._loads)
        instances = self._levels_of(template)
        return (lightest for fewest in _ascending(machines, instances) for lightest in _ascending(fewest, self._loads))

    def _levels_of(self, template: str) -> CountBuckets:
        if template not in self._instances:
            machines_with = self._proposal.machines_with(template)
            counts = {
                machine: self._proposal.occupancy(machine).templates.get(template, 0) for machine in machines_with
            }
            self._instances[template] = self._levels(counts)
        return self._instances[template]

    def _levels(self, counts: dict[str, int]) -> CountBuckets:
        by_count: dict[int, MachineSet] = {}
        for machine, count in counts.items():
            by_count[count] = by_count.get(count, 0) | self._machine_index.bits.get(machine, 0)
        levels, fewer = [], self._machine_index.everywhere
        for count in range(max(by_count, default=0), 0, -1):
            fewer &= ~by_count.get(count, 0)
            levels.append(fewer)
        return levels[::-1]

    def _increment(self, levels: CountBuckets, count: int, bit: MachineSet) -> None:
        """A machine has this many now, one more than before."""
        if count > len(levels):
            levels.append(self._machine_index.everywhere)
        levels[count - 1] &= ~bit


def _ascending(machines: MachineSet, levels: CountBuckets) -> Iterator[MachineSet]:
    """These machines, parted by how many they have, the fewest first."""
    while machines:
        level = bisect_right(levels, 0, key=machines.__and__)  # the first that some of them are in
        fewest = machines & levels[level] if level < len(levels) else machines
        yield fewest
        machines ^= fewest
