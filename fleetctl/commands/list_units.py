"""list-units: list the units on machines, with their states in systemd."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, Listing, Located, Values, View, list_command, shorten_hash
from fleetctl.parsing import new_command
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
VALUES: Values[Located[schema.UnitState]] = {
    "unit": lambda row: row.item.name,
    "machine": lambda row: row.item.machine_id or None,
    "ip": lambda row: row.address or None,
    "load": lambda row: row.item.load or None,
    "active": lambda row: row.item.active or None,
    "sub": lambda row: row.item.sub or None,
    "hash": lambda row: row.item.hash or None,
}
LISTING = Listing(COLUMNS, VALUES, default="unit,machine,active,sub")


@new_command("list-units", usage="[--full] [--no-legend] [--fields=FIELD,...] [--output=json] [UNIT...]")
@list_command(LISTING)
def command(settings: Settings, view: View[Located[schema.UnitState]]) -> int:
    """Lists the units on machines, one line for each unit and machine, with their states in systemd; with names or
    patterns, only those.
    """
    client = open_client(settings)
    with failing_as("Error retrieving list of units from repository: "):
        states = client.states()
        placed = "machine" in view.fields or "ip" in view.fields
        addresses = {machine.id: machine.primary_ip for machine in client.machines()} if placed else {}
    chosen = [state for state in states if view.wants(state.name)]
    chosen.sort(key=lambda state: (state.name, state.machine_id))
    view.show([Located(state, addresses.get(state.machine_id, "")) for state in chosen])
    return 0
