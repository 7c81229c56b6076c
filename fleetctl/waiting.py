"""Waiting until what was asked has really happened: what a unit's report means for that, and how often to look.

The judges are pure: a report in, a verdict out. Nothing is asked of a unit here.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from fleetctl import output
from fleetctl.errors import ClientError
from fleetctl.live import LiveLines
from fleetd.api import schema

if TYPE_CHECKING:
    from fleetctl.client import Client

T = TypeVar("T")

FIRST_PAUSE_S = 0.025
LONGEST_PAUSE_S = 0.25
SILENCE_S = 10.0  # how long a daemon may be away while it is waited for: it may just be restarted

# A failure counts once it has shown for so long: it may still be that of an earlier wish, of one that the machine has
# not begun to carry out, or of a unit that systemd holds back for others that come before it.
SEEN_AFRESH_S = 0.3
SEEN_BEFORE_S = 1.0
SEEN_AT_REST_S = 10.0
# systemd starts it again and again: the next time may be the one that lasts.
SEEN_RESTARTING_S = 3.0

_BAD_LOADS = ("not-found", "bad-setting", "error", "masked")
_AT_REST = ("", "inactive", "failed")
_COMPLETED = "completed"  # the leader's word for a unit without a machine whose oneshot has run


class Arrived(msgspec.Struct, frozen=True):
    """It has happened, at this place ('' for nowhere)."""

    place: str = ""


class Failed(msgspec.Struct, frozen=True):
    """It will not happen: a sentence about the unit without its name. Counts once it has shown for `settle_s`."""

    why: str
    settle_s: float = 0.0


class Pending(msgspec.Struct, frozen=True):
    """It may yet happen: what is being waited for."""

    what: str


Verdict = Arrived | Failed | Pending
Judge = Callable[[schema.UnitReport, int], Verdict]


def judge_launched(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit, since the wish of this generation, has become active, or has completed."""
    if report.decided >= generation and has_completed_elsewhere(report):
        return Arrived()
    copy = _placed_copy(report, generation)
    if not isinstance(copy, schema.CopyReport):
        return copy
    place = output.place(copy.machine, copy.address)
    if copy.active == "active" or copy.completed:
        return Arrived(place)
    if copy.active == "failed":
        why = output.printable(copy.error) or f"systemctl status {report.name} there says why"
        return Failed(f"failed on {place} ({copy.sub}): {why}", SEEN_AFRESH_S)
    if failure := _why_not_loaded(copy):
        return failure
    if copy.sub.startswith("auto-restart"):
        why = f"fleetctl journal {report.name} says why"
        return Failed(f"has ended on {place}, and systemd restarts it as its Restart= says: {why}", SEEN_RESTARTING_S)
    if copy.active in _AT_REST:
        return Failed(f"was started on {place}, but does not run ({copy.active}, {copy.sub})", SEEN_AT_REST_S)
    return Pending(f"it is {copy.active} ({copy.sub}) on {place}")


def has_completed_elsewhere(report: schema.UnitReport) -> bool:
    """Whether the unit is a oneshot that has completed, on a machine that is not there any more."""
    return not report.machine and report.reason == _COMPLETED


