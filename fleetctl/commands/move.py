"""move: move one unit to a machine, and wait for that."""

import click

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import flag, new_command
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.machine_changes import pick_machine
from fleetctl.moves import follow_move
from fleetctl.settings import Settings
from fleetctl.unit_locations import all_locations
from fleetd.api import schema


@new_command("move", usage="[--force] [--no-block] UNIT MACHINE", completes=("unit-and-machine",))
@flag("--force", text="move it whatever becomes unavailable, and a oneshot at work, too")
@flag("--no-block", text="do not wait until the unit is proven there")
@click.argument("unit")
@click.argument("machine")
def command(settings: Settings, unit: str, machine: str, force: bool, no_block: bool) -> int:
    """Moves a unit, with the units that MachineOf= joins to it, to a machine, given by a prefix of its id, as soon as
    its group allows (MaxUnavailable= in [X-Fleet]). Its place there is kept meanwhile. It stays there: only what would
    place it anew anyway, as the loss of the machine, takes it away again.

    Refused with the reason, and without any change, if the unit does not fit there. Exits with 0 once the unit is
    proven there, as UpdateSettleSec= says, and with 1 and the reason if it is not: a unit that fails there, or whose
    machine is lost on the way, returns to where it was, or goes wherever it fits. A move that waits is taken back by
    naming the machine where the unit is. With Handover=start-first in [X-Fleet], the unit stops where it was only when
    it is proven.
    """
    client = open_client(settings)
    name = parse_argument(unit).name.full
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        place = pick_machine(all_locations(client), machine)
    try:
        client.move(name, schema.MoveRequest(place.machine, force))
    except ClientError as error:
        raise CommandFailed(f"Error moving unit {output.printable(name)} to {place}: {error}") from error
    if no_block:
        output.result(f"Triggered unit {name} move to {place}")
        return 0
    try:
        report = follow_move(client, name)
    except KeyboardInterrupt:
        output.note(f"The move goes on; `fleetctl move {name}` with the machine where it is takes it back")
        return 130
    where = output.place(report.machine, report.address) if report.machine else "no machine"
    if report.machine == place.machine:
        output.result(f"Unit {name} moved to {where}")
        return 0
    why = output.indented(report.reason) or "placed there meanwhile"
    output.error(f"Unit {name} is on {where}: {why}")
    return 1
