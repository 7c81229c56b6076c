"""Lazy creation: what submit, load and start do with the unit files of their arguments before anything else.

First everything is read and checked, local files and cluster; then it is planned; then it is sent, all together.
Setting target states of units that exist is not done here.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import msgspec

from fleetctl import output
from fleetctl.client import ApiError, Client, put_operation
from fleetctl.errors import ClientError, CommandFailed, failing_as
from fleetctl.local_files import (
    LocalFile,
    UnitArgument,
    check_name,
    explain_missing,
    parse_arguments,
    read_local_file,
    refuse_contradictions,
)
from fleetctl.log import LOG
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.admission import refuse_unit
from fleetd.model.advice import advise
from fleetd.model.constraints import parse_requirements
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import Option, UnitFile

Fetch = Callable[[str], UnitFile | None]  # the content of a template of the cluster, by name

EXISTS_ALREADY = 412

# Which target states a unit may be in for a command to replace it: no command does more to a unit than its name says.
_REPLACEABLE = {
    TargetState.INACTIVE: ("inactive",),
    TargetState.LOADED: ("inactive", "loaded"),
    TargetState.LAUNCHED: ("inactive", "loaded", "launched"),
}


class Wanted(msgspec.Struct, frozen=True):
    """A unit that a command is about: what the cluster knows of it, what lies here, and the cluster's template.

    `report` and `template` are None for what the cluster does not have, `own` and `template_file` for what is not here.
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
        """Whether the cluster has it, or a file or a template has its content."""
        return any((self.report, self.own, self.template_file, self.template))


class Creation(msgspec.Struct, frozen=True):
    """A content to send, and the target state to send along; `replaces` where the cluster has the unit."""

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
    """What came of creations: those that were refused, and by name those that somebody else was quicker to create."""

    failed: tuple[str, ...]
    overtaken: dict[str, schema.UnitReport]


def observe_wanted(client: Client, units: Sequence[str]) -> list[Wanted]:
    """Everything that a plan needs to know: every file is read, and the cluster asked once. Raises CommandFailed."""
    arguments = parse_arguments(units)
    for argument in arguments:
        check_name(argument)
    refuse_contradictions(units)
    files = [(read_local_file(argument.path), read_local_file(argument.template_path)) for argument in arguments]
    names = [name for argument in arguments for name in (argument.name.full, argument.name.template) if name]
    try:
        reports = client.reports(dict.fromkeys(names))
    except ClientError as error:
        raise CommandFailed(
            f"Error creating units: error retrieving Unit({names[0]}) from Registry: {error}"
        ) from error
    return [
        Wanted(
            argument=argument,
            report=reports.get(argument.name.full),
            own=own,
            template_file=template_file,
            template=reports.get(argument.name.template) if argument.name.is_instance else None,
        )
        for argument, (own, template_file) in zip(arguments, files, strict=True)
    ]


