"""reboot: reboot machines one after the other, or show the queue."""

import sys
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import click
import msgspec

from fleetctl import output, terminal
from fleetctl.client import Client, open_client
from fleetctl.command_line import TimeSpan, flag, new_command
from fleetctl.commands.drain import INTERRUPTED_STATUS
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.listing import JSON, TABLE, Columns, Listing, Values, View, list_command, render_json
from fleetctl.machine_changes import change_each
from fleetctl.reboots import RebootFollower, follow_reboots
from fleetctl.settings import Settings
from fleetctl.unit_locations import Location
from fleetd.api import schema
from fleetd.model.timespan import render_moment

COLUMNS: Columns[schema.RebootReport] = {
    "machine": lambda report, full: output.short_id(report.machine, full),
    "ip": lambda report, full: report.address or "-",
    "phase": lambda report, full: report.phase,
    "place": lambda report, full: str(report.place or "-"),
    "since": lambda report, full: render_moment(report.since) if report.since else "-",
    "by": lambda report, full: report.by or "-",
    "reason": lambda report, full: "; ".join(filter(None, (report.reason, report.remedy))) or "-",
}
VALUES: Values[schema.RebootReport] = {
    name: attrgetter(field)
    for name, field in zip(
        schema.RebootReport.__struct_encode_fields__, schema.RebootReport.__struct_fields__, strict=True
    )
}
LISTING = Listing(COLUMNS, VALUES, default="machine,ip,phase,since,reason")


@new_command(
    "reboot",
    usage="[--now] [--deadline=TIME] [--no-block] [--cancel] [--output=json] [MACHINE... | --all | --needed]",
    completes=("machines",),
)
@click.option(
    "--deadline",
    type=TimeSpan(infinity_s=0.0),
    default="15min",
    help="how long the units of a machine may take to leave it, from when it is its turn; then it is not rebooted",
)
@flag("--all", "every", text="every machine of the cluster; with --cancel, all that are in the queue")
@flag("--needed", text="the machines that say that they need it")
@flag("--now", text="do not wait for the reboot window")
@flag("--cancel", text="do not reboot these machines after all")
@flag("--no-block", text="do not wait until the machines serve again")
@list_command(LISTING)
def command(
    settings: Settings,
    view: View[schema.RebootReport],
    every: bool,
    needed: bool,
    now: bool,
    deadline: float,
    cancel: bool,
    no_block: bool,
) -> int:
    """Reboots machines, each given by a prefix of its id, in the order in which it was asked for, and as many at a time
    as reboot_slots says (fleetctl settings): a machine is drained, told to reboot, and waited for until it is back and
    the units that stayed there are active and proven. Units leave it as for fleetctl drain; global units, and what fits
    nowhere else, stay and are down meanwhile, which is announced before. A machine that hosts a member of etcd goes
    only while all other members are healthy. If a machine does not come back within ten minutes, the queue stops.

    Without machines, lists the queue. Prints a line for each step; exits with 0 once all machines serve again, and with
    1 if one was not rebooted or does not serve. The queue goes on if this command is interrupted, or ends because its
    own machine reboots, which is the last of those given with --all; --cancel takes machines out of it, and lets it go
    on after one that has not come back.
    """
    is_given = bool(view.names) + every + needed
    if is_given > 1:
        raise CommandFailed("Give either machines, or --all, or --needed", status=2)
    if cancel and needed:
        raise CommandFailed("--cancel takes machines, or --all", status=2)
    if not is_given and (now or cancel or no_block):
        raise CommandFailed("No machines given: name some, or give --all or --needed", status=2)
    client = open_client(settings)
    if not is_given:
        with failing_as("Error retrieving the queue of reboots: "):
            queue = list(client.reboots().values())
        _show_queue(view, queue)
        if not queue and view.form == TABLE:
            output.note("No machine is to be rebooted")
        return 0
    machines = view.names or _choose(client, needed=needed, queued=cancel)
    if not machines:
        output.note("No machine needs to be rebooted" if needed else "No machine is to be rebooted")
        return 0
    if cancel:
        return _cancel(client, machines)
    asked = _ask(client, machines, schema.RebootRequest(deadline, now), is_quiet=view.form == JSON)
    is_whole = len(asked) == len(machines)
    return (
        _follow(client, asked, view, no_block=no_block)
        if is_whole
        else max(1, _follow(client, asked, view, no_block=no_block))
    )


