"""rebalance: move units, one after the other, until they are distributed more evenly."""

from collections.abc import Sequence

import click

from fleetctl import output
from fleetctl.client import Client
from fleetctl.command_line import TimeSpan, flag, new_command
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.listing import JSON, TABLE
from fleetctl.local_files import parse_argument
from fleetctl.moves import follow_move
from fleetctl.plans import open_patient_client, show_plan
from fleetctl.settings import Settings
from fleetd.api import schema

MOST = 1000  # moves that are asked for
INTERRUPTED_STATUS = 130


@new_command("rebalance", usage="[--plan] [--max=N] [--min-age=TIME] [--output=json] [UNIT...]", completes=("units",))
@flag("--plan", "plans_only", text="print what would be moved, and change nothing")
@click.option("--max", "limit", type=click.IntRange(1, MOST), default=10, help="move at most so many units")
@click.option(
    "--min-age", type=TimeSpan(), default="10min", help="machines that came more recently than this do not count"
)
@click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="with --plan: table, or json: an array"
)
@click.argument("units", nargs=-1)
def command(settings: Settings, units: tuple[str, ...], plans_only: bool, limit: int, min_age: float, form: str) -> int:
    """Moves units to machines with fewer of them, as after a machine joined or came back: one at a time, and the next
    when that is proven where it went. A unit moves only if the instances of its template are distributed more evenly
    then, or, without making that worse, to a machine with at least two units fewer. Each choice is made anew by what
    the cluster is then, and no unit goes to and fro.

    Left where they are: units that are alone in their group, unless they are named; groups with Movable=false; global
    units; oneshots at work; what is not available, or whose group may not be disturbed now; groups in a rollout. Units
    that MachineOf= joins go together or stay. With names of units or templates, only those are moved. Machines that are
    cordoned, drained or parked do not count, and neither do those that came less than ten minutes ago (--min-age).

    Exits with 0 once nothing is left to move, or --max units have been moved, and with 1 if a unit does not get where
    it was to go: then nothing more is moved. If this command is interrupted, the move under way is the last one. With
    --plan it exits with 0.
    """
    if form == JSON and not plans_only:
        raise CommandFailed("--output=json is for --plan")
    client = open_patient_client(settings)
    names = tuple(parse_argument(unit).name.full for unit in units)
    if plans_only:
        plan = _plan(client, schema.PlannedRebalance(limit, names, min_age))
        _note_new(plan.new, min_age)
        show_plan(plan, form)
        return 0
    return _rebalance(client, names, limit, min_age)


def _plan(client: Client, request: schema.PlannedRebalance) -> schema.Plan:
    with failing_as("Error planning moves: "):
        return client.plan(schema.PlanRequest(rebalance=request))


def _rebalance(client: Client, names: Sequence[str], limit: int, min_age: float) -> int:
    """Move one unit after the other. Returns the exit status."""
    request = schema.PlannedRebalance(1, tuple(names), min_age)
    for moved in range(limit):
        plan = _plan(client, request)
        if moved == 0:
            _note_new(plan.new, min_age)
            for unit in plan.stays:
                output.note(f"Unit {output.printable(unit.unit)} stays: it {output.indented(unit.reason)}")
        if not plan.moves:
            output.result(f"Nothing is left to move after {_count(moved)}" if moved else "There is nothing to move")
            return 0
        status = _carry_out(client, plan.moves)
        if status != 0:
            return status
    output.result(f"{_count(limit)} done, as many as --max allows")
    return 0


def _count(moves: int) -> str:
    return "1 move" if moves == 1 else f"{moves} moves"


def _carry_out(client: Client, moves: Sequence[schema.PlannedMove]) -> int:
    """Move the first of these units, with which the others go, and wait for that. Returns the exit status."""
    move = moves[0]
    name, place = output.printable(move.unit), output.place(move.machine, move.address)
    try:
        client.move(move.unit, schema.MoveRequest(move.machine))
    except ClientError as error:
        raise CommandFailed(f"Error moving unit {name} to {place}: {error}") from error
    try:
        report = follow_move(client, move.unit)
    except KeyboardInterrupt:
        output.note(f"The move of {name} to {place} goes on; nothing else is moved")
        return INTERRUPTED_STATUS
    if report.machine == move.machine:
        others = ", ".join(output.printable(other.unit) for other in moves[1:])
        output.result(f"{name} → {place} proven" + (f", with {others}" if others else ""))
        return 0
    where = output.place(report.machine, report.address) if report.machine else "no machine"
    output.error(f"Unit {name} is on {where}: {output.indented(report.reason) or 'placed there meanwhile'}")
    return 1


def _note_new(machines: Sequence[schema.NewMachine], min_age: float) -> None:
    """Say which machines do not count."""
    if machines:
        listed = ", ".join(output.place(each.machine, each.address) for each in machines)
        age = f"{min_age / 60:g} min" if min_age >= 60 else f"{min_age:g} s"
        output.note(f"Machines that came less than {age} ago do not count (--min-age): {listed}")
