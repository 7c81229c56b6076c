"""Stopping a unit and starting it again, through the API: on its machine, or on all of a global unit's.

What was stopped here is started again whatever comes between, Ctrl-C included, unless somebody else has had another
wish meanwhile.
"""

from collections.abc import Callable

from fleetctl import output
from fleetctl.client import Client
from fleetctl.errors import ClientError, failing_as
from fleetctl.log import LOG
from fleetctl.waiting import SEEN_AFRESH_S, Arrived, Failed, Judge, Pending, Verdict, Wait
from fleetctl.waiting import judge_launched as judge_launched_on_one
from fleetctl.waiting import judge_stopped as judge_stopped_on_one
from fleetd.api import schema
from fleetd.core.unit import TargetState


def restart_unit(client: Client, report: schema.UnitReport, bound_s: float) -> bool:
    """Restart one unit; whether it has stopped, and then started. Each may take `bound_s`. Raises CommandFailed."""
    if report.target == TargetState.INACTIVE:
        output.error(f"Unable to restart unit {report.name} in state inactive")
        return True
    if report.target == TargetState.LAUNCHED:
        if not _stop(client, report, bound_s):
            return False
    else:
        LOG.info("Unit(%s) is not running: it is started", report.name)
        _wish(client, report.name, TargetState.LAUNCHED)
    judge = judge_launched_everywhere if report.is_global else judge_launched_on_one
    if not _wait(client, report.name, TargetState.LAUNCHED, judge, bound_s):
        return False
    LOG.info("Unit(%s) was restarted.", report.name)
    return True


def _stop(client: Client, report: schema.UnitReport, bound_s: float) -> bool:
    """Have a unit stopped, and wish it launched again; whether it had stopped in between."""
    judge = judge_stopped_everywhere if report.is_global else judge_stopped_on_one
    try:
        _wish(client, report.name, TargetState.LOADED)
        return _wait(client, report.name, TargetState.LOADED, judge, bound_s)
    finally:
        _take_back(client, report.name)


def _take_back(client: Client, name: str) -> None:
    """Wish a unit launched, if it is still our wish that has it stopped."""
    try:
        report = client.reports([name]).get(name)
        if report is not None and report.target == TargetState.LOADED:
            client.set_target(name, TargetState.LAUNCHED)
    except ClientError as error:
        output.error(f"Unit {name} may be left stopped; fleetctl start {name} starts it: {error}")


def _wish(client: Client, name: str, target: TargetState) -> None:
    with failing_as(f"Error setting target state for unit {name}: "):
        client.set_target(name, target)


def _wait(client: Client, name: str, target: TargetState, judge: Judge, bound_s: float) -> bool:
    wait = Wait(client, target, judge)
    with failing_as("Error waiting for units: "):
        wait.until([name], bound_s)
    late = wait.report_late()
    if late:
        output.error(f"Error waiting for unit states, exit status: {late}")
    return not late and not wait.failed


def judge_stopped_everywhere(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether a global unit runs nowhere any more."""

    def judge(copy: schema.CopyReport, place: str) -> Failed | Pending | None:
        if copy.active in ("", "inactive", "failed"):
            return None
        return Pending(f"it is still {copy.active} ({copy.sub}) on {place}")

    return _judge_all(report, generation, judge)


def judge_launched_everywhere(report: schema.UnitReport, generation: int) -> Verdict:
    """Whether a global unit is active, or has completed, on all of its machines."""

    def judge(copy: schema.CopyReport, place: str) -> Failed | Pending | None:
        if copy.active == "failed" or copy.error:
            why = output.printable(copy.error) or f"systemctl status {report.name} there says why"
            return Failed(f"failed on {place} ({copy.sub}): {why}", SEEN_AFRESH_S)
        if copy.active == "active" or copy.completed:
            return None
        return Pending(f"it is {copy.active} ({copy.sub}) on {place}")

    return _judge_all(report, generation, judge)


def _judge_all(
    report: schema.UnitReport, generation: int, judge: Callable[[schema.CopyReport, str], Failed | Pending | None]
) -> Verdict:
    """The first verdict on a copy that stands in the way, once the machines know of this generation."""
    if report.decided < generation:
        return Pending("the leader has not decided yet where it goes")
    copies = [copy for copy in report.copies if not copy.retiring and not copy.orphaned]
    if len(copies) < report.machines:
        return Pending(f"{report.machines - len(copies)} of {report.machines} machines have not reported it")
    for copy in copies:
        place = output.place(copy.machine, copy.address)
        hindrance = judge(copy, place)
        if hindrance is None and copy.generation < generation:
            hindrance = Pending(f"{place} has not carried it out yet")
        if hindrance:
            return hindrance
    return Arrived(f"{len(copies)} machine{'s'[: len(copies) != 1]}")
