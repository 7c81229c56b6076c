"""forget-machine: remove parked machines from the cluster."""

import click

from fleetctl import output
from fleetctl.client import ApiError, Client, open_client
from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.settings import Settings
from fleetctl.unit_locations import Location, all_locations, match_machines


@new_command("forget-machine", usage="MACHINE...", completes=("machines",))
@click.argument("machines", nargs=-1)
def command(settings: Settings, machines: tuple[str, ...]) -> int:
    """Removes parked machines (see list-machines) from the cluster, each given by a prefix of its id. They count as
    dead at once, and their units are started elsewhere.

    For machines that will not return. If one still runs, its units run there as well as elsewhere, until its fleetd is
    started again and stops those that were placed elsewhere; so stop them there first, or leave the machine parked.
    """
    if not machines:
        raise CommandFailed("No machines given")
    client = open_client(settings)
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        places = all_locations(client)
    return max(_forget(client, places, text) for text in machines)


def _forget(client: Client, places: list[Location], text: str) -> int:
    found = match_machines(places, text)
    if len(found) != 1:
        why = f"is a prefix of {', '.join(map(str, found))}" if found else "is not a machine of the cluster"
        output.error(f"{output.printable(text)} {why}")
        return 1
    try:
        client.forget_machine(found[0].machine)
    except ApiError as error:
        output.error(f"Error forgetting machine {found[0]}: {error}")
        return 1
    output.result(f"Forgot machine {found[0]}")
    return 0
