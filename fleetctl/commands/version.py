"""version: print the version of fleetctl."""

from fleetctl import output
from fleetctl.command_line import new_command
from fleetctl.settings import Settings
from fleetd import __version__


@new_command("version")
def command(settings: Settings) -> int:
    """Prints the version of fleetctl, without asking the cluster."""
    output.result(f"fleetctl version {__version__}")
    return 0
