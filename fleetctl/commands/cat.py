"""cat: print the unit file and the drop-ins of a unit in the cluster, or of one of its versions."""

import re
from collections.abc import Sequence

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import flag, new_command, unit_arguments
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.selection import expand_patterns
from fleetctl.settings import Settings
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.names import UNIT_TYPES
from fleetd.model.quadlet.source import sources_of, without_sources
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import parse_unit_file, render_unit_file

_VERSION = re.compile(rf"(?P<group>.+[.](?:{'|'.join(sorted(UNIT_TYPES))}))@(?P<number>[0-9]{{1,9}})", re.ASCII)


@new_command("cat", usage="[--rendered] UNIT[@VERSION]", completes=("units",))
@flag("--rendered", text="of a container, print the service that was made of it")
@unit_arguments
def command(settings: Settings, units: tuple[str, ...], rendered: bool) -> int:
    """Prints the unit file as the cluster keeps it: without comments, blank lines and indentation. Its drop-ins follow,
    each after a comment with its path on machines, as systemctl cat prints them. If a pattern matches several units, a
    comment with its name precedes each.

    Of a container (hello.container), the file that was submitted is printed, and the volumes and networks that it
    names, each after a comment with its name. --rendered prints what machines get: the service that was made of it.

    With a version (`web.service@6`), prints what an earlier apply has made of the unit, or of a template with what its
    instances had of their own: the last ten versions are kept.
    """
    client = open_client(settings)
    if len(units) != 1:
        raise CommandFailed("One unit file must be provided")
    if version := _VERSION.fullmatch(units[0]):
        return _print_version(client, version["group"], int(version["number"]), rendered)
    names = expand_patterns(client, units, "print", lambda report: True)
    for number, name in enumerate(names):
        if len(names) > 1:
            output.result(("\n" if number else "") + f"# {name}")
        _print(client, parse_argument(name).name.full, rendered)
    return 0


def _print(client: Client, name: str, rendered: bool) -> None:
    with failing_as(f"Error retrieving Unit {name}: "):
        content = client.content(name)
    if content is None:
        raise CommandFailed(f"Unit {name} not found{suggest_unit(client, name)}")
    output.write_text(render_content(content, rendered=rendered))


def _print_version(client: Client, group: str, number: int, rendered: bool) -> int:
    with failing_as(f"Error retrieving the versions of {group}: "):
        versions = client.versions(group)
    version = next((version for version in versions if version.number == number), None)
    if version is None:
        there_are = ", ".join(str(version.number) for version in versions)
        why = f"there are {there_are}" if there_are else "it has none: an apply makes one of what it changes"
        raise CommandFailed(f"{group} has no version {number}: {why}")
    output.write_text(render_version(group, version, rendered=rendered))
    return 0


def render_version(group: str, version: schema.Version, *, rendered: bool = False) -> str:
    """The unit file, and the drop-ins and what instances had of their own with their paths."""
    parts = [_render_file(parse_unit_file(version.text), rendered)] if version.text else []
    parts += [f"# {dropin_path(group, dropin.name)}\n{dropin.text}" for dropin in version.dropins]
    for unit in version.instances:
        parts += [f"# {unit.name}\n{_render_file(parse_unit_file(unit.text), rendered)}"] if unit.text else []
        parts += [f"# {dropin_path(unit.name, dropin.name)}\n{dropin.text}" for dropin in unit.dropins]
    return "\n".join(parts)


def render_content(content: schema.UnitContent, *, rendered: bool = False) -> str:
    """The unit file, and the drop-ins with their paths. `rendered`: of a container, the service."""
    dropins = (f"# {dropin_path(content.name, dropin.name)}\n{dropin.text}" for dropin in content.dropins)
    return "\n".join((_render_file(content.options, rendered), *dropins))


def _render_file(options: Sequence[UnitOption], rendered: bool) -> str:
    """The unit file with these options, or the files that it was made of."""
    if rendered or not (files := sources_of(options)):
        return render_unit_file(without_sources(options))
    [container, *others] = files
    return "\n".join((container.text, *(f"# {file.name}\n{file.text}" for file in others)))


def dropin_path(unit: str, dropin: str) -> str:
    """Where a machine has this drop-in."""
    return f"/run/systemd/system/{unit}.d/{dropin}"
