"""cat: print the unit file and the drop-ins of a unit in the cluster."""

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command, unit_arguments
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.selection import expand_patterns
from fleetctl.settings import Settings
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.unitfile import render_unit_file


@new_command("cat", usage="UNIT", completes=("units",))
@unit_arguments
def command(settings: Settings, units: tuple[str, ...]) -> int:
    """Prints the unit file as the cluster keeps it: without comments, blank lines and indentation. Its drop-ins follow,
    each after a comment with its path on machines, as systemctl cat prints them. If a pattern matches several units, a
    comment with its name precedes each.
    """
    client = open_client(settings)
    if len(units) != 1:
        raise CommandFailed("One unit file must be provided")
    names = expand_patterns(client, units, "print", lambda report: True)
    for number, name in enumerate(names):
        if len(names) > 1:
            output.result(("\n" if number else "") + f"# {name}")
        _print(client, parse_argument(name).name.full)
    return 0


def _print(client: Client, name: str) -> None:
    with failing_as(f"Error retrieving Unit {name}: "):
        content = client.content(name)
    if content is None:
        raise CommandFailed(f"Unit {name} not found{suggest_unit(client, name)}")
    output.write_text(render_content(content))


def render_content(content: schema.UnitContent) -> str:
    """The unit file, and the drop-ins with their paths."""
    dropins = (f"# {dropin_path(content.name, dropin.name)}\n{dropin.text}" for dropin in content.dropins)
    return "\n".join((render_unit_file(content.options), *dropins))


def dropin_path(unit: str, dropin: str) -> str:
    """Where a machine has this drop-in."""
    return f"/run/systemd/system/{unit}.d/{dropin}"
