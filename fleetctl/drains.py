"""Follows drains to their end: prints one line an event, and at a terminal lines that change in place."""

import math
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from fleetctl import output
from fleetctl.errors import failing_as
from fleetctl.progress import ProgressLines
from fleetctl.unit_locations import Location
from fleetctl.wait import CLOCK, PATIENT, observe
from fleetctl.wakeups import Query, Wakeups, about_units
from fleetd.api import schema
from fleetd.model.event import EventKind

if TYPE_CHECKING:
    from fleetctl.client import Client

NOTICE_S = 3.0  # how long a unit must wait before that is printed: between two moves it does for a moment
LEFT = frozenset({"proven", "moved", "failed", "unplaced"})
_ON_THE_WAY = frozenset({"pending", "waits", "finishing", "moving", "starting-first", "stopping", "starting"})


def follow_drains(client: "Client", places: Sequence[Location], *, is_quiet: bool = False) -> list[schema.DrainReport]:
    """Wait until each machine is drained, as far as it can be, and what has left is proven or has failed. Returns the
    last reports. `is_quiet`: no events are printed."""
    followers = [DrainFollower(client, place, is_quiet=is_quiet) for place in places]
    told: list[str] = []  # what is not printed yet: a follower says each thing once, also if the next one cannot look

    def look() -> None:
        for follower in followers:
            if not follower.is_over:
                told.extend(follower.look())

    wakeups = Wakeups(client, lambda: _select(followers))
    with ProgressLines() as live, wakeups, failing_as("Error following drains: "):
        for _ in observe(look, math.inf, pace=PATIENT, wakeups=wakeups):
            for text in told:
                live.clear()
                output.result(text)
            told.clear()
            if all(follower.is_over for follower in followers):
                break
            live.show({name: what for follower in followers for name, what in follower.lines().items()})
    return [follower.report for follower in followers]


def _select(followers: Sequence["DrainFollower"]) -> Query:
    """The events that are waited for: of units that leave, wherever; without one, of the drains themselves."""
    names = sorted({name for follower in followers for name in follower.awaited})
    return about_units(names) or [("kind", EventKind.DRAIN)]


