"""What must hold of reboots at the moment of each write of a leader."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.config.cluster_settings import reboot_policy
from fleetd.model.group import group_of, parse_group_options
from fleetd.model.names import is_template
from fleetd.model.placement import Placement
from fleetd.model.reason import KEPT
from fleetd.model.reboot import RETURN_WITHIN_S, Reboot, RebootPhase
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState
from fleetd.registry.records import CLUSTER_SETTINGS, PLACEMENTS, REBOOTS, RecordKey
from fleetd.scheduler.disruption import judge_member
from fleetd.scheduler.reboot_policy import ONE_AT_A_TIME
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key, now

if TYPE_CHECKING:
    from tests.simulation.world import World

NEWS_S = 30.0  # a leader whose watch is mute learns so late of what others write
AFTERWARDS_S = 10.0  # what a machine has begun to do when its order was taken back


class RebootsTakeTurns(Checker):
    """No more machines than there are slots reboot at a time, and a machine reboots only if it was told to."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._before: dict[str, Reboot] = {}
        self._slots: list[tuple[float, int]] = [(now(), 1)]  # since when
        self._told_s: dict[str, float] = {}  # machine → when it was told last
        self._restored_s = -NEWS_S

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._before = dict(self.records.reboots)
        self._restored_s = now()
        self._note_slots()

    def _note_slots(self) -> None:
        self._slots.append((now(), reboot_policy(self.records.cluster_settings, ONE_AT_A_TIME).slots))

    def _most_slots(self) -> int:
        """The most slots that the leader may know of."""
        ends = [*(since_s for since_s, _ in self._slots[1:]), now()]
        return max(slots for (_, slots), end_s in zip(self._slots, ends, strict=True) if end_s > now() - NEWS_S)

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, _ in events:
            if path.kind is CLUSTER_SETTINGS:
                self._note_slots()
            if path.kind is REBOOTS:
                self._judge(path.names[0])

    def _judge(self, machine: str) -> None:
        former, reboot = self._before.get(machine), self.records.reboots.get(machine)
        self._before = dict(self.records.reboots)
        if reboot is None:
            return
        if reboot.phase is RebootPhase.ORDERED:
            self._told_s[machine] = now()
        holding = [other for other, record in self.records.reboots.items() if record.holds_slot]
        if reboot.holds_slot and not (former and former.holds_slot) and len(holding) > self._most_slots():
            self.fail(f"{', '.join(holding)} reboot at a time")

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        if verb != "reboot-machine":
            return
        id_ = self.world.machines[machine].id
        reboot = self.records.reboots.get(id_)
        is_told = reboot is not None and reboot.phase is RebootPhase.ORDERED
        if not is_told and now() - self._told_s.get(id_, -NEWS_S) > AFTERWARDS_S + NEWS_S:
            self.fail(f"{machine} reboots, which it was not told to")


