"""One rollout: what is done next about the members of a group, decided from how far each of them has got.

The functions take a rollout and what was seen of its members, and return the rollout as it is to be stored. What a
member may run follows from that (`MemberContents` in model/rollout.py); controllers/rollout.py gathers and applies it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, auto

import msgspec
from msgspec.structs import replace

from fleetd.model.content import Content
from fleetd.model.group import GroupOptions, UpdateFailure
from fleetd.model.placement import Placement
from fleetd.model.rollout import (
    Action,
    Command,
    Failure,
    Member,
    Pause,
    PauseCause,
    Phase,
    Rollout,
    Step,
)
from fleetd.model.unit import TargetState, UnitState


class Progress(Enum):
    """How far a member has got with the content that it is to have."""

    WAITING = auto()  # it has the former content
    CHANGING = auto()  # it was given the content, and is neither proven nor failed
    PROVEN = auto()
    FAILED = auto()
    ABSENT = auto()  # it is on no machine that could change it


_SETTLED = (Progress.PROVEN, Progress.FAILED, Progress.ABSENT)


class MemberView(msgspec.Struct, frozen=True, gc=False):
    """What is seen of one member. `where` is its machine, `why` the cause of a failure. `is_changed`: the rollout
    changes its content, and does not only restart it. `is_down`: it is known not to be available."""

    member: Member
    progress: Progress
    is_available: bool
    where: str = ""
    why: str = ""
    is_changed: bool = True
    is_down: bool = False


# None: the member may be disturbed. Else the units that forbid it; () if it only waits for its turn.
MayDisturb = Callable[[MemberView], Collection[str] | None]


def assess(
    placement: Placement | None, state: UnitState | None, wanted: Content, generation: int
) -> tuple[Progress, str]:
    """How far a member on a registered machine has got with the `wanted` content of this generation, and why it
    failed."""
    if placement is None:
        return Progress.ABSENT, ""
    if not is_as_asked(placement, wanted, generation):
        return Progress.WAITING, ""
    if state is None:
        return Progress.CHANGING, ""
    proof = state.proof
    if proof is not None and proof.generation >= placement.generation and proof.hash == wanted.hash:
        return (Progress.FAILED, proof.failed) if proof.failed else (Progress.PROVEN, "")
    is_applied = state.generation >= placement.generation and state.hash in ("", wanted.hash)
    if is_applied and placement.target is not TargetState.LAUNCHED:
        return Progress.PROVEN, ""
    return Progress.CHANGING, ""


def is_as_asked(placement: Placement | None, wanted: Content, generation: int) -> bool:
    """True if the machine is told to run this content of this generation."""
    return placement is not None and placement.content == wanted and placement.generation >= generation


def note_lost(rollout: Rollout, deaths: Mapping[str, tuple[float, float]], settle_s: float) -> Rollout:
    """Note the members whose machine was lost so soon after their step that the new content may be the cause.
    `deaths`: of each dead machine, between which Unix times it has died."""
    if not deaths or rollout.is_over:
        return rollout
    steps = tuple(_note_death(step, deaths, settle_s) if step.machine in deaths else step for step in rollout.steps)
    return replace(rollout, steps=steps) if steps != rollout.steps else rollout


def _note_death(step: Step, deaths: Mapping[str, tuple[float, float]], settle_s: float) -> Step:
    earliest, latest = deaths[step.machine]
    if step.lost_after_s is None and earliest <= step.at + settle_s and step.at <= latest:
        return replace(step, lost_after_s=round(latest - step.at, 1))
    return step


def obey(rollout: Rollout, command: Command | None, now_s: float) -> Rollout:
    """Carry out an operator's command that has not been carried out. One that comes too late is passed over, and so is
    one about an earlier rollout."""
    if command is None or command.id == rollout.command or command.rollout != rollout.id:
        return rollout
    rollout = replace(rollout, command=command.id)
    if rollout.is_over:
        return rollout
    match command.action:
        case Action.PAUSE if rollout.pause is None:
            return replace(rollout, pause=Pause(PauseCause.OPERATOR, command.by), changed=now_s)
        case Action.RESUME if rollout.pause is not None:
            return replace(rollout, pause=None, changed=now_s)
        case Action.CONTINUE:
            return replace(rollout, is_continued=True, changed=now_s)
    return rollout


def advance(
    rollout: Rollout, views: Sequence[MemberView], options: GroupOptions, may_disturb: MayDisturb, now_s: float
) -> Rollout:
    """Do what is next. `views` are all members, in order; `now_s` is Unix time. `may_disturb` is called for one member
    after the other; one that it does not forbid counts as disturbed from then on."""
    if rollout.phase is Phase.DONE:
        return _catch_up(rollout, views, may_disturb)
    if rollout.is_over or rollout.pause is not None:
        return rollout
    rollout = _accept(_note_proven(_note_new(rollout, views, now_s), views), views)
    if rollout.phase is Phase.REVERTING:
        return _revert(rollout, views, options, may_disturb, now_s)
    failed = _failures(rollout, views)
    if len(failed) > options.tolerate.of(len(views)) and options.on_failure is not UpdateFailure.CONTINUE:
        reverts = options.on_failure is UpdateFailure.REVERT and any(view.is_changed for view in views)
        stopped = _stop(rollout, failed[0], now_s, reverts=reverts)
        # At once: a member that fails over must not take content along that may have killed its machine.
        return _revert(stopped, views, options, may_disturb, now_s) if stopped.pause is None else stopped
    if all(view.progress in _SETTLED for view in views):
        given = {step.member for step in rollout.steps}
        absent = {view.member for view in views if view.progress is Progress.ABSENT and view.where} - given
        return _hold_back(replace(rollout, phase=Phase.DONE, steps=(), changed=now_s), absent)
    return _roll(rollout, views, options, may_disturb, now_s)


def _catch_up(rollout: Rollout, views: Sequence[MemberView], may_disturb: MayDisturb) -> Rollout:
    """A rollout is done without the members on absent machines. They have the new content when their machines are back
    and the budget allows it."""
    held = {former.member for former in rollout.former}
    waiting = [view for view in views if view.member in held and view.progress is Progress.WAITING]
    granted, _ = _ask(waiting, len(waiting), may_disturb)
    is_left = {view.member: view.progress in (Progress.WAITING, Progress.ABSENT) and view.where != "" for view in views}
    left = {member for member in held if is_left.get(member)} - {view.member for view in granted}
    return _hold_back(rollout, left) if left != held else rollout


def _hold_back(rollout: Rollout, members: Collection[Member]) -> Rollout:
    """Keep the former contents of these members alone."""
    former = tuple(each for each in rollout.former if each.member in members)
    used = sorted({each.content for each in former})
    renumbered = tuple(replace(each, content=used.index(each.content)) for each in former)
    return replace(rollout, former=renumbered, contents=tuple(rollout.contents[index] for index in used))


def find_excused(rollout: Rollout, views: Sequence[MemberView], options: GroupOptions) -> list[MemberView]:
    """The failed members that do not keep others from being changed: those that UpdateTolerate= or UpdateFailure= put
    up with, and those in spite of which an operator resumed the rollout."""
    failed = _failures(rollout, views)
    is_tolerated = len(failed) <= options.tolerate.of(len(views)) or options.on_failure is UpdateFailure.CONTINUE
    accepted = [view for view in views if view.progress is Progress.FAILED and view.member in rollout.accepted]
    return [*accepted, *failed] if is_tolerated else accepted


def next_due(rollout: Rollout, options: GroupOptions) -> float | None:
    """The Unix time at which the rollout goes on even if nothing changes, or None."""
    if rollout.is_over or rollout.pause is not None:
        return None
    waits_s = [options.deadline_s]
    if options.canary and not rollout.is_continued and math.isfinite(options.canary_s):
        waits_s.append(options.canary_s)
    return rollout.changed + min(waits_s)


def _failures(rollout: Rollout, views: Sequence[MemberView]) -> list[MemberView]:
    """The members whose failure counts: not those that were unavailable before their step and ever since, and not those
    that an operator accepted."""
    excused = {step.member for step in rollout.steps if step.was_down and step.lost_after_s is None}
    excused |= set(rollout.accepted)
    return [view for view in views if view.progress is Progress.FAILED and view.member not in excused]


def _note_new(rollout: Rollout, views: Sequence[MemberView], now_s: float) -> Rollout:
    """Members that are new since the rollout began have the new content from the beginning."""
    known = {former.member for former in rollout.former} | {step.member for step in rollout.steps}
    new = [view.member for view in views if view.member not in known and view.member not in rollout.reverted]
    if not new or rollout.phase is not Phase.RUNNING:
        return rollout
    where = {view.member: view.where for view in views}
    return replace(rollout, steps=(*rollout.steps, *(Step(member, now_s, where[member]) for member in new)))


def _note_proven(rollout: Rollout, views: Sequence[MemberView]) -> Rollout:
    """The failures of members that were down before their step count once they have been proven."""
    down = {step.member for step in rollout.steps if step.was_down}
    proven = {view.member for view in views if view.member in down and view.progress is Progress.PROVEN}
    if not proven:
        return rollout
    steps = (replace(step, was_down=False) if step.member in proven else step for step in rollout.steps)
    return replace(rollout, steps=tuple(steps))


def _accept(rollout: Rollout, views: Sequence[MemberView]) -> Rollout:
    """A rollout that was paused by a failure and resumed goes on in spite of what has failed."""
    if rollout.failure is None or rollout.phase is not Phase.RUNNING:
        return rollout
    accepted = (*rollout.accepted, *(view.member for view in _failures(rollout, views)))
    return replace(rollout, failure=None, accepted=accepted)


def _stop(rollout: Rollout, failed: MemberView, now_s: float, *, reverts: bool) -> Rollout:
    """The rollout has failed: pause it or begin to revert it."""
    failure = Failure(failed.member.unit, failed.where, failed.why)
    units = (failed.member.unit,)
    if not reverts:
        return replace(rollout, failure=failure, pause=Pause(PauseCause.FAILED, units=units), changed=now_s)
    if not any(former.was_available for former in rollout.former):
        pause = Pause(PauseCause.NOTHING_TO_REVERT_TO, units=units)
        return replace(rollout, failure=failure, pause=pause, changed=now_s)
    return replace(rollout, failure=failure, phase=Phase.REVERTING, changed=now_s)


def _roll(
    rollout: Rollout, views: Sequence[MemberView], options: GroupOptions, may_disturb: MayDisturb, now_s: float
) -> Rollout:
    """Give the new content to as many members as may be disturbed: those first that are unavailable anyway."""
    allowed = count_allowed(rollout, len(views), options)
    if not allowed:
        return _wait_at_canaries(rollout, views, options, now_s)
    given = {step.member for step in rollout.steps}
    waiting = [view for view in views if view.progress is Progress.WAITING and view.member not in given]
    granted, blockers = _ask(waiting, allowed, may_disturb)
    if granted:
        return give(rollout, granted, now_s)
    return _pause_if_blocked(rollout, views, blockers, options.deadline_s, now_s)


def count_allowed(rollout: Rollout, size: int, options: GroupOptions) -> int:
    """How many of `size` members may be given the new content before the canaries are waited for."""
    canaries, _ = options.count_canaries(size)
    return max(0, canaries - len(rollout.steps)) if canaries and not rollout.is_continued else size


def give(rollout: Rollout, views: Sequence[MemberView], now_s: float) -> Rollout:
    """Give these members the new content."""
    steps = (Step(view.member, now_s, view.where, was_down=view.is_down) for view in views)
    return replace(rollout, steps=(*rollout.steps, *steps), changed=now_s)


def _ask(
    candidates: Sequence[MemberView], allowed: int, may_disturb: MayDisturb
) -> tuple[list[MemberView], tuple[str, ...]]:
    """The members, at most `allowed`, that may be disturbed, and the units that forbid it for the others."""
    granted: list[MemberView] = []
    blockers: dict[str, None] = {}
    for view in sorted(candidates, key=lambda view: (view.is_available, view.member)):
        if len(granted) >= allowed:
            break
        forbidding = may_disturb(view)
        if forbidding is None:
            granted.append(view)
        else:
            blockers |= dict.fromkeys(forbidding)
    return granted, tuple(blockers)


def _pause_if_blocked(
    rollout: Rollout, views: Sequence[MemberView], blockers: tuple[str, ...], deadline_s: float, now_s: float
) -> Rollout:
    """Pause a rollout that has been kept from going on, by other than its own changes, for the deadline."""
    is_changing = any(view.progress is Progress.CHANGING for view in views)
    if not blockers or is_changing or now_s - rollout.changed < deadline_s:
        return rollout
    return replace(rollout, pause=Pause(PauseCause.BLOCKED, units=blockers), changed=now_s)


def _wait_at_canaries(rollout: Rollout, views: Sequence[MemberView], options: GroupOptions, now_s: float) -> Rollout:
    """Go on past the canaries once they have been proven for UpdateCanarySec=, or an operator has said so."""
    stepped = {step.member for step in rollout.steps}
    are_proven = all(view.progress is Progress.PROVEN for view in views if view.member in stepped)
    if are_proven and now_s - rollout.changed >= options.canary_s:
        return replace(rollout, is_continued=True, changed=now_s)
    return rollout


def _revert(
    rollout: Rollout, views: Sequence[MemberView], options: GroupOptions, may_disturb: MayDisturb, now_s: float
) -> Rollout:
    """Give their former content back to the members that were given the new one. A revert is never reverted."""
    reverted = [view for view in views if view.member in rollout.reverted]
    failed = [view for view in reverted if view.progress is Progress.FAILED and view.member not in rollout.accepted]
    if failed:
        pause = Pause(PauseCause.REVERT_FAILED, units=tuple(view.member.unit for view in failed))
        accepted = (*rollout.accepted, *(view.member for view in failed))
        return replace(rollout, pause=pause, accepted=accepted, changed=now_s)
    stepped = {step.member for step in rollout.steps}
    left = [view for view in views if view.member in stepped]
    if not left and all(view.progress in _SETTLED for view in reverted):
        return replace(rollout, phase=Phase.REVERTED, steps=(), changed=now_s)
    granted, blockers = _ask(left, len(left), may_disturb)
    if not granted:
        return _pause_if_blocked(rollout, reverted, blockers, options.deadline_s, now_s)
    back = {view.member for view in granted}
    steps = tuple(step for step in rollout.steps if step.member not in back)
    return replace(rollout, steps=steps, reverted=(*rollout.reverted, *sorted(back)), changed=now_s)
