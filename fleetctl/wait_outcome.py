"""What a unit's report means for a command that waits for it: it has arrived, it failed, or what is waited for.

Pure: a report in, a verdict out. How often to look, and what is printed, is waiting.py's matter.
"""

from collections.abc import Callable

import msgspec

from fleetctl import output
from fleetd.api import schema

# A service that ends at once was active for a moment. It counts as active when it still is at a look so much later:
# systemd itself promises nothing of Type=simple beyond that a process was made.
PROVEN_S = 0.1
# Reasons why a unit waits are told when they have shown for so long: most waits are over sooner.
TOLD_AFTER_S = 0.3

# A failure counts once it has shown for so long: it may still be that of an earlier wish, of one that the machine has
# not begun to carry out, or of a unit that systemd holds back for others that come before it.
SEEN_AFRESH_S = 0.3
SEEN_BEFORE_S = 1.0
SEEN_AT_REST_S = 10.0
# systemd starts it again and again: the next time may be the one that lasts.
SEEN_RESTARTING_S = 3.0

_BAD_LOADS = ("not-found", "bad-setting", "error", "masked")
_AT_REST = ("", "inactive", "failed")
_SKIPPED = ("condition", "skipped")  # results of a start that systemd passed over: no failure
_DONE = "done"  # that of a start which succeeded, of a unit that is at rest again
_REFUSED = "refused"  # that of a job which systemd did not take
# Kinds of schema.Cause.
_COMPLETED = "completed"
_WAITING_FOR_MACHINE = "waiting-for-machine"


class Arrived(msgspec.Struct, frozen=True):
    """It has happened, at this place ('' for nowhere). Counts once it has shown for `settle_s`. `note` is what a person
    should know of it: a sentence about the unit without its name, or ''."""

    place: str = ""
    settle_s: float = 0.0
    note: str = ""


class Failed(msgspec.Struct, frozen=True):
    """It will not happen: a sentence about the unit without its name. Counts once it has shown for `settle_s`."""

    why: str
    settle_s: float = 0.0


class Pending(msgspec.Struct, frozen=True):
    """It may yet happen: what is being waited for. `told`: a person would want to know that at once, not at the end."""

    what: str
    told: bool = False


Verdict = Arrived | Failed | Pending
Judge = Callable[[schema.UnitReport, int], Verdict]


