"""What a step of a rollout includes, what it costs, and what it waits for.

A step is one member. With it go the units that MachineOf= binds to it on its machine, if they are to be changed as
well, and those that come after it while it comes after them: a cycle is changed as one. The budget is charged with all
of them and with what is restarted along.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from fleetd.model.group import GroupOptions, group_of
from fleetd.model.ordered import Names, reachable
from fleetd.model.reason import BudgetWait
from fleetd.model.rollout import Member, Phase, Rollout
from fleetd.model.unit import TargetState, Unit
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.relations import restarted_along
from fleetd.scheduler.relocation import is_finishing
from fleetd.scheduler.rollout_steps import MemberView, Progress, count_allowed, give

_DONE = (Progress.PROVEN, Progress.ABSENT)


class GroupRollout(msgspec.Struct, eq=False):
    """The rollout of one group in this pass: `before` as it is stored, `rollout` as it will be. `is_complete`: all of
    its request is written; before that, there are no `views` of its members. `taken` are those that may be disturbed,
    some with the steps of others."""

    group: str
    units: Sequence[Unit]
    options: GroupOptions
    before: Rollout | None
    rollout: Rollout
    is_complete: bool = False
    views: Sequence[MemberView] = ()
    taken: dict[Member, MemberView] = {}
    index: dict[tuple[str, str], MemberView] | None = None

    def find(self, unit: str, machine: str) -> MemberView | None:
        """The member that is this unit on this machine."""
        if self.index is None:
            self.index = {(view.member.unit, view.where): view for view in self.views}
        return self.index.get((unit, machine))

    @property
    def given(self) -> set[Member]:
        """The members that have been given the new content."""
        return {step.member for step in self.rollout.steps}

    @property
    def takes_steps(self) -> bool:
        """True if members may be given the new content now."""
        is_running = self.rollout.phase is Phase.RUNNING and self.rollout.pause is None
        return is_running and count_allowed(self.rollout, len(self.views), self.options) > 0


class JointSteps:
    """The steps of all rollouts of a pass. Those of related groups have to be among them."""

    def __init__(self, proposal: Proposal, rolling: Mapping[str, GroupRollout]) -> None:
        self._proposal = proposal
        self._rolling = rolling

    def ask(self, roll: GroupRollout, view: MemberView) -> Collection[str] | None:
        """Spend the budget for this member, as rollout_steps.MayDisturb says: None if it may be disturbed."""
        unit, machine = view.member.unit, view.where
        if view.member in roll.taken:
            return None
        if self._is_to_be_left(unit, machine):
            return ()
        if not self._has_company(unit):
            wait = self._spend([(unit, machine)])
            return None if wait is None else [member.unit for member in wait.members]
        step = {(unit, machine): (roll, view)}
        is_reverted = roll.rollout.phase is not Phase.RUNNING or view.progress is not Progress.WAITING
        if machine and not is_reverted:
            awaited = self._extend(step)
            if awaited:
                return self._find_blockers(roll, awaited)
        along = {other: None for each, _ in step for other in self._restarted_along(each, machine)}
        wait = self._spend({**step, **{(other, machine): None for other in along}})
        if wait is not None:
            return [member.unit for member in wait.members]
        for other, taken in step.values():
            other.taken[taken.member] = taken
        return None

    def _has_company(self, unit: str) -> bool:
        """False if no other unit can have a part in a step of this one: so it is of most units."""
        snapshot = self._proposal.snapshot
        return len(self._rolling) > 1 or unit in snapshot.restarting_others or bool(snapshot.followers(unit))

    def _spend(self, members: Collection[tuple[str, str]]) -> BudgetWait | None:
        budget = self._proposal.budget
        if len(members) > 1:
            return budget.spend_all(members)
        ((unit, machine),) = members
        wait = budget.may_disturb(unit, machine)
        if wait is None:
            budget.spend(unit, machine)
        return wait

    def _restarted_along(self, unit: str, machine: str) -> Names:
        return restarted_along(self._proposal.snapshot, unit, machine) if machine else {}

    def _is_to_be_left(self, unit: str, machine: str) -> bool:
        """True for what is not to be changed yet: a job that runs, and a unit that starts first where it moves
        (Handover=start-first): if it failed there with other content, that would reach where it runs."""
        plan = self._proposal.units[unit]
        if plan.handed_over_from:
            return True
        return plan.unit is not None and plan.unit.target is TargetState.LAUNCHED and is_finishing(plan, machine)

    def _extend(self, step: dict[tuple[str, str], tuple[GroupRollout, MemberView]]) -> Names:
        """Add what goes with the one member of this step. Returns the units that have to be changed before."""
        ((unit, machine),) = step
        cycle = self._find_cycle(unit, machine)
        awaited = self._awaited_by(cycle, machine)
        if awaited:
            return awaited
        step |= {(name, machine): found for name in cycle if (found := self._find_outdated(name, machine))}
        pending = [name for name, _ in step]
        while pending:
            for name in self._proposal.snapshot.followers(pending.pop()):
                found = self._find_outdated(name, machine)
                if found is None or (name, machine) in step or self._is_to_be_left(name, machine):
                    continue
                if all((other, machine) in step for other in self._awaited(name, machine)):
                    step[name, machine] = found
                    pending.append(name)
        return {}

    def find_awaited(self, unit: str, machine: str) -> Names:
        """The units that have to be changed before this one on the machine."""
        return self._awaited_by(self._find_cycle(unit, machine), machine)

    def _awaited_by(self, cycle: Names, machine: str) -> Names:
        return {each: None for name in cycle for each in self._awaited(name, machine) if each not in cycle}

    def _find_cycle(self, unit: str, machine: str) -> Names:
        """The unit, and those that come after it on the machine while it comes after them."""
        before = self._with_all_awaited(unit, machine)
        return {unit: None} | {name: None for name in before if unit in self._with_all_awaited(name, machine)}

    def _with_all_awaited(self, unit: str, machine: str) -> Names:
        """The unit, and those that it waits for on the machine, directly or through others."""
        return reachable((unit,), lambda name: self._awaited(name, machine))

    def _awaited(self, unit: str, machine: str) -> list[str]:
        """The units of other groups of the same request that are to be changed before this one on the machine."""
        own = self._rolling.get(group_of(unit))
        if own is None or len(self._rolling) == 1:
            return []
        awaited = []
        for name in self._proposal.snapshot.comes_after(unit):
            other = self._rolling.get(group_of(name))
            if other is None or other is own or other.rollout.is_over or other.rollout.id != own.rollout.id:
                continue
            found = other.find(name, machine)
            if found is not None and found.progress not in _DONE:
                awaited.append(name)
        return awaited

    def _find_outdated(self, unit: str, machine: str) -> tuple[GroupRollout, MemberView] | None:
        """The member that this unit is on the machine, if it may be given its new content and was not yet."""
        roll = self._rolling.get(group_of(unit))
        view = roll.find(unit, machine) if roll is not None and roll.takes_steps else None
        if roll is None or view is None or view.progress is not Progress.WAITING:
            return None
        return None if view.member in roll.given or view.member in roll.taken else (roll, view)

    def _find_blockers(self, roll: GroupRollout, awaited: Collection[str]) -> list[str]:
        """Those of the awaited units whose rollout has been paused for the whole deadline of this one: it is blocked.
        While theirs goes on, it only waits for its turn."""
        blockers = []
        now = self._proposal.now
        for name in awaited:
            other = self._rolling[group_of(name)].rollout
            due = other.changed + roll.options.deadline_s
            if other.pause is not None and now.unix_s >= due:
                blockers.append(name)
            elif other.pause is not None:
                self._proposal.wake(roll.units[0].name, now.clock_s + due - now.unix_s)
        return blockers


def take_along(roll: GroupRollout, now_s: float) -> None:
    """Give their new content to the members that steps of others have taken along, unless the rollout has ended
    meanwhile."""
    views = [view for member, view in sorted(roll.taken.items()) if member not in roll.given]
    if views and roll.takes_steps:
        roll.rollout = give(roll.rollout, views, now_s)
