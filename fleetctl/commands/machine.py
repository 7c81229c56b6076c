"""machine: add machines to the cluster, and remove them."""

from typing import Any

import click

from fleetctl.actions import Action, run_action
from fleetctl.cluster.joining import make_token, remove_machines
from fleetctl.command_line import flag, new_command
from fleetctl.errors import CommandFailed
from fleetctl.settings import Settings
from fleetctl.unit_locations import port_option


def _add(settings: Settings, words: list[str], *, server: bool, address: str, package: str, ssh_port: int) -> int:
    if len(words) != 1:
        raise CommandFailed("machine add takes one machine: fleetctl machine add [USER@]HOST", status=2)
    if not server:
        if address:
            raise CommandFailed("--address is for machine add --server: a worker says its own (public_ip)", status=2)
        from fleetctl.cluster.add_worker import add_worker

        return add_worker(settings, words[0], package=package, port=ssh_port)
    from fleetctl.cluster.add_server import add_server

    return add_server(settings, words[0], address=address, package=package, port=ssh_port)


ACTIONS: dict[str, Action] = {
    "add": Action("make a machine part of the cluster, over SSH", _add, ("server", "address", "package", "ssh_port")),
    "token": Action("print a token with which one machine can join", make_token, ("machine_id",)),
    "remove": Action("remove machines; their certificates do not count any more", remove_machines, ("force",)),
}


@new_command(
    "machine",
    usage="add [--server] [--address=ADDRESS] [--package=FILE] [USER@]HOST | token [--machine-id=ID] | "
    "remove [--force] MACHINE...",
    completes=("machine-actions", "machines"),
)
@flag("--server", text="with add: the machine holds the store, may lead, and has the keys of the cluster")
@click.option("--address", default="", help="with add --server: its address for other servers (default: that of SSH)")
@click.option("--package", default="", metavar="FILE", help="with add: the Debian package of fleet to copy there")
@click.option("--machine-id", default="", metavar="ID", help="with token: the only machine that may use it")
@flag("--force", text="with remove: also while units run there, which start elsewhere then")
@port_option()
@click.argument("words", nargs=-1)
def command(settings: Settings, words: tuple[str, ...], **options: Any) -> int:
    """Adds machines to the cluster, or removes them.

    add makes a machine a worker of the cluster, over SSH: as root, or as a user whose sudo asks for no password. fleet
    is installed from the package that is found here (fleet_VERSION_ARCHITECTURE.deb in this folder, the home directory
    or the cache of apt), else from that machine's own repositories. Run again, it goes on where it was interrupted.

    add --server makes it a server. Root runs it on a server, since it copies keys. The new server gets an etcd with a
    copy of the store; if that fails, it is taken out again. The number of members that vote stays odd: the etcd of a
    second server gets its vote when there is a third, since a store with two votes stops when either fails.

    token prints a join token. With it, one machine can join as a worker within an hour: `fleetd join
    https://SERVER:7443 TOKEN` there. The token names the authority that the machine is to trust, and is a secret: who
    has it can join. A machine whose id the cluster knows already, as one that was installed again, needs a token that
    is bound to its id.

    remove takes machines out of the cluster, each given by a prefix of its id, or by all of it if it is absent. Their
    certificates do not count any more, their connections end within a second, and what the cluster knows of them is
    deleted. It is refused while units run there: drain the machine before. With --force these start elsewhere, whether
    or not they stop there, which is for a machine that is in other hands. A server leaves first (`fleetd leave`), since
    it reaches etcd by itself; --force then revokes its certificates, and takes its etcd out of the others if root runs
    this on a server.
    """
    return run_action("machine", ACTIONS, settings, words, options)
