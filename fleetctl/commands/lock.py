"""lock: run a command while a lock of the cluster is held."""

import os
import socket
from contextlib import closing

import click

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import TimeSpan, flag, new_command
from fleetctl.errors import CommandFailed
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.lock import DEFAULT_TTL_S, LONGEST_TTL_S, MOST_HOLDER, refuse_lock_name, refuse_lock_terms

TTL_HELP = "how long the lock is kept without a renewal"


@new_command(
    "lock",
    usage="[--slots=N] [--wait=TIME|--try] [--ttl=TIME] [--conflict-exit-code=N] NAME -- COMMAND...",
    completes=("locks",),
    takes_command=True,
)
@click.option("--slots", type=int, default=1, help="how many may hold the lock at once; all have to say the same")
@click.option("--wait", "-w", type=TimeSpan(), default=None, help="how long to wait for the lock")
@flag("--try", "-n", text="do not wait for the lock")
@click.option("--ttl", type=TimeSpan(LONGEST_TTL_S), default=f"{DEFAULT_TTL_S:g}s", help=TTL_HELP)
@click.option(
    "--conflict-exit-code", "-E", type=click.IntRange(0, 255), default=1, help="the status if the lock is not free"
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def command(
    settings: Settings,
    words: tuple[str, ...],
    slots: int,
    wait: float | None,
    ttl: float,
    conflict_exit_code: int,
    **flags: bool,
) -> int:
    """Waits for a lock of the cluster, and runs a command while it holds the lock. The command gets the fencing token
    in FLEET_LOCK_TOKEN, which rises with each holder, for what can refuse an older one. Options go first.

    The lock is renewed each third of the ttl. Without an answer for two thirds of it, or once the lock is taken away,
    the command and what it has started get SIGTERM, and SIGKILL before the ttl has passed: two commands never run with
    one lock. Signals are passed on to the command. A holder that vanishes without a release is waited for another ttl.

    Exits with the status of the command (128 and its signal, if one has ended it); 1 if the lock is not free, 124 if it
    was lost, 125 if fleetctl fails, 126 if the command cannot be run and 127 if there is none.
    """
    from fleetctl.locked_command import LOST_STATUS, NAME, run_with_lock
    from fleetctl.locks import Locks, NotFree
    from fleetctl.prepared_command import PreparedCommand

    if flags["try"] and wait is not None:
        raise CommandFailed("--try does not wait: leave out --wait, or --try", status=2)
    name, words = parse_words(words)
    request = make_request(ttl, slots, 0.0 if flags["try"] else wait)
    if request.wait is None and slots == 1 and os.environ.get(NAME) == name:
        output.note(f"this runs with lock {name} already: it waits for itself, unless that one has ended")
    with closing(PreparedCommand(words)) as prepared:
        locks = Locks(open_client(settings))
        try:
            held = locks.take(name, request)
        except NotFree as error:
            raise CommandFailed(f"Error: {error}", conflict_exit_code) from error
        ended = run_with_lock(locks, held, name, prepared)
    if ended.lost:
        raise CommandFailed(f"Error: lock {name} is lost, and the command was ended: {ended.lost}", LOST_STATUS)
    return ended.status


def parse_words(words: tuple[str, ...], verb: str = "lock") -> tuple[str, tuple[str, ...]]:
    """The name of a lock, and a command, of `fleetctl lock` or another verb. Raises CommandFailed."""
    name, *command = words or ("",)
    if not words or name == "--":
        raise CommandFailed(f"Error: the name of a lock is missing: fleetctl {verb} NAME -- COMMAND", status=2)
    if refusal := refuse_lock_name(name):
        raise CommandFailed(f"Error: {refusal}", status=2)
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise CommandFailed(f"Error: a command is missing: fleetctl {verb} {name} -- COMMAND", status=2)
    return name, tuple(command)


def make_request(ttl_s: float, slots: int, wait_s: float | None) -> schema.LockRequest:
    """What is asked of fleetd. Raises CommandFailed."""
    if refusal := refuse_lock_terms(ttl_s, slots):
        raise CommandFailed(f"Error: {refusal}", status=2)
    holder = output.printable(f"{socket.gethostname()}:{os.getpid()}")[:MOST_HOLDER]
    return schema.LockRequest(ttl_s, slots, wait_s, holder)
