"""status: show systemctl status of units, from their machines."""

import shlex

import click
import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command, unit_arguments
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.listing import JSON, Values, render_json
from fleetctl.remote import Remote, show_in_order, systemctl
from fleetctl.selection import expand_patterns, find_all, is_no_template
from fleetctl.settings import Settings
from fleetctl.unit_locations import explain_absence, has_machine, pick_place, places_of, remote_options
from fleetctl.unit_status import show_status
from fleetctl.wait_outcome import why_unplaced
from fleetd.api import schema
from fleetd.model.machine_request import ANSWER_S

TEXT = "text"


class Row(msgspec.Struct, frozen=True):
    """A unit and its allocation on one machine (None if it has none)."""

    report: schema.UnitReport
    allocation: schema.AllocationReport | None


VALUES: Values[Row] = {
    "unit": lambda row: row.report.name,
    "dstate": lambda row: row.report.target,
    "global": lambda row: row.report.is_global,
    "reason": lambda row: why_unplaced(row.report) or None,
    "machine": lambda row: row.allocation.machine if row.allocation else None,
    "ip": lambda row: row.allocation.address or None if row.allocation else None,
    "load": lambda row: row.allocation.load or None if row.allocation else None,
    "active": lambda row: row.allocation.active or None if row.allocation else None,
    "sub": lambda row: row.allocation.sub or None if row.allocation else None,
    "completed": lambda row: row.allocation.completed if row.allocation else None,
    "error": lambda row: row.allocation.error or None if row.allocation else None,
    "hash": lambda row: row.allocation.hash or None if row.allocation else None,
}


@new_command("status", usage="[--output=json] [--machine=ID] [--ssh-port=N] UNIT...", completes=("units",))
@click.option("--output", "form", type=click.Choice([TEXT, JSON]), default=TEXT, help="text (of systemctl) or json")
@remote_options
@unit_arguments
def command(settings: Settings, units: tuple[str, ...], form: str, machine: str, ssh_port: int) -> int:
    """Shows what systemd says of units on their machines, with their last log lines: by systemctl status on this
    machine, and as their fleetd reads it on others; where that cannot tell, and with --ssh-port, systemctl status is
    run there over SSH. A global unit is shown from every machine, each headed by its machine.

    Exits with the first status of systemctl that is not 0: 3 for a unit that does not run. With --output=json, prints
    what the cluster knows, one object for each unit and machine, without connecting to machines, and exits with 0.
    """
    client = open_client(msgspec.structs.replace(settings, request_timeout_s=settings.request_timeout_s + ANSWER_S))
    if form == JSON:
        reports = find_all(client, units, "show", is_no_template)
        output.result(render_json([row for report in reports for row in _rows(report, machine)], VALUES))
        return 0
    remote = Remote(settings, client, ssh_port)
    for number, unit in enumerate(expand_patterns(client, units, "show", has_machine)):
        if number:
            output.result("")
        [report] = find_all(client, [unit], "show", has_machine)
        status = _show(settings, client, remote, report, machine, ssh_port)
        if status:
            return status
    return 0


def _rows(report: schema.UnitReport, machine: str) -> list[Row]:
    places = places_of(report)
    if machine:
        places = [pick_place(places, machine, report.name)]
    machines = [place.machine for place in places]
    return [Row(report, allocation) for allocation in report.allocations if allocation.machine in machines] or [
        Row(report, None)
    ]


def _show(
    settings: Settings, client: Client, remote: Remote, report: schema.UnitReport, machine: str, ssh_port: int
) -> int:
    places = places_of(report)
    if not places:
        raise CommandFailed(explain_absence(report, "loaded"))
    has_heads = not machine and (len(places) > 1 or report.is_global)
    if machine:
        places = [pick_place(places, machine, report.name)]
    status = 0
    if not ssh_port and not all(map(remote.is_here, places)):
        with failing_as(f"Error reading the status of Unit {report.name}: "):
            status, places = show_status(client, report.name, places, has_heads=has_heads)
        if not places:
            return status
    argv = [*systemctl(settings), "status", "-l", "--", report.name]
    if not has_heads:
        return remote.run(places[0], argv)
    return show_in_order(remote.run_on_all(places, shlex.join(argv)), places, as_blocks=True) or status
