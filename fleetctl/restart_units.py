"""Restart a unit through the API, in place: on its machine, or on all machines of a global unit.

systemd restarts it, so that units which require it are restarted with it.
"""

import msgspec

from fleetctl import output
from fleetctl.client import Client
from fleetctl.errors import failing_as
from fleetctl.log import LOG
from fleetctl.wait import Wait
from fleetctl.wait_outcome import Check, Failed, Pending, Reached, WaitOutcome, check_launched, runs
from fleetd.api import schema
from fleetd.model.unit import TargetState


def restart_unit(client: Client, report: schema.UnitReport, bound_s: float) -> bool:
    """Restart one unit, or start it if it is loaded and does not run; True once it runs, within `bound_s`.

    Raises CommandFailed.
    """
    check = on_every_machine(check_launched) if report.is_global else check_launched
    if report.target == TargetState.LAUNCHED or any(map(runs, report.allocations)):
        with failing_as(f"Error restarting unit {report.name}: "):
            for refusal in client.restart([report.name]).values():
                raise refusal
        return _wait(client, report.name, report.target, check, bound_s)
    LOG.debug("Unit %s does not run: starting it", report.name)
    with failing_as(f"Error setting target state for unit {report.name}: "):
        client.set_target(report.name, TargetState.LAUNCHED)
    return _wait(client, report.name, TargetState.LAUNCHED, check, bound_s)


def _wait(client: Client, name: str, target: str, check: Check, bound_s: float) -> bool:
    wait = Wait(client, target, check)
    with failing_as("Error waiting for units: "):
        wait.until([name], bound_s)
    late = wait.report_late()
    if late:
        output.error(f"Error waiting for unit states, exit status: {late}")
    return not late and not wait.failed


def on_every_machine(check: Check) -> Check:
    """The check of a global unit: reached once `check` says so of the allocation on every machine."""

    def check_all(report: schema.UnitReport, generation: int) -> WaitOutcome:
        allocations = [
            allocation for allocation in report.allocations if not allocation.superseded and not allocation.orphaned
        ]
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
