"""Follows rollouts to their end: prints one line an event, and at a terminal lines that change in place.

A rollout that is paused has ended for who waits for it: it goes on only when an operator says so.
"""

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import msgspec

from fleetctl import output
from fleetctl.errors import failing_as
from fleetctl.progress import ProgressLines
from fleetctl.wait import CLOCK, PATIENT, observe
from fleetctl.wakeups import Wakeups, about_units
from fleetd.api import schema
from fleetd.model.names import is_template

if TYPE_CHECKING:
    from fleetctl.client import Client

# The end is seen at most a fifth of the time later that the rollout has taken.
PACE = msgspec.structs.replace(PATIENT, growth=1.2)
NOTICE_S = 3.0  # how long a rollout must wait for others before that is printed: between two steps it does for a moment
OVER = ("done", "reverted")
_GOES_ON = ("resume", "continue")

Place = tuple[str, str]  # unit and machine


class _Moment(msgspec.Struct, frozen=True):
    """What a member was seen to be doing, and since when."""

    progress: str
    is_reverted: bool
    since_s: float


def follow(client: "Client", groups: Collection[str]) -> int:
    """Wait until the rollout of each group is over. Returns the exit status: 0 if each is done, 1 if one is reverted,
    paused, replaced by another, or gone. Call it after the requests that the rollouts carry out."""
    follower = _Follower(groups)
    wakeups = Wakeups(client, lambda: about_units(map(pattern_of, follower.left)))
    try:
        with follower.live, wakeups, failing_as("Error following rollouts: "):
            for rollouts in observe(lambda: client.rollouts(follower.left), math.inf, pace=PACE, wakeups=wakeups):
                follower.look(rollouts)
                if not follower.left:
                    break
    except KeyboardInterrupt:
        left = " ".join(map(output.printable, follower.left))
        output.note(
            f"The rollouts go on: `fleetctl rollout status --wait {left}` follows them again, and `fleetctl rollout "
            f"pause {left}` pauses them"
        )
        raise
    return follower.status


def pattern_of(group: str) -> str:
    """A pattern that the units of a group match, and the group itself."""
    return group.replace("@.", "@*.") if is_template(group) else group


