"""unlock: take a lock from those who hold it."""

import click

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import flag, new_command
from fleetctl.errors import ApiError, ClientError, CommandFailed
from fleetctl.settings import Settings
from fleetd.model.lock import refuse_lock_name


@new_command("unlock", usage="--force NAME...", completes=("locks",))
@flag("--force", text="take the lock from those who hold it; without this, only they release it")
@click.argument("names", nargs=-1, required=True)
def command(settings: Settings, names: tuple[str, ...], force: bool) -> int:
    """Takes locks from those who hold them. The command that runs with a lock is ended, at the next renewal.

    The next one has the lock when the ttl of its holder has passed, so two commands never run with it.
    """
    from fleetctl.locks import Locks

    if not force:
        raise CommandFailed("Error: a lock is released by its holder; --force takes it away", status=2)
    if refusal := next(filter(None, map(refuse_lock_name, names)), ""):
        raise CommandFailed(f"Error: {refusal}", status=2)
    locks, status = Locks(open_client(settings)), 0
    for name in names:
        try:
            taken = locks.take_away(name)
        except ClientError as error:
            output.error(f"Error taking lock {name} away: {error}")
            status = 1
            if not isinstance(error, ApiError):
                break
            continue
        who = ", ".join(session.holder or session.by or "another program" for session in taken.sessions)
        output.result(f"Took lock {name} from {output.printable(who)}; it is free in {taken.free_after:.0f} s at most")
    return status
