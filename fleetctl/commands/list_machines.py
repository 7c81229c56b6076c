"""list-machines: list the machines of the cluster."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.copies import has_id
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command
from fleetctl.parsing import command as new_command
from fleetctl.settings import Settings
from fleetd.api import schema

COLUMNS: Columns[schema.Machine] = {
    "ip": lambda machine, full: machine.primary_ip or "-",
    "machine": lambda machine, full: output.short_id(machine.id, full),
    "metadata": lambda machine, full: (
        ",".join(f"{key}={value}" for key, value in sorted(machine.metadata.items())) or "-"
    ),
    "mode": lambda machine, full: machine.mode or "-",
}
VALUES: Values[schema.Machine] = {
    "machine": lambda machine: machine.id,
    "ip": lambda machine: machine.primary_ip or None,
    "metadata": lambda machine: machine.metadata,
    "mode": lambda machine: machine.mode or None,
}
LISTING = Listing(COLUMNS, VALUES, default="machine,ip,metadata")


@new_command("list-machines", usage="[--full] [--no-legend] [--fields=FIELD,...] [--output=json] [MACHINE...]")
@list_command(LISTING)
def command(settings: Settings, view: View[schema.Machine]) -> int:
    """Lists the machines that are there, by id; with beginnings of ids, those of them alone."""
    client = open_client(settings)
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        machines = client.machines()
    if view.names:
        machines = [machine for machine in machines if any(has_id(machine.id, text) for text in view.names)]
    view.show(sorted(machines, key=lambda machine: machine.id))
    return 0
