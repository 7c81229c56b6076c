"""history: show what has happened to a unit."""

import click

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import new_command
from fleetctl.commands.events import FORM, show
from fleetctl.errors import failing_as
from fleetctl.local_files import parse_argument
from fleetctl.selection import is_pattern
from fleetctl.settings import Settings
from fleetctl.suggestion import suggest_unit
from fleetd.api.event_schema import MARK


@new_command("history", usage="[--output=json] UNIT", completes=("units",))
@FORM
@click.argument("unit")
def command(settings: Settings, unit: str, form: str) -> int:
    """Shows what has happened to a unit in the last seven days, oldest first: who asked for what, where it was placed
    and moved, and why. The unit need not exist any more. Of a cluster in which more has happened, the latest events are
    looked at: 4 MiB of all units together."""
    client = open_client(settings)
    name = unit if is_pattern(unit) else parse_argument(unit).name.full
    with failing_as("Error retrieving the events: "):
        events = list(client.events([("unit", name), ("follow", "false"), ("latest", "true")]))
    if not any(event.unit for event in events) and events[-1:] and events[-1].kind == MARK:
        output.note(f"Nothing is known of unit {output.printable(name)}.{suggest_unit(client, name)}")
    return show(events, form)
