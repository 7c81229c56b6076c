"""cat: print the unit file and the drop-ins of a unit in the cluster, or of one of its versions."""

import re

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command, unit_arguments
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.selection import expand_patterns
from fleetctl.settings import Settings
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.names import UNIT_TYPES
from fleetd.model.unitfile import render_unit_file

_VERSION = re.compile(rf"(?P<group>.+[.](?:{'|'.join(sorted(UNIT_TYPES))}))@(?P<number>[0-9]{{1,9}})", re.ASCII)


@new_command("cat", usage="UNIT[@VERSION]", completes=("units",))
@unit_arguments
def command(settings: Settings, units: tuple[str, ...]) -> int:
    """Prints the unit file as the cluster keeps it: without comments, blank lines and indentation. Its drop-ins follow,
    each after a comment with its path on machines, as systemctl cat prints them. If a pattern matches several units, a
    comment with its name precedes each.

    With a version (`web.service@6`), prints what an earlier apply has made of the unit, or of a template with what its
    instances had of their own: the last ten versions are kept.
    """
    client = open_client(settings)
    if len(units) != 1:
        raise CommandFailed("One unit file must be provided")
    if version := _VERSION.fullmatch(units[0]):
        return _print_version(client, version["group"], int(version["number"]))
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


def _print_version(client: Client, group: str, number: int) -> int:
    with failing_as(f"Error retrieving the versions of {group}: "):
        versions = client.versions(group)
    version = next((version for version in versions if version.number == number), None)
    if version is None:
        there_are = ", ".join(str(version.number) for version in versions)
        why = f"there are {there_are}" if there_are else "it has none: an apply makes one of what it changes"
        raise CommandFailed(f"{group} has no version {number}: {why}")
    output.write_text(render_version(group, version))
    return 0


def render_version(group: str, version: schema.Version) -> str:
    """The unit file, and the drop-ins and what instances had of their own with their paths."""
    parts = [version.text] if version.text else []
    parts += [f"# {dropin_path(group, dropin.name)}\n{dropin.text}" for dropin in version.dropins]
    for unit in version.instances:
        parts += [f"# {unit.name}\n{unit.text}"] if unit.text else []
        parts += [f"# {dropin_path(unit.name, dropin.name)}\n{dropin.text}" for dropin in unit.dropins]
    return "\n".join(parts)


def render_content(content: schema.UnitContent) -> str:
    """The unit file, and the drop-ins with their paths."""
    dropins = (f"# {dropin_path(content.name, dropin.name)}\n{dropin.text}" for dropin in content.dropins)
    return "\n".join((render_unit_file(content.options), *dropins))


def dropin_path(unit: str, dropin: str) -> str:
    """Where a machine has this drop-in."""
    return f"/run/systemd/system/{unit}.d/{dropin}"
