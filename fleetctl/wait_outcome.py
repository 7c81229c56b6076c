"""Whether a unit has reached the state that a command waits for: reached, failed, or pending. Pure."""

from collections.abc import Callable

import msgspec

from fleetctl import output
from fleetd.api import schema
from fleetd.model.unit import TargetState

# How long a service must be active to count as such: systemd reports Type=simple active as soon as it has forked, even
# if it exits at once.
ACTIVE_S = 0.1
# How long a reason to wait must last before it is printed: most waits are over sooner.
NOTICE_S = 0.3

# How long a failure must last to count. It may still be that of an earlier operation (FAILED_BEFORE_S), or systemd may
# hold the unit back for others that are ordered before it (ENDED_S).
FAILED_S = 0.3
FAILED_BEFORE_S = 1.0
ENDED_S = 10.0
# Restart= starts it again and again: the next attempt may last.
RESTARTING_S = 3.0

_BAD_LOADS = ("not-found", "bad-setting", "error", "masked")
_AT_REST = ("", "inactive", "failed")
_SKIPPED = ("condition", "skipped")  # results of a start that systemd skipped: no failure
_DONE = "done"  # of a start that succeeded, when the unit has ended since
_REFUSED = "refused"  # of a job that systemd rejected
_WAITS_FOR_LOCK = "lock"  # of a unit that is started as soon as it has its lock
# Kinds of schema.Cause.
_COMPLETED = "completed"
_MISSING_SECRETS = "missing-secrets"
_WAITING_FOR_MACHINE = "waiting-for-machine"


class Reached(msgspec.Struct, frozen=True):
    """The state is reached, at this place ('' for no machine); counts once it has lasted `settle_s`.

    `note` is a remark for the user: a sentence about the unit without its name, or ''.
    """

    place: str = ""
    settle_s: float = 0.0
    note: str = ""


class Failed(msgspec.Struct, frozen=True):
    """The state will not be reached: a sentence without the unit's name. Counts once it has lasted `settle_s`."""

    why: str
    settle_s: float = 0.0


class Pending(msgspec.Struct, frozen=True):
    """What is being waited for. If it `is_urgent`, it is printed at once, not only when time is up."""

    what: str
    is_urgent: bool = False


WaitOutcome = Reached | Failed | Pending
Check = Callable[[schema.UnitReport, int], WaitOutcome]


def check_launched(report: schema.UnitReport, generation: int) -> WaitOutcome:
    """Whether the unit has become active, or has completed, since this generation."""
    if report.decided >= generation and has_completed_elsewhere(report):
        return Reached()
    allocation = _current_allocation(report, generation)
    if not isinstance(allocation, schema.AllocationReport):
        return allocation
    place = _place(allocation)
    if allocation.completed:
        return Reached(place)
    if allocation.active == "active":
        note = f"is on {place}: {_words(allocation.note)}" if allocation.note else ""
        return Reached(place, ACTIVE_S if report.name.endswith(".service") else 0.0, note)
    if allocation.result == _WAITS_FOR_LOCK and not runs(allocation):
        return Reached(place, note=f"on {place} {_words(allocation.note)}")
    if allocation.result in _SKIPPED and not runs(allocation):
        return Reached(place, note=f"was not started on {place}: {_words(allocation.note) or allocation.result}")
    if allocation.result == _DONE and allocation.active == "inactive":
        return Reached(place, note=f"has ended on {place} already, with success")
    if allocation.active == "failed":
        why = output.indented(allocation.error) or f"systemctl status {report.name} there says why"
        return Failed(f"failed on {place} ({allocation.sub}): {why}", FAILED_S)
    if failure := _why_not_loaded(allocation):
        return failure
    if allocation.sub.startswith("auto-restart"):
        why = f"fleetctl journal {report.name} says why"
        return Failed(f"has ended on {place}, and systemd restarts it as its Restart= says: {why}", RESTARTING_S)
    if allocation.active in _AT_REST:
        return Failed(f"was started on {place}, but does not run ({allocation.active}, {allocation.sub})", ENDED_S)
    return Pending(f"it is {allocation.active} ({allocation.sub}) on {place}")


