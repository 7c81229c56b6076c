"""Groups: units that are changed together, and what their template's [X-Fleet] says about how.

A group is the instances of one template, or one unit alone. Its options are in fleet_options.py (`of_group`). Of an
option that is repeated, as by a drop-in, the last value counts, and an empty one stands for the default.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from fleetd.model.constraints import (
    InvalidRequirements,
    parse_boolean,
    parse_requirements,
    split_list,
)
from fleetd.model.content import Content
from fleetd.model.fleet_options import FLEET_SECTION, OPTIONS
from fleetd.model.names import InvalidName, UnitName, parse_name, template_of, validate_name
from fleetd.model.timespan import parse_time_span
from fleetd.model.unit import TargetState
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError

MAX_INSTANCES = 1000  # of one template
_GROUP_OPTIONS = frozenset(option.name for option in OPTIONS if option.of_group)
_NUMBER = re.compile("[0-9]{1,9}")
_WORDS = re.compile(r"[^ \t]+")
_ANY_TEMPLATE = parse_name("x@.service")
_E = TypeVar("_E", bound=StrEnum)


class UpdateFailure(StrEnum):
    """What follows when a changed unit fails."""

    REVERT = "revert"
    PAUSE = "pause"
    CONTINUE = "continue"


class UpdateAction(StrEnum):
    """What changed content does to a unit that runs. AUTO: no more than the changed options need."""

    AUTO = "auto"
    RESTART = "restart"
    RELOAD = "reload"
    NONE = "none"


class Handover(StrEnum):
    """Whether a unit that moves is stopped before it starts elsewhere, or when it is proven there."""

    STOP_FIRST = "stop-first"
    START_FIRST = "start-first"


class Share(msgspec.Struct, frozen=True, gc=False):
    """So many units of a group, or so many percent of it."""

    number: int
    is_percentage: bool = False

    def of(self, size: int) -> int:
        """How many of `size` units these are, rounded down, and at most all."""
        return size * self.number // 100 if self.is_percentage else min(self.number, size)


class GroupOptions(msgspec.Struct, frozen=True, gc=False):
    """How the units of a group are changed. `instances` are the instances that there are to be, None if not said."""

    instances: tuple[str, ...] | None = None
    max_unavailable: Share = Share(1)
    settle_s: float = 10.0
    deadline_s: float = 300.0
    on_failure: UpdateFailure = UpdateFailure.REVERT
    tolerate: Share = Share(0)
    canary: int = 0
    canary_s: float = math.inf
    action: UpdateAction = UpdateAction.AUTO
    desired_state: TargetState = TargetState.LAUNCHED
    handover: Handover = Handover.STOP_FIRST
    movable: bool = True

    def unavailable_limit(self, size: int) -> int:
        """With how many unavailable members of `size` no available one is disturbed."""
        return max(1, self.max_unavailable.of(size))

    def count_canaries(self, size: int) -> tuple[int, str]:
        """How many of `size` members are changed first, and a note if UpdateCanary= asks for more than there are, else
        ''."""
        if self.canary <= size:
            return self.canary, ""
        return size, f"UpdateCanary={self.canary} is more than there are in the group ({size}): all of it goes first"


def group_of(name: str) -> str:
    """The group of a unit: the template of an instance, or of a template; else the unit itself."""
    return template_of(name) or name


def parse_group_options(options: Iterable[UnitOption]) -> GroupOptions:
    """The group options in a unit file and its drop-ins, in this order. An invalid value counts as not given."""
    found: dict[str, Any] = {}
    for name, text in _last_values(options).items():
        field, parse = _FIELDS[name]
        try:
            found[field] = parse(text)
        except ValueError:
            continue
    return GroupOptions(**found)


def validate_group_options(options: Iterable[UnitOption]) -> None:
    """Raises InvalidRequirements for the first violated rule. `options` are those of the unit file and its drop-ins."""
    options = tuple(options)
    values = _last_values(options)
    for name, text in values.items():
        try:
            _FIELDS[name][1](text)
        except ValueError as error:
            raise InvalidRequirements(f"{name}: {error}") from error
    asked = parse_group_options(options)
    if asked.settle_s >= asked.deadline_s:
        raise InvalidRequirements(
            f"UpdateSettleSec ({asked.settle_s:g}s) is not below UpdateDeadlineSec ({asked.deadline_s:g}s), so no "
            "unit would be found healthy in time: raise UpdateDeadlineSec"
        )
    if asked.handover is Handover.START_FIRST and (hindrance := _find_hindrance(options)):
        raise InvalidRequirements(f"Handover=start-first cannot be used with {hindrance}: write stop-first")


def refuse_joined(name: str, contents: Mapping[str, Content]) -> str:
    """Why a unit may not be as in `contents`, beside the other units there, or '': a group that starts first where it
    moves (Handover=start-first) may not be joined to others, which go with it, by their MachineOf=."""
    for peer in _peers(name, contents[name]):
        asking = next((each for each in (template_of(peer), peer) if each in contents), "")
        if asking and _starts_first(contents[asking]):
            return f"MachineOf={peer} cannot be used: {asking} has Handover=start-first; write stop-first there"
    if _starts_first(contents[name]):
        for other, content in contents.items():
            peer = next((each for each in _peers(other, content) if name in (each, template_of(each))), "")
            if peer and other != name:
                return f"Handover=start-first cannot be used: {other} has MachineOf={peer}; write stop-first"
    return ""


def needed_peers(name: str, content: Content) -> list[str]:
    """The units and templates that refuse_joined looks at for this one."""
    return [each for peer in _peers(name, content) for each in (peer, template_of(peer)) if each]


def mentions_joining(content: Content) -> bool:
    """False if refuse_joined certainly has nothing against this unit: a cheap test that is enough for most."""
    return _mentions(content, "MachineOf") or _mentions(content, Handover.START_FIRST)


def _mentions(content: Content, word: str) -> bool:
    return word in content.text or any(word in dropin.text for dropin in content.dropins)


def _peers(name: str, content: Content) -> tuple[str, ...]:
    if not _mentions(content, "MachineOf"):
        return ()
    try:
        return parse_requirements(content.options(), parse_name(name)).machine_of
    except UnitFileError:  # written past the API
        return ()


def _starts_first(content: Content) -> bool:
    if not _mentions(content, Handover.START_FIRST):
        return False
    try:
        return parse_group_options(content.options()).handover is Handover.START_FIRST
    except UnitFileError:
        return False


def refuse_instance_options(name: str, options: Iterable[UnitOption]) -> str:
    """Why an instance's own drop-in may not have these options, or '': group options are the template's. Any other
    unit's drop-in may."""
    found = _last_values(options) if parse_name(name).is_instance else {}
    if not found:
        return ""
    option, template = next(iter(found)), template_of(name)
    return f"{option}= is for all instances of {template}: set it in a drop-in of {template}, not of {name}"


