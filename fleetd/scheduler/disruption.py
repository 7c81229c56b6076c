"""The disruption budget: which units may be stopped or changed now, so that enough of their group stay available.

While MaxUnavailable= members of a group are unavailable, for whatever cause, no available one is disturbed. One budget
serves all controllers of a pass, so that no two of them disturb the last member that may be.
"""

from collections.abc import Collection, Mapping

import msgspec

from fleetd.model.announcement import NOT_SETTLED
from fleetd.model.group import GroupOptions, group_of
from fleetd.model.job_result import WAITS_FOR_LOCK
from fleetd.model.ordered import Names
from fleetd.model.placement import Placement
from fleetd.model.reason import BudgetWait, Unavailability, UnavailableMember
from fleetd.model.unit import Proof, TargetState, UnitState
from fleetd.scheduler.relations import restarted_before
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlanBuilder

LISTED = 3  # members that a BudgetWait names
_ACTIVE = ("active", "reloading")
IN_USE = (None, Unavailability.SETTLING)  # why a member is unavailable that clients rely on all the same

Member = tuple[str, str]  # (unit, machine); '' for a unit that is on no machine


class _Group(msgspec.Struct, gc=False):
    """The members of one group by unit, each with why it is unavailable (None: it is available)."""

    options: GroupOptions
    units: dict[str, dict[Member, Unavailability | None]]
    unavailable: int = 0
    size: int = 0
    stale: Names = {}  # units whose plan has changed since they were counted
    wait: BudgetWait | None = None  # what the others wait for, found once for all of them until a member changes

    def put(self, unit: str, members: dict[Member, Unavailability | None]) -> None:
        """Set the members that this unit has."""
        former = self.units.get(unit, {})
        self.size += len(members) - len(former)
        self.unavailable += _count_unavailable(members) - _count_unavailable(former)
        self.units[unit] = members
        self.wait = None

    def mark(self, member: Member, why: Unavailability | None) -> None:
        """Set why this member is unavailable."""
        members = self.units.get(member[0], {})
        if member in members:
            self.unavailable += (why is not None) - (members[member] is not None)
            members[member] = why
            self.wait = None


