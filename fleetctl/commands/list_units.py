"""list-units: list the units on machines, with their states in systemd."""

from collections.abc import Mapping, Sequence

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command
from fleetctl.errors import ApiError, CommandFailed, NotFleet, failing_as
from fleetctl.listing import TABLE, WATCH_FLAG, Columns, Listing, Values, View, list_command, shorten_hash
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.api.event_schema import STATE

ANNOUNCES = "announces"
# Unit and machine → what is announced of the unit there.
Announced = Mapping[tuple[str, str], Sequence[schema.Service]]


class Row(msgspec.Struct, frozen=True):
    """A unit on a machine, the address of that ('' if unknown), and what is announced of it (None if unknown)."""

    state: schema.UnitState
    address: str
    services: Sequence[schema.Service] | None = None


def describe_service(each: schema.Service) -> str:
    """A name and its port as a word; with a `!` while the check fails."""
    protocol = "" if each.protocol == "tcp" else f"/{each.protocol}"
    return f"{'!' * bool(each.failing)}{each.service}:{each.port}{protocol}"


def service_object(each: schema.Service) -> dict[str, str | int | None]:
    """The same as an object of JSON."""
    return {
        "service": each.service,
        "port": each.port,
        "protocol": each.protocol,
        "failing": each.failing or None,
    }


COLUMNS: Columns[Row] = {
    "active": lambda row, full: row.state.active or "-",
    ANNOUNCES: lambda row, full: ",".join(map(describe_service, row.services or ())) or "-",
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
    ANNOUNCES: lambda row: None if row.services is None else [service_object(each) for each in row.services],
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
        if ANNOUNCES in view.fields and view.form == TABLE:
            raise CommandFailed(f"{ANNOUNCES} is not followed: leave it out of --fields, or -w")
        return _watch(client, view)
    with failing_as(FAILURE):
        states = client.states()
        placed = "machine" in view.fields or "ip" in view.fields
        addresses = {machine.id: machine.primary_ip for machine in client.machines()} if placed else {}
        announced = _read_announced(client) if ANNOUNCES in view.fields else None
    chosen = [state for state in states if view.wants(state.name)]
    chosen.sort(key=lambda state: (state.name, state.machine_id))

    def row(state: schema.UnitState) -> Row:
        services = None if announced is None else announced.get((state.name, state.machine_id), ())
        return Row(state, addresses.get(state.machine_id, ""), services)

    view.show(list(map(row, chosen)))
    return 0


def _read_announced(client: Client) -> Announced | None:
    """None if this fleetd, an older one, does not know."""
    try:
        found = client.services().services
    except (ApiError, NotFleet) as error:
        if error.code not in (404, 405):
            raise
        return None
    announced: dict[tuple[str, str], list[schema.Service]] = {}
    for each in found:
        announced.setdefault((each.unit, each.machine), []).append(each)
    return announced


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