def _last_values(options: Iterable[UnitOption]) -> dict[str, str]:
    """The last value of each group option, without those that are reset."""
    last = {
        option.name: option.value
        for option in options
        if option.section == FLEET_SECTION and option.name in _GROUP_OPTIONS
    }
    joined = ((name, " ".join(split_list(value)).strip()) for name, value in last.items())
    return {name: value for name, value in joined if value}


def _find_hindrance(options: tuple[UnitOption, ...]) -> str:
    """What in the unit forbids that two of it run for a moment, or ''."""
    asked = parse_requirements(options, UnitName("", "", "", "", "", ""))
    types = [option.value for option in options if (option.section, option.name) == ("Service", "Type")]
    if asked.is_global:
        return "Global"
    if asked.machine_of:
        return "MachineOf"
    return "Type=oneshot" if types and types[-1] == "oneshot" else ""


# Parsers of values. Each raises ValueError, whose message names what is wrong and what to write.


def _parse_number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number; write one such as 2")
    return int(text)


def _parse_share(text: str) -> Share:
    digits = text.removesuffix("%")
    if not _NUMBER.fullmatch(digits):
        raise ValueError(f"{text!r} is neither a number nor a percentage; write one such as 2 or 25%")
    share = Share(int(digits), is_percentage=digits != text)
    if share.is_percentage and share.number > 100:
        raise ValueError(f"{text} is more than all of the group; write at most 100%")
    return share


def _parse_unavailable(text: str) -> Share:
    share = _parse_share(text)
    if share.number == 0:
        raise ValueError(f"with {text} no unit of the group could ever be changed; write 1 or more")
    return share


def _parse_time(text: str) -> float:
    span_s = parse_time_span(text)
    if math.isinf(span_s):
        raise ValueError("infinity would let no change ever end; write a time span like 90s")
    return span_s


def _parse_instances(text: str) -> tuple[str, ...]:
    words = tuple(_WORDS.findall(text))
    if len(words) == 1 and _NUMBER.fullmatch(words[0]):
        _check_count(int(words[0]))
        return tuple(str(number) for number in range(1, int(words[0]) + 1))
    _check_count(len(words))
    seen: dict[str, None] = {}
    for word in words:
        if word in seen:
            raise ValueError(f"{word!r} is named twice; name each instance once")
        seen[word] = None
        try:
            validate_name(_ANY_TEMPLATE.full.replace("@", f"@{word}"))
        except InvalidName as error:
            raise ValueError(f"{word!r} cannot name an instance: {error}") from error
    return words


def _check_count(count: int) -> None:
    if count > MAX_INSTANCES:
        raise ValueError(f"{count} instances are too many; at most {MAX_INSTANCES} are allowed")


def _word_of(kind: type[_E]) -> Callable[[str], _E]:
    """A parser for the words of an enumeration."""

    def parse(text: str) -> _E:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is none of {', '.join(kind)}; write one of them") from None

    return parse


_FIELDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "Instances": ("instances", _parse_instances),
    "MaxUnavailable": ("max_unavailable", _parse_unavailable),
    "UpdateSettleSec": ("settle_s", _parse_time),
    "UpdateDeadlineSec": ("deadline_s", _parse_time),
    "UpdateFailure": ("on_failure", _word_of(UpdateFailure)),
    "UpdateTolerate": ("tolerate", _parse_share),
    "UpdateCanary": ("canary", _parse_number),
    "UpdateCanarySec": ("canary_s", parse_time_span),
    "UpdateAction": ("action", _word_of(UpdateAction)),
    "DesiredState": ("desired_state", _word_of(TargetState)),
    "Handover": ("handover", _word_of(Handover)),
    "Movable": ("movable", parse_boolean),
}
