"""status: show what systemd says of units, on the machines that they are on."""

import shlex
import sys
from collections.abc import Sequence

from fleetctl import output, screen
from fleetctl.client import Client, open_client
from fleetctl.copies import Place, find_unit, pick_place, places_of, remote_options
from fleetctl.errors import CommandFailed
from fleetctl.local_files import parse_argument
from fleetctl.parsing import command as new_command
from fleetctl.parsing import pass_settings, unit_arguments
from fleetctl.remote import End, Remote, colours_of, in_order, report_failure, show_line, status_of
from fleetctl.settings import Settings


@new_command("status", usage="[--machine=ID] [--ssh-port=N] UNIT...")
@remote_options
@unit_arguments
@pass_settings
def command(settings: Settings, units: tuple[str, ...], machine: str, ssh_port: int) -> int:
    """Runs systemctl status where the units are: here, if they are on this machine, else over SSH. Of a global unit,
    every machine is asked, and a line with the machine stands before what it says.

    Ends with the first status of systemctl that is not 0: 3 for a unit that does not run.
    """
    client = open_client(settings)
    remote = Remote(settings, client, ssh_port)
    for number, unit in enumerate(units):
        if number:
            output.result("")
        status = _show(client, remote, parse_argument(unit).name.full, machine)
        if status:
            return status
    return 0


def _show(client: Client, remote: Remote, name: str, machine: str) -> int:
    report = find_unit(client, name)
    places = places_of(report)
    if not places:
        raise CommandFailed(f"Unit {name} does not appear to be loaded.")
    argv = ["systemctl", "status", "-l", name]
    if machine:
        return remote.run(pick_place(places, machine, name), argv)
    if len(places) == 1 and not report.is_global:
        return remote.run(places[0], argv)
    return _show_blocks(remote, places, shlex.join(argv))


def _show_blocks(remote: Remote, places: Sequence[Place], shell_command: str) -> int:
    """What each machine says, headed by it; the first status that is not 0."""
    colours = colours_of(places)
    ends: list[End] = []
    for end, lines in in_order(remote.run_on_all(places, shell_command), places):
        if ends:
            output.result("")
        output.result(screen.paint(f"{end.place}:", colours[end.place], sys.stdout))
        for line in lines:
            show_line(line)
        report_failure(end)
        ends.append(end)
    return status_of(ends)
