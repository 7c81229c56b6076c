"""events: show what has happened in the cluster, or follow it."""

import math
import time
from collections.abc import Iterable, Iterator

import click
import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import TimeSpan, flag, new_command
from fleetctl.errors import failing_as
from fleetctl.event_lines import render_event
from fleetctl.event_state import StateFile
from fleetctl.event_stream import Query, follow
from fleetctl.listing import JSON, TABLE
from fleetctl.local_files import parse_argument
from fleetctl.selection import is_pattern
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.api.event_schema import BEGIN, END, MARK, STATE
from fleetd.model.event import EventKind

KINDS = (*map(str, EventKind), STATE)
FAILURE = "Error retrieving the events: "
FORM = click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="table, or json: an object a line"
)


USAGE = (
    "[-f [--state-file=FILE]] [--since=TIME] [--after=TOKEN] [--unit=PATTERN] [--machine=ID] [--kind=KIND] "
    "[--output=json]"
)


@new_command("events", usage=USAGE)
@flag("--follow", "--f", "-f", "follow_", text="go on with what happens, states of units too; without --since from now")
@click.option("--since", type=TimeSpan(), default=None, help="only what has happened in this time, such as 1h")
@click.option("--after", default=None, metavar="TOKEN", help="only what has happened after the event with this token")
@click.option(
    "--state-file",
    default=None,
    metavar="FILE",
    help="with -f: keep in this file how far it has come, and go on there the next time; the first time from --since",
)
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
    after: str | None,
    state_file: str | None,
    units: tuple[str, ...],
    machines: tuple[str, ...],
    kinds: tuple[str, ...],
    form: str,
) -> int:
    """Shows what has happened in the cluster in the last seven days, oldest first: who asked for what, which units were
    placed and moved, and why; steps of rollouts, drains and reboots; machines that joined, were lost or left. With -f
    it goes on until it is interrupted, across restarts of fleetd; a gap says where something may be missing.

    With --state-file it prints each event at least once, however it ends: the token of an event, which is a field of
    --output=json, is in the file once the event is printed. The events of one transaction have one token, with the last
    of them, and these may be printed twice. What a script has read and not done when it is killed is not printed again:
    a script that must not miss anything keeps the last token itself, and has it go on with --after.
    """
    _check_options(since, after, state_file, follows=follow_)
    query = [("unit", unit if is_pattern(unit) else parse_argument(unit).name.full) for unit in units]
    query += [("machine", machine) for machine in machines] + [("kind", kind) for kind in kinds]
    if since is not None:
        query.append(("since", str(math.floor(time.time() - since))))
    state = StateFile(state_file) if state_file else None
    client = open_client(settings)
    with failing_as(FAILURE):
        if state is not None:
            return show(_resume(client, query, state), form)
        if follow_:
            return show(follow(client, query, after or ""), form)
        query += [("after", after)] if after else []
        return show(client.events([*query, ("follow", "false")]), form)


def _check_options(since: float | None, after: str | None, state_file: str | None, *, follows: bool) -> None:
    """Refuse options that contradict each other. Raises UsageError."""
    if state_file == "":
        raise click.UsageError("--state-file needs the name of a file")
    if after == "":
        raise click.UsageError("--after needs a token: it is a field of --output=json")
    if state_file and not follows:
        raise click.UsageError("--state-file goes with -f")
    for name, value in (("--state-file", state_file), ("--since", since)):
        if after and value is not None:
            raise click.UsageError(f"{name} and --after both say where to begin: give one of them")


def _resume(client: Client, query: Query, state: StateFile) -> Iterator[schema.Event]:
    """What happens from where the last run of this state file has ended."""
    token = state.read()
    if token:  # --since is for the first run
        query = [pair for pair in query if pair[0] != "since"]
    return follow(client, query, token, keep=state.keep)


def show(events: Iterable[schema.Event], form: str) -> int:
    """Print the events; 1 if what has happened is not told to its end."""
    lines = _Lines(form)
    why = "the connection was lost before the end: try again"
    for event in events:
        if event.kind == END:
            why = output.printable(event.detail)
        elif event.kind == MARK:
            return 0
        elif event.kind != BEGIN:
            lines.show(event)
    output.error(f"{FAILURE}{why}")
    return 1


class _Lines:
    """Prints events. People get a state of a unit that reads as the last one did only once."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._states: dict[tuple[str, str], str] = {}  # unit and machine → the last line

    def show(self, event: schema.Event) -> None:
        if self._form == JSON:
            output.result(output.json_text(msgspec.json.encode(event)))
            return
        line = render_event(event)
        if event.kind == STATE:
            place = (event.unit, event.machine)
            if self._states.get(place) == line:
                return
            self._states[place] = line
        output.result(line)