def has_completed_elsewhere(report: schema.UnitReport) -> bool:
    """True for a oneshot that has completed on a machine that is gone."""
    return not report.machine and report.cause is not None and report.cause.kind == _COMPLETED


def check_loaded(report: schema.UnitReport, generation: int) -> WaitOutcome:
    """Whether the unit is on a machine, loaded by systemd there, and stopped."""
    if running := _still_runs(report, generation):
        return running
    allocation = _current_allocation(report, generation)
    if not isinstance(allocation, schema.AllocationReport):
        return allocation
    return _why_not_loaded(allocation) or _reached_loaded(allocation)


def check_stopped(report: schema.UnitReport, generation: int) -> WaitOutcome:
    """Whether the unit is stopped everywhere; unlike check_loaded, it may have no machine or not be loaded."""
    if running := _still_runs(report, generation):
        return running
    if report.decided >= generation and not report.machine:
        return Reached()
    allocation = _current_allocation(report, generation)
    return _reached_loaded(allocation) if isinstance(allocation, schema.AllocationReport) else allocation


def _reached_loaded(allocation: schema.AllocationReport) -> Reached:
    place = _place(allocation)
    note = f"has been started on {place} by something else than fleet: its socket or timer, another unit, an operator"
    return Reached(place, note=note if runs(allocation) else "")


def check_unloaded(report: schema.UnitReport, generation: int) -> WaitOutcome:
    """Whether no machine has the unit. One without allocations needs no decision of the leader."""
    for allocation in _own_allocations(report):
        if allocation.hash or runs(allocation):
            return _still_runs(report, generation) or still_there(allocation)
    if report.machine or 0 < report.decided < generation:
        return Pending("the leader has not taken it off its machine yet")
    return Reached()


def _own_allocations(report: schema.UnitReport) -> list[schema.AllocationReport]:
    return [allocation for allocation in report.allocations if not allocation.orphaned]


def active_allocations(report: schema.UnitReport) -> list[schema.AllocationReport]:
    """The allocations that are neither superseded nor orphaned."""
    return [allocation for allocation in _own_allocations(report) if not allocation.superseded]


def _place(allocation: schema.AllocationReport) -> str:
    return output.place(allocation.machine, allocation.address)


def _words(text: str) -> str:
    """Text of a machine or the leader without its full stop, to end our own sentence."""
    return output.printable(text).rstrip(".")


def runs(allocation: schema.AllocationReport) -> bool:
    """True if processes of the unit may exist on the machine."""
    return allocation.active not in _AT_REST


def _still_runs(report: schema.UnitReport, generation: int) -> Failed | Pending | None:
    """Pending or Failed for an allocation that has still to stop, else None.

    An agent publishes the new generation once the stop has ended: what runs after that was started again.
    """
    running = [
        allocation
        for allocation in _own_allocations(report)
        if runs(allocation) and not _runs_again(report, allocation, generation)
    ]
    if not running:
        return None
    if report.decided >= generation and is_held_up(report):
        return Pending(f"it {describe_wait(report)}", is_urgent=True)
    if running[0].result == _REFUSED:
        place = _place(running[0])
        return Failed(f"is not stopped on {place}: {output.indented(running[0].error)}", FAILED_S)
    return still_there(running[0])


def _runs_again(report: schema.UnitReport, allocation: schema.AllocationReport, generation: int) -> bool:
    here = allocation.machine == report.machine or report.is_global
    is_loaded = allocation.target == TargetState.LOADED and allocation.generation >= generation
    return here and is_loaded and not allocation.superseded


def still_there(allocation: schema.AllocationReport) -> Pending:
    last = f"; last error: {output.printable(allocation.error)}" if allocation.error else ""
    return Pending(f"it is still {allocation.active} ({allocation.sub}) on {_place(allocation)}{last}")


def _why_not_loaded(allocation: schema.AllocationReport) -> Failed | None:
    """The failure of an allocation that systemd could not load, else None."""
    place = _place(allocation)
    if allocation.error:
        return Failed(f"failed on {place}: {output.indented(allocation.error)}", FAILED_S)
    if allocation.load in _BAD_LOADS:
        return Failed(f"could not be loaded on {place}: systemd says {allocation.load}", FAILED_S)
    return None


