"""rollout: show, pause, resume and wait for changes that reach the units of a group one after the other."""

from collections.abc import Sequence
from operator import attrgetter

import click
import msgspec

from fleetctl import output
from fleetctl.client import ApiError, Client, open_client
from fleetctl.command_line import flag, new_command
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.listing import JSON, TABLE, render_json
from fleetctl.local_files import parse_argument
from fleetctl.rollouts import OVER, follow
from fleetctl.selection import is_pattern, match_names
from fleetctl.settings import Settings
from fleetctl.suggestion import nearest, render_hint, suggest_unit
from fleetctl.wait import observe
from fleetd.api import schema
from fleetd.model.group import group_of
from fleetd.model.timespan import render_moment
from fleetd.model.unit import without_log_lines

ACTIONS = {
    "status": "show rollouts",
    "pause": "change no further units",
    "resume": "go on after a pause",
    "continue": "go on past the canaries",
    "restart": "restart the units one after the other",
    "undo": "return to an earlier version",
    "history": "list the versions",
}
OBEYED_S = 10.0  # the longest wait for the leader to carry out a pause
_VALUES = {name: attrgetter(name) for name in schema.Rollout.__struct_fields__}


@new_command(
    "rollout",
    usage="[status|pause|resume|continue|restart|undo|history] [--wait] [--no-block] [--to=VERSION] [--output=json] "
    "[GROUP...]",
    completes=("rollout-actions", "groups"),
)
@click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="table, or json: an array of objects"
)
@flag("--wait", text="with status: wait until the rollouts are over")
@flag("--no-block", text="do not wait for the end of the rollout")
@click.option("--to", type=click.IntRange(min=0), default=0, help="the version to undo to; 0: the last that differs")
@click.argument("arguments", nargs=-1)
def command(settings: Settings, arguments: tuple[str, ...], form: str, wait: bool, no_block: bool, to: int) -> int:
    """Shows how far changes have got that reach the units of a group one after the other, and steers them. A group is
    the template of its instances, or a unit alone; an instance stands for its group.

    status shows the last rollout of each group, or of these, with its members; names may be patterns. pause changes no
    further units, and leaves those that are being changed. resume goes on after a pause, also one that a failure made.
    continue goes on past the canaries (UpdateCanary=). restart restarts the launched units one after the other, as the
    options of the group in [X-Fleet] say (MaxUnavailable= and those that begin with Update). undo gives the units the
    content of an earlier version, in the same way; a second undo takes that back. history lists the versions, which
    apply makes.

    resume, continue, restart, undo and status --wait print a line for each unit that is proven or fails, and exit with
    0 once the rollout is done, with 1 if it is reverted, paused, or replaced by another.
    """
    action, names = (arguments[0], arguments[1:]) if arguments and arguments[0] in ACTIONS else ("status", arguments)
    client = open_client(settings)
    if action == "status":
        return _show(client, names, form, wait=wait)
    if not names:
        raise CommandFailed(f"No group given: fleetctl rollout {action} GROUP", status=2)
    groups = list(dict.fromkeys(map(_group, names)))
    if action == "history":
        return _list_versions(client, groups, form)
    if wait or form != TABLE:
        raise CommandFailed(f"--wait and --output are for rollout status, not for {action}", status=2)
    if to and action != "undo":
        raise CommandFailed(f"--to is for rollout undo, not for {action}", status=2)
    sent = [group for group in groups if _send(client, group, action, to)]
    status = 0 if sent == groups else 1
    if no_block or not sent:
        return status
    if action == "pause":
        return max([status, *(_await_pause(client, group) for group in sent)])
    return max(status, follow(client, sent))


def _group(argument: str) -> str:
    return group_of(parse_argument(argument).name.full)


def _send(client: Client, group: str, action: str, to: int) -> bool:
    """Send one command; returns whether it was accepted. Raises CommandFailed if the API does not answer."""
    shown = output.printable(group)
    try:
        client.command_rollout(group, action, to)
    except ApiError as error:
        output.error(f"Error: cannot {action} the rollout of {shown}: {error}")
        return False
    except ClientError as error:
        raise CommandFailed(f"Error: cannot {action} the rollout of {shown}: {error}") from error
    return True


