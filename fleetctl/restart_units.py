"""Restarting a unit through the API: on its machine, or on all of a global unit's.

systemd does it, so that what needs the unit survives. An API that does not know how is asked to stop the unit and to
start it again; it is started whatever comes between, Ctrl-C included, unless somebody else has another wish meanwhile.
"""

import msgspec

from fleetctl import output
from fleetctl.client import Client
from fleetctl.errors import ClientError, failing_as
from fleetctl.log import LOG
from fleetctl.wait import Wait
from fleetctl.wait_outcome import Arrived, Failed, Judge, Pending, Verdict, judge_launched, judge_stopped, runs
from fleetd.api import schema
from fleetd.model.unit import TargetState


def restart_unit(client: Client, report: schema.UnitReport, bound_s: float) -> bool:
    """Restart one unit, or start it where it is loaded and does not run; whether it runs then. It may take `bound_s`,
    and its stop as long where the API does not know how to restart. Raises CommandFailed."""
    judge = everywhere(judge_launched) if report.is_global else judge_launched
    if report.target == TargetState.LAUNCHED or any(map(runs, report.allocations)):
        with failing_as(f"Error restarting unit {report.name}: "):
            refused = client.restart([report.name])
            if refused:
                raise refused[report.name]
        if refused is not None:
            return _wait(client, report.name, report.target, judge, bound_s)
    if report.target == TargetState.LAUNCHED:
        if not _stop(client, report, bound_s):
            return False
    else:
        LOG.debug("Unit %s does not run: it is started", report.name)
        _wish(client, report.name, TargetState.LAUNCHED)
    return _wait(client, report.name, TargetState.LAUNCHED, judge, bound_s)


def _stop(client: Client, report: schema.UnitReport, bound_s: float) -> bool:
    """Have a unit stopped, and wish it launched again; whether it had stopped in between."""
    judge = everywhere(judge_stopped) if report.is_global else judge_stopped
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


def _wait(client: Client, name: str, target: str, judge: Judge, bound_s: float) -> bool:
    wait = Wait(client, target, judge)
    with failing_as("Error waiting for units: "):
        wait.until([name], bound_s)
    late = wait.report_late()
    if late:
        output.error(f"Error waiting for unit states, exit status: {late}")
    return not late and not wait.failed


def everywhere(judge: Judge) -> Judge:
    """The judge of a global unit: it has arrived where the given one says so of the copy on each machine."""

    def judge_all(report: schema.UnitReport, generation: int) -> Verdict:
        allocations = [
            allocation for allocation in report.allocations if not allocation.superseded and not allocation.orphaned
        ]
        if report.decided < generation:
            return Pending("the leader has not decided yet where it goes")
        if len(allocations) < report.machines:
            return Pending(f"{report.machines - len(allocations)} of {report.machines} machines have not reported it")
        alone = (
            msgspec.structs.replace(report, machine=allocation.machine, allocations=(allocation,))
            for allocation in allocations
        )
        verdicts = [judge(seen, generation) for seen in alone]
        for kind in (Failed, Pending):
            hindrance = next((verdict for verdict in verdicts if isinstance(verdict, kind)), None)
            if hindrance:
                return hindrance
        return Arrived(f"{len(allocations)} machine{'s'[: len(allocations) != 1]}")

    return judge_all
