"""ssh: log in to a machine or the machine of a unit, or run a command there."""

import os
from collections.abc import Sequence

import click
import msgspec

from fleetctl.client import Client, open_client
from fleetctl.errors import CommandFailed, SshFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.parsing import flag, new_command
from fleetctl.remote import FAILED_STATUS, Remote, show_as_they_come
from fleetctl.selection import is_pattern, select_units
from fleetctl.settings import Settings
from fleetctl.unit_locations import Location, machine_option, match_machines, places_of_all, port_option

STDIN = 0


class Target(msgspec.Struct, frozen=True):
    """One machine, or all machines of a unit (whose name is `unit`)."""

    places: tuple[Location, ...]
    unit: str = ""


@new_command(
    "ssh", usage="[--machine=ID|--unit=UNIT] [--forward-agent] [MACHINE|UNIT] [COMMAND...]", takes_command=True
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
        if machine:
            target = _find_machine(client, machine)
        elif unit:
            target = _find_unit(client, unit)
        else:
            target = _find_either(client, words[0] if words else "")
            words = words[1:]
    if words[:1] == ("--",):
        words = words[1:]
    remote = Remote(settings, client, ssh_port, always_ssh=True)
    if len(target.places) > 1:
        return _run_on_all(remote, target, " ".join(words))
    return _run_on_one(remote, target.places[0], " ".join(words), forward_agent, tty)


def _run_on_one(remote: Remote, place: Location, words: str, forward_agent: bool, tty: bool) -> int:
    from fleetctl.ssh.sessions import run_command

    if not place.address:
        raise CommandFailed("Could not determine address of machine.")
    terminal = os.isatty(STDIN) and (tty or not words)
    doing = "Failed building SSH client"
    status = 1
    try:
        with remote.connect(place) as connection:
            doing, status = "Failed running command over SSH", FAILED_STATUS
            return run_command(connection, words, stdin=STDIN, terminal=terminal, forward_agent=forward_agent)
    except SshFailed as error:
        raise CommandFailed(f"{doing}: {error}", status) from error


def _run_on_all(remote: Remote, target: Target, words: str) -> int:
    if not words:
        listed = ", ".join(map(str, target.places))
        raise CommandFailed(
            f"Unable to proceed: {target.unit} is on several machines, and a shell opens on one: "
            f"choose it with --machine, of {listed}"
        )
    return show_as_they_come(remote.run_on_all(target.places, words), target.places)


def _find_machine(client: Client, text: str) -> Target:
    found = match_machines(_all_places(client), text)
    if not found:
        raise CommandFailed(f"Unable to proceed: machine does not exist{_listing(_all_places(client))}")
    if len(found) > 1:
        raise CommandFailed(f"Unable to proceed: found more than one machine{_listing(found)}")
    return Target(tuple(found))


def _find_unit(client: Client, text: str) -> Target:
    target = _unit_target(client, text)
    if target is None:
        raise CommandFailed("Unable to proceed: unit does not exist")
    if not target.places:
        raise CommandFailed(f"Unable to proceed: unit {target.unit} is on no machine")
    return target


def _find_either(client: Client, text: str) -> Target:
    """The argument as a machine or a unit, whichever exists."""
    if not text:
        raise CommandFailed("Unable to proceed: one machine or unit must be provided")
    machines = match_machines(_all_places(client), text)
    unit = _unit_target(client, text)
    if unit and machines:
        raise CommandFailed(
            f"Unable to proceed: ambiguous argument: {text} is a unit and a prefix of a machine's id: "
            "use --unit or --machine"
        )
    if len(machines) > 1:
        raise CommandFailed(f"Unable to proceed: found more than one machine{_listing(machines)}")
    if machines:
        return Target(tuple(machines))
    if unit is None:
        raise CommandFailed("Unable to proceed: could not find matching unit or machine")
    if not unit.places:
        raise CommandFailed(f"Unable to proceed: unit {unit.unit} is on no machine")
    return unit


def _unit_target(client: Client, text: str) -> Target | None:
    """The machines of a unit, or of all units that match a pattern; None if there is none."""
    found = select_units(client, [text]).found
    named = text if is_pattern(text) else parse_argument(text).name.full
    return Target(tuple(places_of_all(found)), named) if found else None


def _all_places(client: Client) -> list[Location]:
    return [Location(machine.id, machine.primary_ip) for machine in client.machines()]


def _listing(places: Sequence[Location]) -> str:
    return f": there are {', '.join(map(str, places))}" if places else ""
