"""list-units: list the units on machines, with their states in systemd."""

import msgspec

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import new_command
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command, shorten_hash
from fleetctl.settings import Settings
from fleetd.api import schema


class Row(msgspec.Struct, frozen=True):
    """A unit on a machine, and the address of that ('' if unknown)."""

    state: schema.UnitState
    address: str


COLUMNS: Columns[Row] = {
    "active": lambda row, full: row.state.active or "-",
    "hash": lambda row, full: shorten_hash(row.state.hash, full),
    "load": lambda row, full: row.state.load or "-",
    "machine": lambda row, full: output.place(row.state.machine_id, row.address, full) if row.state.machine_id else "-",
    "sub": lambda row, full: row.state.sub or "-",
    "unit": lambda row, full: row.state.name,
}
VALUES: Values[Row] = {
    "unit": lambda row: row.state.name,
    "machine": lambda row: row.state.machine_id or None,
    "ip": lambda row: row.address or None,
    "load": lambda row: row.state.load or None,
    "active": lambda row: row.state.active or None,
    "sub": lambda row: row.state.sub or None,
    "hash": lambda row: row.state.hash or None,
}
LISTING = Listing(COLUMNS, VALUES, default="unit,machine,active,sub")


@new_command(
    "list-units", usage="[--full] [--no-legend] [--fields=FIELD,...] [--output=json] [UNIT...]", completes=("units",)
)
@list_command(LISTING)
def command(settings: Settings, view: View[Row]) -> int:
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
    view.show([Row(state, addresses.get(state.machine_id, "")) for state in chosen])
    return 0
