"""elect: run a command while this one leads."""

from contextlib import closing

import click

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import TimeSpan, new_command
from fleetctl.commands.lock import TTL_HELP, make_request, parse_words
from fleetctl.settings import Settings
from fleetd.model.lock import DEFAULT_TTL_S, LONGEST_TTL_S


@new_command("elect", usage="[--ttl=TIME] NAME -- COMMAND...", completes=("locks",), takes_command=True)
@click.option("--ttl", type=TimeSpan(LONGEST_TTL_S), default=f"{DEFAULT_TTL_S:g}s", help=TTL_HELP)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(settings: Settings, words: tuple[str, ...], ttl: float) -> int:
    """Waits until it is the leader of all who are up for this election, and runs a command while it is. Options go
    first.

    If it does not lead any more, the command is ended as by `fleetctl lock`, and it waits again. Once the command ends
    by itself, it exits with the status of that. An election is a lock with one slot: the command gets the fencing token
    in FLEET_LOCK_TOKEN, and `fleetctl locks` shows who leads.
    """
    from fleetctl.locked_command import run_with_lock
    from fleetctl.locks import Locks
    from fleetctl.prepared_command import PreparedCommand

    name, words = parse_words(words, "elect")
    request = make_request(ttl, 1, None)
    locks: Locks | None = None
    while True:
        with closing(PreparedCommand(words)) as prepared:
            has_led = locks is not None
            locks = locks or Locks(open_client(settings))
            held = locks.take(name, request, for_ever=has_led)
            ended = run_with_lock(locks, held, name, prepared)
        if not ended.lost:
            return ended.status
        output.note(f"it does not lead {name} any more, and waits again: {ended.lost}")
