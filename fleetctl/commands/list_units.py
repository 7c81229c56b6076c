"""list-units: list the units on machines, with their states in systemd."""

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command
from fleetctl.errors import failing_as
from fleetctl.listing import WATCH_FLAG, Columns, Listing, Values, View, list_command, shorten_hash
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.api.event_schema import STATE


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
FAILURE = "Error retrieving list of units from repository: "
LISTING = Listing(COLUMNS, VALUES, default="unit,machine,active,sub")


@new_command(
    "list-units",
    usage="[-w] [--full] [--no-legend] [--fields=FIELD,...] [--output=json] [UNIT...]",
    completes=("units",),
)
@list_command(LISTING)
@WATCH_FLAG
def command(settings: Settings, view: View[Row], watch: bool) -> int:
    """Lists the units on machines, one line for each unit and machine, with their states in systemd; with names or
    patterns, only those. With -w it goes on with the lines that change; of a unit that has left a machine, the states
    are empty.
    """
    client = open_client(settings)
    if watch:
        return _watch(client, view)
    with failing_as(FAILURE):
        states = client.states()
        placed = "machine" in view.fields or "ip" in view.fields
        addresses = {machine.id: machine.primary_ip for machine in client.machines()} if placed else {}
    chosen = [state for state in states if view.wants(state.name)]
    chosen.sort(key=lambda state: (state.name, state.machine_id))
    view.show([Row(state, addresses.get(state.machine_id, "")) for state in chosen])
    return 0


def _watch(client: Client, view: View[Row]) -> int:
    from fleetctl.event_stream import list_and_follow  # imported late: rarely needed
    from fleetctl.list_watch import WatchedList

    states: dict[str, list[schema.UnitState]] = {}
    addresses: dict[str, str] = {}
    rows: WatchedList[Row] = WatchedList(
        view,
        lambda row: (row.state.name, row.state.machine_id),
        lambda row: Row(schema.UnitState(row.state.name, machine_id=row.state.machine_id), row.address),
    )

    def read() -> None:
        addresses.update((machine.id, machine.primary_ip) for machine in client.machines())
        states.clear()
        for state in client.states():
            states.setdefault(state.name, []).append(state)
        show()

    def show() -> None:
        chosen = [state for name in states if view.wants(name) for state in states[name]]
        chosen.sort(key=lambda state: (state.name, state.machine_id))
        rows.show([Row(state, addresses.get(state.machine_id, "")) for state in chosen])

    with failing_as(FAILURE):
        for event in list_and_follow(client, read, [("kind", STATE)]):
            if view.wants(event.unit):
                if event.machine not in addresses:
                    addresses.update((machine.id, machine.primary_ip) for machine in client.machines())
                states[event.unit] = client.states(event.unit)
                show()
    return 0
