"""What a unit is to the cluster: its target state, and what its [X-Fleet] section asks for.

Here live the values that describe one unit by itself. Where a unit may go is planner.py's matter, how its text is
read unitfile.py's, how its name is taken apart names.py's.
"""

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeVar

import msgspec

from fleetd.model.decoding import Count
from fleetd.model.globs import Globs, share_globs
from fleetd.model.names import UnitName, expand_specifiers, literal_prefix, matches_glob
from fleetd.model.timespan import parse_time_span
from fleetd.model.unitfile import WHITESPACE, Option, join_continued

FLEET_SECTION = "X-Fleet"
T = TypeVar("T")

# Under each requirement its spellings, the deprecated ones first: so do their values stand in lists that add up.
_MACHINE_OF = ("X-ConditionMachineOf", "MachineOf")
_METADATA = ("X-ConditionMachineMetadata", "MachineMetadata")
_CONFLICTS = ("X-Conflicts", "Conflicts")
_REPLACES = ("Replaces",)
_GLOBAL = ("Global",)
_MACHINE_ID = ("MachineID", "X-ConditionMachineID", "X-ConditionMachineBootID")  # no list: the first one set counts
_FAILOVER_DELAY = ("FailoverDelay",)
_RERUN = ("RerunAfterFailover",)
KNOWN_OPTIONS = frozenset(
    _MACHINE_OF + _METADATA + _CONFLICTS + _REPLACES + _GLOBAL + _MACHINE_ID + _FAILOVER_DELAY + _RERUN
)

# How many values each of the lists may have: all of one are compared with all of another, and by the leader again.
MAX_VALUES = 128
MAX_OPEN_PATTERNS = 8  # that any name may match by how it begins: each is held against every name there is

# What excludes what, in the order it is looked at; "Peers" is the original's word for MachineOf.
_EXCLUSIVE = (
    ("MachineID", "Peers"),
    ("MachineID", "Conflicts"),
    ("MachineID", "Global"),
    ("MachineID", "Replaces"),
    ("Global", "Peers"),
    ("Global", "Replaces"),
    ("Conflicts", "Replaces"),
    ("Global", "FailoverDelay"),
    ("Global", "RerunAfterFailover"),
)

_TRUE = frozenset({"true", "yes", "1", "on", "t"})
_FALSE = frozenset({"false", "no", "0", "off", "f"})
_WORDS = re.compile(f"[^{WHITESPACE}]+")


class TargetState(StrEnum):
    """What a person wants of a unit; the same three words also name its current state (reference 2.1)."""

    INACTIVE = "inactive"
    LOADED = "loaded"
    LAUNCHED = "launched"


