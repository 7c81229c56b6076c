"""verify: check unit files as submit does, and with systemd-analyze if there is one."""

import os
import subprocess
import tempfile

import click

from fleetctl import output
from fleetctl.command_line import new_command, unit_arguments
from fleetctl.commands.submit import refuse, warn
from fleetctl.errors import CommandFailed
from fleetctl.local_files import (
    LocalFile,
    UnitArgument,
    check_name,
    explain_missing,
    parse_argument,
    read_local_file,
    refuse_other_quadlet,
)
from fleetctl.settings import Settings
from fleetd.model.content import Content
from fleetd.model.group import refuse_joined
from fleetd.model.isolation_options import isolation_options_of
from fleetd.model.quadlet.names import SUFFIXES
from fleetd.model.quadlet.source import without_sources
from fleetd.model.unitfile import render_unit_file

# Dependencies are not checked: they may exist only in the cluster.
_SYSTEMD_ANALYZE = ("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "--")


@new_command("verify", usage="FILE...", completes=("unit-files",))
@unit_arguments
def command(settings: Settings, units: tuple[str, ...]) -> int:
    """Checks unit files by the same rules as submit and the API, without the cluster: syntax, name, and the sections
    [X-Fleet] and [Install]. Warns of options without effect, and of lines that CoreOS fleet reads differently. Runs
    systemd-analyze(1) if it is installed, which checks the rest for this machine: a program missing here is an error.
    Of a container, a volume or a network, the service that it makes is checked. Of a unit with IsolationSec= or Lock=,
    it says how long it may take until it runs elsewhere.

    Exits with 1 if one of them has an error. Warnings of fleet do not count.
    """
    if not units:
        raise click.UsageError("no unit files given")
    contents: dict[str, Content] = {}
    found = max([_verify(unit, contents) for unit in units])
    refusals = [f"{name}: {why}" for name in contents if (why := refuse_joined(name, contents))]
    for refusal in refusals:
        output.error(output.printable(refusal))
    return 1 if refusals else found


def _verify(unit: str, contents: dict[str, Content]) -> int:
    """Check one unit file, and add what it holds to `contents`."""
    argument = parse_argument(unit)
    try:
        check_name(argument)
        refuse_other_quadlet(argument)
        file = _read(argument)
        refuse(argument.name.full, file.content)
    except CommandFailed as failure:
        output.error(str(failure).removeprefix("Error creating units: "))
        return 1
    contents[argument.name.full] = Content(render_unit_file(file.content.options))
    warn(argument.name.full, file.content, file)
    name = argument.name
    of_instance = f"{name.prefix}@INSTANCE.{name.suffix}" if name.is_template else name.full
    if isolation := isolation_options_of(contents[name.full], of_instance).describe():
        output.note(output.printable(f"{argument.name.full} {isolation}"))
    if not file.path.endswith(SUFFIXES):
        return _ask_systemd(os.path.abspath(file.path))
    with tempfile.TemporaryDirectory() as folder:  # where the service has the name that systemd expects
        path = os.path.join(folder, argument.name.full)
        with open(path, "w", encoding="utf-8") as made:
            made.write(render_unit_file(without_sources(file.content.options)))
        return _ask_systemd(path)


def _read(argument: UnitArgument) -> LocalFile:
    """The unit's file, for an instance else its template's."""
    file = read_local_file(argument.path) or read_local_file(argument.template_path)
    if file is None:
        raise CommandFailed(f"{argument.path}: no such file{explain_missing(argument)}")
    return file


def _ask_systemd(path: str) -> int:
    try:
        found = subprocess.run([*_SYSTEMD_ANALYZE, path], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return 0  # systemd is not installed
    for line in found.stderr.decode(errors="replace").splitlines():
        output.warning(output.printable(line))
    return 1 if found.returncode else 0
