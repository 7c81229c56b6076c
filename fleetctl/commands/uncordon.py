"""uncordon: let cordoned machines take new units again."""

import click

from fleetctl.client import Client
from fleetctl.command_line import new_command
from fleetctl.machine_changes import change_machines
from fleetctl.settings import Settings


@new_command("uncordon", usage="MACHINE...", completes=("machines",))
@click.argument("machines", nargs=-1)
def command(settings: Settings, machines: tuple[str, ...]) -> int:
    """Lets cordoned machines take new units again, each given by a prefix of its id, or, if it is absent, by the whole
    id. Units that waited for one are placed; none moves back.
    """
    return change_machines(settings, machines, Client.uncordon, doing="uncordoning", done="Uncordoned")
