"""submit: submit unit files without starting them. Other commands that create units do it with the functions here.

Everything is read first (local files and cluster), then planned and validated, then sent together.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import msgspec

from fleetctl import output
from fleetctl.client import Client, put_operation
from fleetctl.command_line import creation_options, new_command, unit_arguments
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.images import keep_image, open_client_for, resolve
from fleetctl.local_files import (
    LocalFile,
    UnitArgument,
    explain_missing,
    parse_arguments,
    read_local_file,
)
from fleetctl.settings import Settings
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.admission import refuse_unit
from fleetd.model.constraints import parse_requirements
from fleetd.model.quadlet.source import sources_of
from fleetd.model.unit import TargetState
from fleetd.model.unit_warnings import advise
from fleetd.model.unitfile import UnitFile

Fetch = Callable[[str], UnitFile | None]  # name → content of a template in the cluster

EXISTS_ALREADY = 412

# By the target state of the command, the target states of units that it may replace.
_REPLACEABLE = {
    TargetState.INACTIVE: (TargetState.INACTIVE,),
    TargetState.LOADED: (TargetState.INACTIVE, TargetState.LOADED),
    TargetState.LAUNCHED: tuple(TargetState),
}


class RequestedUnit(msgspec.Struct, frozen=True):
    """A unit named on the command line.

    `report` is that of the unit in the cluster, `own` its local file, `template_file` the local file of its template,
    `template` the template in the cluster; each None if there is none.
    """

    argument: UnitArgument
    report: schema.UnitReport | None
    own: LocalFile | None
    template_file: LocalFile | None
    template: schema.UnitReport | None

    @property
    def name(self) -> str:
        return self.argument.name.full

    @property
    def is_known(self) -> bool:
        """True if the cluster has the unit, or its content can be found."""
        return any((self.report, self.own, self.template_file, self.template))


class Creation(msgspec.Struct, frozen=True):
    """Content and target state to send; `replaces` if the cluster has the unit."""

    argument: UnitArgument
    content: UnitFile
    target: TargetState
    replaces: bool

    @property
    def name(self) -> str:
        return self.argument.name.full

    @property
    def is_global(self) -> bool:
        return parse_requirements(self.content.options, self.argument.name).is_global


class Sent(msgspec.Struct, frozen=True):
    """Results of creations: the refused ones, and the reports of those that another client created first."""

    failed: tuple[str, ...]
    overtaken: dict[str, schema.UnitReport]


@new_command("submit", usage="[--replace] UNIT...", completes=("unit-files",))
@creation_options
@unit_arguments
def command(settings: Settings, units: tuple[str, ...], replace: bool) -> int:
    """Stores unit files in the cluster; starts nothing.

    A unit that the cluster has already is not changed, with a warning if the local file differs; --replace replaces it
    if its target state is inactive. An instance (web@1.service) is created from its own file, else from the template
    (web@.service) in the cluster, else from the template's file.
    """
    client = open_client_for(settings, units)
    if not units:
        raise CommandFailed("No units given", status=0)
    wanted = resolve_units(client, units)
    sent = apply_creations(client, plan_creations(client, wanted, TargetState.INACTIVE, replace))
    return 1 if sent.failed else 0


def resolve_units(client: Client, units: Sequence[str]) -> list[RequestedUnit]:
    """Read all local files, and ask the cluster once. Raises CommandFailed."""
    arguments = parse_arguments(units)
    files = [(read_local_file(argument.path), read_local_file(argument.template_path)) for argument in arguments]
    names = [name for argument in arguments for name in (argument.name.full, argument.name.template) if name]
    try:
        reports = client.reports(dict.fromkeys(names))
    except ClientError as error:
        raise CommandFailed(
            f"Error creating units: error retrieving Unit({names[0]}) from Registry: {error}"
        ) from error
    return [
        RequestedUnit(
            argument=argument,
            report=reports.get(argument.name.full),
            own=_keep_stored(client, reports.get(argument.name.full), own),
            template_file=_keep_stored(client, reports.get(argument.name.template), template_file),
            template=reports.get(argument.name.template) if argument.name.is_instance else None,
        )
        for argument, (own, template_file) in zip(arguments, files, strict=True)
    ]


def _keep_stored(client: Client, report: schema.UnitReport | None, file: LocalFile | None) -> LocalFile | None:
    """The file; of a container that the cluster has, made of the same files, with the image that it has there."""
    if file is None or report is None or not sources_of(file.content.options):
        return file
    stored = _fetch_template(client, report.name)
    kept = keep_image(stored.options, file.content) if stored else None
    return msgspec.structs.replace(file, content=kept, is_stored=True) if kept else file


def plan_creations(
    client: Client, wanted: Sequence[RequestedUnit], target: TargetState, replace: bool
) -> list[Creation]:
    """What to create or replace for a command that brings units to `target`; warns of differences that are kept.

    All content is validated, so that nothing is sent if anything is invalid. Raises CommandFailed.
    """
    fetch = cache(partial(_fetch_template, client))
    planned = [
        _plan_replacement(fetch, unit, target, replace)
        if unit.report
        else _plan_creation(client, fetch, unit, target, replace)
        for unit in wanted
    ]
    creations = []
    for unit, creation in zip(wanted, planned, strict=True):
        if creation is not None:
            refuse(creation.name, creation.content)
            warn(creation.name, creation.content, unit.own, unit.template_file)
            creations.append(_resolve(client, unit, creation))
    return creations


def _resolve(client: Client, unit: RequestedUnit, creation: Creation) -> Creation:
    """The creation with the image of a container by its digest, if the content is from a file."""
    files = [file for file in (unit.own, unit.template_file) if file and file.content is creation.content]
    if not files or files[0].is_stored:
        return creation
    return msgspec.structs.replace(creation, content=resolve(client, creation.name, creation.content))


def _plan_creation(client: Client, fetch: Fetch, unit: RequestedUnit, target: TargetState, replace: bool) -> Creation:
    content = _find_content(fetch, unit, prefer_template_file=replace)
    if content is None:
        raise CommandFailed(f"Error creating units: {_describe_missing(unit)}{suggest_unit(client, unit.name)}")
    if unit.own is None and unit.template and unit.template_file and not replace:
        _warn_if_different(unit.template, unit.template_file, "local template unit file")
    return _make_creation(unit, content, target, replaces=False)


def _make_creation(unit: RequestedUnit, content: UnitFile, target: TargetState, *, replaces: bool) -> Creation:
    """A template is created inactive; the API then refuses to start it."""
    sent = TargetState.INACTIVE if unit.argument.name.is_template else target
    return Creation(unit.argument, content, sent, replaces)


def _describe_missing(unit: RequestedUnit) -> str:
    if unit.argument.name.is_instance:
        return (
            f"failed getting Unit({unit.argument.path}) from template: "
            f"unable to find template Unit({unit.argument.name.template}) in Registry or on filesystem"
        )
    return f"unable to find Unit({unit.name}) in Registry or on filesystem{explain_missing(unit.argument)}"


def _find_content(fetch: Fetch, unit: RequestedUnit, prefer_template_file: bool) -> UnitFile | None:
    """The content of a unit: its own file, else the template in the cluster, else the template's file."""
    if unit.own:
        return unit.own.content
    if unit.template_file and (prefer_template_file or not unit.template):
        return unit.template_file.content
    return fetch(unit.template.name) if unit.template else None


