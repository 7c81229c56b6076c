"""Waiting until what was asked has really happened: how often to look, what is printed meanwhile, and when it ends.

What a report means is judges.py's matter. Nothing is asked of a unit here.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import msgspec

from fleetctl import output
from fleetctl.errors import ClientError
from fleetctl.progress import LiveLines
from fleetctl.wait_outcome import (
    TOLD_AFTER_S,
    Arrived,
    Failed,
    Judge,
    Pending,
    Verdict,
    describe_wait,
    is_held_up,
    still_there,
)
from fleetd.api import schema

if TYPE_CHECKING:
    from fleetctl.client import Client

T = TypeVar("T")

FIRST_PAUSE_S = 0.025
LONGEST_PAUSE_S = 0.25
SILENCE_S = 10.0  # how long a daemon may be away while it is waited for: it may just be restarted


class Clock(msgspec.Struct, frozen=True):
    """The time, in seconds from some moment, and a way to let it pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


CLOCK: ContextVar[Clock] = ContextVar("CLOCK", default=Clock())  # noqa: B039 (it is frozen)


def observe(
    ask: Callable[[], T], bound_s: float, clock: Clock | None = None, due_s: Callable[[], float] = lambda: math.inf
) -> Iterator[T]:
    """The answers of `ask`, the first at once, then ever less often, until the bound has passed; what takes its time to
    be answered is asked no more than half of the time. `due_s` is when (by the clock) a look is worth most: it is not
    slept through. Raises ClientError."""
    clock = clock or CLOCK.get()
    deadline = clock.now() + bound_s
    silent_after = min(deadline, clock.now() + SILENCE_S)
    pause_s = FIRST_PAUSE_S
    while True:
        began, took_s = clock.now(), 0.0
        try:
            answer = ask()
        except ClientError as error:
            if not error.may_pass or clock.now() >= silent_after:
                raise
        else:
            took_s = clock.now() - began
            yield answer
            silent_after = min(deadline, clock.now() + SILENCE_S)
        now = clock.now()
        if now >= deadline:
            return
        clock.sleep(max(0.0, min(max(pause_s, took_s), deadline - now, max(due_s() - now, FIRST_PAUSE_S))))
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)


class Wait:
    """One wait for units to arrive in a target state. Lines are printed as they arrive, errors as they show.

    Afterwards `failed` says of each unit why it will not arrive, `late` what it waited for when time was up.
    To be made after the wishes were sent: the generations read first are those that are waited for.
    """

    def __init__(self, client: "Client", target: str, judge: Judge, clock: Clock | None = None) -> None:
        self._client = client
        self._target = target
        self._judge = judge
        self._clock = clock or CLOCK.get()
        self._generations: dict[str, int] = {}
        self._failing_since: dict[str, float] = {}
        self._arriving: dict[str, tuple[Arrived, float]] = {}  # and when it counts
        self._waiting_since: dict[str, tuple[str, float]] = {}
        self._told: set[tuple[str, str]] = set()
        self._live = LiveLines()
        self.failed: dict[str, str] = {}
        self.late: dict[str, str] = {}

    def until(self, names: Sequence[str], bound_s: float) -> None:
        """Return when each unit has arrived or failed, or when the bound has passed. Raises ClientError."""
        self.late = dict.fromkeys(names, "the API has not told of it yet")
        if not names:
            return
        with self._live:
            for reports in observe(lambda: self._client.reports(self.late), bound_s, self._clock, self._due_s):
                self._judge_all(reports)
                if not self.late:
                    return
                self._live.show(self.late)
            for name in list(self._arriving):  # there at the last look: that must do
                self._arrive(name)

    def _due_s(self) -> float:
        """When those that seem to have arrived will have: one look is for all of them."""
        return max((due for _, due in self._arriving.values()), default=math.inf)

    def _judge_all(self, reports: Mapping[str, schema.UnitReport]) -> None:
        self._generations = {name: report.generation for name, report in reports.items()} | self._generations
        undecided = any(report.decided < self._generations[name] for name, report in reports.items())
        for name in list(self.late):
            self._take(name, self._verdict(name, reports.get(name), undecided))

    def _verdict(self, name: str, report: schema.UnitReport | None, undecided: bool) -> Verdict:
        if report is None:
            return Failed("was destroyed while it was waited for")
        if report.target != self._target:
            return Failed(f"was set to {report.target} by somebody else while it was waited for")
        verdict = self._judge(report, self._generations[name])
        if isinstance(verdict, Pending) and undecided and not report.machine:
            return Pending(verdict.what)  # it may hang on the unit for which nothing is decided yet
        return verdict

    def _take(self, name: str, verdict: Verdict) -> None:
        now = self._clock.now()
        if not isinstance(verdict, Arrived):
            self._arriving.pop(name, None)
        if isinstance(verdict, Arrived):
            self._take_arrival(name, verdict, now)
        elif isinstance(verdict, Pending):
            self._failing_since.pop(name, None)
            self.late[name] = verdict.what
            if verdict.told:
                self._tell(name, verdict.what, now)
        else:
            self.late[name] = f"it {verdict.why}"
            if now - self._failing_since.setdefault(name, now) >= verdict.settle_s:
                del self.late[name]
                self.failed[name] = f"Unit {name} {verdict.why}"
                self._live.clear()
                output.error(f"Error waiting for units: {self.failed[name]}")

    def _take_arrival(self, name: str, verdict: Arrived, now: float) -> None:
        """It does not count as long as it has not lasted. What fails again and again meanwhile goes on failing."""
        _, due = self._arriving.setdefault(name, (verdict, now + verdict.settle_s))
        if now < due:
            self.late[name] = f"it has just arrived on {verdict.place}"
        else:
            self._arrive(name)

    def _arrive(self, name: str) -> None:
        verdict, _ = self._arriving.pop(name)
        del self.late[name]
        self._live.clear()
        output.result(output.unit_line(name, self._target, verdict.place))
        if verdict.note:
            output.warning(f"Unit {name} {verdict.note}.")

    def _tell(self, name: str, what: str, now: float) -> None:
        """Say what a unit waits for, each reason once, when it has shown for a moment."""
        text, since = self._waiting_since.get(name, ("", now))
        if text != what:
            self._waiting_since[name] = (what, now)
        elif now - since >= TOLD_AFTER_S and (name, what) not in self._told:
            self._told.add((name, what))
            self._live.clear()
            output.warning(f"Unit {name} {what.removeprefix('it ')}.")

    def report_late(self) -> str:
        """Print an error for each unit that was late; the first one, or '' where none was."""
        texts = [
            f"timed out waiting for unit {name} to report state {self._target}: {what}"
            for name, what in self.late.items()
        ]
        for text in texts:
            output.error(f"Error waiting for units: {text}")
        return texts[0] if texts else ""


def wait_until_gone(
    client: "Client", names: Collection[str], bound_s: float, clock: Clock | None = None
) -> Iterator[str]:
    """The destroyed units, each as soon as no machine reports it any more; those that stay are not among them."""
    left = list(names)
    told: set[str] = set()
    with LiveLines() as live:
        for held in observe(lambda: client.remains(left), bound_s, clock) if left else ():
            gone = [name for name in left if name not in held]
            if gone:
                live.clear()
            yield from gone
            left[:] = [name for name in left if name in held]
            if not left:
                return
            for name in [name for name in left if name not in told and is_held_up(held[name])]:
                told.add(name)
                live.clear()
                output.warning(f"Unit {name} {describe_wait(held[name])}.")
            live.show({name: still_there(held[name].allocations[0]).what for name in left})
