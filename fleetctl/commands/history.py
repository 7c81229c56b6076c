"""history: show what has happened to a unit."""

import click

from fleetctl.client import open_client
from fleetctl.command_line import new_command
from fleetctl.commands.events import FORM, show
from fleetctl.errors import failing_as
from fleetctl.settings import Settings


@new_command("history", usage="[--output=json] UNIT", completes=("units",))
@FORM
@click.argument("unit")
def command(settings: Settings, unit: str, form: str) -> int:
    """Shows what has happened to a unit in the last seven days, oldest first: who asked for what, where it was placed
    and moved, and why. The unit need not exist any more. Of a cluster in which more has happened, the latest events are
    looked at: 4 MiB of all units together."""
    client = open_client(settings)
    with failing_as("Error retrieving the events: "):
        return show(client.events([("unit", unit), ("follow", "false"), ("latest", "true")]), form)
