"""whoami: who the cluster takes you for, and what you may do."""

import click
import msgspec

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import new_command
from fleetctl.errors import failing_as
from fleetctl.listing import JSON, TABLE
from fleetctl.logins import local_time
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.permission import EVERY_NAME, Permission

_MEANINGS = {
    Permission.VIEW: "see everything",
    Permission.OPERATE: "start, stop, restart, scale, move and drain what exists",
    Permission.SUBMIT: "submit, change and destroy units, and operate them",
    Permission.ADMIN: "do everything",
}


@new_command("whoami", usage="[--output=json]")
@click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="table, or json: an object of data"
)
def command(settings: Settings, form: str) -> int:
    """Shows who the machine that is asked takes you for, and what you may do there. Root and the group fleet may do
    everything, the group fleet-operate may operate units and machines, the group fleet-view may look, and others may do
    what role.GROUP= in its fleet.conf(5) says. Over https, the certificate says both, until it expires.
    """
    client = open_client(settings)
    with failing_as("Error asking who you are: "):
        found = client.whoami()
    if form == JSON:
        output.result(msgspec.json.encode(found).decode())
        return 0
    output.result(f"{output.printable(found.name or 'unknown')} ({output.printable(found.identity)})")
    if found.groups:
        output.result(f"groups: {', '.join(map(output.printable, found.groups))}")
    for grant in found.grants:
        output.result(_describe(grant))
    if found.expires:
        output.result(f"until {local_time(found.expires)}")
    return 0


def _describe(grant: schema.Grant) -> str:
    known = grant.permission in list(Permission)
    what = _MEANINGS[Permission(grant.permission)] if known else output.printable(grant.permission)
    return f"may {what}" + ("" if grant.pattern == EVERY_NAME else f": {output.printable(grant.pattern)}")