def _show_queue(view: View[schema.RebootReport], queue: Sequence[schema.RebootReport]) -> None:
    """List the queue. At a terminal the reasons, which a column would cut, are sentences below."""
    is_default = view.form == TABLE and ",".join(view.fields) == LISTING.default and not view.full
    if not is_default or not terminal.is_watched(sys.stdout):
        view.show(queue)
        return
    msgspec.structs.replace(view, fields=tuple(field for field in view.fields if field != "reason")).show(queue)
    for report in queue:
        output.note(f"machine {Location(report.machine, report.address)} {COLUMNS['reason'](report, False)}")


def _choose(client: Client, *, needed: bool, queued: bool) -> tuple[str, ...]:
    """The ids of all machines, or of those that need it, or of those in the queue; that of this machine is the last."""
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        if queued:
            return tuple(client.reboots())
        machines = [machine.id for machine in client.machines() if machine.reboot_required or not needed]
    own = _own_id()
    return tuple(sorted(machines, key=lambda id_: (id_ == own, id_)))


def _own_id() -> str:
    """The id of the machine where this command runs, '' if it has none."""
    try:
        with open("/etc/machine-id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _ask(
    client: Client, machines: Sequence[str], request: schema.RebootRequest, *, is_quiet: bool
) -> dict[Location, schema.RebootReport]:
    """Ask for these reboots; what is refused is printed."""
    reports: dict[str, schema.RebootReport] = {}

    def ask(client: Client, machine: str) -> None:
        reports[machine] = client.reboot(machine, request)

    def describe(place: Location) -> str:
        return "" if is_quiet else f"Machine {place} is to be rebooted"

    return {place: reports[place.machine] for place in change_each(client, machines, ask, "rebooting", describe)}


def _cancel(client: Client, machines: Sequence[str]) -> int:
    """Take machines out of the queue, also those that have not come back. Returns the exit status."""
    with failing_as("Error retrieving the queue of reboots: "):
        queued = [Location(report.machine, report.address) for report in client.reboots().values()]

    def describe(place: Location) -> str:
        return f"Machine {place} is not to be rebooted"

    done = change_each(client, machines, Client.cancel_reboot, "cancelling the reboot of", describe, queued)
    return 0 if len(done) == len(machines) else 1


def _follow(
    client: Client, asked: dict[Location, schema.RebootReport], view: View[schema.RebootReport], *, no_block: bool
) -> int:
    """Wait for the end of these reboots, unless `no_block`, and print it. Returns the exit status."""
    followers: Sequence[RebootFollower] = ()
    if not no_block:
        try:
            followers = follow_reboots(client, asked, is_quiet=view.form == JSON)
        except KeyboardInterrupt:
            _explain_interruption(asked)
            return INTERRUPTED_STATUS
    if view.form == JSON:
        reports: Sequence[Any] = [follower.report for follower in followers] or list(asked.values())
        output.result(render_json(reports, VALUES))
    for follower in followers:
        if follower.failure:
            output.error(f"{follower.place} {output.printable(follower.failure)}")
    return 1 if any(follower.failure for follower in followers) else 0


def _explain_interruption(asked: dict[Location, schema.RebootReport]) -> None:
    ids = " ".join(place.machine[:8] for place in asked)
    output.note(
        f"The reboots go on: the same command follows them again, and `fleetctl reboot --cancel {ids}` takes machines "
        "out of the queue that do not reboot yet"
    )
