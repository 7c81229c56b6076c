"""__complete: say what may stand at the end of a command line, for the completion of shells."""

import click

from fleetctl import log, output
from fleetctl.completion import complete
from fleetctl.parsing import command as new_command
from fleetctl.parsing import pass_settings
from fleetctl.settings import Settings


@new_command("__complete", usage="-- WORD...")
@click.argument("words", nargs=-1)
@pass_settings
def command(settings: Settings, words: tuple[str, ...]) -> int:
    """Takes the words that follow fleetctl, up to the cursor; the last of them, which may be empty, is completed.
    Prints each word that may stand in its place, a tab, and what it means. The options before -- mean nothing.
    """
    log.silence()
    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    for candidate in complete(root, words):
        if candidate.word.isprintable():
            output.result(f"{candidate.word}\t{output.printable(candidate.meaning)}".rstrip("\t"))
    return 0
