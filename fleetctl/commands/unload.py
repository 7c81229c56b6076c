"""unload: stop units and take them off their machines."""

from fleetctl.command_line import blocking_options, missing_option, new_command, unit_arguments
from fleetctl.commands.stop import UNLOAD, run_stop
from fleetctl.settings import Settings


@new_command("unload", usage="[--no-block|--block-attempts=N] [--ignore-missing] UNIT...", completes=("units",))
@blocking_options
@missing_option
@unit_arguments
def command(
    settings: Settings, units: tuple[str, ...], ignore_missing: bool, no_block: bool, block_attempts: int
) -> int:
    """Stops units and takes them off their machines. The cluster keeps their unit files, so that they can be started
    again.

    Exits with 0 once no machine has them, and with 1 if the cluster does not have one of them. Global units are not
    waited for.
    """
    return run_stop(settings, units, UNLOAD, ignore_missing, no_block, block_attempts)
