"""machine: add machines to the cluster and remove them."""

from typing import Any

import click

from fleetctl.actions import Action, run_action
from fleetctl.command_line import flag, new_command
from fleetctl.joining import make_token, remove_machines
from fleetctl.settings import Settings

ACTIONS: dict[str, Action] = {
    "token": Action("print a token with which a machine can join", make_token, ("machine_id",)),
    "remove": Action("remove machines; their certificates do not count any more", remove_machines, ("force",)),
}


@new_command(
    "machine",
    usage="token [--machine-id=ID] | remove [--force] MACHINE...",
    completes=("machine-actions", "machines"),
)
@click.option("--machine-id", default="", metavar="ID", help="with token: the only machine that may use it")
@flag("--force", text="with remove: although units run there, which start elsewhere")
@click.argument("words", nargs=-1)
def command(settings: Settings, words: tuple[str, ...], **options: Any) -> int:
    """Adds machines to the cluster, and removes them.

    token prints a join token, with which one machine can join as a worker within an hour: `fleetd join
    https://SERVER:7443 TOKEN` there. The token says which authority the machine is to trust, and is a secret: who has
    it can join. A machine whose id the cluster knows already, as one that was installed again, needs a token that is
    bound to its id.

    remove takes machines out of the cluster, each given by a prefix of its id, or by all of it if it is absent. Their
    certificates do not count any more, their connections end within a second, and what the cluster knows of them is
    deleted. It is refused while units run there, unless --force is given: then they start elsewhere, whether or not
    they stop there, which is for a machine that is in other hands; drain any other before. A server leaves first
    (`fleetd leave`), since it reaches etcd by itself.
    """
    return run_action("machine", ACTIONS, settings, words, options)
