"""Reports on rollouts: how far each member has got, and what the rollout waits for. Pure."""

from collections.abc import Mapping, Sequence

from fleetd.api import schema
from fleetd.model.group import GroupOptions, group_of
from fleetd.model.reason import BudgetWait
from fleetd.model.rollout import CanaryWait, Phase, Rollout, TurnWait, render_rollout
from fleetd.model.unit import Unit
from fleetd.scheduler.controllers.rollout import begin_rollout, is_to_begin, member_views
from fleetd.scheduler.disruption import LISTED
from fleetd.scheduler.joint_steps import GroupRollout, JointSteps
from fleetd.scheduler.proposal import Proposal
from fleetd.scheduler.rollout_steps import MemberView, Progress
from fleetd.scheduler.snapshot import Snapshot

PENDING = "pending"
KEPT = "kept"


def describe_rollout(snapshot: Snapshot, group: str) -> schema.Rollout | None:
    """The last rollout of a group, or None if it never had one. The snapshot holds the records of the group."""
    units = rolling_units(snapshot, group)
    record = snapshot.rollouts.get(group)
    if not units:
        return _describe(snapshot, group, record, [], None) if record else None
    groups = [group, *_find_others(snapshot, record)] if record is not None else [group]
    proposal = Proposal(snapshot, {unit.name: None for each in groups for unit in rolling_units(snapshot, each)})
    if is_to_begin(record, units):
        rollout = begin_rollout(proposal, record, units)
        members = _describe_members(snapshot, rollout, member_views(proposal, rollout, units))
        is_complete = all(unit.rollout in snapshot.applies for unit in units)
        status = "waits for the leader" if is_complete else "waits until the request is written completely"
        asked = _asked(snapshot, group, rollout)
        return schema.Rollout(
            group,
            rollout.id,
            PENDING,
            status=status,
            asked=asked,
            by=rollout.by,
            note=rollout.note,
            total=len(members),
            members=members,
            past=_describe_past(rollout),
        )
    assert record is not None
    views = member_views(proposal, record, units)
    wait = _find_turn(proposal, groups, views) or _find_wait(proposal, record, views, snapshot.group_options(group))
    return _describe(snapshot, group, record, views, wait)


def find_awaited_groups(snapshot: Snapshot, rollouts: Mapping[str, Rollout]) -> list[str]:
    """The groups that the snapshot lacks, and whose rollout those in it may wait for: of the same request, and with
    units that come before theirs. `rollouts` are all."""
    found: dict[str, None] = {}
    for group in snapshot.rolling:
        rollout = rollouts.get(group)
        if rollout is not None and not rollout.is_over:
            named = {group_of(name) for unit in snapshot.rolling[group] for name in snapshot.comes_after(unit)}
            same = (each for each in named if each in rollouts and rollouts[each].id == rollout.id)
            found |= {each: None for each in same if not rollouts[each].is_over and each not in snapshot.rolling}
    return sorted(found)


def _find_others(snapshot: Snapshot, rollout: Rollout) -> list[str]:
    """The other groups of the same request that are known to be changed, too."""
    same = (group for group, other in snapshot.rollouts.items() if other.id == rollout.id and not other.is_over)
    return [group for group in same if snapshot.rollouts[group] is not rollout and snapshot.rolling.get(group)]


def _find_turn(proposal: Proposal, groups: Sequence[str], views: Sequence[MemberView]) -> TurnWait | None:
    """What all waiting members of the first of these groups wait for in the others; None if one waits for nothing."""
    rolls = {}
    for group in groups:
        rollout, units = proposal.snapshot.rollouts[group], rolling_units(proposal.snapshot, group)
        options = proposal.snapshot.group_options(group)
        rolls[group] = GroupRollout(
            group, units, options, rollout, rollout, views=member_views(proposal, rollout, units)
        )
    steps = JointSteps(proposal, rolls)
    waiting = [view for view in views if view.progress is Progress.WAITING]
    if any(view.progress is Progress.CHANGING for view in views) or len(rolls) == 1:
        return None
    awaited = [steps.find_awaited(view.member.unit, view.where) for view in waiting]
    names = tuple(sorted({name for found in awaited for name in found}))
    return TurnWait(names[:LISTED]) if awaited and all(awaited) else None


