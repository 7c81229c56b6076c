"""`cluster rotate-ca`: another authority for the cluster."""

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.errors import failing_as
from fleetctl.settings import Settings
from fleetd.model.timespan import render_moment


def rotate_authority(settings: Settings) -> int:
    """Have another authority made, and say what becomes of the former one. Returns the exit status."""
    client = open_client(settings)
    with failing_as("Error replacing the authority of the cluster: "):
        made = client.rotate_authority()
    output.result(f"Authority {made.number} signs from now on (SHA-256 {output.printable(made.fingerprint)})")
    output.note(
        f"Certificates of the former one count until {render_moment(made.former_until)}. Machines renew theirs before "
        "that by themselves; a machine that is off until then has to join again, and people and services log in again."
    )
    if made.key_file:
        output.note(
            f"The other servers fetch the private key from this one, where it is {output.printable(made.key_file)}: "
            "keep a copy of it, and of the .pem file beside it, in a safe place."
        )
    return 0
