"""journal: show the log of a unit, from its machines."""

import shlex
import time

import click
import msgspec

from fleetctl.client import open_client
from fleetctl.command_line import flag, new_command, unit_arguments
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.log_following import follow_logs
from fleetctl.logs import FORMATS, MAX_LINES, LogQuery, show_logs
from fleetctl.remote import Remote, show_as_they_come, show_in_order
from fleetctl.selection import find_all, is_no_template
from fleetctl.settings import Settings
from fleetctl.unit_locations import (
    all_locations,
    explain_absence,
    has_machine,
    pick_place,
    places_of_all,
    remote_options,
)
from fleetd.model.machine_request import ANSWER_S
from fleetd.model.timespan import parse_time_span


@new_command(
    "journal",
    usage="[--lines=N] [--since=TIME] [--grep=PATTERN] [--follow] [--previous] [--output=FORMAT] [--sudo] "
    "[--machine=ID] [--ssh-port=N] UNIT",
    completes=("units",),
)
@click.option("--lines", "-n", type=click.IntRange(min=0), default=10, help="how many lines to show")
@click.option("--since", default="", metavar="TIME", help="only entries of this last time, like 90s, 2h or 1d")
@click.option(
    "--grep", "-g", default="", metavar="PATTERN", help="only entries whose message matches, as in journalctl"
)
@flag("--follow", "--f", "-f", text="follow the log until Ctrl-C")
@flag("--previous", text="also from the machines on which the units were before")
@click.option("--output", "form", default="short", help="a format of journalctl: short, short-iso, cat, json, …")
@flag("--sudo", text="run journalctl with sudo")
@remote_options
@unit_arguments
def command(
    settings: Settings,
    units: tuple[str, ...],
    lines: int,
    since: str,
    grep: str,
    follow: bool,
    previous: bool,
    form: str,
    sudo: bool,
    machine: str,
    ssh_port: int,
) -> int:
    """Shows the last entries that a unit logged on its machine. journalctl is run there: on this machine directly, on
    others by their fleetd; over SSH with --sudo, --ssh-port, more than 10000 lines, or another format than short,
    short-iso, cat and json, and where fleetd cannot tell. For global units and patterns, every machine that has the
    units is asked, and each line is headed by its machine. With --previous, so are the machines on which the units were
    before, as far as the events of the last seven days tell.

    Exits with the status of journalctl, 0 if fleetd has shown all.
    """
    client = open_client(msgspec.structs.replace(settings, request_timeout_s=settings.request_timeout_s + ANSWER_S))
    if len(units) != 1:
        raise CommandFailed("One unit file must be provided.")
    since_s = _parse_since(since)
    reports = find_all(client, units, "show", is_no_template if previous else has_machine)
    places = places_of_all(reports)
    is_shown_by_fleetd = not (sudo or ssh_port) and form in FORMATS and lines <= MAX_LINES
    if previous and (follow or machine or not is_shown_by_fleetd):
        raise CommandFailed(
            f"--previous takes --output={', '.join(FORMATS)} and up to {MAX_LINES} lines, and no --follow, --machine, "
            "--sudo and --ssh-port"
        )
    if not places and not previous:
        raise CommandFailed(explain_absence(reports[0], "running"))
    has_heads = not machine and (previous or len(places) > 1 or any(report.is_global for report in reports))
    if machine:
        places = [pick_place(places, machine, reports[0].name)]
    remote = Remote(settings, client, ssh_port)
    query = LogQuery([report.name for report in reports], lines, since_s, grep, form)
    argv = ["sudo"] * sudo + query.journalctl("--user-unit" if settings.user else "--unit") + ["-f"] * follow
    if is_shown_by_fleetd and follow and not all(map(remote.is_here, places)):
        events = follow_logs(client, remote, query, places, shlex.join(argv))
        return show_as_they_come(events, places, has_heads=has_heads)
    if is_shown_by_fleetd and (previous or not all(map(remote.is_here, places))):
        with failing_as("Error reading logs: "):
            others = all_locations(client) if previous else ()
            places = show_logs(client, query, places, has_heads=has_heads, others=others)
        if not places:
            return 0
    if not has_heads:
        return remote.run(places[0], argv)
    show_all = show_as_they_come if follow else show_in_order
    return show_all(remote.run_on_all(places, shlex.join(argv)), places)


def _parse_since(text: str) -> float:
    """The Unix time so long ago; 0 if nothing is given. Raises CommandFailed."""
    if not text:
        return 0.0
    try:
        return max(1.0, time.time() - parse_time_span(text))
    except ValueError as error:
        raise CommandFailed(f"--since: {error}") from error