class RebootsKeepTheBudget(Checker):
    """A machine is told to reboot only while others can do without what stays there: for each member of a group that
    was available, fewer others than MaxUnavailable= are unavailable, as far as every leader knows. Where more of a
    group are there than may be unavailable, all others are available."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._down_since_s: dict[Key, float] = {}
        self._up_since_s: dict[Key, float] = {}
        self._told: dict[str, str] = {}  # machine → the order that it got

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._down_since_s.clear()
        self._up_since_s.clear()

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for machine in [path.names[0] for path, _ in events if path.kind is REBOOTS]:
            reboot = self.records.reboots.get(machine)
            if reboot is None or reboot.phase is not RebootPhase.ORDERED or self._told.get(machine) == reboot.id:
                continue
            self._told[machine] = reboot.id
            for name in reboot.kept:
                if (machine, name) in self._members() and now() - self._up_since_s.get((machine, name), now()) > NEWS_S:
                    self._judge(machine, name)

    def _judge(self, machine: str, name: str) -> None:
        group = [key for key in self._members() if group_of(key[1]) == group_of(name)]
        here = [key for key in group if key[0] == machine]
        rollout = self.records.rollouts.get(group_of(name))
        accepted = [member.unit for member in rollout.accepted] if rollout else []
        others = [key for key in group if key not in here and key[1] not in accepted and self._is_down(key)]
        unit = self.records.units[name]
        limit = parse_group_options(unit.content.options()).unavailable_limit(len(group))
        if others and len(others) + len(here) > limit:
            down = ", ".join(" ".join(key) for key in others)
            self.fail(f"{machine} is told to reboot with {name}, while {down} is unavailable")

    def _members(self) -> list[Key]:
        """A global unit has its members on the machines that are registered or reboot."""
        return [
            (machine, name)
            for (machine, name), placement in self.records.placements.items()
            if placement.is_active and placement.target is TargetState.LAUNCHED and name in self.records.units
            if self._is_there(machine) or not requirements_of(self.records.units[name].content, name).is_global
        ]

    def _is_there(self, machine: str) -> bool:
        reboot = self.records.reboots.get(machine)
        return machine in self.records.machines or (reboot is not None and reboot.kept_until > 0)

    def _is_down(self, key: Key) -> bool:
        return now() - self._down_since_s.get(key, now()) > NEWS_S

    def see_rest(self) -> None:
        if not self.records.reboots and not self.records.reboot_requests:
            self._down_since_s.clear()  # nothing is judged: since when is known late
            self._up_since_s.clear()
            return
        members = self._members()
        down = [key for key in members if self._is_unavailable(key)]
        self._up_since_s = {key: self._up_since_s.get(key, now()) for key in members if key not in down}
        self._down_since_s = {key: self._down_since_s.get(key, now()) for key in down}

    def _is_unavailable(self, key: Key) -> bool:
        is_there = key[0] in self.records.machines
        return not is_there or judge_member(self.records.placements[key], self.records.states.get(key)) is not None


class WhatStaysIsWaitedFor(Checker):
    """A machine that is to reboot gets no new units but global ones. What stayed there keeps its placement for ten
    minutes while it is away, unless it was changed, or runs elsewhere."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._since_s: dict[str, float] = {}  # machine → since when it is to reboot
        self._ordered_s: dict[str, tuple[str, float]] = {}  # machine → the order, and when it was given

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, event in events:
            former = before.get(path.names)
            if path.kind is PLACEMENTS and event.item is not None:
                self._judge_new(*path.names, former)
            elif path.kind is PLACEMENTS and former is not None and former.is_active:
                self._judge_loss(*path.names, former)
        for machine in [path.names[0] for path, _ in events if path.kind is REBOOTS]:
            self._note(machine)

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._since_s.clear()
        self._ordered_s.clear()

    def _note(self, machine: str) -> None:
        reboot = self.records.reboots.get(machine)
        if reboot is None or not reboot.is_under_way:
            self._since_s.pop(machine, None)
            self._ordered_s.pop(machine, None)
            return
        self._since_s.setdefault(machine, now())
        if reboot.phase is RebootPhase.ORDERED:
            self._ordered_s.setdefault(machine, (reboot.id, now()))

    def _judge_new(self, machine: str, name: str, former: Placement | None) -> None:
        placement = self.records.placements.get((machine, name))
        if placement is None or not placement.is_active or (former is not None and former.is_active):
            return
        if now() - self._since_s.get(machine, now()) <= 0 or is_template(name):
            return
        state, decision = self.records.states.get((machine, name)), self.records.decisions.get(name)
        has_returned = decision is not None and decision.reason == KEPT
        is_global = requirements_of(placement.content, name).is_global
        if not is_global and not has_returned and not (state is not None and state.runs):
            self.fail(f"{name} is placed on {machine}, which is to reboot")

    def _judge_loss(self, machine: str, name: str, former: Placement) -> None:
        reboot, unit = self.records.reboots.get(machine), self.records.units.get(name)
        ordered_s = self._ordered_s.get(machine, ("", -RETURN_WITHIN_S))[1]
        is_kept = reboot is not None and name in reboot.kept and now() - ordered_s < RETURN_WITHIN_S - NEWS_S
        if not is_kept or machine in self.records.machines or self.world.had_wrong_clocks:
            return
        if unit is None or unit.target is TargetState.INACTIVE or unit.generation != former.generation:
            return
        if not any(state.runs for (_, other), state in self.records.states.items() if other == name):
            self.fail(f"{name} does not wait for {machine}, which reboots")
