"""Completes command lines of fleetctl: commands, options, their values, units, machines.

The scripts in contrib/completions ask for it. Errors are silent: they would garble the command line.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
import msgspec

from fleetctl.command_line import Command, Completable, takes_value
from fleetctl.commands import HIDDEN, SUMMARIES
from fleetctl.errors import ClientError, CommandFailed
from fleetctl.listing import FieldNames
from fleetctl.settings import GLOBAL_OPTIONS, HostKeyChecking, resolve_settings
from fleetd.model.group import group_of
from fleetd.model.names import UNIT_TYPES, is_template
from fleetd.model.quadlet.names import CONTAINER_SUFFIX

MAX_WAIT_S = 0.3
_JOURNAL_FORMATS = (
    "cat",
    "export",
    "json",
    "json-pretty",
    "short",
    "short-full",
    "short-iso",
    "short-precise",
    "verbose",
)


class Candidate(msgspec.Struct, frozen=True):
    """A completion and its meaning ('' if that is obvious). One that ends in / or = may be continued."""

    word: str
    meaning: str = ""


class Cursor(msgspec.Struct, frozen=True):
    """The word at the cursor, and what the words before it mean.

    `command` is None before the command, and after a word that is not a command (`is_lost`). `arguments` are those of
    the command.
    """

    begun: str
    is_lost: bool
    command: Command | None
    options: Mapping[str, click.Option]
    values: Mapping[str, str]
    awaiting: click.Option | None
    arguments: tuple[str, ...] = ()


Source = Callable[[Cursor], Iterable[Candidate]]


def complete(root: click.Group, words: Sequence[str]) -> list[Candidate]:
    """Completions of the last word, in the order to show them. The words follow the program's name."""
    cursor = parse_cursor(root, words)
    found = {candidate.word: candidate for candidate in _candidates(cursor)}
    return [candidate for word, candidate in found.items() if word.startswith(cursor.begun)]


def parse_cursor(root: click.Group, words: Sequence[str]) -> Cursor:
    """The cursor at the end of these words. Unknown words are ignored."""
    command: Command | None = None
    options = _spellings(root.params)
    values: dict[str, str] = {}
    awaiting: click.Option | None = None
    is_lost = False
    arguments: list[str] = []
    for word in words[:-1]:
        if awaiting is not None:
            values[awaiting.name or ""] = word
            awaiting = None
        elif word.startswith("-"):
            name, equals, value = word.partition("=")
            option = options.get(name)
            if option and equals:
                values[option.name or ""] = value
            elif option and takes_value(option):
                awaiting = option
        elif command is None and not is_lost:
            command = _find_command(root, word)
            is_lost = command is None
            options = _spellings(command.params) if command else options
        else:
            arguments.append(word)
    return Cursor(words[-1] if words else "", is_lost, command, options, values, awaiting, tuple(arguments))


def _find_command(root: click.Group, word: str) -> Command | None:
    try:
        found = root.get_command(click.Context(root), word)
    except click.UsageError:
        return None
    return found if isinstance(found, Command) else None


