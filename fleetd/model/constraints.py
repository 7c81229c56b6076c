"""What a unit requires of the machine it runs on, parsed from the options of [X-Fleet] (fleet_options.py)."""

import re
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

import msgspec

from fleetd.model.download import FETCH, Download, fetches_of, refuse_fetches
from fleetd.model.fleet_options import FLEET_SECTION, OPTIONS
from fleetd.model.globs import Globs, share_globs
from fleetd.model.isolation import NOT_ISOLATED, IsolationOptions
from fleetd.model.names import UnitName, expand_specifiers, literal_prefix, matches_glob
from fleetd.model.timespan import parse_time_span
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import WHITESPACE, join_continued, list_values

T = TypeVar("T")

_SPELLINGS = {option.name: option.spellings for option in OPTIONS}
KNOWN_OPTIONS = frozenset(spelling for option in OPTIONS for spelling in option.spellings)

MAX_VALUES = 128  # of one list: validation compares all values of one list with all of another
MAX_OPEN_PATTERNS = 8  # globs without a literal prefix: each is matched against every unit name

_TRUE = frozenset({"true", "yes", "1", "on", "t"})
_FALSE = frozenset({"false", "no", "0", "off", "f"})
_WORDS = re.compile(f"[^{WHITESPACE}]+")
_SPECIFIER = re.compile("%[nNpi]")

# Options of [Unit]: a unit is restarted and stopped with those that it names there (systemd.unit(5)).
RESTART_OPTIONS = ("Requires", "Requisite", "BindsTo", "PartOf")


class Requirements(msgspec.Struct, frozen=True, gc=False):
    """What a unit requires of its machine, and what happens when that machine is lost; specifiers are expanded.

    `machine_id` is a full or a short id, None if there is no such constraint ('' matches no machine). `metadata` holds
    (key, alternative values), both in order of first appearance. `conflicts` and `replaces` are globs over unit names,
    `machine_of` holds unit names. `failover_delay_s` (math.inf: never fail over) and `rerun_after_failover` are None
    where the cluster's configuration applies. `template` is the service template of a socket with Accept=yes, else ''.
    `is_oneshot`: it is a service of Type=oneshot. `restarts_with` are the units with which it is restarted or stopped
    as well: systemd does that for the options in RESTART_OPTIONS. `restarts` is the service that is restarted with a
    socket (without Accept=yes, which has one service for each connection), else ''.
    `has_dropins`: the unit has some, so that its machine has to know of them. `secrets` are the names in Secret=.
    `isolation` is what becomes of the unit where its machine is cut off from the store.
    `downloads` have to be on its machine before it starts there.
    """

    machine_id: str | None = None
    machine_of: tuple[str, ...] = ()
    metadata: tuple[tuple[str, tuple[str, ...]], ...] = ()
    conflicts: Globs = Globs()
    replaces: Globs = Globs()
    is_global: bool = False
    failover_delay_s: float | None = None
    rerun_after_failover: bool | None = None
    template: str = ""
    is_oneshot: bool = False
    has_dropins: bool = False
    restarts_with: tuple[str, ...] = ()
    restarts: str = ""
    secrets: tuple[str, ...] = ()
    isolation: IsolationOptions = NOT_ISOLATED
    downloads: tuple[Download, ...] = ()


_NOTHING = Requirements()


class InvalidRequirements(ValueError):
    """Constraints that contradict or exclude one another, or a value that cannot be parsed."""


def parse_requirements(options: Iterable[UnitOption], name: UnitName) -> Requirements:
    """The requirements of the unit with this name. Unknown options are ignored."""
    options = tuple(options)
    values = requirement_values(options)
    asked = _requirements({key: [expand_specifiers(item, name) for item in items] for key, items in values.items()})
    found = {
        "template": _accepted_by(options, name),
        "is_oneshot": _is_oneshot(options),
        "restarts_with": unit_names(options, name, RESTART_OPTIONS),
        "restarts": _served_by(options, name),
        "downloads": (*_images(options), *asked.downloads),
    }
    return msgspec.structs.replace(asked, **found) if any(found.values()) else asked


def _images(options: tuple[UnitOption, ...]) -> tuple[Download, ...]:
    """The image of the container that the unit was made of."""
    if not any(option.section.startswith("X-Source ") for option in options):
        return ()
    from fleetd.model.container_image import image_of  # imported late: most units are no containers

    return image_of(options)


