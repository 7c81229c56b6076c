"""stop: stop units, and leave them on their machines."""

from fleetctl.parsing import blocking_options, pass_settings, unit_arguments
from fleetctl.parsing import command as new_command
from fleetctl.settings import Settings
from fleetctl.withdrawal import STOP, withdraw


@new_command("stop", usage="[--no-block|--block-attempts=N] UNIT...")
@blocking_options
@unit_arguments
@pass_settings
def command(settings: Settings, units: tuple[str, ...], no_block: bool, block_attempts: int) -> int:
    """Stops units, and leaves them on their machines, where systemd still knows them.

    Ends with 0 when they have stopped. Units that the cluster does not have are passed over. Global units are not
    waited for.
    """
    return withdraw(settings, units, STOP, no_block, block_attempts)