class DrainFollower:
    """What was seen so far of the drain of one machine. Once it `has_ended`, only what has left is told of; what stays
    is told of unless it is `for_reboot`."""

    def __init__(self, client: "Client", place: Location, *, is_quiet: bool, for_reboot: bool = False) -> None:
        self.report = schema.DrainReport(place.machine)
        self.is_over = False
        self.has_ended = False
        self._for_reboot = for_reboot
        self._client = client
        self._place = place
        self._is_quiet = is_quiet
        self._clock = CLOCK.get()
        self._awaited: dict[str, None] = {}  # units that were there, and are neither proven nor failed
        self._waits: dict[str, tuple[str, float]] = {}  # what waits, for what, and since when
        self._said: set[tuple[str, str]] = set()

    @property
    def awaited(self) -> Collection[str]:
        """The units that were there, and are neither proven elsewhere nor failed."""
        return self._awaited.keys()

    def note_units(self) -> None:
        """Note the units that are there before the drain begins, and that may leave. Raises ClientError."""
        here = self._client.drain_report(self._place.machine).units
        self._awaited = {unit.unit: None for unit in here if unit.state in _ON_THE_WAY}

    def look(self) -> list[str]:
        """Ask how far the drain is. Returns the events since the last look. Raises ClientError."""
        here = {unit.unit for unit in self.report.units}
        gone = [name for name in self._awaited if name not in here or self._is_elsewhere(name)]
        self.report = report = self._client.drain_report(self._place.machine, gone or self._awaited)
        told = [text for unit in report.units for text in self._take(unit)]
        told += self._notice("", f"{self._place}: {report.hold}" if report.hold and not self.has_ended else "")
        known = {unit.unit for unit in report.units}
        for name in gone:
            if name not in known:  # it was destroyed
                self._awaited.pop(name, None)
        self.is_over = is_over(report) and not any(name not in known for name in self._awaited)
        return [] if self._is_quiet else told

    def _is_elsewhere(self, name: str) -> bool:
        return any(unit.unit == name and unit.state == "starting" for unit in self.report.units)

    def _take(self, unit: schema.DrainedUnit) -> list[str]:
        if (self.has_ended and unit.state not in LEFT) or (self._for_reboot and unit.state in ("stays", "global")):
            return []
        if unit.state in _ON_THE_WAY:
            self._awaited[unit.unit] = None
        elif unit.state in LEFT:
            self._awaited.pop(unit.unit, None)
        if unit.state in ("waits", "pending"):
            return self._notice(unit.unit, self._describe(unit))
        self._waits.pop(unit.unit, None)
        is_shown_live = unit.state in ("moving", "starting", "stopping")
        return [] if is_shown_live else self._say(unit.unit, self._describe(unit))

    def _notice(self, name: str, text: str) -> list[str]:
        """Tell what is waited for, each thing once, after it has lasted NOTICE_S."""
        now_s = self._clock.now()
        known, since_s = self._waits.get(name, ("", now_s))
        if known != text:
            self._waits[name] = (text, now_s)
            return []
        return self._say(name, text) if text and now_s - since_s >= NOTICE_S else []

    def _say(self, name: str, text: str) -> list[str]:
        if (name, text) in self._said:
            return []
        self._said.add((name, text))
        return [text]

    def lines(self) -> dict[str, str]:
        """What is going on, for a terminal: unit → sentence."""
        if self.is_over:
            return {}
        shown = [unit for unit in self.report.units if unit.state in _ON_THE_WAY]
        lines = {unit.unit: "it" + self._describe(unit).removeprefix(output.printable(unit.unit)) for unit in shown}
        return lines | ({str(self._place): self.report.hold} if self.report.hold else {})

    def _describe(self, unit: schema.DrainedUnit) -> str:
        """A line about the unit; it begins with its name."""
        name, reason = output.printable(unit.unit), output.indented(unit.reason)
        where = f" → {output.place(unit.machine, unit.address)}" if unit.machine else ""
        match unit.state:
            case "global":
                return f"{name} stays on {self._place} (global)"
            case "pending":
                return f"{name} waits for the leader"
            case "proven" | "moving":
                return f"{name}{where} {'proven' if unit.state == 'proven' else 'stops first'}"
            case "starting-first":
                return f"{name} starts on {output.place(unit.machine, unit.address)} first"
            case "moved":
                return f"{name}{where}" if where else f"{name} {reason}"
            case "starting":
                return f"{name}{where} is not proven yet"
            case "failed":
                return f"{name}{where} failed: {reason}"
            case "unplaced":
                return f"{name} is stopped: {reason}"
            case "stopping":
                return f"{name} is being stopped"
        return f"{name} {reason}"


def is_over(report: schema.DrainReport) -> bool:
    """True if nothing more will happen: the drain was ended, or no unit is on its way, or the machine did not take part
    until the deadline."""
    if report.drain is None:
        return True
    if report.hold:
        return 0 < report.drain.deadline <= time.time()
    return not any(unit.state in _ON_THE_WAY for unit in report.units)


def remaining(report: schema.DrainReport) -> list[str]:
    """The units that are still there, but for those that are to stay."""
    return [unit.unit for unit in report.units if unit.state not in LEFT | {"global", "starting"}]


def describe_end(report: schema.DrainReport) -> str:
    """A sentence about the machine, without its subject: whether it is drained, and what is left."""
    if report.drain is None:
        return "is not drained any more: somebody has ended that"
    if report.drained and not report.hold:
        return "is drained"
    left = ", ".join(map(output.printable, remaining(report)))
    if report.hold:
        return f"is not drained: {report.hold}"
    return f"is drained but for {left}" if is_over(report) else f"is being drained, with {left} left"
