"""cordon: keep new units off machines."""

import click

from fleetctl.client import Client
from fleetctl.command_line import new_command
from fleetctl.machine_changes import change_machines
from fleetctl.settings import Settings


@new_command("cordon", usage="[--why=TEXT] MACHINE...", completes=("machines",))
@click.option("--why", default="", metavar="TEXT", help="the reason, on one line, which is shown wherever it matters")
@click.argument("machines", nargs=-1)
def command(settings: Settings, machines: tuple[str, ...], why: str) -> int:
    """Cordons machines, each given by a prefix of its id: no unit is placed there any more, but global ones. Units that
    are there stay, and may be stopped, started and replaced there.

    list-machines names cordoned machines, with who cordoned them and when, and uncordon ends it. A machine that is
    restarted, or absent for a while, stays cordoned.
    """

    def cordon(client: Client, machine: str) -> None:
        client.cordon(machine, why)

    return change_machines(settings, machines, cordon, doing="cordoning", done="Cordoned")
