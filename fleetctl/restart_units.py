"""Restart a unit through the API, in place: on its machine, or on all machines of a global unit.

systemd restarts it, so that units which require it are restarted with it.
"""

import msgspec

from fleetctl import output
from fleetctl.client import Client
from fleetctl.errors import failing_as
from fleetctl.log import LOG
from fleetctl.wait import Wait
from fleetctl.wait_outcome import Arrived, Failed, Judge, Pending, Verdict, judge_launched, runs
from fleetd.api import schema
from fleetd.model.unit import TargetState


def restart_unit(client: Client, report: schema.UnitReport, bound_s: float) -> bool:
    """Restart one unit, or start it if it is loaded and does not run; True once it runs, within `bound_s`.

    Raises CommandFailed.
    """
    judge = everywhere(judge_launched) if report.is_global else judge_launched
    if report.target == TargetState.LAUNCHED or any(map(runs, report.allocations)):
        with failing_as(f"Error restarting unit {report.name}: "):
            for refusal in client.restart([report.name]).values():
                raise refusal
        return _wait(client, report.name, report.target, judge, bound_s)
    LOG.debug("Unit %s does not run: starting it", report.name)
    with failing_as(f"Error setting target state for unit {report.name}: "):
        client.set_target(report.name, TargetState.LAUNCHED)
    return _wait(client, report.name, TargetState.LAUNCHED, judge, bound_s)


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
