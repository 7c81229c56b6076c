"""verify: deprecated, and without a successor."""

from fleetctl import output
from fleetctl.parsing import command as new_command
from fleetctl.parsing import pass_settings, unit_arguments
from fleetctl.settings import Settings


@new_command("verify", usage="UNIT")
@unit_arguments
@pass_settings
def command(settings: Settings, units: tuple[str, ...]) -> int:
    """Deprecated. It checked signatures of units, which do not exist any more."""
    output.warning("WARNING: The signed/verified units feature is DEPRECATED and should not be used.")
    output.warning("WARNING: Nothing was verified. Whoever may write to the API is trusted.")
    return 2