def judge_launched(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit, since the wish of this generation, has become active, or has completed."""
    if report.decided >= generation and has_completed_elsewhere(report):
        return Arrived()
    allocation = _placed_copy(report, generation)
    if not isinstance(allocation, schema.AllocationReport):
        return allocation
    place = output.place(allocation.machine, allocation.address)
    if allocation.completed:
        return Arrived(place)
    if allocation.active == "active":
        note = f"is on {place}: {_words(allocation.note)}" if allocation.note else ""
        return Arrived(place, PROVEN_S if report.name.endswith(".service") else 0.0, note)
    if allocation.result in _SKIPPED and not runs(allocation):
        return Arrived(place, note=f"was not started on {place}: {_words(allocation.note) or allocation.result}")
    if allocation.result == _DONE and allocation.active == "inactive":
        return Arrived(place, note=f"has ended on {place} already, with success")
    if allocation.active == "failed":
        why = output.indented(allocation.error) or f"systemctl status {report.name} there says why"
        return Failed(f"failed on {place} ({allocation.sub}): {why}", SEEN_AFRESH_S)
    if failure := _why_not_loaded(allocation):
        return failure
    if allocation.sub.startswith("auto-restart"):
        why = f"fleetctl journal {report.name} says why"
        return Failed(f"has ended on {place}, and systemd restarts it as its Restart= says: {why}", SEEN_RESTARTING_S)
    if allocation.active in _AT_REST:
        return Failed(
            f"was started on {place}, but does not run ({allocation.active}, {allocation.sub})", SEEN_AT_REST_S
        )
    return Pending(f"it is {allocation.active} ({allocation.sub}) on {place}")


def has_completed_elsewhere(report: schema.UnitReport) -> bool:
    """Whether the unit is a oneshot that has completed, on a machine that is not there any more."""
    return not report.machine and report.cause is not None and report.cause.kind == _COMPLETED


def judge_loaded(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit is on a machine, known to systemd, and does not run for us."""
    if running := _still_runs(report, generation):
        return running
    allocation = _placed_copy(report, generation)
    if not isinstance(allocation, schema.AllocationReport):
        return allocation
    return _why_not_loaded(allocation) or _arrived_loaded(allocation)


def judge_stopped(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit runs nowhere. Unlike for judge_loaded, it may be on no machine, or unknown to systemd."""
    if running := _still_runs(report, generation):
        return running
    if report.decided >= generation and not report.machine:
        return Arrived()
    allocation = _placed_copy(report, generation)
    return _arrived_loaded(allocation) if isinstance(allocation, schema.AllocationReport) else allocation


def _arrived_loaded(allocation: schema.AllocationReport) -> Arrived:
    place = output.place(allocation.machine, allocation.address)
    note = f"has been started on {place} by something else there: its socket or timer, a unit that wants it, a person"
    return Arrived(place, note=note if runs(allocation) else "")


def judge_unloaded(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether the unit is on no machine any more. Of one that is on none, nothing need be decided."""
    for allocation in _own_allocations(report):
        if allocation.hash or runs(allocation):
            return _still_runs(report, generation) or still_there(allocation)
    if report.machine or 0 < report.decided < generation:
        return Pending("the leader has not taken it off its machine yet")
    return Arrived()


def _own_allocations(report: schema.UnitReport) -> list[schema.AllocationReport]:
    return [allocation for allocation in report.allocations if not allocation.orphaned]


def _words(text: str) -> str:
    """What a machine or the leader says, to end a sentence with: its full stop is set where it is printed."""
    return output.printable(text).rstrip(".")


def runs(allocation: schema.AllocationReport) -> bool:
    """Whether processes of the unit may exist on the machine."""
    return allocation.active not in _AT_REST


def _still_runs(report: schema.UnitReport, generation: int) -> Failed | Pending | None:
    """The copy that is still to stop. An agent says that it has carried out the wish when the stop has ended: what runs
    after that was started again since."""
    running = [
        allocation
        for allocation in _own_allocations(report)
        if runs(allocation) and not _runs_again(report, allocation, generation)
    ]
    if not running:
        return None
    if report.decided >= generation and is_held_up(report):
        return Pending(f"it {describe_wait(report)}", told=True)
    if running[0].result == _REFUSED:
        place = output.place(running[0].machine, running[0].address)
        return Failed(f"is not stopped on {place}: {output.indented(running[0].error)}", SEEN_AFRESH_S)
    return still_there(running[0])


def _runs_again(report: schema.UnitReport, allocation: schema.AllocationReport, generation: int) -> bool:
    here = allocation.machine == report.machine or report.is_global
    return here and not allocation.superseded and allocation.generation >= generation and allocation.target == "loaded"


def still_there(allocation: schema.AllocationReport) -> Pending:
    last = f"; its last word: {output.printable(allocation.error)}" if allocation.error else ""
    return Pending(
        f"it is still {allocation.active} ({allocation.sub})"
        f" on {output.place(allocation.machine, allocation.address)}{last}"
    )


def _why_not_loaded(allocation: schema.AllocationReport) -> Failed | None:
    """Why systemd does not have the unit as it is asked for, None where it has it."""
    place = output.place(allocation.machine, allocation.address)
    if allocation.error:
        return Failed(f"failed on {place}: {output.indented(allocation.error)}", SEEN_AFRESH_S)
    if allocation.load in _BAD_LOADS:
        return Failed(f"could not be loaded on {place}: systemd says {allocation.load}", SEEN_AFRESH_S)
    return None


def _placed_copy(report: schema.UnitReport, generation: int) -> schema.AllocationReport | Failed | Pending:
    """The unit's copy on the machine that was chosen for it, once both know of this generation; else why there is none.

    What was decided or carried out for an older wish says nothing about this one.
    """
    if report.decided < generation:
        return Pending("the leader has not decided yet where it goes")
    if not report.machine:
        return Pending(f"it {why_nowhere(report) or 'is on no machine'}", told=True)
    allocation = next(
        (allocation for allocation in _own_allocations(report) if allocation.machine == report.machine), None
    )
    place = output.place(report.machine, allocation.address if allocation else "")
    if allocation is not None and allocation.generation >= generation:
        return allocation
    if wait := describe_wait(report):
        return Pending(f"it {wait}", told=True)
    if allocation is not None and allocation.refusal:
        return Pending(f"it is refused by {place}, which {output.printable(allocation.refusal)}", told=True)
    if allocation is not None and allocation.error:
        settle_s = SEEN_AFRESH_S if allocation.result == _REFUSED else SEEN_BEFORE_S
        return Failed(f"failed on {place}: {output.indented(allocation.error)}", settle_s)
    return Pending(f"{place} has not carried it out yet")


def describe_wait(report: schema.UnitReport) -> str:
    """What the unit waits for, a sentence that begins with "waits"; '' where it does not wait."""
    return _words(report.cause.waits) if report.cause else ""


def is_held_up(report: schema.UnitReport) -> bool:
    """True where a machine that is lost or parked has to be back before what was asked of the unit is done."""
    return report.cause is not None and report.cause.kind == _WAITING_FOR_MACHINE


def why_nowhere(report: schema.UnitReport) -> str:
    """Why a unit that should be on a machine is on none: a sentence without its subject, or '' where it is on one, or
    nothing says that it should be. A machine that is lost, and waited for, is none."""
    if report.is_global or report.target == "inactive" or has_completed_elsewhere(report):
        return ""
    if report.machine:
        return describe_wait(report) if is_held_up(report) else ""
    if report.decided < report.generation:
        return "waits for the leader to decide where it goes"
    if wait := describe_wait(report):
        return wait
    reason = _words(report.reason) or "no machine fits"
    if report.rejections:
        counted = (
            f"{output.printable(each.message)} ({each.machines} machine{'s'[: each.machines > 1]})"
            for each in report.rejections
        )
        reason += ": " + ", ".join(counted)
    then = "It starts" if report.target == "launched" else "It is loaded"
    return f"cannot be placed: {reason}. {then} as soon as one fits"
