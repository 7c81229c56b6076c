"""Rebalancing: which unit moves next, so that the machines are loaded more evenly.

A move has to bring the instances of a template closer to an even distribution, or, if it does not make that worse, the
numbers of units: a machine gives a unit to one that has at least two fewer. Each such move lowers a sum of squares, so
no unit goes to and fro, and there comes an end.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from fleetd.model.group import group_of
from fleetd.model.machine import SHORT_ID_LENGTH, Machine
from fleetd.model.move import Move
from fleetd.model.names import is_template, template_of
from fleetd.model.reason import render
from fleetd.model.unit import TargetState
from fleetd.scheduler.controllers.move import moved_with
from fleetd.scheduler.failover_delays import NO_DELAYS, START, FailoverPolicy, Now
from fleetd.scheduler.feasibility import is_on_many
from fleetd.scheduler.foresight import Course, Hypothesis
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.ranking import Ranking
from fleetd.scheduler.snapshot import Snapshot

MIN_AGE_S = 600.0  # how long a machine has to be there to count


class RebalanceMove(msgspec.Struct, frozen=True):
    """One unit goes from `origin` to `machine`, with the other `units` that MachineOf= joins to it. `group` is the
    template of which there are `here` instances on the one and `there` on the other; '': it is about all units."""

    unit: str
    units: tuple[str, ...]
    origin: str
    machine: str
    group: str
    here: int
    there: int


class Scope(msgspec.Struct, frozen=True):
    """What may be rebalanced. `named` are units and templates, the only ones that may be moved; if there are none, all
    may but those that are alone in their group. `now_s` is a Unix time; machines that came less than `min_age_s` ago do
    not count."""

    named: frozenset[str] = frozenset()
    now_s: float = 0.0
    min_age_s: float = MIN_AGE_S

    def is_new(self, machine: Machine) -> bool:
        """True if the machine has not been there for long enough."""
        return machine.since > 0 and 0 <= self.now_s - machine.since < self.min_age_s

    def names(self, unit: str) -> bool:
        """True if the unit or its template is named."""
        return unit in self.named or group_of(unit) in self.named


def plan_rebalance(
    snapshot: Snapshot,
    scope: Scope,
    limit: int,
    *,
    now: Now = START,
    policy: FailoverPolicy = NO_DELAYS,
    checkpoint: Callable[[], None] = lambda: None,
) -> list[RebalanceMove]:
    """The next moves, at most `limit`: each is found when the one before it is done, if nothing goes wrong.
    `checkpoint` is as for foresee."""
    course = Course(snapshot, now=now, policy=policy, checkpoint=checkpoint)
    moves: list[RebalanceMove] = []
    while len(moves) < limit:
        move = find_move(course.snapshot, scope)
        if move is None:
            break
        moves.append(move)
        if len(moves) < limit:
            asked = Move(move.machine, origin=move.origin, was_available=True, revision=course.snapshot.restored_at + 1)
            course.suppose(Hypothesis(moves={move.unit: asked}))
            course.run()
            if course.snapshot.assigned_machine(move.unit) != move.machine:
                break
    return moves


def find_move(snapshot: Snapshot, scope: Scope) -> RebalanceMove | None:
    """The next move; None if none would make the distribution more even."""
    return _Balance(snapshot, scope).find_move()


def find_hindrance(snapshot: Snapshot, scope: Scope, name: str) -> str:
    """Why an existing unit is not moved whatever the distribution, as a predicate; '' if it may be."""
    return _Balance(snapshot, scope).hindrance(name)


class _Balance:
    """How the units of a snapshot are distributed over the machines that count: those that take new units, and that
    have been there for long enough."""

    def __init__(self, snapshot: Snapshot, scope: Scope) -> None:
        self._snapshot = snapshot
        self._scope = scope
        self._proposal = Proposal(snapshot)
        self._ranking = Ranking(self._proposal)
        self._counting = {
            machine: None
            for machine, effective in snapshot.effective.items()
            if effective.rejects is None and effective.cordon is None and not scope.is_new(snapshot.machines[machine])
        }
        self._set = snapshot.machine_index.mask(self._counting)
        self._loads = {machine: len(snapshot.occupancy(machine).staying) for machine in self._counting}

    def find_move(self) -> RebalanceMove | None:
        if len(self._counting) < 2:
            return None
        moves = (self._try(name, machine) for name, machine in self._candidates())
        return next(filter(None, moves), None)

    def _candidates(self) -> Iterator[tuple[str, str]]:
        """The units that may be better off elsewhere, with their machines: first those of the templates that are
        distributed least evenly, then those of the machines with the most units."""
        counts: dict[str, dict[str, int]] = {}
        for machine in self._counting:
            for group, count in self._snapshot.occupancy(machine).templates.items():
                counts.setdefault(group, {})[machine] = count
        spreads = {group: max(found.values()) - self._fewest(found) for group, found in counts.items()}
        for group in sorted(spreads, key=lambda each: (-spreads[each], each)):
            if spreads[group] >= 2:
                yield from self._on_fullest(counts[group], self._snapshot.group_units(group))
        yield from self._on_fullest(self._loads, None)

    def _fewest(self, counts: Mapping[str, int]) -> int:
        """The lowest of these numbers; a machine that is not among them has none."""
        return min(counts.values()) if len(counts) == len(self._counting) else 0

    def _on_fullest(self, counts: Mapping[str, int], names: Sequence[str] | None) -> Iterator[tuple[str, str]]:
        """These units (None: all) on the machines that have at least two more than another, the fullest first."""
        enough = self._fewest(counts) + 2
        fullest = sorted(counts, key=lambda each: (-counts[each], -self._loads[each], each))
        for machine in (each for each in fullest if counts[each] >= enough):
            staying = self._snapshot.occupancy(machine).staying
            for name in sorted(staying) if names is None else names:
                if name in staying and (not self._scope.named or self._scope.names(name)):
                    yield name, machine

    def _try(self, name: str, origin: str) -> RebalanceMove | None:
        """The move of this unit, with those that go with it, to where it is better off; None if it stays."""
        names = moved_with(self._snapshot, name, origin)
        if any(self.hindrance(each) for each in names):
            return None
        choice = self._ranking.choose(names, origin, self._set)
        if choice is None or any(self._would_be_replaced(each, choice.machine) for each in names):
            return None
        machine = choice.machine
        gains: list[tuple[int, str, int, int]] = []  # by group: the change of the sum of squares, halved
        for group, number in Counter(filter(None, map(template_of, names))).items():
            here, there = self._count(group, origin), self._count(group, machine)
            gains.append((number * (there - here + number), group, here, there))
        here, there = self._loads[origin], self._loads[machine]
        by_groups, by_load = sum(gain for gain, *_ in gains), len(names) * (there - here + len(names))
        if by_groups < 0:
            return RebalanceMove(name, tuple(names), origin, machine, *min(gains)[1:])
        if by_groups == 0 and by_load < 0:
            return RebalanceMove(name, tuple(names), origin, machine, "", here, there)
        return None

    def _count(self, template: str, machine: str) -> int:
        return self._snapshot.occupancy(machine).templates.get(template, 0)

    def _would_be_replaced(self, name: str, machine: str) -> bool:
        return any(self._snapshot.occupancy(machine).replacing(name, self._snapshot.requirements(name)))

    def hindrance(self, name: str) -> str:
        """Why the unit may not be moved, as a predicate; '' if it may."""
        snapshot, group, machine = self._snapshot, group_of(name), self._snapshot.assigned_machine(name)
        unit, requirements = snapshot.units[name], snapshot.requirements(name)
        if is_template(name):
            return "has no instances"
        if is_on_many(name, requirements):
            return "is on every machine that it fits on"
        if unit.target is TargetState.INACTIVE:
            return "is inactive"
        if not machine or name in snapshot.moves:
            return "is on its way to a machine"
        if machine not in self._counting:
            return f"is on a machine that takes no new units, or is too new: {machine[:SHORT_ID_LENGTH]}"
        if not snapshot.group_options(group).movable:
            return "has Movable=false"
        if requirements.replaces:
            return "has Replaces="
        if snapshot.rolling.get(group) and snapshot.is_rolling(group):
            return "is in a rollout that is not over"
        if self._is_alone(group) and not self._scope.names(name):
            return "is alone in its group, and not named"
        return self._find_unrest(name, machine)

    def _is_alone(self, group: str) -> bool:
        return sum(map(self._snapshot.is_wanted, self._snapshot.group_units(group))) < 2

    def _find_unrest(self, name: str, machine: str) -> str:
        """Why the unit may not be stopped now, as a predicate; '' if it may."""
        state = self._snapshot.states.get(name, {}).get(machine)
        if self._snapshot.requirements(name).is_oneshot and state is not None:
            if state.completed:
                return "is a oneshot that has completed"
            if state.active == "activating":
                return "is a oneshot at work"
        if self._snapshot.units[name].target is not TargetState.LAUNCHED:
            return ""
        if self._proposal.budget.unavailability(name, machine) is not None:
            return "is not available itself"
        return render(self._proposal.budget.may_stop(name, machine))
