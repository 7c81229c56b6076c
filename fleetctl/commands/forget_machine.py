"""forget-machine: remove parked machines from the cluster."""

import click

from fleetctl.client import Client
from fleetctl.command_line import new_command
from fleetctl.machine_changes import change_machines
from fleetctl.settings import Settings


@new_command("forget-machine", usage="MACHINE...", completes=("machines",))
@click.argument("machines", nargs=-1)
def command(settings: Settings, machines: tuple[str, ...]) -> int:
    """Removes parked machines (see list-machines) from the cluster, each given by a prefix of its id. They count as
    dead at once, and their units are started elsewhere.

    For machines that will not return. If one still runs, its units run there as well as elsewhere, until its fleetd is
    started again and stops those that were placed elsewhere; so stop them there first, or leave the machine parked.
    """
    return change_machines(settings, machines, Client.forget_machine, doing="forgetting", done="Forgot")
