"""events: show what has happened in the cluster, or follow it."""

import math
import time
from collections.abc import Iterable

import click
import msgspec

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import TimeSpan, flag, new_command
from fleetctl.errors import failing_as
from fleetctl.event_lines import render_event
from fleetctl.event_stream import follow
from fleetctl.listing import JSON, TABLE
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.api.event_schema import BEGIN, END, MARK, STATE
from fleetd.model.event import EventKind

KINDS = (*map(str, EventKind), STATE)
FAILURE = "Error retrieving the events: "
FORM = click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="table, or json: an object a line"
)


@new_command("events", usage="[-f] [--since=TIME] [--unit=PATTERN] [--machine=ID] [--kind=KIND] [--output=json]")
@flag("--follow", "--f", "-f", "follow_", text="go on with what happens, states of units too; without --since from now")
@click.option("--since", type=TimeSpan(), default=None, help="only what has happened in this time, such as 1h")
@click.option("--unit", "units", multiple=True, default=(), help="only about units that match this; may be repeated")
@click.option(
    "--machine",
    "machines",
    multiple=True,
    default=(),
    help="only about the machine whose id begins so; may be repeated",
)
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(KINDS),
    multiple=True,
    default=(),
    help=f"only events of this kind: {', '.join(KINDS)}; may be repeated",
)
@FORM
def command(
    settings: Settings,
    follow_: bool,
    since: float | None,
    units: tuple[str, ...],
    machines: tuple[str, ...],
    kinds: tuple[str, ...],
    form: str,
) -> int:
    """Shows what has happened in the cluster in the last seven days, oldest first: who asked for what, which units were
    placed and moved, and why; steps of rollouts, drains and reboots; machines that joined, were lost or left. With -f
    it goes on until it is interrupted, across restarts of fleetd; a gap says where something may be missing.
    """
    query = [("unit", unit) for unit in units]
    query += [("machine", machine) for machine in machines] + [("kind", kind) for kind in kinds]
    if since is not None:
        query.append(("since", str(math.floor(time.time() - since))))
    client = open_client(settings)
    with failing_as(FAILURE):
        if follow_:
            return show(follow(client, query), form)
        return show(client.events([*query, ("follow", "false")]), form)


def show(events: Iterable[schema.Event], form: str) -> int:
    """Print the events; 1 if what has happened is not told to its end."""
    why = "the connection was lost before the end: try again"
    for event in events:
        if event.kind == END:
            why = output.printable(event.detail)
        elif event.kind == MARK:
            return 0
        elif event.kind != BEGIN:
            output.result(output.json_text(msgspec.json.encode(event)) if form == JSON else render_event(event))
    output.error(f"{FAILURE}{why}")
    return 1
