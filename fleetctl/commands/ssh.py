"""ssh: log in to a machine or the machine of a unit, or run a command there."""

import os
from collections.abc import Sequence

import click
import msgspec

from fleetctl.client import Client, open_client
from fleetctl.command_line import flag, new_command
from fleetctl.errors import CommandFailed, SshFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.remote import FAILED_STATUS, Remote, show_as_they_come
from fleetctl.selection import is_pattern, select_units
from fleetctl.settings import Settings
from fleetctl.unit_locations import Location, all_locations, machine_option, match_machines, places_of_all, port_option

STDIN = 0


class Destination(msgspec.Struct, frozen=True):
    """One machine, or all machines of a unit (whose name is `unit`)."""

    places: tuple[Location, ...]
    unit: str = ""


@new_command(
    "ssh",
    usage="[--machine=ID|--unit=UNIT] [--forward-agent] [MACHINE|UNIT] [COMMAND...]",
    completes=("units", "machines"),
    takes_command=True,
)
@machine_option()
@click.option("--unit", default="", help="the unit whose machine to log in to")
@flag("--forward-agent", "--A", "-A", text="forward your SSH agent")
@flag("--tty", "-t", text="allocate a terminal for the command")
@port_option()
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(
    settings: Settings,
    words: tuple[str, ...],
    machine: str,
    unit: str,
    forward_agent: bool,
    tty: bool,
    ssh_port: int,
) -> int:
    """Opens a shell on a machine, given by a prefix of its id or by a unit on it. Further words are run as a command
    instead; the remote shell parses them, so quote accordingly. Options go first. For a global unit or a pattern, the
    command runs on all machines that have the units, and each line is headed by its machine.

    Exits with the status of the shell or the command, and with 255 if the connection is lost.
    """
    client = open_client(settings)
    if machine and unit:
        raise CommandFailed("Both machine and unit flags provided, please specify only one.")
    with failing_as("Unable to proceed: "):
        named = machine or unit
        destination = _find_destination(client, machine, unit, "" if named or not words else words[0])
        words = words if named else words[1:]
    if words[:1] == ("--",):
        words = words[1:]
    remote = Remote(settings, client, ssh_port, always_ssh=True)
    if len(destination.places) > 1:
        return _run_on_all(remote, destination, " ".join(words))
    return _run_on_one(remote, destination.places[0], " ".join(words), forward_agent, tty)


def _run_on_one(remote: Remote, place: Location, words: str, forward_agent: bool, tty: bool) -> int:
    from fleetctl.ssh.sessions import run_command

    if not place.address:
        raise CommandFailed(
            f"Could not determine address of machine. {place} has published none: set public_ip in its fleet.conf"
        )
    terminal = os.isatty(STDIN) and (tty or not words)
    doing = "Failed building SSH client"
    status = 1
    try:
        with remote.connect(place) as connection:
            doing, status = "Failed running command over SSH", FAILED_STATUS
            return run_command(connection, words, stdin=STDIN, terminal=terminal, forward_agent=forward_agent)
    except SshFailed as error:
        raise CommandFailed(f"{doing}: {error}", status) from error


def _run_on_all(remote: Remote, destination: Destination, words: str) -> int:
    if not words:
        listed = ", ".join(map(str, destination.places))
        raise CommandFailed(
            f"Unable to proceed: {destination.unit} is on several machines, and a shell opens on one: "
            f"choose it with --machine, of {listed}"
        )
    return show_as_they_come(remote.run_on_all(destination.places, words), destination.places)


def _find_destination(client: Client, machine: str, unit: str, word: str) -> Destination:
    """The machine or unit that an option names, else the first word. Raises CommandFailed and ClientError."""
    if not (machine or unit or word):
        raise CommandFailed("Unable to proceed: one machine or unit must be provided")
    there = [] if unit else all_locations(client)
    machines = match_machines(there, machine or word)
    found = None if machine else _unit_destination(client, unit or word)
    if machines and found:
        raise CommandFailed(
            f"Unable to proceed: ambiguous argument: {word} is a unit and a prefix of a machine's id: "
            "use --unit or --machine"
        )
    if len(machines) > 1:
        raise CommandFailed(f"Unable to proceed: found more than one machine{_listing(machines)}")
    if machines:
        return Destination(tuple(machines))
    if machine:
        raise CommandFailed(f"Unable to proceed: machine does not exist{_listing(there)}")
    if found is None:
        what = "unit does not exist" if unit else "could not find matching unit or machine"
        raise CommandFailed(f"Unable to proceed: {what}")
    if not found.places:
        raise CommandFailed(f"Unable to proceed: unit {found.unit} is on no machine")
    return found


def _unit_destination(client: Client, text: str) -> Destination | None:
    """The machines of a unit, or of all units that match a pattern; None if there is none."""
    found = select_units(client, [text]).found
    named = text if is_pattern(text) else parse_argument(text).name.full
    return Destination(tuple(places_of_all(found)), named) if found else None


def _listing(places: Sequence[Location]) -> str:
    return f": there are {', '.join(map(str, places))}" if places else ""