def find_earlier(options: Iterable[UnitOption], name: UnitName, requirements: Requirements) -> tuple[str, ...]:
    """The units that come before this one in a change of all: those that it requires, follows (After=, MachineOf=) or
    is restarted with, and the socket of a service."""
    sockets = (f"{name.full.removesuffix('.service')}.socket",) if name.suffix == "service" else ()
    named = unit_names(options, name, (*RESTART_OPTIONS, "After"))
    return tuple(dict.fromkeys((*named, *requirements.machine_of, *sockets)))


def unit_names(options: Iterable[UnitOption], name: UnitName, keys: Collection[str]) -> tuple[str, ...]:
    """The units that these options of [Unit] name, specifiers expanded."""
    options = [option for option in options if option.section == "Unit" and option.name in keys]
    if not options:
        return ()
    values = [value for key in keys for value in list_values(options, "Unit", key)]
    return tuple(dict.fromkeys(" ".join(expand_specifiers(value, name) for value in values).split()))


def _is_oneshot(options: Iterable[UnitOption]) -> bool:
    types = [option.value for option in options if (option.section, option.name) == ("Service", "Type")]
    return bool(types) and types[-1] == "oneshot"


def _accepted_by(options: Iterable[UnitOption], name: UnitName) -> str:
    """The service template that this socket starts for each connection, '' without Accept=yes (systemd.socket(5))."""
    return f"{name.prefix}@.service" if name.suffix == "socket" and _accepts(options) else ""


def _accepts(options: Iterable[UnitOption]) -> bool:
    accept = [option.value for option in options if (option.section, option.name) == ("Socket", "Accept")]
    return bool(accept) and accept[-1].lower() in _TRUE | {"y"}


def _served_by(options: Iterable[UnitOption], name: UnitName) -> str:
    """The service that serves the connections of this socket."""
    if name.suffix != "socket" or _accepts(options):
        return ""
    named = [value for value in list_values(options, "Socket", "Service") if value]
    return expand_specifiers(named[-1], name) if named else f"{name.full.removesuffix('.socket')}.service"


def requirement_values(options: Iterable[UnitOption]) -> dict[str, list[str]]:
    """The values of each [X-Fleet] option, quoted lists split, specifiers not expanded."""
    values: dict[str, list[str]] = {}
    for option in options:
        if option.section == FLEET_SECTION:
            values.setdefault(option.name, []).extend(split_list(option.value))
    return values


def split_list(value: str) -> list[str]:
    """The items of a value. One in double quotes is a list, split at spaces outside quotes; any other is one item.

    Continued lines are joined with a space first, as systemd does it.
    """
    value = join_continued(value)
    if not (value.startswith('"') and value.endswith('"')):
        return [value]
    items = [""]
    for index, part in enumerate(value.split('"')):
        if index % 2:  # inside quotes
            items[-1] += part
        else:
            first, *others = part.split(" ")
            items[-1] += first
            items += others
    return items


def _requirements(values: dict[str, list[str]]) -> Requirements:
    if not values:
        return _NOTHING

    def merged(name: str) -> list[str]:
        return [item for spelling in _SPELLINGS[name] for item in values.get(spelling, ())]

    def words(name: str) -> tuple[str, ...]:
        return tuple(word for item in merged(name) for word in _WORDS.findall(item))

    machine_ids = merged("MachineID")
    switches = merged("Global")
    return Requirements(
        machine_id=machine_ids[0] if machine_ids else None,
        machine_of=tuple(merged("MachineOf")),
        metadata=_group_metadata(merged("MachineMetadata")),
        conflicts=share_globs(words("Conflicts")),
        replaces=share_globs(words("Replaces")),
        is_global=bool(switches) and switches[-1].lower() in _TRUE,
        failover_delay_s=_last(merged("FailoverDelay"), _parse_delay),
        rerun_after_failover=_last(merged("RerunAfterFailover"), _parse_rerun),
        secrets=tuple(dict.fromkeys(words("Secret"))),
        downloads=fetches_of(merged(FETCH)),
    )


def _last(items: list[str], parse: Callable[[str], T]) -> T | None:
    """The last item, parsed; None if there is none or it is invalid (validation rejects that)."""
    try:
        return parse(items[-1]) if items else None
    except InvalidRequirements:
        return None


def parse_span(option: str, text: str, least_s: float, most_s: float) -> float:
    """The seconds of a time span within these bounds, the value of this option. Raises InvalidRequirements."""
    try:
        span_s = parse_time_span(text)
    except ValueError as error:
        raise InvalidRequirements(f"{option}: {error}") from error
    if not least_s <= span_s <= most_s:
        raise InvalidRequirements(f"{option}={text} has to be from {least_s:g} to {most_s:g} seconds")
    return span_s


