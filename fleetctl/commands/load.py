"""load: put units on machines without starting them."""

from fleetctl.parsing import blocking_options, creation_options, pass_settings, unit_arguments
from fleetctl.parsing import command as new_command
from fleetctl.settings import Settings
from fleetctl.start_units import LOAD, run_start


@new_command("load", usage="[--no-block|--block-attempts=N] [--replace] UNIT...")
@blocking_options
@creation_options
@unit_arguments
@pass_settings
def command(settings: Settings, units: tuple[str, ...], replace: bool, no_block: bool, block_attempts: int) -> int:
    """Puts units on machines, where systemd knows them, but does not start them; submits those that the cluster
    does not have. A unit that runs is stopped, and stays on its machine.

    Ends with 0 when all of them are there, and with 1, saying why, when one cannot be. One that no machine takes at
    the moment is waited for, and why is said at once.
    """
    return run_start(settings, units, LOAD, replace, no_block, block_attempts)
