"""journal: show the log of a unit, from its machines."""

import shlex

import click

from fleetctl.client import open_client
from fleetctl.command_line import flag, new_command, unit_arguments
from fleetctl.errors import CommandFailed
from fleetctl.remote import Remote, show_as_they_come, show_in_order
from fleetctl.selection import find_all
from fleetctl.settings import Settings
from fleetctl.unit_locations import explain_absence, has_machine, pick_place, places_of_all, remote_options


@new_command(
    "journal",
    usage="[--lines=N] [--follow] [--output=FORMAT] [--sudo] [--machine=ID] [--ssh-port=N] UNIT",
    completes=("units",),
)
@click.option("--lines", "-n", type=click.IntRange(min=0), default=10, help="how many lines to show")
@flag("--follow", "--f", "-f", text="follow the log until Ctrl-C")
@click.option("--output", "form", default="short", help="a format of journalctl: short, short-iso, cat, json, …")
@flag("--sudo", text="run journalctl with sudo")
@remote_options
@unit_arguments
def command(
    settings: Settings,
    units: tuple[str, ...],
    lines: int,
    follow: bool,
    form: str,
    sudo: bool,
    machine: str,
    ssh_port: int,
) -> int:
    """Runs journalctl on the unit's machine: locally if it is this one, else over SSH. For global units and patterns,
    it runs on every machine that has the units, and each line is headed by its machine.

    Exits with the status of journalctl.
    """
    client = open_client(settings)
    if len(units) != 1:
        raise CommandFailed("One unit file must be provided.")
    reports = find_all(client, units, "show", has_machine)
    places = places_of_all(reports)
    if not places:
        raise CommandFailed(explain_absence(reports[0], "running"))
    option = "--user-unit" if settings.user else "--unit"
    named = [f"{option}={report.name}" for report in reports]
    argv = ["sudo"] * sudo + ["journalctl", *named, "--no-pager", "-n", str(lines), "--output", form]
    argv += ["-f"] * follow
    remote = Remote(settings, client, ssh_port)
    if machine:
        return remote.run(pick_place(places, machine, reports[0].name), argv)
    if len(places) == 1 and not any(report.is_global for report in reports):
        return remote.run(places[0], argv)
    show = show_as_they_come if follow else show_in_order
    return show(remote.run_on_all(places, shlex.join(argv)), places)
