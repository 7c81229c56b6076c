"""machine: add machines to the cluster and remove them."""

from typing import Any

import click

from fleetctl.actions import Action, run_action
from fleetctl.command_line import new_command
from fleetctl.settings import Settings

ACTIONS: dict[str, Action] = {}


@new_command("machine", usage="", completes=("machine-actions", "machines"))
@click.argument("words", nargs=-1)
def command(settings: Settings, words: tuple[str, ...], **options: Any) -> int:
    """Adds machines to the cluster, and removes them."""
    return run_action("machine", ACTIONS, settings, words, options)