def rolling_units(snapshot: Snapshot, group: str) -> list[Unit]:
    """The units of a group that its rollout covers, in order."""
    return [snapshot.units[name] for name in sorted(snapshot.rolling.get(group, ()))]


def _describe(
    snapshot: Snapshot,
    group: str,
    rollout: Rollout,
    views: Sequence[MemberView],
    wait: CanaryWait | BudgetWait | TurnWait | None,
) -> schema.Rollout:
    members = _describe_members(snapshot, rollout, views)
    failure = rollout.failure
    proven = sum(member.progress == Progress.PROVEN.name.lower() for member in members)
    return schema.Rollout(
        group=group,
        id=rollout.id,
        phase=rollout.phase,
        paused=rollout.pause.cause if rollout.pause else "",
        status=render_rollout(rollout, wait),
        asked=_asked(snapshot, group, rollout),
        by=rollout.by,
        note=rollout.note,
        started=rollout.started,
        changed=rollout.changed,
        canaries=wait.units if isinstance(wait, CanaryWait) else (),
        failure=schema.RolloutFailure(failure.unit, failure.machine, failure.why) if failure else None,
        updated=proven if rollout.phase is Phase.DONE else len(rollout.steps) + len(rollout.reverted),
        total=len(members),
        members=members,
        past=_describe_past(rollout),
    )


def _describe_past(rollout: Rollout) -> tuple[schema.PastRollout, ...]:
    return tuple(schema.PastRollout(past.id, past.outcome) for past in rollout.past)


def _asked(snapshot: Snapshot, group: str, rollout: Rollout) -> str:
    """What an operator has asked of this rollout and the leader has not carried out yet, or ''."""
    command = snapshot.commands.get(group)
    is_pending = command is not None and command.rollout == rollout.id and command.id != rollout.command
    return command.action if command and is_pending and not rollout.is_over else ""


def _describe_members(
    snapshot: Snapshot, rollout: Rollout, views: Sequence[MemberView]
) -> tuple[schema.RolloutMember, ...]:
    steps, reverted = {step.member: step for step in rollout.steps}, frozenset(rollout.reverted)

    def describe(view: MemberView) -> schema.RolloutMember:
        machine, step = snapshot.machines.get(view.where), steps.get(view.member)
        is_reverted = view.member in reverted
        return schema.RolloutMember(
            unit=view.member.unit,
            machine=view.where,
            address=machine.address if machine else "",
            progress=_word(rollout.phase, view, is_stepped=step is not None, is_reverted=is_reverted),
            why=view.why,
            reverted=is_reverted,
            since=step.at if step else 0.0,
        )

    return tuple(describe(view) for view in views)


def _word(phase: Phase, view: MemberView, *, is_stepped: bool, is_reverted: bool) -> str:
    """The progress of a member in the words of the API."""
    found = view.progress
    if found is Progress.ABSENT:
        return found.name.lower()
    match phase:
        case Phase.RUNNING if not is_stepped and found is Progress.PROVEN:
            return KEPT
        case Phase.DONE if found is Progress.CHANGING:  # nobody asks any more whether it is healthy
            return Progress.PROVEN.name.lower()
        case Phase.REVERTING | Phase.REVERTED if is_stepped:
            return Progress.WAITING.name.lower()
        case Phase.REVERTING | Phase.REVERTED if not is_reverted:
            return KEPT
    return found.name.lower()


def _find_wait(
    proposal: Proposal, rollout: Rollout, views: Sequence[MemberView], options: GroupOptions
) -> CanaryWait | BudgetWait | None:
    """What keeps a running rollout from going on; None for its own changes."""
    is_changing = any(view.progress is Progress.CHANGING for view in views)
    if rollout.phase is not Phase.RUNNING or is_changing:
        return None
    canaries, _ = options.count_canaries(len(views))
    waiting = [view for view in views if view.progress is Progress.WAITING]
    if canaries and waiting and not rollout.is_continued and len(rollout.steps) >= canaries:
        until = rollout.changed + options.canary_s
        units = tuple(dict.fromkeys(step.member.unit for step in rollout.steps))
        return CanaryWait(units, until if until < float("inf") else 0.0)
    waits = (proposal.budget.may_disturb(view.member.unit, view.where) for view in waiting)
    found = [wait for wait in waits if wait is not None]
    return found[0] if len(found) == len(waiting) and found else None