class DisruptionBudget:
    """The budget of one pass, over a snapshot and the plans of its units. A group is counted when it is first asked
    for.

    The members of a group are its units whose target is launched: each one where it is assigned, and a global one on
    each machine that holds it and is registered, or away to reboot. One that starts elsewhere before it stops
    (Handover=start-first) is available as long as it runs where it was.
    """

    def __init__(self, snapshot: Snapshot, plans: Mapping[str, UnitPlanBuilder]) -> None:
        self._snapshot = snapshot
        self._plans = plans
        self._groups: dict[str, _Group] = {}
        self._spent: dict[Member, None] = {}
        self._excused: dict[Member, None] = {}

    def may_disturb(self, unit: str, machine: str) -> BudgetWait | None:
        """None if this unit may be stopped or changed on this machine now, else what it waits for. What is no member,
        or is unavailable already, costs nothing. One that was announced a moment ago costs as much as an available one:
        clients find it already. So does one that ran when its machine reported last, before the store was restored: it
        may run still."""
        group = self._count(unit)
        why = group.units.get(unit, {}).get((unit, machine), Unavailability.DISTURBED)
        limit = group.options.unavailable_limit(group.size)
        if why is Unavailability.SETTLING or (why is Unavailability.UNREPORTED and self._was_at_work(unit, machine)):
            return self._ask_as_available(group, limit, (unit, machine))
        if why is not None:
            return None
        if group.unavailable < limit:
            return None
        if group.wait is None:
            group.wait = self._describe_wait(group, limit)
        return group.wait

    def may_stop(self, unit: str, machine: str) -> BudgetWait | None:
        """The same for a unit that is to leave this machine: one that runs there, and of which only the report or the
        proof of its present order is missing, costs as much as an available one. So does one that runs another content
        than the one that was not proven: a machine holds it as it was when the store was restored."""
        group = self._count(unit)
        why = group.units.get(unit, {}).get((unit, machine))
        state = self._snapshot.states.get(unit, {}).get(machine)
        is_open = why in (Unavailability.UNREPORTED, Unavailability.UNPROVEN)
        is_another = why is Unavailability.UNHEALTHY and self._runs_another_content(unit, machine)
        if not (is_open or is_another) or not serves(state):
            return self.may_disturb(unit, machine)
        return self._ask_as_available(group, group.options.unavailable_limit(group.size), (unit, machine))

    def _was_at_work(self, unit: str, machine: str) -> bool:
        """True if it ran when its machine reported last, before the store was restored."""
        state = self._snapshot.states.get(unit, {}).get(machine)
        return state is not None and state.outdated and serves(state)

    def _ask_as_available(self, group: _Group, limit: int, member: Member) -> BudgetWait | None:
        """None if this member, which counts as unavailable, might be disturbed if it were available."""
        return None if group.unavailable <= limit else self._describe_wait(group, limit, besides=[member])

    def _runs_another_content(self, unit: str, machine: str) -> bool:
        placement, state = self._snapshot.placements.get(unit, {}).get(machine), self._snapshot.states[unit][machine]
        return placement is not None and state.hash not in ("", placement.content.hash)

    @staticmethod
    def _describe_wait(group: _Group, limit: int, besides: Collection[Member] = ()) -> BudgetWait:
        listed = [
            UnavailableMember(*member, why)
            for members in group.units.values()
            if _count_unavailable(members)
            for member, why in members.items()
            if why is not None and member not in besides
        ]
        return BudgetWait(limit, len(listed), tuple(listed[:LISTED]))

    def spend(self, unit: str, machine: str) -> None:
        """This unit is stopped or changed on this machine: it counts as unavailable for the rest of the pass."""
        self._spent[unit, machine] = None
        self._count(unit).mark((unit, machine), Unavailability.DISTURBED)

    def spend_all(self, members: Collection[Member]) -> BudgetWait | None:
        """These members go down together: spend the budget for them, or for none if one has to wait. Where a group has
        more of them than may be unavailable, all its others have to be available."""
        for unit in dict.fromkeys(unit for unit, _ in members):
            group = self._count(unit)
            found = {each: group.units.get(each[0], {}) for each in members}
            here = {each: known[each] for each, known in found.items() if each in known}
            others = group.unavailable - _count_unavailable(here)
            limit = group.options.unavailable_limit(group.size)
            if others and others + len(here) > limit and any(why in IN_USE for why in here.values()):
                return self._describe_wait(group, limit, besides=here)
        for unit, machine in members:
            self.spend(unit, machine)
        return None

    def excuse(self, unit: str, machine: str) -> None:
        """Others may be disturbed in spite of this unit's failure on this machine, as its group's options or an
        operator say: it does not count as unavailable in this pass."""
        self._excused[unit, machine] = None
        self._count(unit).mark((unit, machine), None)

    def unavailability(self, unit: str, machine: str) -> Unavailability | None:
        """Why this unit counts as unavailable on this machine; None if it is available, or no member of its group."""
        return self._count(unit).units.get(unit, {}).get((unit, machine))

    def note_change(self, unit: str) -> None:
        """The plan of this unit has changed. It is counted again when its group is asked for: a unit may be on
        thousands of machines."""
        if self._groups and (group := self._groups.get(group_of(unit))):
            group.stale[unit] = None

    def _count(self, unit: str) -> _Group:
        """The group of this unit, counted if it is not yet."""
        name = group_of(unit)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(self._snapshot.group_options(name), {})
            group.stale = dict.fromkeys(self._snapshot.group_units(name))
        if group.stale:
            for member in group.stale:
                group.put(member, self._find_members(member))
            group.stale = {}
        return group

    def _find_members(self, name: str) -> dict[Member, Unavailability | None]:
        """The members that this unit has, each with why it is unavailable."""
        unit = self._snapshot.units.get(name)
        if unit is None or unit.target is not TargetState.LAUNCHED:
            return {}
        plan = self._plans.get(name)
        placements = plan.placements if plan else self._snapshot.placements.get(name, {})
        active = {machine: placement for machine, placement in placements.items() if placement.is_active}
        if name in self._snapshot.global_units:
            is_there = self._snapshot.is_there
            held = {(name, machine): order for machine, order in active.items() if is_there(machine)}
            return {member: self._find_reason(member, order) for member, order in held.items()}
        machine = next(iter(active), "")
        if machine:
            is_available = len(placements) > 1 and any(map(self._runs_on, placements.values()))
            return {(name, machine): None if is_available else self._find_reason((name, machine), active[machine])}
        decision = self._snapshot.decisions.get(name)
        completed = plan.completed if plan else decision.completed if decision else 0
        return {(name, ""): None if completed == unit.generation else Unavailability.UNPLACED}

    def _runs_on(self, placement: Placement) -> bool:
        """True for an allocation that does the unit's work until the unit is proven where it moves to."""
        if not placement.hands_over:
            return False
        effective = self._snapshot.effective.get(placement.machine)
        state = self._snapshot.states.get(placement.unit, {}).get(placement.machine)
        return effective is not None and effective.evicts is None and serves(state)

    def _find_reason(self, member: Member, placement: Placement) -> Unavailability | None:
        name, machine = member
        effective = self._snapshot.effective.get(machine)
        if member in self._spent:
            return Unavailability.DISTURBED
        if member in self._excused:
            return None
        if effective is None:
            return Unavailability.LOST
        if effective.evicts is not None:
            return Unavailability.LEAVING
        if effective.goes_down:
            return Unavailability.REBOOTS
        why = judge_member(placement, self._snapshot.states.get(name, {}).get(machine))
        return Unavailability.DISTURBED if why is None and self._is_restarted_along(name, machine) else why

    def _is_restarted_along(self, name: str, machine: str) -> bool:
        """True while a unit with which this one is restarted runs and has an order to carry out: the restart may be yet
        to come."""
        if not self._snapshot.restarting_others:
            return False  # most clusters
        for other in restarted_before(self._snapshot, name, machine):
            state = self._snapshot.states.get(other, {}).get(machine)
            order = self._snapshot.placements[other][machine]
            if state is not None and serves(state) and not _is_carried_out(order, state):
                return True
        return False