def judge_loaded(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit is on a machine, known to systemd, and does not run."""
    if running := _still_runs(report):
        return running
    copy = _placed_copy(report, generation)
    if not isinstance(copy, schema.CopyReport):
        return copy
    return _why_not_loaded(copy) or Arrived(output.place(copy.machine, copy.address))


def judge_stopped(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit runs nowhere. Unlike for judge_loaded, it may be on no machine, or unknown to systemd."""
    if running := _still_runs(report):
        return running
    if report.decided >= generation and not report.machine:
        return Arrived()
    copy = _placed_copy(report, generation)
    return Arrived(output.place(copy.machine, copy.address)) if isinstance(copy, schema.CopyReport) else copy


def judge_unloaded(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit is on no machine any more. Of one that is on none, nothing need be decided."""
    for copy in _own_copies(report):
        if copy.hash or copy.active not in _AT_REST:
            return _still_there(copy)
    if report.machine or 0 < report.decided < generation:
        return Pending("the leader has not taken it off its machine yet")
    return Arrived()


def _own_copies(report: schema.UnitReport) -> list[schema.CopyReport]:
    return [copy for copy in report.copies if not copy.orphaned]


def _still_runs(report: schema.UnitReport) -> Pending | None:
    running = (copy for copy in _own_copies(report) if copy.active not in _AT_REST)
    return next(map(_still_there, running), None)


def _still_there(copy: schema.CopyReport) -> Pending:
    last = f"; its last word: {output.printable(copy.error)}" if copy.error else ""
    return Pending(f"it is still {copy.active} ({copy.sub}) on {output.place(copy.machine, copy.address)}{last}")


def _why_not_loaded(copy: schema.CopyReport) -> Failed | None:
    """Why systemd does not have the unit as it is asked for, None where it has it."""
    place = output.place(copy.machine, copy.address)
    if copy.error:
        return Failed(f"failed on {place}: {output.printable(copy.error)}", SEEN_AFRESH_S)
    if copy.load in _BAD_LOADS:
        return Failed(f"could not be loaded on {place}: systemd says {copy.load}", SEEN_AFRESH_S)
    return None


def _placed_copy(report: schema.UnitReport, generation: int) -> schema.CopyReport | Failed | Pending:
    """The unit's copy on the machine that was chosen for it, once both know of this generation; else why there is none.

    What was decided or carried out for an older wish says nothing about this one.
    """
    if report.decided < generation:
        return Pending("the leader has not decided yet where it goes")
    if not report.machine:
        return _why_nowhere(report)
    copy = next((copy for copy in _own_copies(report) if copy.machine == report.machine), None)
    place = output.place(report.machine, copy.address if copy else "")
    if copy is not None and copy.generation >= generation:
        return copy
    if copy is not None and copy.error:
        return Failed(f"failed on {place}: {output.printable(copy.error)}", SEEN_BEFORE_S)
    if copy is None and (wait := describe_wait(report)):
        return Pending(f"it {wait}")
    return Pending(f"{place} has not carried it out yet")


def describe_wait(report: schema.UnitReport) -> str:
    """What the leader lets the unit wait for, or ''."""
    reason = output.printable(report.reason).rstrip(".")
    return reason if reason.startswith("wait") else ""


def _why_nowhere(report: schema.UnitReport) -> Failed | Pending:
    """Without refusals, the leader waits for something that will come to an end by itself, or has no machine at all."""
    if wait := describe_wait(report):
        return Pending(f"it {wait}")
    reason = output.printable(report.reason).rstrip(".") or "no machine fits"
    ranked = sorted(report.refusals.items(), key=lambda refusal: (-refusal[1], refusal[0]))
    if ranked:
        counted = (f"{output.printable(why)} ({count} machine{'s'[: count > 1]})" for why, count in ranked)
        reason += ": " + ", ".join(counted)
    then = "It starts" if report.target == "launched" else "It is loaded"
    return Failed(f"cannot be placed: {reason}. {then} as soon as one fits.", SEEN_AFRESH_S)


def observe(ask: Callable[[], T], bound_s: float) -> Iterator[T]:
    """The answers of `ask`, the first at once, then ever less often, until the bound has passed; what takes its time to
    be answered is asked no more than half of the time. Raises ClientError."""
    deadline = time.monotonic() + bound_s
    silent_after = min(deadline, time.monotonic() + SILENCE_S)
    pause_s = FIRST_PAUSE_S
    while True:
        began, took_s = time.monotonic(), 0.0
        try:
            answer = ask()
        except ClientError as error:
            if not error.may_pass or time.monotonic() >= silent_after:
                raise
        else:
            took_s = time.monotonic() - began
            yield answer
            silent_after = min(deadline, time.monotonic() + SILENCE_S)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(max(pause_s, took_s), left_s))
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)


class Wait:
    """One wait for units to arrive in a target state. Lines are printed as they arrive, errors as they show.

    Afterwards `failed` says of each unit why it will not arrive, `late` what it waited for when time was up.
    To be made after the wishes were sent: the generations read first are those that are waited for.
    """

    def __init__(self, client: "Client", target: str, judge: Judge) -> None:
        self._client = client
        self._target = target
        self._judge = judge
        self._generations: dict[str, int] = {}
        self._failing_since: dict[str, float] = {}
        self._live = LiveLines()
        self.failed: dict[str, str] = {}
        self.late: dict[str, str] = {}

    def until(self, names: Sequence[str], bound_s: float) -> None:
        """Return when each unit has arrived or failed, or when the bound has passed. Raises ClientError."""
        self.late = dict.fromkeys(names, "the API has not told of it yet")
        if not names:
            return
        with self._live:
            for reports in observe(lambda: self._client.reports(self.late), bound_s):
                self._judge_all(reports)
                if not self.late:
                    return
                self._live.show(self.late)

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
        if isinstance(verdict, Failed) and undecided and not report.machine:
            return Pending(f"it {verdict.why}")  # it may hang on the unit for which nothing is decided yet
        return verdict

    def _take(self, name: str, verdict: Verdict) -> None:
        if isinstance(verdict, Arrived):
            del self.late[name]
            self._live.clear()
            output.result(output.unit_line(name, self._target, verdict.place))
        elif isinstance(verdict, Pending):
            self._failing_since.pop(name, None)
            self.late[name] = verdict.what
        else:
            self.late[name] = f"it {verdict.why}"
            now = time.monotonic()
            if now - self._failing_since.setdefault(name, now) >= verdict.settle_s:
                del self.late[name]
                self.failed[name] = f"Unit {name} {verdict.why}"
                self._live.clear()
                output.error(f"Error waiting for units: {self.failed[name]}")

    def report_late(self) -> str:
        """Print an error for each unit that was late; the first one, or '' where none was."""
        texts = [
            f"timed out waiting for unit {name} to report state {self._target}: {what}"
            for name, what in self.late.items()
        ]
        for text in texts:
            output.error(f"Error waiting for units: {text}")
        return texts[0] if texts else ""


def wait_until_gone(client: "Client", names: Collection[str], bound_s: float) -> Iterator[str]:
    """The destroyed units, each as soon as no machine reports it any more; those that stay are not among them."""
    left = list(names)
    with LiveLines() as live:
        for held in observe(lambda: client.remains(left), bound_s) if left else ():
            gone = [name for name in left if name not in held]
            if gone:
                live.clear()
            yield from gone
            left[:] = [name for name in left if name in held]
            if not left:
                return
            live.show({name: _still_there(held[name].copies[0]).what for name in left})
