"""services: list what units announce."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command
from fleetctl.settings import Settings
from fleetd.api import schema

ANNOUNCED = "announced"

COLUMNS: Columns[schema.Service] = {
    "service": lambda each, full: each.service,
    "unit": lambda each, full: each.unit,
    "machine": lambda each, full: output.short_id(each.machine, full),
    "address": lambda each, full: each.address or "-",
    "port": lambda each, full: f"{each.port}/{each.protocol}",
    "zone": lambda each, full: each.zone or "-",
    "state": lambda each, full: each.failing or ANNOUNCED,
}
VALUES: Values[schema.Service] = {
    "service": lambda each: each.service,
    "unit": lambda each: each.unit,
    "machine": lambda each: each.machine,
    "address": lambda each: each.address or None,
    "port": lambda each: each.port,
    "protocol": lambda each: each.protocol,
    "zone": lambda each: each.zone or None,
    "failing": lambda each: each.failing or None,
}
LISTING = Listing(COLUMNS, VALUES, default="service,unit,machine,address,port,state")


@new_command("services", usage="[--full] [--no-legend] [--fields=FIELD,...] [--output=json] [NAME...]")
@list_command(LISTING)
def command(settings: Settings, view: View[schema.Service]) -> int:
    """Lists which units on which machines answer to the names that units announce (Announce=, see fleet.unit(5)), and
    at which ports; with names, only those. One whose check fails is listed with the reason, and is not announced. It
    fails if nothing is listed of a name that was given."""
    client = open_client(settings)
    with failing_as("Error retrieving what units announce: "):
        found = [each for name in view.names or ("",) for each in client.services(name).services]
    view.show(found)
    missing = [name for name in view.names if all(each.service != name for each in found)]
    if missing:
        raise CommandFailed(
            f"No unit that is active announces {', '.join(map(output.printable, missing))}: "
            "fleetctl status UNIT shows the units that should"
        )
    return 0
