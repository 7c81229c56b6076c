"""What must hold of drains and moves at the moment of each write of a leader."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fleetd.model.group import GroupOptions, group_of, parse_group_options
from fleetd.model.names import matches_glob
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import RejectionKind, WaitingForStop
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState
from fleetd.registry.records import PLACEMENTS, STATES, RecordKey
from fleetd.scheduler.disruption import answer_to
from fleetd.scheduler.effective_machine import drain_of
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now
from tests.simulation.handover_invariants import runs_on

if TYPE_CHECKING:
    from tests.simulation.world import World

NEWS_S = 30.0  # a leader whose watch is mute learns so late of what others write


def drained_away(records: Mapping[str, Decision], machine: str, name: str) -> Decision | None:
    """The decision about a unit if a drain, a reboot or a move has just told it to leave this machine, else None."""
    decision = records.get(name)
    reason = decision.reason if decision else None
    if not isinstance(reason, WaitingForStop) or reason.machine != machine or reason.because is None:
        return None
    kinds = (RejectionKind.DRAINED, RejectionKind.REBOOTS, RejectionKind.MOVED)
    return decision if reason.because.rejection.kind in kinds else None


class DrainsKeepTheBudget(Checker):
    """An available member of a group is told to leave its machine by a drain or a move only while fewer others than
    MaxUnavailable= are unavailable, as far as a leader knows, or on the way from such a machine; unless by force."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._moving: dict[str, None] = {}  # units that drains have disturbed
        self._down_since_s: dict[str, float] = {}
        self._last_down_s: dict[str, float] = {}
        self._forced_s: dict[str, float] = {}  # machine → when it was last drained by force

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for name in [name for name in self._moving if not self._is_member(name) or self._is_available(name)]:
            del self._moving[name]
        reported = [path.names[1] for path, _ in events if path.kind is STATES and self._is_member(path.names[1])]
        self._last_down_s |= {name: now() for name in reported if not self._is_available(name)}
        for machine, settings in self.records.settings.items():
            if settings.drain is not None and settings.drain.force:
                self._forced_s[machine] = now()
        leaving = [
            path.names
            for path, _ in events
            if path.kind is PLACEMENTS and self._leaves(path.names, before.get(path.names))
        ]
        is_forced = any(move.force for move in self.records.moves.values())
        for machine, name in leaving:
            if not is_forced and now() - self._forced_s.get(machine, -NEWS_S) >= NEWS_S:
                self._judge(machine, name, before[machine, name], [other for _, other in leaving if other != name])
            self._moving[name] = None

    def _leaves(self, allocation: Key, former: Placement | None) -> bool:
        placement = self.records.placements.get(allocation)
        is_told = placement is not None and placement.is_withdrawn and former is not None and former.is_active
        drain = drain_of(self.records.settings.get(allocation[0]), self.records.reboots.get(allocation[0]))
        if is_told and drain is not None:
            self.world.drained[allocation[1]] = None
        return is_told and drained_away(self.records.decisions, *allocation) is not None

    def _judge(self, machine: str, name: str, former: Placement, others: Sequence[str]) -> None:
        decision = self.records.decisions[name]
        if not decision.target:
            self.fail(f"{name} is told to leave {machine} and has nowhere to go")
        state = self.records.states.get((machine, name))
        if not self._is_member(name) or state is None or state.active != "active":
            return
        if now() - self._last_down_s.get(name, -NEWS_S) < NEWS_S:
            return  # a leader may not know yet that it is available again
        if state.generation < former.generation:  # it is being changed, and counts as unavailable already
            return
        proof = answer_to(former, state)
        if proof is not None and proof.failed and state.hash in ("", former.content.hash):
            return  # so does one that was found unhealthy
        group = [other for other in self.records.units if group_of(other) == group_of(name) and self._is_member(other)]
        rollout = self.records.rollouts.get(group_of(name))
        accepted = [member.unit for member in rollout.accepted] if rollout else []  # an operator goes on without them
        down = [
            each
            for each in group
            if each not in (name, *accepted) and (each in self._moving or each in others or self._is_down(each))
        ]
        limit = self._options(name).unavailable_limit(len(group))
        if len(down) >= limit:
            self.fail(f"{name} is told to leave {machine} while {', '.join(down)} is unavailable")

    def _options(self, name: str) -> GroupOptions:
        return parse_group_options(self.records.units[name].content.options())

    def _is_member(self, name: str) -> bool:
        unit = self.records.units.get(name)
        is_member = unit is not None and unit.target is TargetState.LAUNCHED
        return is_member and not requirements_of(unit.content, name).is_global  # type: ignore[union-attr]

    def _is_available(self, name: str) -> bool:
        if runs_on(self.records, name):
            return True
        for machine in self.records.assigned_machines(name):
            state, placement = self.records.states.get((machine, name)), self.records.placements[machine, name]
            is_there = machine in self.records.machines and state is not None
            if is_there and (state.active in ("active", "reloading") or state.completed):  # type: ignore[union-attr]
                return state.generation >= placement.generation  # type: ignore[union-attr]
        decision = self.records.decisions.get(name)
        return decision is not None and decision.completed >= self.records.units[name].generation > 0

    def _is_down(self, name: str) -> bool:
        """True if it has been unavailable for so long that every leader knows it."""
        return now() - self._down_since_s.get(name, now()) > NEWS_S

    def see_rest(self) -> None:
        for name in self.records.units:
            if not self._is_member(name) or self._is_available(name):
                self._down_since_s.pop(name, None)
            else:
                self._down_since_s.setdefault(name, now())

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._moving.clear()
        self._down_since_s.clear()


class KeptPlacesAreKept(Checker):
    """While a unit is on its way to a machine, or is not proven yet where it goes from there, nothing that conflicts
    with it is placed there."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for machine, name in (path.names for path, _ in events if path.kind is PLACEMENTS):
            former, placement = before.get((machine, name)), self.records.placements.get((machine, name))
            if placement is None or not placement.is_active or (former is not None and former.is_active):
                continue
            kept = [other for other, decision in self.records.decisions.items() if decision.target == machine]
            kept += [n for (m, n), order in self.records.placements.items() if m == machine and order.hands_over]
            for other in kept:
                if other != name and self._conflict(name, placement, other):
                    self.fail(f"{name} is placed on {machine}, where the place of {other} is kept")

    def _conflict(self, name: str, placement: Placement, other: str) -> bool:
        unit = self.records.units.get(other)
        if unit is None or unit.target is TargetState.INACTIVE:
            return False
        mine = requirements_of(placement.content, name).conflicts
        theirs = requirements_of(unit.content, other).conflicts
        return any(matches_glob(p, other) for p in mine) or any(matches_glob(p, name) for p in theirs)
