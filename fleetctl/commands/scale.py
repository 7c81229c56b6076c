"""scale: set how many instances a template has."""

import click

from fleetctl.command_line import flag, new_command
from fleetctl.commands.apply import finish, note_option, open_patiently, output_option
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.local_files import check_name, parse_argument
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.model.group import MAX_INSTANCES
from fleetd.model.names import is_template


@new_command(
    "scale",
    usage="[--note=TEXT] [--plan] [--output=json] [--no-block] TEMPLATE NUMBER",
    completes=("templates",),
)
@note_option
@flag("--plan", text="only print what would be done")
@output_option("an array of objects, one for each instance that is created or destroyed")
@flag("--no-block", text="do not wait for the result")
@click.argument("template")
@click.argument("number")
def command(
    settings: Settings,
    template: str,
    number: str,
    note: str,
    plan: bool,
    form: str,
    no_block: bool,
) -> int:
    """Creates and destroys instances of a template in the cluster, so that there are so many, numbered from 1. Those
    with the highest numbers are destroyed. Instances with names that are no numbers stay.

    New instances get the content of the template, and the target state of its DesiredState= (launched). If its last
    change was reverted, they run what the others were reverted to, until somebody applies. If its unit file has
    Instances=, the next apply of its folder makes as many as that says.

    Exits with 0 once the new ones are proven and the others gone, and with 1 and the reason if one is not.
    """
    argument = parse_argument(template)
    check_name(argument)
    name = argument.name.full
    if not is_template(name):
        raise CommandFailed(f"{name} is no template: only a template, such as web@.service, has instances")
    if not number.isascii() or not number.isdecimal() or int(number) > MAX_INSTANCES:
        raise CommandFailed(
            f"{number!r} cannot be the number of instances: write one from 0 to {MAX_INSTANCES}", status=2
        )
    client = open_patiently(settings)
    with failing_as(f"Error scaling {name}: "):
        answer = client.scale(schema.Scale(name, int(number), plan, note))
    return finish(client, name, answer, form, plan, no_block)
