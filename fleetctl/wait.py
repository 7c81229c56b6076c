"""Polls reports until units have reached a state, and prints progress, results and errors."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import msgspec

from fleetctl import output
from fleetctl.errors import ClientError
from fleetctl.progress import ProgressLines
from fleetctl.wait_outcome import (
    NOTICE_S,
    Check,
    Failed,
    Pending,
    Reached,
    WaitOutcome,
    describe_wait,
    is_held_up,
    still_there,
)
from fleetctl.wakeups import Wakeups, about_units
from fleetd.api import schema

if TYPE_CHECKING:
    from fleetctl.client import Client

T = TypeVar("T")

FIRST_PAUSE_S = 0.025
LONGEST_PAUSE_S = 0.25
SILENCE_S = 10.0  # how long the API may be away meanwhile: fleetd may just be restarting


class Pace(msgspec.Struct, frozen=True):
    """How often the API is asked. Each pause is `growth` times the last one, up to `longest_s`. While events end the
    pauses, they are up to `between_events_s`, for what is waited for may change without one; and there is at most one
    in `spacing_s`, however much happens."""

    longest_s: float = LONGEST_PAUSE_S
    growth: float = 1.5
    between_events_s: float = 2.0
    spacing_s: float = FIRST_PAUSE_S


USUAL = Pace()
PATIENT = Pace(longest_s=1.0, between_events_s=5.0, spacing_s=1.0)  # for what takes minutes


class Clock(msgspec.Struct, frozen=True):
    """A monotonic clock in seconds, and a way to sleep by it. If it `is_real`, events may end a sleep."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    is_real: bool = False


CLOCK: ContextVar[Clock] = ContextVar("CLOCK", default=Clock(is_real=True))  # noqa: B039 (it is frozen)


def observe(
    ask: Callable[[], T],
    bound_s: float,
    due_s: Callable[[], float] = lambda: math.inf,
    pace: Pace = USUAL,
    wakeups: Wakeups | None = None,
) -> Iterator[T]:
    """Poll `ask` with growing pauses until `bound_s` has passed, and yield its answers, the first at once.

    Each pause is at least as long as the last answer took, and ends at the time (by the clock) that `due_s` returns.
    Raises ClientError, if temporary only after SILENCE_S.

    A wait that has come to the longest pause opens the `wakeups`: then a pause is longer, but ends when something
    happens.
    """
    clock = CLOCK.get()
    if not clock.is_real:
        wakeups = None
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
        if wakeups and pause_s >= pace.longest_s and not (wakeups.are_open or wakeups.is_refused):
            wakeups.open()
        is_woken = wakeups is not None and wakeups.are_open
        pause_s = min(pause_s, pace.between_events_s if is_woken else pace.longest_s)
        left_s = max(0.0, min(max(pause_s, took_s), deadline - now, max(due_s() - now, FIRST_PAUSE_S)))
        if wakeups is None or not is_woken:
            clock.sleep(left_s)
        elif wakeups.pause(left_s):
            # What happens together ends one pause.
            gathering_s = max(FIRST_PAUSE_S, took_s, began + pace.spacing_s - clock.now())
            clock.sleep(max(0.0, min(now + left_s - clock.now(), gathering_s)))
            if not wakeups.are_open:
                pause_s = FIRST_PAUSE_S  # it is opened again after a while
        pause_s *= pace.growth