def _await_pause(client: Client, group: str) -> int:
    """Wait until the leader has paused the rollout; returns the exit status."""
    with failing_as(f"Error waiting for the pause of {group}: "):
        for rollouts in observe(lambda: client.rollouts([group]), OBEYED_S):
            rollout = rollouts.get(group)
            if rollout is None or rollout.phase in OVER:
                output.error(f"{group}: it was over before it could be paused")
                return 1
            if rollout.paused:
                output.result(f"{group}: {output.indented(rollout.status)}")
                return 0
    output.error(f"{group}: no leader has paused it within {OBEYED_S:g} s; one that takes office will")
    return 1


def _show(client: Client, names: Sequence[str], form: str, *, wait: bool) -> int:
    with failing_as("Error retrieving rollouts: "):
        found, missing = _select(client, names)
    for name in missing:
        hint = suggest_unit(client, name) or render_hint(nearest(name, ACTIONS)).rstrip()
        text = "has no rollout: nothing of it was changed one unit after the other"
        output.error(f"{output.printable(name)} {text}{hint}")
    if wait:
        status = follow(client, [each.group for each in found if names or each.phase not in OVER])
        return max(status, int(bool(missing)))
    if form == JSON:
        output.result(render_json(found, _VALUES))
    else:
        for rollout in found:
            output.result("\n".join(_describe(rollout)))
    return int(bool(missing))


def _list_versions(client: Client, groups: Sequence[str], form: str) -> int:
    """List the versions of these groups, the newest first, and what has become of their rollouts."""
    with failing_as("Error retrieving versions: "):
        rollouts = client.rollouts(groups).values()
        outcomes = {past.id: past.outcome for rollout in rollouts for past in rollout.past}
        outcomes |= {rollout.id: rollout.status for rollout in rollouts}
        found = {group: client.versions(group)[::-1] for group in groups}
    rows = [
        _Row(group, version.number, version.at, version.by, version.note, outcomes.get(version.apply, ""))
        for group, versions in found.items()
        for version in versions
    ]
    if form == JSON:
        output.result(render_json(rows, {name: attrgetter(name) for name in _Row.__struct_fields__}))
    elif rows:
        output.result(output.render_table([row.cells for row in rows]))
    missing = [group for group, versions in found.items() if not versions]
    for group in missing:
        output.error(f"{output.printable(group)} has no versions: only applies make them")
    return int(bool(missing))


class _Row(msgspec.Struct, frozen=True):
    """A version of a group. `outcome` is what has become of its rollout, '' if that is not known any more."""

    group: str
    version: int
    at: float
    by: str
    note: str
    outcome: str

    @property
    def cells(self) -> list[str]:
        """The cells of the table."""
        at = render_moment(self.at) if self.at else ""
        shown = (f"{self.group}@{self.version}", at, self.by, self.note, self.outcome)
        return [output.printable(cell) or "-" for cell in shown]


def _select(client: Client, names: Sequence[str]) -> tuple[list[schema.Rollout], list[str]]:
    """The rollouts that the arguments select, all without arguments, and the arguments that select none."""
    if not names:
        return list(client.rollouts().values()), []
    every = client.rollouts() if any(map(is_pattern, names)) else {}
    wanted: dict[str, None] = {}
    missing = []
    for name in names:
        matching = list(filter(match_names(name), every)) if is_pattern(name) else [_group(name)]
        missing += [] if matching else [name]
        wanted |= dict.fromkeys(matching)
    found = client.rollouts(wanted) if wanted else {}
    missing += [group for group in wanted if group not in found]
    return list(found.values()), missing


def _describe(rollout: schema.Rollout) -> list[str]:
    """The lines about one rollout."""
    counted = f" ({rollout.updated} of {rollout.total} updated)" if rollout.total else ""
    by = f", by {rollout.by}" if rollout.by else ""
    since = f", begun {render_moment(rollout.started)}" if rollout.started else ""
    note = f": {rollout.note}" if rollout.note else ""
    head = output.printable(f"{rollout.group}: {rollout.status}{counted}{by}{since}{note}")
    rows = [
        [
            f"  {output.printable(member.unit)}",
            output.place(member.machine, output.printable(member.address)) if member.machine else "-",
            ("reverted, " if member.reverted else "") + member.progress + _because(member),
        ]
        for member in rollout.members
    ]
    return [head, *_log_lines(rollout), *output.render_table(rows).splitlines()]


def _log_lines(rollout: schema.Rollout) -> list[str]:
    """What the member that has failed had logged last, unless it is done all the same."""
    if rollout.failure is None or rollout.phase == "done":
        return []
    return output.indented(rollout.failure.why).splitlines()[1:]


def _because(member: schema.RolloutMember) -> str:
    return f": {output.printable(without_log_lines(member.why))}" if member.why else ""
