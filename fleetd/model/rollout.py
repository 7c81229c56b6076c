"""Rollouts as they are stored: how far changed content has got in one group, and what operators say about it.

The record is written anew with each step, so what it holds of each member is stored as an array, without names of
fields.

`render_rollout` says in English where one stands; programs decide by the data.
"""

from enum import StrEnum

import msgspec

from fleetd.model.content import Content
from fleetd.model.decoding import FORMAT, Count
from fleetd.model.machine import SHORT_ID_LENGTH
from fleetd.model.reason import BudgetWait, render_wait
from fleetd.model.timespan import render_moment
from fleetd.model.unit import without_log_lines

MOST_PAST = 10  # as many as versions are kept


class Member(msgspec.Struct, frozen=True, array_like=True, order=True, gc=False):
    """One member of a group: a unit on its machine, or, with `machine`, one of a unit's many allocations."""

    unit: str
    machine: str = ""


class FormerMember(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A member as it was when the rollout began: an index into `Rollout.contents`, and whether it was available."""

    member: Member
    content: Count
    was_available: bool = False


class Step(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A member that was given the new content, at this Unix time, on this machine ('': it had none). `was_down`: it was
    unavailable before, and has not been proven since. `lost_after_s`: its machine was lost so soon after that the new
    content may be the cause."""

    member: Member
    at: float
    machine: str = ""
    was_down: bool = False
    lost_after_s: float | None = None


class Phase(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    REVERTING = "reverting"
    DONE = "done"
    REVERTED = "reverted"


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why a member was not proven. `machine` is where."""

    unit: str
    machine: str
    why: str


class PauseCause(StrEnum):
    """Why a rollout is paused."""

    OPERATOR = "operator"
    FAILED = "failed"  # a member failed, and UpdateFailure=pause
    REVERT_FAILED = "revert-failed"  # a member failed with the content that it is reverted to
    NOTHING_TO_REVERT_TO = "nothing-to-revert-to"  # no member was available when the rollout began
    BLOCKED = "blocked"  # by unavailable members, for the whole UpdateDeadlineSec
    STORE_RESTORED = "store-restored"  # what it was doing may lie hours back


class Pause(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pause, which ends when an operator resumes the rollout. `by` is the operator who asked for it, `units` those
    that block or have failed."""

    cause: PauseCause
    by: str = ""
    units: tuple[str, ...] = ()


class Outcome(StrEnum):
    """What had become of a rollout when another one of its group began."""

    DONE = "done"
    REVERTED = "reverted"
    PAUSED = "paused"
    REPLACED = "replaced"  # while it was running, or being reverted


class PastRollout(msgspec.Struct, frozen=True, gc=False):
    """An earlier rollout of a group, by its id."""

    id: str
    outcome: Outcome


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """The rollout of one group. Stored under `rollouts/<group>` by the leader alone.

    `id` is that of the request that began it, `generation` the highest one of the units that it covers. `started` and
    `changed` (of the last step, or of the phase) are Unix times. `contents` are what members ran when it began, most
    frequent first, `former` which of them each member ran; a member that is not in it is new. Once it is done, they are
    of members on absent machines, which are changed when these are back. `steps` are the members
    that were given the new content and have it still, `reverted` those that were given the former one back. Any other
    member keeps the former content until the rollout is done, and after it was reverted. `failure` is the first one
    that was not tolerated; `accepted` are failed members in spite of which an operator resumed the rollout.
    `is_continued`: the canaries were found good. `past` are the last ones of the group, oldest first. `command` is the
    id of the last Command obeyed. `revision` is the store's revision of this record, which guards the next write; it is
    not part of the stored value.
    """

    id: str
    generation: Count = 0
    phase: Phase = Phase.RUNNING
    pause: Pause | None = None
    failure: Failure | None = None
    started: float = 0.0
    changed: float = 0.0
    by: str = ""
    note: str = ""
    contents: tuple[Content, ...] = ()
    former: tuple[FormerMember, ...] = ()
    steps: tuple[Step, ...] = ()
    reverted: tuple[Member, ...] = ()
    accepted: tuple[Member, ...] = ()
    is_continued: bool = False
    command: str = ""
    past: tuple[PastRollout, ...] = ()
    revision: Count = 0

    @property
    def is_over(self) -> bool:
        """True once nothing is left to do."""
        return self.phase in (Phase.DONE, Phase.REVERTED)

    def past_with_this(self) -> tuple[PastRollout, ...]:
        """The last rollouts of the group, with this one, when another one begins."""
        outcome = Outcome.PAUSED if self.pause is not None else Outcome.REPLACED
        if self.is_over:
            outcome = Outcome.DONE if self.phase is Phase.DONE else Outcome.REVERTED
        return (*self.past, PastRollout(self.id, outcome))[-MOST_PAST:]


class MemberContents:
    """The contents of a rollout's members, each looked up in no more time where there are thousands."""

    def __init__(self, rollout: Rollout) -> None:
        self._former = {former.member: rollout.contents[former.content] for former in rollout.former}
        self._given = {step.member for step in rollout.steps}
        is_reverted = rollout.phase in (Phase.REVERTING, Phase.REVERTED)
        self._of_new = rollout.contents[0] if is_reverted and rollout.contents else None

    def former(self, member: Member) -> Content | None:
        """What the member ran when the rollout began, or None if it was not there then."""
        return self._former.get(member)

    def held(self, member: Member) -> Content | None:
        """The former content that the member is to keep, or None if it is to have what was asked for."""
        return None if member in self._given else self._former.get(member, self._of_new)


class Action(StrEnum):
    """What an operator asks of a running rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    CONTINUE = "continue"  # past the canaries


class Command(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """The last request of an operator about the rollout of one group. Stored under `commands/<group>` by the API; `id`
    is unique, `rollout` the id of the rollout that it is about, `at` Unix time."""

    id: str
    action: Action
    rollout: str
    by: str = ""
    at: float = 0.0


class Apply(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """A request whose changes are rolled out. Stored under `applies/<id>` by the API once all of its units are written:
    before that, nothing of it is rolled out. `at` is Unix time."""

    by: str = ""
    at: float = 0.0
    note: str = ""


class CanaryWait(msgspec.Struct, frozen=True):
    """A rollout goes on once these first units, which have the new content, are found good: by an operator, or at this
    Unix time (0: by an operator alone)."""

    units: tuple[str, ...]
    until: float = 0.0


class TurnWait(msgspec.Struct, frozen=True):
    """A rollout waits until these units, which come before those of the group, are proven with their new content."""

    units: tuple[str, ...]


def render_rollout(rollout: Rollout, wait: CanaryWait | BudgetWait | TurnWait | None = None) -> str:
    """Where a rollout stands and why, as a sentence whose subject is the group, without subject and full stop. `wait`
    is what a running one waits for, if it does not go on by itself."""
    why = _render_failure(rollout.failure)
    match rollout.phase:
        case Phase.DONE:
            return "done"
        case Phase.REVERTED:
            return f"reverted to the former content{why}"
    if rollout.pause is not None:
        return _render_pause(rollout.pause, rollout.failure)
    if rollout.phase is Phase.REVERTING:
        return f"reverting{why}"
    match wait:
        case CanaryWait(units, until):
            end = f"until {render_moment(until)}" if until else "until an operator continues"
            return f"waits {end}: the canaries have the new content: {', '.join(units)}"
        case BudgetWait():
            return render_wait(wait)
        case TurnWait(units):
            return f"waits until these are proven, which come first: {', '.join(units)}"
    return "running"


def _render_failure(failure: Failure | None) -> str:
    return f" because {_describe_failure(failure)}" if failure else ""


def _describe_failure(failure: Failure) -> str:
    where = f" on {failure.machine[:SHORT_ID_LENGTH]}" if failure.machine else ""
    cause = without_log_lines(failure.why)
    return f"{failure.unit} failed{where}" + (f": {cause}" if cause else "")


def _render_pause(pause: Pause, failure: Failure | None) -> str:
    units = ", ".join(pause.units)
    failed = _describe_failure(failure) if failure else f"{units} failed"
    match pause.cause:
        case PauseCause.OPERATOR:
            return f"paused by {pause.by}" if pause.by else "paused by an operator"
        case PauseCause.FAILED:
            return f"paused: {failed}"
        case PauseCause.REVERT_FAILED:
            return f"paused while it was being reverted: {units} failed with the former content, too"
        case PauseCause.NOTHING_TO_REVERT_TO:
            return f"paused: {failed}; it is not reverted, since no unit of it was available before"
        case PauseCause.BLOCKED:
            return f"paused: blocked by {units} for the whole UpdateDeadlineSec="
    return "paused: the store was restored since, so what it was doing may lie hours back"
