"""drain: move the units of machines to others, and wait for that."""

from collections.abc import Sequence
from operator import attrgetter

import click

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import TimeSpan, flag, new_command
from fleetctl.drains import describe_end, follow_drains
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.listing import JSON, TABLE, render_json
from fleetctl.machine_changes import change_each, pick_machine
from fleetctl.plans import open_patient_client, show_plan
from fleetctl.settings import Settings
from fleetctl.unit_locations import Location, all_locations
from fleetd.api import schema

INTERRUPTED_STATUS = 130
_VALUES = {name: attrgetter(name) for name in schema.DrainReport.__struct_fields__}


@new_command(
    "drain",
    usage="[--why=TEXT] [--deadline=TIME] [--globals] [--force] [--plan|--no-block] [--output=json] MACHINE...",
    completes=("machines",),
)
@click.option("--why", default="", metavar="TEXT", help="the reason, on one line, which is shown wherever it matters")
@click.option(
    "--deadline",
    type=TimeSpan(infinity_s=0.0),
    default="infinity",
    help="move no more units after this time span, as in 15min; what is there then stays",
)
@flag("--globals", "with_globals", text="stop global units there, too")
@flag("--force", text="move units whatever becomes unavailable, and stop what fits nowhere else")
@flag("--plan", "plans_only", text="print what would happen, and change nothing")
@flag("--no-block", text="do not wait for the end of the drain")
@click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="table, or json: an array of objects"
)
@click.argument("machines", nargs=-1)
def command(
    settings: Settings,
    machines: tuple[str, ...],
    why: str,
    deadline: float,
    with_globals: bool,
    force: bool,
    plans_only: bool,
    no_block: bool,
    form: str,
) -> int:
    """Cordons machines, each given by a prefix of its id, and moves their units to others, as many at a time as the
    groups of the units allow (MaxUnavailable= in [X-Fleet]): the next one of a group stops when the last one is proven
    where it went. Their places there are kept meanwhile. A unit that fits nowhere else is not stopped, a oneshot at
    work may finish, and global units stay.

    Prints a line for each unit that is proven on its new machine or fails there, for what waits and for whom, and for
    what stays and why. Exits with 0 once nothing is left but global units, by what the machines report, and with 1 if
    something stays. The drain goes on if this command is interrupted; uncordon ends it, and lets the machine take new
    units again. No unit moves back.

    With --plan it changes nothing, and prints what would happen if the machines were drained together, as the fleetd
    that is asked computes it: each move in its order with the reason, what would run nowhere, and what stays and why.
    It takes every start to succeed, and no time to pass: deadlines are passed over. What is under way otherwise is part
    of it. Exits with 0 if nothing but global units would be left, and with 1 if something would stay or run nowhere.
    """
    if plans_only:
        return _plan(settings, machines, form, with_globals=with_globals, force=force)
    client = open_client(settings)
    request = schema.DrainRequest(why, deadline, with_globals, force)
    places = change_each(
        client,
        machines,
        lambda client, machine: client.drain(machine, request),
        "draining",
        lambda place: "" if form == JSON else f"Draining machine {place}",
    )
    try:
        reports = _read(client, places) if no_block else follow_drains(client, places, is_quiet=form == JSON)
    except KeyboardInterrupt:
        _explain_interruption(places)
        return INTERRUPTED_STATUS
    if form == JSON:
        output.result(render_json(reports, _VALUES))
    elif not no_block:
        _conclude(reports)
    is_done = no_block or all(report.drained for report in reports)
    return 0 if is_done and len(places) == len(machines) else 1


def _plan(settings: Settings, machines: Sequence[str], form: str, *, with_globals: bool, force: bool) -> int:
    client = open_patient_client(settings)
    if not machines:
        raise CommandFailed("No machines given")
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        known = all_locations(client)
    places = [pick_machine(known, text) for text in machines]
    drains = tuple(schema.PlannedDrain(place.machine, with_globals, force) for place in places)
    with failing_as("Error planning the drain: "):
        plan = client.plan(schema.PlanRequest(drain=drains))
    show_plan(plan, form)
    return 1 if plan.nowhere or any(unit.state != "global" for unit in plan.stays) else 0


def _read(client: Client, places: Sequence[Location]) -> list[schema.DrainReport]:
    with failing_as("Error retrieving drains: "):
        return [client.drain_report(place.machine) for place in places]


def _conclude(reports: Sequence[schema.DrainReport]) -> None:
    for report in reports:
        say = output.result if report.drained else output.error
        say(f"{report.machine[:8]} {describe_end(report)}")


def _explain_interruption(places: Sequence[Location]) -> None:
    ids = " ".join(place.machine[:8] for place in places)
    output.note(f"The drain goes on: the same command follows it again, and `fleetctl uncordon {ids}` ends it")
