"""cluster: set a cluster up, and show what it consists of."""

from typing import Any

import click

from fleetctl.actions import Action, run_action
from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed
from fleetctl.settings import Settings


def _init(_: Settings, words: list[str], *, address: str) -> int:
    from fleetctl.cluster.initialise import initialise

    if words:
        raise CommandFailed("cluster init takes no arguments", status=2)
    return initialise(address)


ACTIONS = {
    "init": Action("make this machine the first server of a cluster", _init, ("address",)),
}


@new_command("cluster", usage="init [--address=ADDRESS]", completes=("cluster-actions",))
@click.option("--address", default="", help="init: the address of this machine for the others (default: detected)")
@click.argument("words", nargs=-1)
def command(settings: Settings, words: tuple[str, ...], **options: Any) -> int:
    """init makes this machine, as root, the first server of a cluster. It installs etcd-server if it is missing, makes
    the authority of the cluster and the certificates of etcd, writes /etc/fleet/etcd.yaml and what fleet.conf needs,
    and starts fleet-etcd.service and fleet.service. It changes nothing that is there already, and goes on where it was
    interrupted. fleetctl machine add adds further machines.
    """
    return run_action("cluster", ACTIONS, settings, words, options)
