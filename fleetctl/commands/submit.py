"""submit: submit unit files without starting them."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.parsing import command as new_command
from fleetctl.parsing import creation_options, pass_settings, unit_arguments
from fleetctl.settings import Settings
from fleetctl.submit_units import apply_creations, plan_creations, resolve_units
from fleetd.model.unit import TargetState


@new_command("submit", usage="[--replace] UNIT...")
@creation_options
@unit_arguments
@pass_settings
def command(settings: Settings, units: tuple[str, ...], replace: bool) -> int:
    """Stores unit files in the cluster; starts nothing.

    A unit that the cluster has already is not changed, with a warning if the local file differs; --replace replaces it
    if its target state is inactive. An instance (web@1.service) is created from its own file, else from the template
    (web@.service) in the cluster, else from the template's file.
    """
    client = open_client(settings)
    if not units:
        output.error("No units given")
        return 0
    wanted = resolve_units(client, units)
    sent = apply_creations(client, plan_creations(client, wanted, TargetState.INACTIVE, replace))
    return 1 if sent.failed else 0