def _spellings(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    options = [option for option in parameters if isinstance(option, click.Option) and not option.hidden]
    return {spelling: option for option in options for spelling in option.opts}


def _candidates(cursor: Cursor) -> Iterable[Candidate]:
    name, equals, begun = cursor.begun.partition("=")
    if cursor.awaiting is not None:
        return _values(cursor.awaiting, cursor)
    if equals and name in cursor.options:
        inner = msgspec.structs.replace(cursor, begun=begun)
        return [
            msgspec.structs.replace(value, word=f"{name}={value.word}")
            for value in _values(cursor.options[name], inner)
        ]
    if cursor.begun.startswith("-"):
        return _options(cursor)
    if cursor.is_lost:
        return ()
    if cursor.command is None:
        return _commands(cursor)
    return [candidate for kind in cursor.command.completes for candidate in _ARGUMENTS[kind](cursor)]


def _options(cursor: Cursor) -> Iterator[Candidate]:
    for spelling, option in cursor.options.items():
        if spelling.startswith("--") and len(spelling) > len("--l"):
            yield Candidate(spelling + ("=" if takes_value(option) else ""), option.help or "")
    yield Candidate("--help", "show help")


def _commands(_: Cursor) -> list[Candidate]:
    return [Candidate(name, summary) for name, summary in SUMMARIES.items() if name not in HIDDEN]


def _values(option: click.Option, cursor: Cursor) -> Iterable[Candidate]:
    if isinstance(option.type, click.Choice):
        return [Candidate(str(choice)) for choice in option.type.choices]
    if isinstance(option.type, FieldNames):
        return _fields(cursor.begun, option.type.names)
    if option.type is click.BOOL:
        return [Candidate("true"), Candidate("false")]
    source = _VALUES.get(option.name or "")
    return source(cursor) if source else ()


def _fields(begun: str, names: Iterable[str]) -> list[Candidate]:
    """The list of fields so far, extended by each field."""
    before, comma, _ = begun.rpartition(",")
    return [Candidate(f"{before}{comma}{name}") for name in names]


def _ask(cursor: Cursor, question: Callable[[Any], Iterable[Candidate]]) -> list[Candidate]:
    """Candidates from the cluster, if it answers quickly. Not over SSH, which is slow and may ask for a password."""
    from fleetctl.client import open_client

    given: dict[str, Any] = {}
    for option in GLOBAL_OPTIONS:
        try:
            given[option.name] = option.type.convert(cursor.values[option.name], None, None)
        except (KeyError, click.BadParameter):
            continue
    settings = resolve_settings(given, os.environ)
    if settings.tunnel:
        return []
    impatient = msgspec.structs.replace(settings, request_timeout_s=min(MAX_WAIT_S, settings.request_timeout_s))
    try:
        return list(question(open_client(impatient)))
    except (ClientError, CommandFailed):
        return []


def _units(cursor: Cursor) -> list[Candidate]:
    return _ask(cursor, lambda client: [Candidate(unit.name, unit.desired_state) for unit in client.units()])


def _groups(cursor: Cursor) -> list[Candidate]:
    """Templates with instances, and units alone."""

    def name_groups(client: Any) -> Iterable[Candidate]:
        return map(Candidate, dict.fromkeys(group_of(unit.name) for unit in client.units()))

    return _ask(cursor, name_groups)


def _rollout_actions(cursor: Cursor) -> Iterable[Candidate]:
    from fleetctl.commands.rollout import ACTIONS

    return () if cursor.arguments else [Candidate(action, meaning) for action, meaning in ACTIONS.items()]


def _cluster_actions(cursor: Cursor) -> Iterable[Candidate]:
    from fleetctl.commands.cluster import ACTIONS

    return () if cursor.arguments else [Candidate(name, action.meaning) for name, action in ACTIONS.items()]


def _machine_actions(cursor: Cursor) -> Iterable[Candidate]:
    from fleetctl.commands.machine import ACTIONS

    return () if cursor.arguments else [Candidate(name, action.meaning) for name, action in ACTIONS.items()]


def _plan_actions(cursor: Cursor) -> Iterable[Candidate]:
    from fleetctl.commands.plan import ACTIONS

    return () if cursor.arguments else [Candidate(name, action.meaning) for name, action in ACTIONS.items()]


def _plan_arguments(cursor: Cursor) -> Iterable[Candidate]:
    """What the action that is given takes."""
    action = cursor.arguments[0] if cursor.arguments else ""
    sources: dict[str, tuple[Source, ...]] = {
        "drain": (_machines,),
        "lose": (_machines,),
        "apply": (_ARGUMENTS["folders"],),
        "start": (_units, _unit_files),
        "destroy": (_units,),
    }
    for source in sources.get(action, ()):
        yield from source(cursor)


def _templates(cursor: Cursor) -> list[Candidate]:
    return [candidate for candidate in _units(cursor) if is_template(candidate.word)]


def _machines(cursor: Cursor) -> list[Candidate]:
    return _ask(
        cursor, lambda client: [Candidate(machine.id, _describe_machine(machine)) for machine in client.machines()]
    )


def _unit_and_machine(cursor: Cursor) -> list[Candidate]:
    """A unit, and then a machine."""
    sources = (_units, _machines)
    return sources[len(cursor.arguments)](cursor) if len(cursor.arguments) < len(sources) else []


def _settings(cursor: Cursor) -> list[Candidate]:
    """What to do with settings, their names, and, to be continued, their names with an equals sign."""
    verbs = [
        Candidate("get", "show the value of a setting"),
        Candidate("set", "set NAME=VALUE for the cluster"),
        Candidate("unset", "let fleet.conf decide"),
    ]
    settings = _ask(cursor, lambda client: [Candidate(each.name, each.value) for each in client.settings()])
    return [*verbs, *settings, *(Candidate(f"{each.word}=", each.meaning) for each in settings)]


def _locks(cursor: Cursor) -> list[Candidate]:
    """The locks that somebody holds, for the first argument."""
    from fleetctl.locks import Locks

    if cursor.arguments:
        return []
    return _ask(cursor, lambda client: [Candidate(lock.name) for lock in Locks(client).list()])


def _services(cursor: Cursor) -> list[Candidate]:
    """The names that units announce."""
    return _ask(
        cursor, lambda client: [Candidate(name) for name in {each.service: "" for each in client.services().services}]
    )


def _secrets(cursor: Cursor) -> list[Candidate]:
    """What to do with secrets, and then the name of one."""
    if not cursor.arguments:
        return [
            Candidate("list", "show the secrets, without their values"),
            Candidate("set", "set a secret to what standard input holds"),
            Candidate("revert", "go back to the version before"),
            Candidate("rm", "remove a secret"),
        ]
    return _ask(cursor, lambda client: [Candidate(each.name, f"version {each.version}") for each in client.secrets()])


def _describe_machine(machine: Any) -> str:
    metadata = [f"{key}={value}" for key, value in sorted(machine.metadata.items())]
    return " ".join([part for part in (machine.primary_ip, *metadata) if part])


def _files(cursor: Cursor, is_wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Candidate]:
    """Files and directories that complete the path at the cursor."""
    prefix, slash, base = cursor.begun.rpartition("/")
    prefix += slash
    try:
        entries = sorted(os.scandir(os.path.expanduser(prefix) or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") and not base.startswith("."):
            continue
        if entry.is_dir():
            yield Candidate(f"{prefix}{entry.name}/")
        elif is_wanted(entry.name):
            yield Candidate(prefix + entry.name)


def _unit_files(cursor: Cursor) -> Iterator[Candidate]:
    return _files(cursor, lambda name: name.rpartition(".")[2] in UNIT_TYPES or name.endswith(CONTAINER_SUFFIX))


_ARGUMENTS: dict[Completable, Source] = {
    "cluster-actions": _cluster_actions,
    "commands": _commands,
    "files": _files,
    "folders": lambda cursor: _files(cursor, lambda name: False),
    "groups": _groups,
    "machine-actions": _machine_actions,
    "machines": _machines,
    "plan-actions": _plan_actions,
    "plan-arguments": _plan_arguments,
    "rollout-actions": _rollout_actions,
    "locks": _locks,
    "secrets": _secrets,
    "services": _services,
    "settings": _settings,
    "templates": _templates,
    "unit-and-machine": _unit_and_machine,
    "unit-files": _unit_files,
    "units": _units,
}
_VALUES: dict[str, Source] = {
    "ca_file": _files,
    "cert_file": _files,
    "driver": lambda cursor: [Candidate("API")],
    "endpoint": lambda cursor: [Candidate("unix:///run/fleet.sock"), Candidate("http://"), Candidate("https://")],
    "etcd_cafile": _files,
    "etcd_certfile": _files,
    "etcd_keyfile": _files,
    "form": lambda cursor: map(Candidate, _JOURNAL_FORMATS),
    "key_file": _files,
    "known_hosts_file": _files,
    "machine": _machines,
    "machine_id": _machines,
    "machines": _machines,
    "state_file": _files,
    "strict_host_key_checking": lambda cursor: map(Candidate, HostKeyChecking),
    "unit": _units,
    "units": _units,
}
