"""cluster: set a cluster up, show what it consists of, and replace its authority."""

from typing import Any

import click

from fleetctl.actions import Action, run_action
from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed
from fleetctl.listing import JSON, TABLE
from fleetctl.settings import Settings


def _init(settings: Settings, words: list[str], *, address: str) -> int:
    from fleetctl.cluster.initialise import initialise

    if words:
        raise CommandFailed("cluster init takes no arguments", status=2)
    return initialise(settings, address)


def _status(settings: Settings, words: list[str], *, form: str) -> int:
    from fleetctl.cluster.status import show_status

    if words:
        raise CommandFailed("cluster status takes no arguments", status=2)
    return show_status(settings, form)


def _rotate_ca(settings: Settings, words: list[str]) -> int:
    from fleetctl.cluster.rotation import rotate_authority

    if words:
        raise CommandFailed("cluster rotate-ca takes no arguments", status=2)
    return rotate_authority(settings)


ACTIONS = {
    "init": Action("make this machine the first server of a cluster", _init, ("address",)),
    "status": Action("show what the cluster consists of, and who reaches its store", _status, ("form",)),
    "rotate-ca": Action("replace the authority that signs the certificates of the cluster", _rotate_ca),
}


@new_command(
    "cluster", usage="init [--address=ADDRESS] | status [--output=json] | rotate-ca", completes=("cluster-actions",)
)
@click.option("--address", default="", help="with init: the address of this machine for the others (default: detected)")
@click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="with status: table, or json: an object"
)
@click.argument("words", nargs=-1)
def command(settings: Settings, words: tuple[str, ...], **options: Any) -> int:
    """Sets a cluster up, shows what it consists of, or replaces its authority.

    init makes this machine the first server of a cluster; root runs it. It installs etcd-server if that is missing,
    makes the authority of the cluster and the certificates of etcd, writes /etc/fleet/etcd.yaml and what fleet.conf
    needs, and starts fleet-etcd.service and fleet.service. It changes nothing that is there already, and goes on where
    it was interrupted. `fleetctl machine add` adds further machines. Where etcd_servers names an etcd of your own, that
    stays as it is: init only makes the authority and has the machine serve https.

    status shows the authority that signs certificates, whether the members of etcd are healthy, how many may fail, and
    the machines with their roles. It warns if a machine that is no server reaches the store, since root there is root
    on all machines. In the column ETCD, "votes" is a member of etcd, "copy" a member without a vote, and "client" a
    machine that reaches etcd and has no member.

    rotate-ca makes another authority, whose certificates all machines then get by themselves. Certificates of the
    former one count for 30 days more. Use it when the private key of the authority is lost, or may be in other hands,
    as after a server was stolen.
    """
    return run_action("cluster", ACTIONS, settings, words, options)
