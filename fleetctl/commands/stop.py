"""stop: stop units; they stay on their machines. `unload` does the same with a lower target state.

Both look at a unit's target state, not at its current one, so that a unit which cannot be placed can be stopped too.
"""

from collections.abc import Sequence

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import blocking_options, bound_s, missing_option, new_command, unit_arguments
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.selection import ReportFilter, Selection, describe_missing, is_active, is_no_template, select_units
from fleetctl.settings import Settings
from fleetctl.wait import Wait
from fleetctl.wait_outcome import Check, check_stopped, check_unloaded, runs
from fleetd.api import schema
from fleetd.model.unit import TargetState


class StopVerb(msgspec.Struct, frozen=True):
    """A command that lowers units to a target state, and its words."""

    name: str
    doing: str
    done: str
    target: TargetState
    check: Check


STOP = StopVerb("stop", "stopping", "stopped", TargetState.LOADED, check_stopped)
UNLOAD = StopVerb("unload", "unloading", "unloaded", TargetState.INACTIVE, check_unloaded)


@new_command("stop", usage="[--no-block|--block-attempts=N] [--ignore-missing] UNIT...", completes=("units",))
@blocking_options
@missing_option
@unit_arguments
def command(
    settings: Settings, units: tuple[str, ...], ignore_missing: bool, no_block: bool, block_attempts: int
) -> int:
    """Stops units; they stay on their machines, loaded by systemd.

    Exits with 0 once they have stopped, and with 1 if the cluster does not have one of them. Global units are not
    waited for.
    """
    return run_stop(settings, units, STOP, ignore_missing, no_block, block_attempts)


def find_units(
    client: Client, units: Sequence[str], verb: str, wanted: ReportFilter, *, ignore_missing: bool
) -> Selection:
    """The units among the arguments; errors are printed for the missing ones unless ignored. Raises CommandFailed."""
    with failing_as("Error retrieving list of units from repository: "):
        selection = select_units(client, units, wanted)
    if selection.missing and not selection.found:
        output.error("Units not found in registry")
    for name in selection.missing if not ignore_missing else ():
        output.error(describe_missing(client, name, verb))
    return selection


def run_stop(
    settings: Settings, units: Sequence[str], verb: StopVerb, ignore_missing: bool, no_block: bool, block_attempts: int
) -> int:
    """Bring the units down to the target state; returns the exit status."""
    client = open_client(settings)
    if not units:
        raise CommandFailed("No units given", status=0)
    wanted = is_active if verb is STOP else is_no_template
    selection = find_units(client, units, verb.name, wanted, ignore_missing=ignore_missing)
    status = 1 if selection.missing and not ignore_missing else 0
    if not selection.found:
        return status
    sent = []
    for report in selection.found:
        if verb is STOP and report.target == TargetState.INACTIVE:
            output.error(f"Unable to stop unit {report.name} in state inactive")
            status = 1
        elif report.is_global or report.target != verb.target or any(map(runs, report.allocations)):
            sent.append(report)
    with failing_as(f"Error {verb.doing} units: "):
        refused = client.carry_out([schema.UnitOperation(report.name, desired_state=verb.target) for report in sent])
    waited = []
    for report in sent:
        if report.name in refused:
            output.error(f"Error {verb.doing} units: unit {report.name}: {refused[report.name]}")
            status = 1
            continue
        if report.is_global or no_block:
            output.result(f"Triggered {'global ' * report.is_global}unit {report.name} {verb.name}")
        if not report.is_global:
            waited.append(report.name)
    return status if no_block else max(status, _wait(client, waited, verb, bound_s(block_attempts)))


def _wait(client: Client, names: Sequence[str], verb: StopVerb, bound_s: float) -> int:
    listed = f"[{' '.join(names)}]"
    wait = Wait(client, verb.target, verb.check)
    with failing_as("Error waiting for units: "):
        wait.until(names, bound_s)
    why = wait.report_late() or next(iter(wait.failed.values()), "")
    if why:
        output.error(f"Failed to {verb.name} units {listed}. err: {why}")
        return 1
    output.note(f"Successfully {verb.done} units {listed}.")
    return 0
