"""load: put units on machines without starting them."""

from fleetctl.command_line import blocking_options, creation_options, new_command, unit_arguments
from fleetctl.commands.start import LOAD, run_start
from fleetctl.settings import Settings


@new_command("load", usage="[--no-block|--block-attempts=N] [--replace] UNIT...", completes=("units", "unit-files"))
@blocking_options
@creation_options
@unit_arguments
def command(settings: Settings, units: tuple[str, ...], replace: bool, no_block: bool, block_attempts: int) -> int:
    """Places units on machines, where systemd loads but does not start them; submits those that the cluster does not
    have. A running unit is stopped, and stays on its machine.

    Exits with 0 once all are loaded, and with 1 and the reason if one cannot be. A unit that no machine accepts yet is
    waited for, and the reason is printed at once.
    """
    return run_start(settings, units, LOAD, replace, no_block, block_attempts)
