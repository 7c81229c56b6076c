"""start: start units; submits those that the cluster does not have."""

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
    """Starts units on machines that meet their constraints; submits those that the cluster does not have. A launched
    unit that has failed or ended is started again.

    Exits with 0 once all are active (or oneshots that have completed), and with 1 and the reason if one has failed or
    cannot be loaded. A unit that no machine accepts yet is waited for, and the reason is printed at once. A service
    counts as active after a tenth of a second; use Type=notify for one that takes longer to be ready. Global units are
    not waited for.
    """
    return run_start(settings, units, START, replace, no_block, block_attempts)
