"""restart: restart units, as systemctl does.

systemd restarts a unit in place, so that units which require it are restarted with it.
"""

import click

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import BLOCK_ATTEMPTS_HELP, bound_s, missing_option, new_command, unit_arguments
from fleetctl.commands.start import wait_for
from fleetctl.commands.submit import apply_creations, plan_creations, resolve_units
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.remote import Remote, systemctl
from fleetctl.selection import expand_patterns, is_active
from fleetctl.settings import Settings
from fleetctl.unit_locations import Location, explain_absence, pick_place, places_of, remote_options
from fleetctl.wait_outcome import check_launched, on_every_machine, runs
from fleetd.api import schema
from fleetd.model.unit import TargetState

# The SSH user may not be root. There is no terminal on which sudo could ask for a password.
_AS_ROOT = '[ "$(id -u)" = 0 ] || exec sudo -n "$0" "$@"; exec "$0" "$@"'


@new_command(
    "restart",
    usage="[--block-attempts=N] [--machine=ID] [--ssh-port=N] [--ignore-missing] UNIT...",
    completes=("units",),
)
@click.option("--block-attempts", type=int, default=0, help=BLOCK_ATTEMPTS_HELP)
@remote_options
@missing_option
@unit_arguments
def command(
    settings: Settings,
    units: tuple[str, ...],
    block_attempts: int,
    machine: str,
    ssh_port: int,
    ignore_missing: bool,
) -> int:
    """Restarts units as systemctl does, one after the other: units that depend on one (Requires=, BindsTo=, PartOf=)
    are restarted with it. A loaded unit that does not run is started. A global unit is restarted on all machines at
    once, or with --machine only on that one, by systemctl (over SSH, unless it is this machine).

    Exits with 0 once all are active again, and with 1 if one is inactive. Units that the cluster does not have are
    submitted from local unit files, but not started.
    """
    client = open_client(settings)
    if not units:
        raise CommandFailed("No units given", status=0)
    wanted = resolve_units(client, expand_patterns(client, units, "restart", is_active, ignore_missing=ignore_missing))
    if ignore_missing:
        wanted = [unit for unit in wanted if unit.is_known]
    sent = apply_creations(client, plan_creations(client, wanted, TargetState.INACTIVE, replace=False))
    status = 1 if sent.failed else 0
    for unit in wanted:
        if unit.report is None:
            continue
        if unit.report.target == TargetState.INACTIVE:
            output.error(f"Unable to restart unit {unit.name} in state inactive")
            status = 1
            continue
        place = _pick(unit.report, machine) if machine else None
        if place and unit.report.is_global:
            failure = _restart_on_one(settings, client, ssh_port, unit.name, place)
        else:
            failure = _restart(client, unit.report, bound_s(block_attempts))
        if failure:
            return failure
    return status


def _pick(report: schema.UnitReport, machine: str) -> Location:
    places = places_of(report)
    if not places:
        raise CommandFailed(explain_absence(report, "running"))
    return pick_place(places, machine, report.name)


def _restart_on_one(settings: Settings, client: Client, port: int, name: str, place: Location) -> int:
    as_root = [] if settings.user else ["sh", "-c", _AS_ROOT]
    argv = [*as_root, *systemctl(settings), "restart", "--", name]
    status = Remote(settings, client, port).run(place, argv)
    if status == 0:
        output.result(output.unit_line(name, "restarted", str(place)))
    return status


def _restart(client: Client, report: schema.UnitReport, bound_s: float) -> int:
    """Restart one unit, or start it if it is loaded and does not run; returns 0 if it runs within `bound_s`, else 1.

    Raises CommandFailed.
    """
    target = report.target
    if target == TargetState.LAUNCHED or any(map(runs, report.allocations)):
        with failing_as(f"Error restarting unit {report.name}: "):
            for refusal in client.restart([report.name]).values():
                raise refusal
    else:
        output.debug(f"Unit {report.name} does not run: starting it")
        target = TargetState.LAUNCHED
        with failing_as(f"Error setting target state for unit {report.name}: "):
            client.set_target(report.name, target)
    check = on_every_machine(check_launched) if report.is_global else check_launched
    return wait_for(client, [report.name], target, check, bound_s)
