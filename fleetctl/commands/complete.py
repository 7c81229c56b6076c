"""__complete: complete a command line, for shells."""

import io
from contextlib import redirect_stderr

import click

from fleetctl import output
from fleetctl.command_line import new_command
from fleetctl.completion import complete
from fleetctl.settings import Settings


@new_command("__complete", usage="-- WORD...")
@click.argument("words", nargs=-1)
def command(settings: Settings, words: tuple[str, ...]) -> int:
    """Takes the words after fleetctl up to the cursor, and completes the last of them, which may be empty. Prints each
    completion, a tab, and its meaning. Options before -- are ignored.
    """
    root = click.get_current_context().find_root().command
    assert isinstance(root, click.Group)
    with redirect_stderr(io.StringIO()):  # warnings would garble the command line
        candidates = complete(root, words)
    for candidate in candidates:
        if candidate.word.isprintable():
            output.result(f"{candidate.word}\t{output.printable(candidate.meaning)}".rstrip("\t"))
    return 0
