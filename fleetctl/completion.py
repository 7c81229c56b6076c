"""What may stand where the cursor is on a command line of fleetctl: commands, options, their values, units, machines.

The shells' scripts in contrib/completions ask for it. Of what is wrong nothing is said: there is no place for it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
import msgspec

from fleetctl.errors import ClientError, CommandFailed
from fleetctl.listing import FieldNames
from fleetctl.parsing import Command, Flag
from fleetctl.settings import GLOBAL_OPTIONS, HostKeyChecking, resolve_settings
from fleetd.model.names import UNIT_TYPES

PATIENCE_S = 0.3
_JOURNAL_FORMATS = (
    "short",
    "short-iso",
    "short-precise",
    "short-full",
    "verbose",
    "export",
    "json",
    "json-pretty",
    "cat",
)


class Candidate(msgspec.Struct, frozen=True):
    """A word that may stand there, and what it means ('' where that is plain). One that ends in / or = may go on."""

    word: str
    meaning: str = ""


class Place(msgspec.Struct, frozen=True):
    """Where the cursor is: the word begun there, and what the words before it have said.

    `command` is None before the command, and where the word that should be one is none (`is_lost`).
    """

    begun: str
    is_lost: bool
    command: Command | None
    options: Mapping[str, click.Option]
    values: Mapping[str, str]
    awaiting: click.Option | None


Source = Callable[[Place], Iterable[Candidate]]


def complete(root: click.Group, words: Sequence[str]) -> list[Candidate]:
    """What may complete the last of these words, which follow the name of the program; in the order to be shown."""
    place = observe_place(root, words)
    found = {candidate.word: candidate for candidate in _candidates(root, place)}
    return [candidate for word, candidate in found.items() if word.startswith(place.begun)]


def observe_place(root: click.Group, words: Sequence[str]) -> Place:
    """What the words say about the place of the last one. Words that mean nothing are passed over."""
    command: Command | None = None
    options = _spellings(root.params)
    values: dict[str, str] = {}
    awaiting: click.Option | None = None
    is_lost = False
    for word in words[:-1]:
        if awaiting is not None:
            values[awaiting.name or ""] = word
            awaiting = None
        elif word.startswith("-"):
            name, equals, value = word.partition("=")
            option = options.get(name)
            if option and equals:
                values[option.name or ""] = value
            elif option and _takes_value(option):
                awaiting = option
        elif command is None and not is_lost:
            command = _find_command(root, word)
            is_lost = command is None
            options = _spellings(command.params) if command else options
    return Place(words[-1] if words else "", is_lost, command, options, values, awaiting)


def _find_command(root: click.Group, word: str) -> Command | None:
    try:
        found = root.get_command(click.Context(root), word)
    except click.UsageError:
        return None
    return found if isinstance(found, Command) else None


def _spellings(parameters: Iterable[click.Parameter]) -> dict[str, click.Option]:
    options = [option for option in parameters if isinstance(option, click.Option) and not option.hidden]
    return {spelling: option for option in options for spelling in option.opts}


def _takes_value(option: click.Option) -> bool:
    return not isinstance(option, Flag) and not option.is_flag


def _candidates(root: click.Group, place: Place) -> Iterable[Candidate]:
    name, equals, begun = place.begun.partition("=")
    if place.awaiting is not None:
        return _values(place.awaiting, place)
    if equals and name in place.options:
        inner = msgspec.structs.replace(place, begun=begun)
        return [
            msgspec.structs.replace(value, word=f"{name}={value.word}") for value in _values(place.options[name], inner)
        ]
    if place.begun.startswith("-"):
        return _options(place)
    if place.is_lost:
        return ()
    if place.command is None:
        return _commands(root)
    return [candidate for source in _ARGUMENTS.get(place.command.name or "", ()) for candidate in source(place)]


def _options(place: Place) -> Iterator[Candidate]:
    for spelling, option in place.options.items():
        if spelling.startswith("--") and len(spelling) > len("--l"):
            yield Candidate(spelling + ("=" if _takes_value(option) else ""), option.help or "")
    yield Candidate("--help", "show help")


def _commands(root: click.Group) -> list[Candidate]:
    from fleetctl.commands import HIDDEN, SUMMARIES

    return [Candidate(name, summary) for name, summary in SUMMARIES.items() if name not in HIDDEN]


def _values(option: click.Option, place: Place) -> Iterable[Candidate]:
    if isinstance(option.type, click.Choice):
        return [Candidate(str(choice)) for choice in option.type.choices]
    if isinstance(option.type, FieldNames):
        return _fields(place.begun, option.type.names)
    if option.type is click.BOOL:
        return [Candidate("true"), Candidate("false")]
    source = _VALUES.get(option.name or "")
    return source(place) if source else ()


def _fields(begun: str, names: Iterable[str]) -> list[Candidate]:
    """Every list of fields that is longer by one than the one begun."""
    before, comma, _ = begun.rpartition(",")
    return [Candidate(f"{before}{comma}{name}") for name in names]


def _ask(place: Place, question: Callable[[Any], Iterable[Candidate]]) -> list[Candidate]:
    """What the cluster answers, if it does at once. Over SSH it is not asked: that takes long, and may ask a person."""
    from fleetctl.client import open_client

    given: dict[str, Any] = {}
    for option in GLOBAL_OPTIONS:
        try:
            given[option.name] = option.type.convert(place.values[option.name], None, None)
        except (KeyError, click.BadParameter):
            continue
    settings = resolve_settings(given, os.environ)
    if settings.tunnel:
        return []
    hasty = msgspec.structs.replace(settings, request_timeout_s=min(PATIENCE_S, settings.request_timeout_s))
    try:
        return list(question(open_client(hasty)))
    except (ClientError, CommandFailed):
        return []


def _units(place: Place) -> list[Candidate]:
    return _ask(place, lambda client: [Candidate(unit.name, unit.desired_state) for unit in client.units()])


def _machines(place: Place) -> list[Candidate]:
    return _ask(
        place, lambda client: [Candidate(machine.id, _describe_machine(machine)) for machine in client.machines()]
    )


def _describe_machine(machine: Any) -> str:
    metadata = [f"{key}={value}" for key, value in sorted(machine.metadata.items())]
    return " ".join([part for part in (machine.primary_ip, *metadata) if part])


def _files(place: Place, is_wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Candidate]:
    """Files and directories whose path begins with what is there."""
    prefix, slash, base = place.begun.rpartition("/")
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


def _unit_files(place: Place) -> Iterator[Candidate]:
    return _files(place, lambda name: name.rpartition(".")[2] in UNIT_TYPES)


def _topics(place: Place) -> list[Candidate]:
    from fleetctl.commands import SUMMARIES

    return [Candidate(name, summary) for name, summary in SUMMARIES.items() if not name.startswith("_")]


_ARGUMENTS: dict[str, tuple[Source, ...]] = {
    "cat": (_units,),
    "destroy": (_units,),
    "fd-forward": (_files,),
    "forget-machine": (_machines,),
    "help": (_topics,),
    "journal": (_units,),
    "list-machines": (_machines,),
    "list-unit-files": (_units,),
    "list-units": (_units,),
    "load": (_units, _unit_files),
    "restart": (_units,),
    "ssh": (_units, _machines),
    "start": (_units, _unit_files),
    "status": (_units,),
    "stop": (_units,),
    "submit": (_unit_files,),
    "unload": (_units,),
    "verify": (_unit_files,),
}
_VALUES: dict[str, Source] = {
    "ca_file": _files,
    "cert_file": _files,
    "driver": lambda place: [Candidate("API")],
    "endpoint": lambda place: [Candidate("unix:///run/fleet.sock"), Candidate("http://"), Candidate("https://")],
    "etcd_cafile": _files,
    "etcd_certfile": _files,
    "etcd_keyfile": _files,
    "form": lambda place: map(Candidate, _JOURNAL_FORMATS),
    "key_file": _files,
    "known_hosts_file": _files,
    "machine": _machines,
    "strict_host_key_checking": lambda place: map(Candidate, HostKeyChecking),
    "unit": _units,
}
