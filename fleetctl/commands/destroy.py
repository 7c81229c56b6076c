"""destroy: stop units and remove them from the cluster."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import blocking_options, bound_s, missing_option, new_command, unit_arguments
from fleetctl.commands.stop import find_units
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.settings import Settings
from fleetctl.wait import wait_until_gone
from fleetd.api import schema

GONE_ALREADY = 404


@new_command("destroy", usage="[--no-block|--block-attempts=N] [--ignore-missing] UNIT...", completes=("units",))
@blocking_options
@missing_option
@unit_arguments
def command(
    settings: Settings, units: tuple[str, ...], ignore_missing: bool, no_block: bool, block_attempts: int
) -> int:
    """Stops units and removes them from the cluster, with their unit files.

    Exits with 0 once no machine has them, and with 1 if one is still there when time is up, or if the cluster has none
    of them; units that it does not have are named. Patterns match templates, too.
    """
    client = open_client(settings)
    if not units:
        raise CommandFailed("No units given", status=0)
    selection = find_units(client, units, "destroy", lambda report: True, ignore_missing=ignore_missing)
    if not selection.found:
        return 0 if ignore_missing else 1
    names = [report.name for report in selection.found]
    with failing_as("Error destroying units: "):
        refused = client.carry_out([schema.UnitOperation(name, destroy=True) for name in names])
    status = 0
    for name, error in refused.items():
        if error.code != GONE_ALREADY:
            output.error(f"Error destroying units: unit {name}: {error}")
            status = 1
    destroyed = [name for name in names if name not in refused]
    left = dict.fromkeys(destroyed)
    with failing_as("Error waiting for units: "):
        for name in destroyed if no_block else wait_until_gone(client, destroyed, bound_s(block_attempts)):
            output.result(f"Destroyed {name}")
            del left[name]
    for name in left:
        output.error(
            f"Error waiting for units: timed out waiting for destroyed unit {name} to stop; it goes once it has"
        )
    return 1 if left else status