def serves(state: UnitState | None) -> bool:
    """True if the unit is reported as at work."""
    return state is not None and state.active in _ACTIVE


def judge_member(placement: Placement, state: UnitState | None) -> Unavailability | None:
    """Why an allocation on a machine that stays is unavailable, by what the machine reports of it; None if it is
    available. One that waits for its lock (Lock=) is ready to take over, as it is to be."""
    if state is not None and not state.outdated and is_standby(placement, state):
        return None
    if state is None or state.outdated or not _is_carried_out(placement, state):
        return Unavailability.UNREPORTED
    if not serves(state) and not state.completed:
        return Unavailability.INACTIVE
    if placement.prove_after_s is not None:
        proof = answer_to(placement, state)
        if proof is None:
            return Unavailability.UNPROVEN
        if proof.failed:
            return Unavailability.UNHEALTHY
    if state.unannounced:
        return Unavailability.SETTLING if state.unannounced == NOT_SETTLED else Unavailability.UNANNOUNCED
    return None


def is_standby(placement: Placement, state: UnitState) -> bool:
    """True if the unit has this content, and would run if it had its lock."""
    return state.result == WAITS_FOR_LOCK and state.hash == placement.content.hash and not serves(state)


def answer_to(placement: Placement, state: UnitState | None) -> Proof | None:
    """The machine's proof for this placement, or None: it has not answered, or for another generation or content."""
    proof = state.proof if state is not None else None
    if proof is None or (proof.generation, proof.hash) != (placement.generation, placement.content.hash):
        return None
    return proof


def _is_carried_out(placement: Placement, state: UnitState) -> bool:
    """True if the machine reports this placement, or a later one of the unit, as carried out."""
    if state.generation != placement.generation:
        return state.generation > placement.generation
    # Content changes under one generation, too. A file that is missing is written again by the agent.
    return state.target is placement.target and state.hash in ("", placement.content.hash)


def _count_unavailable(members: Mapping[Member, Unavailability | None]) -> int:
    return sum(why is not None for why in members.values())
