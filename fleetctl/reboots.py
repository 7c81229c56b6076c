"""Follows reboots to their end: prints one line an event, and at a terminal lines that change in place."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from fleetctl import output
from fleetctl.drains import NOTICE_S, DrainFollower
from fleetctl.errors import ClientError, failing_as
from fleetctl.progress import ProgressLines
from fleetctl.unit_locations import Location
from fleetctl.wait import CLOCK, PATIENT, observe
from fleetctl.wakeups import Wakeups
from fleetd.api import schema
from fleetd.model.event import EventKind

if TYPE_CHECKING:
    from fleetctl.client import Client

# What a queue of reboots waits for. States are not among them: a proof elsewhere is seen later.
_KINDS = (
    EventKind.REBOOT,
    EventKind.DRAIN,
    EventKind.MOVED,
    EventKind.UNPLACED,
    EventKind.LOST,
    EventKind.BACK,
    EventKind.JOINED,
)
_PACE = msgspec.structs.replace(PATIENT, between_events_s=2.0)
SILENCE_S = 600.0  # how long the API may be away: it may be that of a machine that reboots


def follow_reboots(
    client: "Client",
    asked: Mapping[Location, schema.RebootReport],
    *,
    is_quiet: bool = False,
    silence_s: float = SILENCE_S,
) -> list["RebootFollower"]:
    """Wait until each machine serves again or was given up. `asked` are the reports from when its reboot was asked for.
    `is_quiet`: no events are printed. Raises CommandFailed if the API is away for longer than `silence_s`."""
    followers = [RebootFollower(client, place, report, is_quiet=is_quiet) for place, report in asked.items()]
    look = _Look(client, followers, silence_s)
    wakeups = Wakeups(client, lambda: [("kind", kind) for kind in _KINDS])
    with ProgressLines() as live, wakeups, failing_as("Error following reboots: "):
        for events in observe(look, math.inf, pace=_PACE, wakeups=wakeups):
            for text in events:
                live.clear()
                output.result(text)
            if all(follower.is_over for follower in followers):
                break
            live.show(look.lines())
    return followers


class _Look:
    """Asks how far the reboots are. While the API does not answer, it is asked again."""

    def __init__(self, client: "Client", followers: Sequence["RebootFollower"], silence_s: float) -> None:
        self._client = client
        self._silence_s = silence_s
        self._followers = followers
        self._clock = CLOCK.get()
        self._heard_s = self._clock.now()
        self._silence = ""

    def __call__(self) -> list[str]:
        """The events since the last look, of the followers that could look. Raises ClientError."""
        left = [follower for follower in self._followers if not follower.is_over]
        told: list[str] = []
        try:
            reports = self._client.reboots(follower.report.machine for follower in left)
            for follower in left:
                told += follower.look(reports[follower.report.machine])
        except ClientError as error:
            if not error.may_pass or self._clock.now() - self._heard_s > self._silence_s:
                raise
            self._silence = str(error)
        else:
            self._heard_s, self._silence = self._clock.now(), ""
        return told

    def lines(self) -> dict[str, str]:
        """What is going on, for a terminal: machine or unit → sentence."""
        lines = {name: what for follower in self._followers for name, what in follower.lines().items()}
        return lines | ({"the API": self._silence} if self._silence else {})


class RebootFollower:
    """What was seen so far of the reboot of one machine. `failure` is a sentence without its subject; '' once it is
    over: the machine serves again."""

    def __init__(self, client: "Client", place: Location, asked: schema.RebootReport, *, is_quiet: bool) -> None:
        self.report = asked
        self.place = place
        self.is_over = False
        self.failure = ""
        self._asked = asked
        self._is_quiet = is_quiet
        self._clock = CLOCK.get()
        self._drain = DrainFollower(client, place, is_quiet=is_quiet, for_reboot=True)
        self._is_ordered = False
        self._waits = ("", 0.0)  # for what, and since when
        self._said: set[str] = set()

    def look(self, report: schema.RebootReport) -> list[str]:
        """Take the present report. Returns the events since the last one. Raises ClientError."""
        self.report = report
        told = self._look_at_units(report) + self._take(report)
        return [] if self._is_quiet else told

    def _look_at_units(self, report: schema.RebootReport) -> list[str]:
        """What becomes of the units of the machine. Those of the next one are noted before they leave, which may take
        less than the time between two looks."""
        if report.place == 1:
            self._drain.note_units()
        if report.phase not in ("draining", "ordered", "returning"):
            return []
        self._drain.has_ended = report.phase != "draining"
        return self._drain.look()

    def _take(self, report: schema.RebootReport) -> list[str]:
        if report.id != self._asked.id:
            return self._end(report)
        if report.phase == "gave-up":
            self.is_over = True
            self.failure = f"{report.reason}; {report.remedy}" if report.remedy else report.reason
            return []
        if report.phase == "draining" and self._drain.lines():
            return []  # the drain says for what it waits
        told = []
        if report.phase in ("ordered", "returning") and not self._is_ordered:
            self._is_ordered = True
            told = self._announce(report)
        return told + self._notice(f"{self.place} {output.printable(report.reason)}")

    def _announce(self, report: schema.RebootReport) -> list[str]:
        """The machine was told to reboot."""
        kept = ", ".join(map(output.printable, report.kept))
        stays = "stays there and is" if len(report.kept) == 1 else "stay there and are"
        what = f"; {kept} {stays} down meanwhile" if kept else ""
        return [f"{self.place} is drained and {'may reboot' if report.client else 'reboots'}{what}"]

    def _end(self, report: schema.RebootReport) -> list[str]:
        """The request is gone: the machine was rebooted, or that was cancelled."""
        self.is_over = True
        if report.boot in ("", self._asked.ends):
            self.failure = "is not rebooted any more: somebody has cancelled that"
            return []
        return [f"{self.place} is back and serves"]

    def _notice(self, text: str) -> list[str]:
        """Tell what is waited for, each thing once, after it has lasted NOTICE_S."""
        now_s = self._clock.now()
        known, since_s = self._waits
        if known != text:
            self._waits = (text, now_s)
            return []
        if text in self._said or now_s - since_s < NOTICE_S:
            return []
        self._said.add(text)
        return [text]

    def lines(self) -> dict[str, str]:
        """What is going on, for a terminal: machine or unit → sentence."""
        if self.is_over:
            return {}
        drained = self._drain.lines() if self.report.phase == "draining" else {}
        return drained or {str(self.place): f"it {output.printable(self.report.reason)}"}