def _fetch_template(client: Client, name: str) -> UnitFile | None:
    with failing_as(f"Error creating units: error retrieving Unit({name}) from Registry: "):
        template = client.unit(name)
    return UnitFile.from_options(template.options) if template else None


def _plan_replacement(fetch: Fetch, unit: RequestedUnit, target: TargetState, replace: bool) -> Creation | None:
    """How to replace a unit that the cluster has, None to keep it."""
    report = unit.report
    assert report is not None
    if not replace:
        if unit.own:
            _warn_if_different(report, unit.own, "local unit file")
        elif unit.template_file:
            _warn_if_different(report, unit.template_file, "local template unit file")
        return None
    content = _find_content(fetch, unit, prefer_template_file=True)
    if content is None:
        raise CommandFailed(
            f"Error creating units: error Unit {unit.argument.path} does not seem to be a template unit"
        )
    if content.hash == report.hash_of_file:
        output.result(f"Found same Unit({unit.name}) in Registry, nothing to do")
        return None
    if report.target not in _REPLACEABLE[target]:
        output.warning(
            f"Warning: can not replace Unit({unit.name}) in state '{report.target}', use the appropriate command"
        )
        return None
    return _make_creation(unit, content, target, replaces=True)


def _warn_if_different(report: schema.UnitReport, file: LocalFile, kind: str) -> None:
    if report.hash_of_file != file.content.hash:
        output.warning(
            f"WARNING: Unit {report.name} in registry differs from {kind} {file.path}. Add --replace to override."
        )


def refuse(name: str, content: UnitFile) -> None:
    """Raises CommandFailed for content that the API would refuse."""
    refusal = refuse_unit(name, content.options) if content.options else "its unit file has no options"
    if refusal:
        raise CommandFailed(f"Error creating units: failed creating unit {name}: {refusal}")


def warn(name: str, content: UnitFile, *files: LocalFile | None) -> None:
    """Warn of options without effect, and of lines in these files that CoreOS fleet or systemd read differently."""
    for sentence in advise(name, content.options):
        output.warning(f"warning: Unit {name}: {sentence}")
    for file in files:
        if file and file.content is content:
            for line, sentence in file.surprises:
                output.warning(f"warning: Unit {name}: line {line} of {file.path} {sentence}")


def apply_creations(client: Client, creations: Sequence[Creation]) -> Sent:
    """Send the creations together and print the result of each. Raises CommandFailed if that is unknown.

    As CoreOS fleet does, created units are printed as inactive first.
    """
    operations = [
        put_operation(each.name, each.content.options, each.target, only_new=not each.replaces) for each in creations
    ]
    named = f"failed creating unit {creations[0].name}: " if len(creations) == 1 else ""
    with failing_as(f"Error creating units: {named}"):
        refused = client.carry_out(operations)
        reports = client.reports(name for name, error in refused.items() if error.code == EXISTS_ALREADY)
    failed = dict.fromkeys(name for name in refused if name not in reports)
    for creation in creations:
        name = creation.name
        if name in failed:
            output.error(f"Error creating units: failed creating unit {name}: {refused[name]}")
        elif name in reports:
            _warn_if_overtaken(reports[name], creation)
        elif not creation.replaces or creation.target is TargetState.INACTIVE:
            output.result(output.unit_line(name, TargetState.INACTIVE))
    return Sent(tuple(failed), reports)


def _warn_if_overtaken(report: schema.UnitReport, creation: Creation) -> None:
    if report.hash_of_file != creation.content.hash:
        output.warning(
            f"WARNING: Another client has just created Unit {creation.name}, and it differs from yours. "
            "Add --replace to override."
        )
