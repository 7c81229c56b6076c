"""stop: stop units; they stay on their machines."""

from fleetctl.parsing import blocking_options, missing_option, pass_settings, unit_arguments
from fleetctl.parsing import command as new_command
from fleetctl.settings import Settings
from fleetctl.stop_units import STOP, run_stop


@new_command("stop", usage="[--no-block|--block-attempts=N] [--ignore-missing] UNIT...")
@blocking_options
@missing_option
@unit_arguments
@pass_settings
def command(
    settings: Settings, units: tuple[str, ...], ignore_missing: bool, no_block: bool, block_attempts: int
) -> int:
    """Stops units; they stay on their machines, loaded by systemd.

    Exits with 0 once they have stopped, and with 1 if the cluster does not have one of them. Global units are not
    waited for.
    """
    return run_stop(settings, units, STOP, ignore_missing, no_block, block_attempts)
