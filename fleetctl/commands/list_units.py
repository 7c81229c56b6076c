"""list-units: list the units that are on machines, as systemd sees them."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, Located, list_options, parse_fields, shorten_hash, show_list
from fleetctl.parsing import command as new_command
from fleetctl.parsing import pass_settings
from fleetctl.settings import Settings
from fleetd.api import schema

COLUMNS: Columns[Located[schema.UnitState]] = {
    "active": lambda row, full: row.item.active or "-",
    "hash": lambda row, full: shorten_hash(row.item.hash, full),
    "load": lambda row, full: row.item.load or "-",
    "machine": lambda row, full: output.place(row.item.machine_id, row.address, full) if row.item.machine_id else "-",
    "sub": lambda row, full: row.item.sub or "-",
    "unit": lambda row, full: row.item.name,
}


@new_command("list-units", usage="[--full] [--no-legend] [--fields=FIELD,...]")
@list_options(COLUMNS, default="unit,machine,active,sub")
@pass_settings
def command(settings: Settings, full: bool, no_legend: bool, fields: str, ignored: tuple[str, ...]) -> int:
    """Lists the units that are on machines, one line for each unit and machine, as systemd there sees them."""
    columns = parse_fields(fields, COLUMNS)
    client = open_client(settings)
    with failing_as("Error retrieving list of units from repository: "):
        states = client.states()
        addresses = {machine.id: machine.primary_ip for machine in client.machines()} if "machine" in columns else {}
    states.sort(key=lambda state: (state.name, state.machine_id))
    rows = [Located(state, addresses.get(state.machine_id, "")) for state in states]
    show_list(rows, COLUMNS, columns, full, no_legend)
    return 0
