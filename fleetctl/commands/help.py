"""help: show the commands, or the help of one."""

import click

from fleetctl import output
from fleetctl.command_line import new_command
from fleetctl.settings import Settings


@new_command("help", usage="[COMMAND]", completes=("commands",))
@click.argument("topic", metavar="[COMMAND]", default="")
def command(settings: Settings, topic: str) -> int:
    """Shows all commands, or the help of one."""
    context = click.get_current_context().find_root()
    group = context.command
    assert isinstance(group, click.Group)
    shown = group.get_command(context, topic) if topic else group
    assert shown is not None
    output.result(shown.get_help(context))
    return 0
