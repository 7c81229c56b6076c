"""Which machine is best for a unit, without testing every machine.

Machines are kept as sets by how many units they hold, and by how many instances of a template. Intersected with the
machines that meet the unit's constraints, these sets give the candidates, best first; feasibility.py tests them.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec

from fleetd.model.constraints import Requirements
from fleetd.model.names import template_of
from fleetd.scheduler.feasibility import Candidate, rejection_by_occupants
from fleetd.scheduler.machine_index import MachineSet
from fleetd.scheduler.preference import Preference, Standing
from fleetd.scheduler.proposal import Proposal

CountBuckets = list[MachineSet]  # at n: the machines that have at most n; each set includes the one before


class Choice(msgspec.Struct, frozen=True):
    """The best machine, and whether it is the only one that fits."""

    machine: str
    is_only: bool


def rank(proposal: Proposal, name: str, machine: str, *, runs_there: bool) -> dict[Preference, int]:
    """How good a machine is for a unit, as Ranking orders machines: least is best."""
    occupancy, template = proposal.occupancy(machine), template_of(name)
    return {
        Preference.RUNS: 0 if runs_there else 1,
        Preference.REPLACED: 1 if any(occupancy.replacing(name, proposal.requirements(name))) else 0,
        Preference.INSTANCES: occupancy.templates.get(template, 0) if template else 0,
        Preference.UNITS: len(occupancy.staying),
        Preference.ID: proposal.snapshot.machine_index.bits[machine].bit_length(),
    }


class Ranking:
    """The machines of a proposal, ranked for each unit.

    A machine where the unit already runs comes first; then one where nothing would replace it; then the one with the
    fewest instances of its template, so that a new, empty machine does not get them all; then the one with the fewest
    units; then the lowest id. Call record_placement after each placement on the proposal.
    """

    def __init__(self, proposal: Proposal) -> None:
        self._proposal = proposal
        self._snapshot = proposal.snapshot
        self._machine_index = proposal.snapshot.machine_index
        occupancies = {machine: proposal.occupancy(machine) for machine in self._machine_index.machines}
        self._loads = self._buckets({machine: len(occupancy.staying) for machine, occupancy in occupancies.items()})
        self._instances: dict[str, CountBuckets] = {}
        self._with_replacers = self._machine_index.mask(
            machine for machine, occupancy in occupancies.items() if occupancy.replaces
        )

    def choose(self, group: Sequence[str], without: str = "", among: MachineSet | None = None) -> Choice | None:
        """The best machine for the first of these units that takes all of them together, or None: one of `among` (None:
        of all) and not `without`."""
        fitting = self._fitting(group, group, self._machine_index.everywhere if among is None else among)
        if without:
            fitting = (machine for machine in fitting if machine != without)
        best = next(fitting, None)
        if best is None:
            return None
        second = next(fitting, None)
        if self._proposal.standings is not None:
            self._proposal.standings |= dict.fromkeys(group, self._compare(group[0], best, second))
        return Choice(best, second is None)

    def _compare(self, name: str, best: str, second: str | None) -> Standing:
        """Why the best machine is better than the second."""
        if second is None:
            return Standing(name, best, ())
        is_running_on = self._proposal.snapshot.is_running_on
        mine, theirs = (
            rank(self._proposal, name, machine, runs_there=is_running_on(name, machine)) for machine in (best, second)
        )
        preferences = list(Preference)
        decisive = next(turn for turn, each in enumerate(preferences) if mine[each] != theirs[each])
        return Standing(name, best, tuple((each, mine[each]) for each in preferences[: decisive + 1]))

    def is_placeable(self, name: str, group: Sequence[str]) -> bool:
        """True if the unit fits on some machine together with this group."""
        return any(self._fitting([name], group, self._machine_index.everywhere))

    def record_placement(self, name: str, machine: str) -> None:
        """Count a unit that has been placed on this machine."""
        occupancy = self._proposal.occupancy(machine)
        bit = self._machine_index.bits[machine]
        self._increment(self._loads, len(occupancy.staying), bit)
        template = template_of(name)
        if template in self._instances:
            self._increment(self._instances[template], occupancy.templates[template], bit)
        if occupancy.replaces:
            self._with_replacers |= bit

    def _fitting(self, names: Sequence[str], group: Sequence[str], may: MachineSet) -> Iterator[str]:
        """Those of the machines `may` that take all these units together with the group, the best for the first unit
        first."""
        along = tuple(group)
        wanted = [(name, self._proposal.requirements(name)) for name in names]
        for name, requirements in wanted:
            may &= self._machine_index.accepting_matches(requirements)
            for peer in requirements.machine_of:
                if peer not in group and peer != name:
                    may &= self._machine_index.mask(self._proposal.machines_with(peer))
        for equals in self._in_order(names[0], may):
            for machine in self._machine_index.ids(equals):
                if self._takes_all(wanted, machine, along):
                    yield machine

    def _takes_all(self, wanted: list[tuple[str, Requirements]], machine: str, group: tuple[str, ...]) -> bool:
        for name, requirements in wanted:
            if rejection_by_occupants(Candidate(self._proposal, name, requirements, machine, group)):
                return False
        return True

    def _in_order(self, name: str, machines: MachineSet) -> Iterator[MachineSet]:
        """Group machines by preference for this unit, best group first."""
        states = self._snapshot.states.get(name)
        running = machines & self._machine_index.mask(at for at, state in states.items() if state.runs) if states else 0
        suspects = machines & self._with_replacers
        if not running and not suspects:
            return self._by_load(name, machines)
        replaced = self._machine_index.mask(
            at for at in self._machine_index.ids(suspects) if self._would_be_replaced(name, at)
        )
        elsewhere = machines ^ running
        parts = (running & ~replaced, running & replaced, elsewhere & ~replaced, elsewhere & replaced)
        return (equals for part in parts for equals in self._by_load(name, part))

    def _would_be_replaced(self, name: str, machine: str) -> bool:
        """True if a unit on this machine would replace this one."""
        return any(self._proposal.occupancy(machine).replacing(name, self._proposal.requirements(name)))

    def _by_load(self, name: str, machines: MachineSet) -> Iterator[MachineSet]:
        """Group machines by the number of instances of the unit's template, then by the number of units, fewest
        first."""
        template = template_of(name)
        if not template:
            return _ascending(machines, self._loads)
        instances = self._buckets_of(template)
        return (lightest for fewest in _ascending(machines, instances) for lightest in _ascending(fewest, self._loads))

    def _buckets_of(self, template: str) -> CountBuckets:
        if template not in self._instances:
            machines_with = self._proposal.machines_with(template)
            counts = {
                machine: self._proposal.occupancy(machine).templates.get(template, 0) for machine in machines_with
            }
            self._instances[template] = self._buckets(counts)
        return self._instances[template]

    def _buckets(self, counts: dict[str, int]) -> CountBuckets:
        by_count: dict[int, MachineSet] = {}
        for machine, count in counts.items():
            by_count[count] = by_count.get(count, 0) | self._machine_index.bits.get(machine, 0)
        buckets, fewer = [], self._machine_index.everywhere
        for count in range(max(by_count, default=0), 0, -1):
            fewer &= ~by_count.get(count, 0)
            buckets.append(fewer)
        return buckets[::-1]

    def _increment(self, buckets: CountBuckets, count: int, bit: MachineSet) -> None:
        """Count one more for a machine that has `count` now."""
        if count > len(buckets):
            buckets.append(self._machine_index.everywhere)
        buckets[count - 1] &= ~bit


def _ascending(machines: MachineSet, buckets: CountBuckets) -> Iterator[MachineSet]:
    """Group machines by their count, lowest first."""
    while machines:
        bucket = bisect_right(buckets, 0, key=machines.__and__)  # the first bucket that holds some of them
        fewest = machines & buckets[bucket] if bucket < len(buckets) else machines
        yield fewest
        machines ^= fewest
