"""IsolationSec=, IsolationStopSec= and Lock= in [X-Fleet]: parsing, bounds, and what cannot be used beside them.

Of an option that is repeated, as by a drop-in, the last value counts, and an empty one stands for the default.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from fleetd.model.constraints import InvalidRequirements, parse_requirements, parse_span, requirement_values
from fleetd.model.content import Content
from fleetd.model.group import Handover, parse_group_options
from fleetd.model.isolation import DEFAULT_ISOLATION_S, DEFAULT_STOP_S, NOT_ISOLATED, IsolationOptions, UnitLock
from fleetd.model.lock import refuse_lock_name, refuse_lock_terms
from fleetd.model.names import InvalidName, UnitName, expand_specifiers, parse_name
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError

ISOLATION, STOP, LOCK = "IsolationSec", "IsolationStopSec", "Lock"
# The longest sum has to leave room in MARGIN_S for two clocks that differ by one percent, and to be below the longest
# TTL of a lock.
LEAST_ISOLATION_S, LONGEST_ISOLATION_S = 3.0, 120.0
LEAST_STOP_S, LONGEST_STOP_S = 1.0, 60.0

_SLOTS = re.compile("[0-9]{1,6}", re.ASCII)
# systemd's words.
_FALSE, _TRUE = frozenset({"no", "false", "n", "f", "off", "0"}), frozenset({"yes", "true", "y", "t", "on", "1"})
_KILL_MODES = frozenset({"", "control-group", "mixed", "process", "none"})  # '' is the first of them
_CGROUPS = re.compile(r"""--cgroups[=\s]["']?([a-z-]+)""")  # others than these run the container outside of the unit's
_KILL_SIGNALS = frozenset({"", "SIGKILL", "KILL", "9"})
_OPTIONS = (ISOLATION, STOP, LOCK)


def parse_isolation(options: Iterable[UnitOption], name: UnitName) -> IsolationOptions:
    """What a unit of this name and these options asks for. Raises InvalidRequirements."""
    values = {key: items[-1].strip() for key, items in requirement_values(options).items() if key in _OPTIONS}
    given = {key: value for key, value in values.items() if value}
    if not given:
        return NOT_ISOLATED
    if ISOLATION not in given and LOCK not in given:
        raise InvalidRequirements(f"{STOP} has no effect without {ISOLATION} or {LOCK}: add one of them")
    return IsolationOptions(
        _span_of(ISOLATION, given, LEAST_ISOLATION_S, LONGEST_ISOLATION_S, DEFAULT_ISOLATION_S),
        _span_of(STOP, given, LEAST_STOP_S, LONGEST_STOP_S, DEFAULT_STOP_S),
        is_single=ISOLATION in given,
        lock=_parse_lock(expand_specifiers(given[LOCK], name)) if LOCK in given else None,
    )


def validate_isolation(options: Sequence[UnitOption], name: str = "") -> None:
    """Raises InvalidRequirements for the first value that cannot be carried out, and for what would let the unit run on
    or run twice all the same. Without a name, and for a template, what depends on the instance is taken to be well."""
    parsed = parse_name(name if "." in name else "any@.service")
    if parsed.is_template:
        parsed = msgspec.structs.replace(parsed, instance="1")
    asked = parse_isolation(options, parsed)
    if not asked.is_set:
        return
    option = ISOLATION if asked.is_single else LOCK
    if parsed.suffix != "service":
        raise InvalidRequirements(
            f"{option} is for services, and this is a {parsed.suffix}: put it into the service that it starts"
        )
    _refuse_what_outlives(options, option)
    if parse_requirements(options, parsed).is_global and asked.lock is None:
        raise InvalidRequirements(
            f"{ISOLATION} cannot be used with Global, which runs the unit on each machine: with {LOCK}=NAME it runs "
            "on one of them at a time"
        )
    if parse_group_options(options).handover is Handover.START_FIRST:
        raise InvalidRequirements(
            f"{option} cannot be used with Handover=start-first, which runs two at a time: write stop-first"
        )


def lock_names(options: Iterable[UnitOption], name: UnitName) -> list[str]:
    """The names of locks that a unit of this name and these options asks for, whether they are valid or not; of a
    template patterns of those of its instances."""
    if name.is_template:
        name = msgspec.structs.replace(name, instance="*")
    values = [expand_specifiers(value, name).split() for value in requirement_values(options).get(LOCK, ())]
    return [words[0] for words in values if words]


@lru_cache(maxsize=1024)
def isolation_options_of(content: Content, name: str) -> IsolationOptions:
    """What a unit of this content and name asks for: nothing if that cannot be parsed (it was refused)."""
    texts = (content.text, *(dropin.text for dropin in content.dropins))
    if not any(word in text for text in texts for word in (ISOLATION, LOCK)):
        return NOT_ISOLATED  # most units
    try:
        return parse_isolation(content.options(), parse_name(name))
    except (InvalidRequirements, UnitFileError, InvalidName):
        return NOT_ISOLATED


def _refuse_what_outlives(options: Sequence[UnitOption], option: str) -> None:
    """Raises InvalidRequirements for what has systemd leave processes of a stopped unit running."""
    leaves = "which leaves processes running when the unit stops"
    modes, kills, signals = (_values(options, name) for name in ("KillMode", "SendSIGKILL", "FinalKillSignal"))
    if (mode := _last_of(modes, _KILL_MODES)) in ("process", "none"):
        raise InvalidRequirements(
            f"{option} cannot be used with KillMode={mode}, {leaves}: write control-group or mixed"
        )
    if _last_of(map(str.lower, kills), _FALSE | _TRUE) in _FALSE:  # '' does not take it back
        raise InvalidRequirements(f"{option} cannot be used with SendSIGKILL=no, {leaves}: remove it")
    if other := next((each for each in signals if each not in _KILL_SIGNALS), ""):
        raise InvalidRequirements(f"{option} cannot be used with FinalKillSignal={other}, {leaves}: remove it")
    modes = [mode for command in _values(options, "ExecStart") for mode in _CGROUPS.findall(command)]
    if modes and modes[-1] not in ("split", "disabled"):
        raise InvalidRequirements(
            f"{option} cannot be used with --cgroups={modes[-1]} of podman (CgroupsMode=), {leaves}: remove it"
        )


def _values(options: Sequence[UnitOption], name: str) -> list[str]:
    return [each.value.strip() for each in options if each.section == "Service" and each.name == name]


def _last_of(given: Iterable[str], values: frozenset[str]) -> str:
    """The value that counts for systemd: the last one of these. It passes over any other one."""
    return next((value for value in reversed(list(given)) if value in values), "")


def _span_of(option: str, given: Mapping[str, str], least_s: float, most_s: float, default_s: float) -> float:
    return parse_span(option, given[option], least_s, most_s) if option in given else default_s


def _parse_lock(value: str) -> UnitLock:
    words = value.split()
    if len(words) > 2:
        raise InvalidRequirements(f"{LOCK}={value} has {len(words)} words: write {LOCK}=NAME, or {LOCK}=NAME SLOTS")
    slots = words[1] if len(words) == 2 else "1"
    if not _SLOTS.fullmatch(slots):
        raise InvalidRequirements(f'{LOCK}={value}: "{slots}" is no number of slots; write one such as 2')
    lock = UnitLock(words[0] if words else "", int(slots))
    if refusal := refuse_lock_name(lock.name):
        raise InvalidRequirements(f"{LOCK}={value}: {refusal}")
    if refusal := refuse_lock_terms(DEFAULT_ISOLATION_S, lock.slots):
        raise InvalidRequirements(f"{LOCK}={value}: {refusal}")
    return lock
