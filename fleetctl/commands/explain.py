"""explain: why a unit is on its machine, and on no other."""

from collections.abc import Iterator, Sequence

import click
import msgspec

from fleetctl import output
from fleetctl.command_line import flag, new_command
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.event_lines import describe_event
from fleetctl.listing import JSON, TABLE
from fleetctl.local_files import parse_argument
from fleetctl.plans import open_patient_client
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.timespan import render_moment

MOST_SHOWN = 20  # machines
_HERE, _NOT = "why here", "why not"


@new_command("explain", usage="[--full] [--output=json] UNIT", completes=("units",))
@flag("--full", text="show all machines, not the first twenty")
@click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="table, or json: an object of data"
)
@click.argument("units", nargs=-1)
def command(settings: Settings, units: tuple[str, ...], full: bool, form: str) -> int:
    """Shows where a unit is and since when, and why: the rules that narrow the machines down to that one, in order, and
    how many machines each leaves. First come the rules that a machine has to meet, then what makes one of those that
    fit the better one: that nothing there replaces the unit, fewest instances of its template, fewest units, lowest id.
    The first rule that leaves one machine is the reason; nothing is weighed.

    Of each other machine it shows all that keeps the unit from it, or by what it is the lesser choice. It is about the
    cluster as it is now: a machine that has become the better one is told, and a unit is not moved for that (rebalance
    does). Last comes what has happened to the unit of late, the newest first; history shows more.

    Where the unit is, and waits for a download, that is shown; and why, where it does not answer to the names that it
    announces (Announce=). Of a unit with IsolationSec= or Lock=, it says how long it may take until it runs elsewhere,
    and why.

    Exits with 0, and with 1 if the cluster does not have the unit.
    """
    if len(units) != 1:
        raise CommandFailed("explain takes one unit: fleetctl explain UNIT")
    name = parse_argument(units[0]).name.full
    client = open_patient_client(settings)
    with failing_as(f"Error explaining unit {output.printable(name)}: "):
        found = client.explain(name)
    if form == JSON:
        output.result(output.json_text(msgspec.json.encode(found)))
        return 0
    output.result(_describe_place(found))
    silent = [(output.place(each.machine, each.address), each) for each in found.places if each.unannounced]
    for line in _table("announced", [(place, f"no: {output.printable(each.unannounced)}") for place, each in silent]):
        output.result(line)
    if found.isolation:
        output.result(f"  isolated  {output.printable(found.isolation)}")
    noted = [
        (output.place(each.machine, each.address), output.printable(each.note)) for each in found.places if each.note
    ]
    for line in _table("note", noted):
        output.result(line)
    for line in _table(_HERE, list(_why_here(found))):
        output.result(line)
    shown = found.why_not if full else found.why_not[:MOST_SHOWN]
    verdicts = [(output.place(each.machine, each.address), output.printable(each.message)) for each in shown]
    for line in _table(_NOT, verdicts):
        output.result(line)
    for line in _table("history", [describe_event(event) for event in found.history]):
        output.result(line)
    if left := len(found.why_not) - len(shown):
        output.note(f"{left} more machines are not shown (--full)")
    return 0


def _describe_place(found: schema.Explanation) -> str:
    name, reason = output.printable(found.unit), output.indented(found.reason)
    if not found.places:
        return f"{name} is on no machine" + (f": {reason}" if reason else f" (it is {found.target})")
    if len(found.places) > 1:
        return f"{name} is on {len(found.places)} of {found.machines} machines: {reason}"
    place = output.place(found.places[0].machine, found.places[0].address)
    since = f" since {render_moment(found.since)}" if found.since else ""
    return f"{name} is on {place}{since}: {reason}"


def _why_here(found: schema.Explanation) -> Iterator[tuple[str, str]]:
    left = found.machines
    for number, each in enumerate(found.why_here, 1):
        of = f"of {left} machines" if number == 1 else "of these"
        yield f"{number} {output.printable(each.message)}", f"{each.left} {of}"
        left = each.left
    if not found.why_here:
        yield "every machine fits" if found.machines != 1 else "there is no other machine", ""


def _table(heading: str, rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max((len(first) for first, _ in rows), default=0)
    for number, (first, second) in enumerate(rows):
        yield f"  {heading if number == 0 else '':8}  {first:{width}}  {second}".rstrip()