class Wait:
    """One wait for units to reach a target state; prints results and errors as they come.

    Afterwards `failed` holds the errors by unit, `late` what each unit still waited for when time was up.
    Create it after the operations were sent: it waits for the generations that it reads first.
    """

    def __init__(self, client: "Client", target: str, check: Check) -> None:
        self._client = client
        self._target = target
        self._check = check
        self._clock = CLOCK.get()
        self._generations: dict[str, int] = {}
        self._failing_since: dict[str, float] = {}
        self._failing_until: dict[str, float] = {}  # when what fails now counts
        self._reached: dict[str, tuple[Reached, float]] = {}  # and when that counts
        self._waiting_since: dict[str, tuple[str, float]] = {}
        self._notified: set[tuple[str, str]] = set()
        self._live = ProgressLines()
        self.failed: dict[str, str] = {}
        self.late: dict[str, str] = {}

    def until(self, names: Sequence[str], bound_s: float) -> None:
        """Return when each unit has reached the state or failed, or after `bound_s`. Raises ClientError."""
        self.late = dict.fromkeys(names, "the API has not reported it yet")
        if not names:
            return
        with self._live, Wakeups(self._client, lambda: about_units(self.late)) as wakeups:
            for reports in observe(lambda: self._client.reports(self.late), bound_s, self._due_s, wakeups=wakeups):
                self._check_all(reports)
                if not self.late:
                    return
                self._live.show(self.late)
            for name in list(self._reached):  # reached at the last poll: good enough
                self._finish(name)

    def _due_s(self) -> float:
        """When every state that is reached now will count (one poll covers all of them), or a failure will."""
        reached_s = max((due for _, due in self._reached.values()), default=math.inf)
        return min((reached_s, *self._failing_until.values()))

    def _check_all(self, reports: Mapping[str, schema.UnitReport]) -> None:
        self._generations = {name: report.generation for name, report in reports.items()} | self._generations
        undecided = any(report.decided < self._generations[name] for name, report in reports.items())
        for name in list(self.late):
            self._take(name, self._evaluate(name, reports.get(name), undecided))

    def _evaluate(self, name: str, report: schema.UnitReport | None, undecided: bool) -> WaitOutcome:
        if report is None:
            return Failed("was destroyed while it was waited for")
        if report.target != self._target:
            return Failed(f"was set to {report.target} by another client while it was waited for")
        outcome = self._check(report, self._generations[name])
        if isinstance(outcome, Pending) and undecided and not report.machine:
            return Pending(outcome.what)  # it may depend on a unit that is not decided yet
        return outcome

    def _take(self, name: str, outcome: WaitOutcome) -> None:
        now = self._clock.now()
        self._failing_until.pop(name, None)
        if not isinstance(outcome, Reached):
            self._reached.pop(name, None)
        if isinstance(outcome, Reached):
            self._take_reached(name, outcome, now)
        elif isinstance(outcome, Pending):
            self._failing_since.pop(name, None)
            self.late[name] = outcome.what
            if outcome.is_urgent:
                self._notify(name, outcome.what, now)
        else:
            self.late[name] = f"it {outcome.why}"
            due = self._failing_since.setdefault(name, now) + outcome.settle_s
            if now < due:
                self._failing_until[name] = due
            else:
                del self.late[name]
                self.failed[name] = f"Unit {name} {outcome.why}"
                self._live.clear()
                output.error(f"Error waiting for units: {self.failed[name]}")

    def _take_reached(self, name: str, outcome: Reached, now: float) -> None:
        """Counts only after `settle_s`. Does not reset a failure that comes and goes."""
        _, due = self._reached.setdefault(name, (outcome, now + outcome.settle_s))
        if now < due:
            self.late[name] = f"it has been {self._target} on {outcome.place} for less than {outcome.settle_s:g} s"
        else:
            self._finish(name)

    def _finish(self, name: str) -> None:
        outcome, _ = self._reached.pop(name)
        del self.late[name]
        self._live.clear()
        output.result(output.unit_line(name, self._target, outcome.place))
        if outcome.note:
            output.warning(f"Unit {name} {outcome.note}.")

    def _notify(self, name: str, what: str, now: float) -> None:
        """Print what a unit waits for, each reason once, after it has lasted NOTICE_S."""
        text, since = self._waiting_since.get(name, ("", now))
        if text != what:
            self._waiting_since[name] = (what, now)
        elif now - since >= NOTICE_S and (name, what) not in self._notified:
            self._notified.add((name, what))
            self._live.clear()
            output.warning(f"Unit {name} {what.removeprefix('it ')}.")

    def report_late(self) -> str:
        """Print an error for each unit that was late; returns the first, '' if there is none."""
        texts = [
            f"timed out waiting for unit {name} to report state {self._target}: {what}"
            for name, what in self.late.items()
        ]
        for text in texts:
            output.error(f"Error waiting for units: {text}")
        return texts[0] if texts else ""


def wait_until_gone(client: "Client", names: Collection[str], bound_s: float) -> Iterator[str]:
    """Yield each destroyed unit as soon as no machine reports it; those that stay until `bound_s` are not yielded."""
    left = list(names)
    notified: set[str] = set()
    with ProgressLines() as live, Wakeups(client, lambda: about_units(left)) as wakeups:
        for held in observe(lambda: client.remains(left), bound_s, wakeups=wakeups) if left else ():
            gone = [name for name in left if name not in held]
            if gone:
                live.clear()
            yield from gone
            left[:] = [name for name in left if name in held]
            if not left:
                return
            for name in [name for name in left if name not in notified and is_held_up(held[name])]:
                notified.add(name)
                live.clear()
                output.warning(f"Unit {name} {describe_wait(held[name])}.")
            live.show({name: still_there(held[name].allocations[0]).what for name in left})