def _current_allocation(report: schema.UnitReport, generation: int) -> schema.AllocationReport | Failed | Pending:
    """The allocation on the assigned machine once leader and machine have acted on this generation, else why not."""
    if report.decided < generation:
        return Pending("the leader has not placed it yet")
    if not report.machine:
        return Pending(f"it {why_unplaced(report) or 'is on no machine'}", is_urgent=True)
    allocation = next(
        (allocation for allocation in _own_allocations(report) if allocation.machine == report.machine), None
    )
    place = output.place(report.machine, allocation.address if allocation else "")
    if allocation is not None and allocation.generation >= generation:
        return allocation
    if wait := describe_wait(report):
        return Pending(f"it {wait}", is_urgent=True)
    if allocation is not None and allocation.result == _WAITS_FOR_LOCK and allocation.note:
        return allocation
    if allocation is not None and allocation.refusal:
        return Pending(f"it is refused by {place}, which {output.printable(allocation.refusal)}", is_urgent=True)
    if allocation is not None and allocation.error:
        is_new = allocation.result == _REFUSED and not runs(allocation)  # if it runs, it may be of an earlier change
        settle_s = FAILED_S if is_new else FAILED_BEFORE_S
        return Failed(f"failed on {place}: {output.indented(allocation.error)}", settle_s)
    if allocation is not None and allocation.note.startswith("waits "):
        return Pending(f"it {output.printable(allocation.note)}, on {place}", is_urgent=True)
    return Pending(f"{place} has not carried it out yet")


def on_every_machine(check: Check) -> Check:
    """The check of a global unit: reached once `check` says so of the allocation on every machine."""

    def check_all(report: schema.UnitReport, generation: int) -> WaitOutcome:
        allocations = active_allocations(report)
        if report.decided < generation:
            return Pending("the leader has not placed it yet")
        if len(allocations) < report.machines:
            return Pending(f"{report.machines - len(allocations)} of {report.machines} machines have not reported it")
        alone = (
            msgspec.structs.replace(report, machine=allocation.machine, allocations=(allocation,))
            for allocation in allocations
        )
        outcomes = [check(seen, generation) for seen in alone]
        for kind in (Failed, Pending):
            obstacle = next((outcome for outcome in outcomes if isinstance(outcome, kind)), None)
            if obstacle:
                return obstacle
        return Reached(f"{len(allocations)} machine{'s'[: len(allocations) != 1]}")

    return check_all


def describe_wait(report: schema.UnitReport) -> str:
    """What the unit waits for, a sentence that begins with "waits"; '' where it does not wait."""
    return _words(report.cause.waits) if report.cause else ""


def is_held_up(report: schema.UnitReport) -> bool:
    """True where a machine that is lost or parked has to be back before what was asked of the unit is done."""
    return report.cause is not None and report.cause.kind == _WAITING_FOR_MACHINE


def why_unplaced(report: schema.UnitReport) -> str:
    """Why a unit that should be on a machine is not: a sentence without its subject, else ''.

    A lost or parked machine that the unit waits for does not count as one.
    """
    if report.is_global or report.target == TargetState.INACTIVE or has_completed_elsewhere(report):
        return ""
    if report.machine:
        return describe_wait(report) if is_held_up(report) else ""
    if report.decided < report.generation:
        return "waits for the leader to place it"
    if wait := describe_wait(report):
        return wait
    reason = _words(report.reason) or "no machine fits"
    if report.rejections:
        counted = (
            f"{output.printable(each.message)} ({each.machines} machine{'s'[: each.machines > 1]})"
            for each in report.rejections
        )
        reason += ": " + ", ".join(counted)
    then = "It starts" if report.target == TargetState.LAUNCHED else "It is loaded"
    is_short_of_secrets = report.cause is not None and report.cause.kind == _MISSING_SECRETS
    as_soon = "it is set" if is_short_of_secrets else "one fits"
    return f"cannot be placed: {reason}. {then} as soon as {as_soon}"