class _Follower:
    """What was seen of some rollouts so far. `left` are the groups whose rollouts are not over, `status` is the exit
    status for those that are."""

    def __init__(self, groups: Collection[str]) -> None:
        self.left = list(dict.fromkeys(groups))
        self.status = 0
        self.live = ProgressLines()
        self._clock = CLOCK.get()
        self._last: dict[str, schema.Rollout] = {}
        self._members: dict[str, dict[Place, _Moment]] = {}
        self._waits: dict[str, tuple[str, float]] = {}  # group → what it waits for and since when
        self._said: set[tuple[str, str]] = set()

    def look(self, rollouts: Mapping[str, schema.Rollout]) -> None:
        """Print what has happened since the last look."""
        for group in list(self.left):
            rollout, last = rollouts.get(group), self._last.get(group)
            if rollout is None:
                self._fail(group, "it has no rollout any more: its units were destroyed, or changed at once")
            elif last is not None and rollout.id != last.id:
                by = f" of {output.printable(rollout.by)}" if rollout.by else ""
                self._fail(group, f"another request{by} has replaced this rollout")
            else:
                self._take(rollout, last)
                self._last[group] = rollout
        self.live.show(self._lines())

    def _take(self, rollout: schema.Rollout, last: schema.Rollout | None) -> None:
        self._take_failure(rollout)
        self._take_members(rollout)
        if rollout.phase == "reverting" and (last is None or last.phase != "reverting"):
            counted = f"{rollout.updated} of {rollout.total} {'was' if rollout.updated == 1 else 'were'} updated"
            self._say(f"{rollout.group}: reverting ({counted})")
        if rollout.phase in OVER:
            self._conclude(rollout)
        elif rollout.paused and rollout.asked not in _GOES_ON:
            self._fail(rollout.group, f"{_status(rollout)}. `fleetctl rollout resume {rollout.group}` goes on")
        else:
            self._notice_wait(rollout)

    def _take_members(self, rollout: schema.Rollout) -> None:
        """Print which members are proven or have failed since the last look."""
        known = self._members.setdefault(rollout.group, {})
        is_first = rollout.group not in self._last
        for member in rollout.members:
            key, now_s = (member.unit, member.machine), self._clock.now()
            before = known.get(key)
            if before is not None and (before.progress, before.is_reverted) == (member.progress, member.reverted):
                continue
            known[key] = _Moment(member.progress, member.reverted, now_s)
            was_kept = before.progress == "kept" and not member.reverted if before else rollout.phase in OVER
            if is_first and rollout.phase in OVER:
                continue
            if member.progress == "failed":
                self._say_failed(member, member.why, before)
            elif member.progress == "proven" and not was_kept:
                what = "has its former content again" if member.reverted else "proven"
                self._say(f"{_where(member)} {what}{_took(before, now_s)}")

    def _take_failure(self, rollout: schema.Rollout) -> None:
        """Print the failure because of which the rollout does not go on. The member itself may have been given its
        former content back since the last look."""
        if rollout.failure is None or (rollout.phase in OVER and rollout.group not in self._last):
            return
        for member in rollout.members:
            key = (member.unit, member.machine)
            if key == (rollout.failure.unit, rollout.failure.machine):
                before = self._members.get(rollout.group, {}).get(key)
                self._say_failed(msgspec.structs.replace(member, reverted=False), rollout.failure.why, before)

    def _say_failed(self, member: schema.RolloutMember, why: str, before: _Moment | None) -> None:
        """Print once that a member has failed."""
        text = f"{_where(member)} failed"
        if (text, str(member.reverted)) not in self._said:
            self._said.add((text, str(member.reverted)))
            self._say(f"{text}{_took(before, self._clock.now())}: {output.indented(why)}")

    def _conclude(self, rollout: schema.Rollout) -> None:
        if rollout.phase != "done":
            self._fail(rollout.group, _status(rollout))
            return
        self.left.remove(rollout.group)
        self._say(f"{rollout.group}: done")
        failed = [member.unit for member in rollout.members if member.progress == "failed"]
        if failed:
            self.live.clear()
            output.warning(f"{rollout.group}: failed, as UpdateTolerate= or UpdateFailure= allow: {', '.join(failed)}")

    def _notice_wait(self, rollout: schema.Rollout) -> None:
        """Print what a rollout waits for, each thing once, after it has lasted NOTICE_S."""
        if not rollout.status.startswith("waits"):
            self._waits.pop(rollout.group, None)
            return
        now_s = self._clock.now()
        what, since_s = self._waits.get(rollout.group, ("", now_s))
        if what != rollout.status:
            self._waits[rollout.group] = (rollout.status, now_s)
        elif now_s - since_s >= NOTICE_S and (rollout.group, what) not in self._said:
            self._said.add((rollout.group, what))
            remedy = f". `fleetctl rollout continue {rollout.group}` goes on" if rollout.canaries else ""
            self._say(f"{rollout.group}: {_status(rollout)}{remedy}")

    def _fail(self, group: str, why: str) -> None:
        self.left.remove(group)
        self.status = 1
        self.live.clear()
        output.error(f"{group}: {why}")

    def _say(self, text: str) -> None:
        self.live.clear()
        output.result(text)

    def _lines(self) -> dict[str, str]:
        """What each rollout is doing: of its members, those that are being changed."""
        lines: dict[str, str] = {}
        for group in self.left:
            rollout = self._last[group]
            lines[group] = f"{rollout.updated} of {rollout.total} updated, {_status(rollout)}"
            for member in rollout.members:
                if member.progress == "changing":
                    lines[_where(member)] = "it is being changed"
        return lines


def _where(member: schema.RolloutMember) -> str:
    return f"{member.unit} on {output.place(member.machine, member.address)}"


def _took(before: _Moment | None, now_s: float) -> str:
    return f" after {now_s - before.since_s:.0f} s" if before and before.progress == "changing" else ""


def _status(rollout: schema.Rollout) -> str:
    return output.indented(rollout.status)