def _parse_delay(text: str) -> float:
    try:
        return parse_time_span(text)
    except ValueError as error:
        raise InvalidRequirements(f"FailoverDelay: {error}, or infinity") from error


def _parse_rerun(text: str) -> bool:
    try:
        return parse_boolean(text)
    except ValueError as error:
        raise InvalidRequirements(f"RerunAfterFailover: {error}") from error


def parse_boolean(text: str) -> bool:
    """True or False for the words that mean it. Raises ValueError for any other."""
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither true nor false; write one of them")
    return text.lower() in _TRUE


def _group_metadata(items: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(key, alternative values) of all well-formed items."""
    groups: dict[str, dict[str, None]] = {}
    for item in items:
        if _is_metadata(item):
            key, _, value = item.partition("=")
            groups.setdefault(key, {})[value] = None
    return tuple((key, tuple(alternatives)) for key, alternatives in groups.items())


def _is_metadata(item: str) -> bool:
    key, _, value = item.partition("=")
    return key != "" and value != "" and "=" not in value


def validate_requirements(options: Iterable[UnitOption]) -> None:
    """Raises InvalidRequirements for the first violated rule. Specifiers are not expanded."""
    values = requirement_values(options)
    asked = _requirements(values)
    _check_bounds(asked)
    _check_peers(asked)
    is_set = {
        "MachineID": asked.machine_id is not None,
        "MachineOf": bool(asked.machine_of),
        "Conflicts": bool(asked.conflicts),
        "Global": asked.is_global,
        "Replaces": bool(asked.replaces),
        "FailoverDelay": "FailoverDelay" in values,
        "RerunAfterFailover": "RerunAfterFailover" in values,
    }
    for option in OPTIONS:
        for other in option.excludes:
            if is_set[option.name] and is_set[other]:
                shown = "Peers" if other == "MachineOf" else other  # CoreOS fleet's word in this message
                raise InvalidRequirements(f"{option.name} cannot be used with {shown}")
    if refusal := refuse_fetches(_SPECIFIER.sub("x", text) for text in values.get(FETCH, ())):
        raise InvalidRequirements(refusal)
    for text in values.get("FailoverDelay", ()):
        _parse_delay(text)
    for text in values.get("RerunAfterFailover", ()):
        _parse_rerun(text)


def _check_bounds(asked: Requirements) -> None:
    for name, items in (("MachineOf", asked.machine_of), ("Conflicts", asked.conflicts), ("Replaces", asked.replaces)):
        if len(items) > MAX_VALUES:
            raise InvalidRequirements(f"{name} has {len(items)} values, and at most {MAX_VALUES} are allowed")
    for name, patterns in (("Conflicts", asked.conflicts), ("Replaces", asked.replaces)):
        open_ended = [pattern for pattern in dict.fromkeys(patterns) if not literal_prefix(pattern)]
        if len(open_ended) > MAX_OPEN_PATTERNS:
            raise InvalidRequirements(
                f"{name} has {len(open_ended)} globs that begin with a wildcard, such as "
                f'"{open_ended[0]}", and at most {MAX_OPEN_PATTERNS} are allowed'
            )


def _check_peers(asked: Requirements) -> None:
    """A unit cannot share a machine with a peer that it conflicts with or replaces."""
    for kind, patterns in (("conflict", asked.conflicts), ("replace", asked.replaces)):
        for peer in asked.machine_of:
            for pattern in patterns:
                if matches_glob(pattern, peer):
                    raise InvalidRequirements(f'unresolvable requirements: peer "{peer}" matches {kind} "{pattern}"')


def unknown_requirements(options: Iterable[UnitOption]) -> tuple[str, ...]:
    """Names in [X-Fleet] that are not options, in order of first appearance; fleetctl warns of them."""
    return tuple(name for name in requirement_values(options) if name not in KNOWN_OPTIONS)


def options_without_effect(options: Iterable[UnitOption]) -> tuple[str, ...]:
    """Names of known options in [X-Fleet] that nothing acts on yet, in order of first appearance."""
    pending = {option.name for option in OPTIONS if not option.has_effect}
    return tuple(name for name in requirement_values(options) if name in pending)


def malformed_metadata(options: Iterable[UnitOption]) -> tuple[str, ...]:
    """Non-empty metadata items that are not `key=value` and restrict nothing; fleetctl warns of them."""
    values = requirement_values(options)
    items = (item for spelling in _SPELLINGS["MachineMetadata"] for item in values.get(spelling, ()))
    return tuple(item for item in items if item and not _is_metadata(item))