class Unit(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One unit as a person handed it to the cluster. Stored under `units/<name>`.

    `text` is the rendered unit file. `generation` tells one wish of a person from the next (submit, start, stop,
    restart and replace each raise it): it is the store's revision of the last write, so it is never used twice, not
    even by a unit that is destroyed and created again. It is not part of the stored value. `restart_of`: a restart was
    asked for at this generation, so that what was started for it, or before, is to be started anew (0: none was).
    """

    name: str
    text: str
    target: TargetState = TargetState.INACTIVE
    generation: Count = 0
    restart_of: Count = 0


class UnitState(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What one machine reports of one unit. Stored under `states/<machine>/<unit>`, on the machine's lease.

    `load`, `active`, `sub` are systemd's own words. `hash` is of the content that this machine holds ('' when it holds
    none any more), `target` and `generation` are those of the placement that it has carried out last. `completed`
    says that a oneshot ran to its end with success. `error` is why the last step failed, in systemd's own words where
    systemd spoke, else ''. `result` is systemd's word for how the job ended that was asked for last, where it left the
    unit at rest (`done`, `condition`: one was not met, which is no failure, `assert`, `dependency`, …), or `refused`
    where systemd would not do it at all; `note` says more of what is no failure. `orphan`: the unit is only kept
    running, because a restored store does not know it or wants it gone; no order but one to run it is carried out.
    `refusal` is why the machine takes no unit of this name, as what the machine does ("has its own /etc/…"), else '';
    `lacks` is the unit that is missing there if that is why.
    `outdated`: the machine said so before the store was restored, and nothing since; it is not part of the stored
    value.
    """

    load: str = ""
    active: str = ""
    sub: str = ""
    hash: str = ""
    target: TargetState = TargetState.INACTIVE
    generation: Count = 0
    completed: bool = False
    error: str = ""
    result: str = ""
    note: str = ""
    orphan: bool = False
    refusal: str = ""
    lacks: str = ""
    outdated: bool = False

    @property
    def runs(self) -> bool:
        """Whether processes of the unit may exist (systemd's active states but `inactive` and `failed`)."""
        return self.active not in ("", "inactive", "failed")


class Requirements(msgspec.Struct, frozen=True, gc=False):
    """What a unit asks of the machine it runs on, and for the case that this machine is lost; specifiers replaced.

    `machine_id` is a full or a short id, None where none is asked for ('' asks for a machine that does not exist).
    `metadata` holds (key, its alternatives), keys and alternatives by first appearance. `conflicts` and `replaces` are
    globs over unit names, `machine_of` names. `template` is that of the services which a socket with Accept=yes starts,
    one for each connection, else ''. `failover_delay_s` (math.inf: for ever) and `rerun_after_failover` are
    None where the unit leaves them to the cluster's configuration.
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


_NOTHING = Requirements()


class InvalidRequirements(ValueError):
    """Requirements that no machine could meet together, that exclude one another, or that mean nothing."""


def parse_requirements(options: Iterable[Option], name: UnitName) -> Requirements:
    """What the [X-Fleet] section requires for the unit of this name. Options that nobody knows are passed over."""
    options = tuple(options)
    values = requirement_values(options)
    asked = _requirements({key: [expand_specifiers(item, name) for item in items] for key, items in values.items()})
    template = _accepted_by(options, name)
    return msgspec.structs.replace(asked, template=template) if template else asked


def _accepted_by(options: Iterable[Option], name: UnitName) -> str:
    """The template of what this unit starts for each connection, if it is a socket that does so (systemd.socket(5))."""
    if name.suffix != "socket":
        return ""
    accept = [option.value for option in options if (option.section, option.name) == ("Socket", "Accept")]
    return f"{name.prefix}@.service" if accept and accept[-1].lower() in _TRUE | {"y"} else ""


def requirement_values(options: Iterable[Option]) -> dict[str, list[str]]:
    """The values of each [X-Fleet] option, quoted lists taken apart, specifiers as they stand."""
    values: dict[str, list[str]] = {}
    for option in options:
        if option.section == FLEET_SECTION:
            values.setdefault(option.name, []).extend(_split_list(option.value))
    return values


def _split_list(value: str) -> list[str]:
    """A value that begins and ends with a quote is a list, parted at the blanks outside quotes; any other is one item.

    A continued line is joined first, by one blank, as systemd does it. (The original left backslash and newline in the
    value, where they could only spoil a name.)
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

    def merged(spellings: tuple[str, ...]) -> list[str]:
        return [item for spelling in spellings for item in values.get(spelling, ())]

    def words(spellings: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(word for item in merged(spellings) for word in _WORDS.findall(item))

    machine_ids = merged(_MACHINE_ID)
    switches = merged(_GLOBAL)
    return Requirements(
        machine_id=machine_ids[0] if machine_ids else None,
        machine_of=tuple(merged(_MACHINE_OF)),
        metadata=_group_metadata(merged(_METADATA)),
        conflicts=share_globs(words(_CONFLICTS)),
        replaces=share_globs(words(_REPLACES)),
        is_global=bool(switches) and switches[-1].lower() in _TRUE,
        failover_delay_s=_last(merged(_FAILOVER_DELAY), _parse_delay),
        rerun_after_failover=_last(merged(_RERUN), _parse_switch),
    )


def _last(items: list[str], parse: Callable[[str], T]) -> T | None:
    """What the last of them says, None where there is none, or where it means nothing: validation refuses that."""
    try:
        return parse(items[-1]) if items else None
    except InvalidRequirements:
        return None


def _parse_delay(text: str) -> float:
    try:
        return parse_time_span(text)
    except ValueError as error:
        raise InvalidRequirements(f"FailoverDelay: {error}, or infinity") from error


def _parse_switch(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise InvalidRequirements(f"RerunAfterFailover: {text!r} is neither true nor false; write one of them")
    return text.lower() in _TRUE


def _group_metadata(items: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Values of one key are alternatives, however many lines they are spread over; malformed items are left out."""
    groups: dict[str, dict[str, None]] = {}
    for item in items:
        if _is_metadata(item):
            key, _, value = item.partition("=")
            groups.setdefault(key, {})[value] = None
    return tuple((key, tuple(alternatives)) for key, alternatives in groups.items())


def _is_metadata(item: str) -> bool:
    key, _, value = item.partition("=")
    return key != "" and value != "" and "=" not in value


def validate_requirements(options: Iterable[Option]) -> None:
    """Raises InvalidRequirements for the first combination that may not be. Looks at values with their specifiers."""
    values = requirement_values(options)
    asked = _requirements(values)
    for kind, items in (("MachineOf", asked.machine_of), ("Conflicts", asked.conflicts), ("Replaces", asked.replaces)):
        if len(items) > MAX_VALUES:
            raise InvalidRequirements(f"{kind} has {len(items)} values, and at most {MAX_VALUES} are allowed")
    for kind, patterns in (("Conflicts", asked.conflicts), ("Replaces", asked.replaces)):
        open_ended = [pattern for pattern in dict.fromkeys(patterns) if not literal_prefix(pattern)]
        if len(open_ended) > MAX_OPEN_PATTERNS:
            raise InvalidRequirements(
                f"{kind} has {len(open_ended)} patterns that begin with none of a name's own characters, such as "
                f'"{open_ended[0]}", and at most {MAX_OPEN_PATTERNS} are allowed'
            )
    for kind, patterns in (("conflict", asked.conflicts), ("replace", asked.replaces)):
        for peer in asked.machine_of:
            for pattern in patterns:
                if matches_glob(pattern, peer):
                    raise InvalidRequirements(f'unresolvable requirements: peer "{peer}" matches {kind} "{pattern}"')
    has = {
        "MachineID": asked.machine_id is not None,
        "Peers": bool(asked.machine_of),
        "Conflicts": bool(asked.conflicts),
        "Global": asked.is_global,
        "Replaces": bool(asked.replaces),
        "FailoverDelay": "FailoverDelay" in values,
        "RerunAfterFailover": "RerunAfterFailover" in values,
    }
    for one, other in _EXCLUSIVE:
        if has[one] and has[other]:
            raise InvalidRequirements(f"{one} cannot be used with {other}")
    for text in values.get("FailoverDelay", ()):
        _parse_delay(text)
    for text in values.get("RerunAfterFailover", ()):
        _parse_switch(text)


def unknown_requirements(options: Iterable[Option]) -> tuple[str, ...]:
    """The [X-Fleet] option names that mean nothing, by first appearance: worth a warning, not a refusal."""
    return tuple(name for name in requirement_values(options) if name not in KNOWN_OPTIONS)


def malformed_metadata(options: Iterable[Option]) -> tuple[str, ...]:
    """The metadata items that are not `key=value` and so restrict nothing: worth a warning. Empty ones are no items."""
    values = requirement_values(options)
    items = (item for spelling in _METADATA for item in values.get(spelling, ()))
    return tuple(item for item in items if item and not _is_metadata(item))
