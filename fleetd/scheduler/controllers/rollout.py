"""Rollouts: changed content reaches the members of a group one after the other, as the disruption budget allows.

What is asked for stands in the units at once. Here is decided which members may have it: any other keeps the content
that it had.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import msgspec

from fleetd.model.content import Content
from fleetd.model.group import GroupOptions, group_of
from fleetd.model.rollout import FormerMember, Member, MemberContents, Pause, PauseCause, Phase, Rollout
from fleetd.model.unit import Unit
from fleetd.scheduler.allocation_state import Presence
from fleetd.scheduler.proposal import Proposal, RolloutPlan
from fleetd.scheduler.rollout_steps import (
    MayDisturb,
    MemberView,
    Progress,
    advance,
    assess,
    find_excused,
    is_as_asked,
    next_due,
    obey,
)
from fleetd.scheduler.unit_plan import ProofRequest, UnitPlanBuilder


def roll_out(proposal: Proposal) -> None:
    """Take every affected rollout one step on, and hold back what may not be changed yet."""
    rolling = (name for name, plan in proposal.units.items() if plan.unit is not None and plan.unit.rollout)
    groups = {group_of(name): None for name in rolling}
    for group in sorted(groups):
        _roll_out_group(proposal, group)


def _roll_out_group(proposal: Proposal, group: str) -> None:
    """One group."""
    snapshot, now = proposal.snapshot, proposal.now
    # All of them, unless the rollout is over (Snapshot.with_rolling).
    units = [snapshot.units[name] for name in sorted(snapshot.rolling[group]) if name in proposal.units]
    before = snapshot.rollouts.get(group)
    is_done = before is not None and before.phase is Phase.DONE and not before.former
    if is_done and not is_to_begin(before, units):
        return  # nothing is held back: most groups of a cluster, most of the time
    options = snapshot.group_options(group)
    rollout = before
    if is_to_begin(before, units):
        rollout = begin_rollout(proposal, before, units)
    assert rollout is not None
    was_under_way = before is not None and not before.is_over and snapshot.is_restored_since(before)
    if was_under_way and rollout.pause is None:
        rollout = msgspec.structs.replace(rollout, pause=Pause(PauseCause.STORE_RESTORED), changed=now.unix_s)
    rollout = obey(rollout, snapshot.commands.get(group), now.unix_s)
    if all(unit.rollout in snapshot.applies for unit in units):
        views = member_views(proposal, rollout, units)
        for view in find_excused(rollout, views, options):
            proposal.budget.excuse(view.member.unit, view.where)
        rollout = advance(rollout, views, options, _may_disturb(proposal), now.unix_s)
    _hold(proposal, rollout, units, options)
    if rollout != before:
        proposal.first.append(RolloutPlan(group, rollout))
    due = next_due(rollout, options)
    if due is not None and due > now.unix_s:
        proposal.wake(units[0].name, now.clock_s + due - now.unix_s)


def is_to_begin(before: Rollout | None, units: Sequence[Unit]) -> bool:
    """True if the request of one of these units of a group is later than its last rollout, or was not written to its
    end when that began: nothing was changed then. An operation at once that keeps the content belongs to the request
    that the content is of, and begins no rollout."""
    if before is None:
        return True
    is_untouched = before.phase is Phase.RUNNING and not before.steps
    later = (unit for unit in units if unit.generation > before.generation)
    return any(is_untouched or unit.rollout != before.id for unit in later)


def begin_rollout(proposal: Proposal, before: Rollout | None, units: Sequence[Unit]) -> Rollout:
    """A new rollout. What an earlier one of the group holds back stays as it is held."""
    newest = max(units, key=lambda unit: unit.generation)
    kept = MemberContents(before) if before is not None else None
    former: list[tuple[Member, Content, bool]] = []
    for unit in units:
        plan = proposal.units[unit.name]
        for member, machine in _members(plan):
            content = _find_former(plan, member, machine, kept)
            if content is None and unit.rollout != newest.rollout:
                content = unit.content  # nothing else was asked of it
            if content is not None:
                is_available = proposal.budget.unavailability(unit.name, machine) is None
                former.append((member, content, is_available))
    counted = Counter(content for _, content, _ in former)
    contents = tuple(content for content, _ in counted.most_common())
    same = before if before is not None and before.id == newest.rollout and not before.is_over else None
    return Rollout(
        newest.rollout,
        newest.generation,
        started=proposal.now.unix_s,
        changed=proposal.now.unix_s,
        by=newest.by,
        note=newest.note,
        contents=contents,
        former=tuple(FormerMember(member, contents.index(content), available) for member, content, available in former),
        pause=same.pause if same else None,
        command=same.command if same else "",
        revision=before.revision if before else 0,
    )


def _find_former(plan: UnitPlanBuilder, member: Member, machine: str, kept: MemberContents | None) -> Content | None:
    """What a member has until now: what an earlier rollout has it keep, or what it was placed with, be it on a machine
    that is lost; None for a member that is new."""
    content = kept.held(member) if kept is not None else None
    if content is not None:
        return content
    placed = {where: placement for where, placement in plan.former.items() if placement.is_active}
    placement = placed.get(machine) if machine else next(iter(placed.values()), None)
    return placement.content if placement is not None else None


def _members(plan: UnitPlanBuilder) -> Iterator[tuple[Member, str]]:
    """The members that a unit has, each with its machine ('': none)."""
    if plan.is_on_many:
        for machine, placement in plan.placements.items():
            if placement.is_active:
                yield Member(plan.name, machine), machine
    else:
        yield Member(plan.name), plan.assigned


def member_views(proposal: Proposal, rollout: Rollout, units: Sequence[Unit]) -> list[MemberView]:
    """What is seen of all members, in order."""
    views = []
    contents = MemberContents(rollout)
    for unit in units:
        plan = proposal.units[unit.name]
        for member, machine in _members(plan):
            is_available = proposal.budget.unavailability(unit.name, machine) is None
            progress, why = _progress(proposal, rollout, plan, machine, contents.held(member))
            is_changed = contents.former(member) not in (None, unit.content)
            views.append(MemberView(member, progress, is_available, machine, why, is_changed))
    return sorted(views, key=lambda view: view.member)


def _progress(
    proposal: Proposal, rollout: Rollout, plan: UnitPlanBuilder, machine: str, held: Content | None
) -> tuple[Progress, str]:
    """How far the member on a machine has got with the content that it is to have in this phase, and why it failed.
    `held` is the former content that it is to keep."""
    assert plan.unit is not None
    presence, is_over = proposal.snapshot.presence(machine), rollout.phase is Phase.DONE
    if not plan.is_wanted or presence is Presence.DEAD or plan.is_parked(machine):
        return Progress.ABSENT, ""
    if presence is Presence.AWAY and not is_over:
        return Progress.CHANGING, ""  # it is not known what becomes of it
    if presence is Presence.AWAY or not (is_over or proposal.snapshot.answers_proofs(machine)):
        return Progress.ABSENT, ""
    wanted, generation = plan.unit.content, plan.unit.generation
    if rollout.phase in (Phase.REVERTING, Phase.REVERTED):
        wanted, generation = held or wanted, 0
    elif held == wanted and is_as_asked(plan.placements.get(machine), wanted, generation):
        return Progress.PROVEN, ""  # without a step: there was nothing to change, or it was started anew elsewhere
    progress, why = assess(plan.placements.get(machine), plan.states.get(machine), wanted, generation)
    effective = proposal.snapshot.effective.get(machine)
    if progress is Progress.WAITING and effective is not None and effective.goes_down:
        return Progress.ABSENT, ""  # it is changed when it has rebooted
    return progress, why


def _may_disturb(proposal: Proposal) -> MayDisturb:
    """The budget as a rollout asks it."""

    def ask(view: MemberView) -> Collection[str]:
        wait = proposal.budget.may_disturb(view.member.unit, view.where)
        if wait is None:
            proposal.budget.spend(view.member.unit, view.where)
            return ()
        return [member.unit for member in wait.members]

    return ask


def _hold(proposal: Proposal, rollout: Rollout, units: Sequence[Unit], options: GroupOptions) -> None:
    """Have each member keep its former content, or ask for a proof of the one that it was given."""
    proof = ProofRequest(options.settle_s, options.deadline_s)
    given = {step.member for step in rollout.steps} | set(rollout.reverted)
    contents = MemberContents(rollout)
    for unit in units:
        plan = proposal.units[unit.name]
        plan.acts_at_once = unit.generation > rollout.generation
        members = [member for member, _ in _members(plan)]
        held = {member.machine: contents.held(member) for member in members}
        plan.held = {machine: content for machine, content in held.items() if content is not None}
        if not rollout.is_over:
            plan.proofs = {member.machine: proof for member in members if member in given}
