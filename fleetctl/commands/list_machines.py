"""list-machines: list the machines of the cluster."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, list_options, parse_fields, show_list
from fleetctl.parsing import command as new_command
from fleetctl.parsing import pass_settings
from fleetctl.settings import Settings
from fleetd.api import schema

COLUMNS: Columns[schema.Machine] = {
    "ip": lambda machine, full: machine.primary_ip or "-",
    "machine": lambda machine, full: output.short_id(machine.id, full),
    "metadata": lambda machine, full: (
        ",".join(f"{key}={value}" for key, value in sorted(machine.metadata.items())) or "-"
    ),
}


@new_command("list-machines", usage="[--full] [--no-legend] [--fields=FIELD,...]")
@list_options(COLUMNS, default="machine,ip,metadata")
@pass_settings
def command(settings: Settings, full: bool, no_legend: bool, fields: str, ignored: tuple[str, ...]) -> int:
    """Lists the machines that are there, by id."""
    columns = parse_fields(fields, COLUMNS)
    client = open_client(settings)
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        machines = client.machines()
    show_list(sorted(machines, key=lambda machine: machine.id), COLUMNS, columns, full, no_legend)
    return 0