def plan_creations(client: Client, wanted: Sequence[Wanted], target: TargetState, replace: bool) -> list[Creation]:
    """What to create and to replace for a command that brings units to `target`; warns of what is left as it is.

    Every content is checked here, so that nothing is sent if one cannot be. Raises CommandFailed.
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
            creations.append(creation)
    return creations


def _plan_creation(client: Client, fetch: Fetch, unit: Wanted, target: TargetState, replace: bool) -> Creation:
    content = _find_content(fetch, unit, prefer_template_file=replace)
    if content is None:
        raise CommandFailed(f"Error creating units: {_describe_missing(unit)}{suggest_unit(client, unit.name)}")
    if unit.own is None and unit.template and unit.template_file and not replace:
        _warn_if_different(unit.template, unit.template_file, "local template unit file")
    return _make_creation(unit, content, target, replaces=False)


def _make_creation(unit: Wanted, content: UnitFile, target: TargetState, *, replaces: bool) -> Creation:
    """Content and target state in one wish. A template is never on a machine: whoever asks for more is told by the API,
    with its content in place."""
    wished = TargetState.INACTIVE if unit.argument.name.is_template else target
    return Creation(unit.argument, content, wished, replaces)


def _describe_missing(unit: Wanted) -> str:
    if unit.argument.name.is_instance:
        return (
            f"failed getting Unit({unit.argument.path}) from template: "
            f"unable to find template Unit({unit.argument.name.template}) in Registry or on filesystem"
        )
    return f"unable to find Unit({unit.name}) in Registry or on filesystem{explain_missing(unit.argument)}"


def _find_content(fetch: Fetch, unit: Wanted, prefer_template_file: bool) -> UnitFile | None:
    """The content of a unit: its own file, else the cluster's template, else the template's file."""
    if unit.own:
        return unit.own.content
    if unit.template_file and (prefer_template_file or not unit.template):
        return unit.template_file.content
    return fetch(unit.template.name) if unit.template else None


def _fetch_template(client: Client, name: str) -> UnitFile | None:
    with failing_as(f"Error creating units: error retrieving Unit({name}) from Registry: "):
        template = client.unit(name)
    if template is None:
        return None
    return UnitFile.from_options(Option(option.section, option.name, option.value) for option in template.options)


def _plan_replacement(fetch: Fetch, unit: Wanted, target: TargetState, replace: bool) -> Creation | None:
    """How to replace a unit that the cluster has, None where it is to be left as it is."""
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
    if content.hash == report.hash:
        output.result(f"Found same Unit({unit.name}) in Registry, nothing to do")
        return None
    if report.target not in _REPLACEABLE[target]:
        output.warning(
            f"Warning: can not replace Unit({unit.name}) in state '{report.target}', use the appropriate command"
        )
        return None
    return _make_creation(unit, content, target, replaces=True)


def _warn_if_different(report: schema.UnitReport, file: LocalFile, kind: str) -> None:
    if report.hash != file.content.hash:
        output.warning(
            f"WARNING: Unit {report.name} in registry differs from {kind} {file.path}. Add --replace to override."
        )


def refuse(name: str, content: UnitFile) -> None:
    """Raises CommandFailed for what the API would refuse."""
    refusal = refuse_unit(name, content.options) if content.options else "its unit file holds no options"
    if refusal:
        raise CommandFailed(f"Error creating units: failed creating unit {name}: {refusal}")


def warn(name: str, content: UnitFile, *files: LocalFile | None) -> None:
    """Warn of what has no effect, or not the one it seems to have; of lines, where the content is from these files."""
    for sentence in advise(name, content.options):
        LOG.warning("Unit %s: %s", name, sentence)
    for file in files:
        if file and file.content is content:
            for line, sentence in file.surprises:
                LOG.warning("Unit %s: line %d of %s %s", name, line, file.path, sentence)


def apply_creations(client: Client, creations: Sequence[Creation]) -> Sent:
    """Send them together, and say of each what came of it: a unit that is created was inactive for a moment at least,
    as the original says; one that is replaced keeps its machine, and is not seen without its target. Raises
    CommandFailed where that is not known."""
    operations = [
        put_operation(each.name, each.content.options, each.target, only_new=not each.replaces) for each in creations
    ]
    with failing_as(_failing(creations)):
        refused = client.carry_out(operations)
        overtaken = [creation for creation in creations if _is_overtaken(refused.get(creation.name))]
        reports = client.reports([creation.name for creation in overtaken])
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


def _failing(creations: Sequence[Creation]) -> str:
    named = f"failed creating unit {creations[0].name}: " if len(creations) == 1 else ""
    return f"Error creating units: {named}"


def _is_overtaken(error: ApiError | None) -> bool:
    return error is not None and error.code == EXISTS_ALREADY


def _warn_if_overtaken(report: schema.UnitReport, creation: Creation) -> None:
    if report.hash != creation.content.hash:
        output.warning(
            f"WARNING: Somebody else has just created Unit {creation.name}, and it differs from yours. "
            "Add --replace to override."
        )
