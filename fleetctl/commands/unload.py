"""unload: stop units and take them off their machines."""

from fleetctl.parsing import blocking_options, pass_settings, unit_arguments
from fleetctl.parsing import command as new_command
from fleetctl.settings import Settings
from fleetctl.withdrawal import UNLOAD, withdraw


@new_command("unload", usage="[--no-block|--block-attempts=N] UNIT...")
@blocking_options
@unit_arguments
@pass_settings
def command(settings: Settings, units: tuple[str, ...], no_block: bool, block_attempts: int) -> int:
    """Stops units and takes them off their machines. The cluster keeps them: start brings them back.

    Ends with 0 when no machine has them any more. Units that the cluster does not have are passed over. Global units
    are not waited for.
    """
    return withdraw(settings, units, UNLOAD, no_block, block_attempts)
