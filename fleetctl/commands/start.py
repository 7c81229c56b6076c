"""start: start units, and submit those that the cluster does not have."""

from fleetctl.parsing import blocking_options, creation_options, pass_settings, unit_arguments
from fleetctl.parsing import command as new_command
from fleetctl.settings import Settings
from fleetctl.start_units import START, run_start


@new_command("start", usage="[--no-block|--block-attempts=N] [--replace] UNIT...")
@blocking_options
@creation_options
@unit_arguments
@pass_settings
def command(settings: Settings, units: tuple[str, ...], replace: bool, no_block: bool, block_attempts: int) -> int:
    """Starts units on machines that fit; submits those that the cluster does not have. A unit that was started
    before, but has failed or ended, is started again.

    Ends with 0 when all of them are active (or were oneshots, and have completed), and with 1, saying why, when
    one has failed or could not be loaded. One that no machine takes at the moment is waited for, and why is said at
    once. A service counts as active when it still is a tenth of a second later; what of it lasts longer, such as the
    start of a program that says itself when it is ready, is for its Type= to say. Global units are not waited for.
    """
    return run_start(settings, units, START, replace, no_block, block_attempts)
