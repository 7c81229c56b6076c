"""Rollouts: changed content reaches the members of a group one after the other, as the disruption budget allows.

What is asked for stands in the units at once. Here is decided which members may have it: any other keeps the content
that it had.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from fleetd.model.content import Content
from fleetd.model.group import group_of
from fleetd.model.machine import SHORT_ID_LENGTH
from fleetd.model.reason import Unavailability
from fleetd.model.rollout import FormerMember, Member, MemberContents, PastRollout, Pause, PauseCause, Phase, Rollout
from fleetd.model.unit import Unit
from fleetd.scheduler.allocation_state import Presence
from fleetd.scheduler.disruption import IN_USE
from fleetd.scheduler.joint_steps import GroupRollout, JointSteps, take_along
from fleetd.scheduler.proposal import Proposal, RolloutPlan
from fleetd.scheduler.rollout_steps import (
    MemberView,
    Progress,
    advance,
    assess,
    find_excused,
    is_as_asked,
    next_due,
    note_lost,
    obey,
)
from fleetd.scheduler.snapshot import is_later
from fleetd.scheduler.unit_plan import ProofRequest, UnitPlanBuilder

# A member that is unavailable for one of these is down; any other may be about to prove itself.
_DOWN = (
    Unavailability.INACTIVE,
    Unavailability.UNHEALTHY,
    Unavailability.UNANNOUNCED,
    Unavailability.LOST,
    Unavailability.UNPLACED,
)


def roll_out(proposal: Proposal) -> None:
    """Take every affected rollout one step on, and hold back what may not be changed yet."""
    rolling = (name for name, plan in proposal.units.items() if plan.unit is not None and plan.unit.rollout)
    rolls: dict[str, GroupRollout] = {}
    for group in sorted({group_of(name): None for name in rolling}):
        roll = _begin_pass(proposal, group)
        if roll is not None:
            rolls[group] = roll
    steps = JointSteps(proposal, rolls)
    for roll in rolls.values():
        if roll.is_complete:
            roll.rollout = advance(
                roll.rollout, roll.views, roll.options, partial(steps.ask, roll), proposal.now.unix_s
            )
    for roll in rolls.values():
        take_along(roll, proposal.now.unix_s)
        _finish(proposal, roll)


def _begin_pass(proposal: Proposal, group: str) -> GroupRollout | None:
    """The rollout of one group as it was stored, or as it begins, with what operators have said and machines report;
    None if there is nothing to do about it."""
    snapshot, now = proposal.snapshot, proposal.now
    # All of them, unless the rollout is over (rolling_with).
    units = [snapshot.units[name] for name in sorted(snapshot.rolling[group]) if name in proposal.units]
    before = snapshot.rollouts.get(group)
    is_done = before is not None and before.phase is Phase.DONE and not before.former
    if is_done and not is_to_begin(before, units):
        return None  # nothing is held back: most groups of a cluster, most of the time
    options = snapshot.group_options(group)
    rollout = begin_rollout(proposal, before, units) if is_to_begin(before, units) else before
    assert rollout is not None
    was_under_way = before is not None and not before.is_over and snapshot.is_restored_since(before)
    if was_under_way and rollout.pause is None:
        rollout = msgspec.structs.replace(rollout, pause=Pause(PauseCause.STORE_RESTORED), changed=now.unix_s)
    rollout = obey(rollout, snapshot.commands.get(group), now.unix_s)
    roll = GroupRollout(group, units, options, before, rollout)
    if all(unit.rollout in snapshot.applies for unit in units):
        lost = {machine: loss for machine, loss in snapshot.lost.items() if not snapshot.is_there(machine)}
        deaths = {machine: (loss.alive, loss.at) for machine, loss in lost.items()}
        roll.rollout = note_lost(rollout, deaths, options.settle_s)
        roll.is_complete = True
        roll.views = member_views(proposal, roll.rollout, units)
        for view in find_excused(roll.rollout, roll.views, options):
            proposal.budget.excuse(view.member.unit, view.where)
    return roll


def _finish(proposal: Proposal, roll: GroupRollout) -> None:
    """Hold members back as the rollout says now, and have it stored."""
    _hold(proposal, roll)
    if roll.rollout != roll.before:
        proposal.first.append(RolloutPlan(roll.group, roll.rollout))
    now = proposal.now
    due = next_due(roll.rollout, roll.options)
    if due is not None and due > now.unix_s:
        proposal.wake(roll.units[0].name, now.clock_s + due - now.unix_s)


def is_to_begin(before: Rollout | None, units: Sequence[Unit]) -> bool:
    """True if the request of one of these units of a group is later than its last rollout, or was not written to its
    end when that began: nothing was changed then. An operation at once that keeps the content belongs to the request
    that the content is of, and begins no rollout."""
    if before is None:
        return True
    is_untouched = before.phase is Phase.RUNNING and not before.steps
    return any(is_later(unit, before) or (is_untouched and unit.generation > before.generation) for unit in units)


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
                is_in_use = proposal.budget.unavailability(unit.name, machine) in IN_USE
                former.append((member, content, is_in_use))
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
        past=_find_past(before, newest.rollout),
        revision=before.revision if before else 0,
    )


def _find_past(before: Rollout | None, request: str) -> tuple[PastRollout, ...]:
    """The earlier rollouts of a group when that of this request begins, perhaps anew."""
    if before is None:
        return ()
    return before.past if before.id == request else before.past_with_this()


def _find_former(plan: UnitPlanBuilder, member: Member, machine: str, kept: MemberContents | None) -> Content | None:
    """What a member has until now: what an earlier rollout has it keep, or what it was placed with, be it on a machine
    that is lost, or on one that it is leaving; None for a member that is new."""
    content = kept.held(member) if kept is not None else None
    if content is not None:
        return content
    placed = sorted(plan.former.items(), key=lambda found: not found[1].is_active)
    contents = [placement.content for where, placement in placed if where == machine or not plan.is_on_many]
    return next(iter(contents), None)


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
            unavailable = proposal.budget.unavailability(unit.name, machine)
            progress, why = _progress(proposal, rollout, plan, machine, contents.held(member))
            is_changed = contents.former(member) not in (None, unit.content)
            is_down = unavailable in _DOWN
            views.append(MemberView(member, progress, unavailable is None, machine, why, is_changed, is_down))
    return sorted(_with_lost(rollout, views), key=lambda view: view.member)


def _with_lost(rollout: Rollout, views: list[MemberView]) -> list[MemberView]:
    """The members whose machine was lost soon after their step have failed, even those that have come up elsewhere, and
    those that are gone with their machine."""
    lost = {step.member: step for step in rollout.steps if step.lost_after_s is not None}
    if not lost:
        return views
    found = {view.member: view for view in views}
    for member, step in lost.items():
        why = f"its machine {step.machine[:SHORT_ID_LENGTH]} was lost within {step.lost_after_s:g} s of the change"
        view = found.get(member) or MemberView(member, Progress.FAILED, is_available=False, where=step.machine)
        found[member] = msgspec.structs.replace(view, progress=Progress.FAILED, why=why)
    return list(found.values())


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
    if progress is Progress.WAITING and effective is not None and (effective.goes_down or effective.evicts):
        return Progress.ABSENT, ""  # it is changed when it has rebooted, or elsewhere
    return progress, why


def _hold(proposal: Proposal, roll: GroupRollout) -> None:
    """Have each member keep its former content, or ask for a proof of the one that it was given."""
    rollout, options = roll.rollout, roll.options
    proof = ProofRequest(options.settle_s, options.deadline_s)
    reverted = set(rollout.reverted)
    given = {step.member for step in rollout.steps} | reverted
    contents = MemberContents(rollout)
    for unit in roll.units:
        plan = proposal.units[unit.name]
        plan.acts_at_once = unit.generation > rollout.generation
        members = [member for member, _ in _members(plan)]
        held = {member.machine: contents.held(member) for member in members}
        plan.held = {machine: content for machine, content in held.items() if content is not None}
        if reverted:
            ended = [member for member in members if member in reverted]
            plan.ended = {each.machine: None for each in ended if plan.requirements_on(each.machine).is_oneshot}
        if not rollout.is_over:
            plan.proofs = {member.machine: proof for member in members if member in given}
