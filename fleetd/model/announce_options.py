"""Announce= and Check= in [X-Fleet]: the names that a unit announces, and how its machine finds out whether it works.

An empty value takes back those before it, as in systemd, so that a drop-in can.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from fleetd.model.announcement import MAX_PORT, PROTOCOLS, ServicePort, refuse_service_name
from fleetd.model.constraints import InvalidRequirements, parse_span, requirement_values
from fleetd.model.content import Content
from fleetd.model.names import InvalidName, UnitName, expand_specifiers, parse_name
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError

MAX_ANNOUNCED = 16  # values of Announce= of one unit
DEFAULT_INTERVAL_S, DEFAULT_FAILURES = 5.0, 2
SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S, MAX_FAILURES = 1.0, 3600.0, 100
LONGEST_CHECK_S = 10.0
HTTP, TCP, EXEC, CONTAINER = "http", "tcp", "exec", "container"
DEFAULT_DELAY_S, LONGEST_DELAY_S = 3.0, 60.0
ANNOUNCE, DELAY, CHECK, INTERVAL, FAILURES = "Announce", "AnnounceDelay", "Check", "CheckInterval", "CheckFailures"
_OPTIONS = (ANNOUNCE, DELAY, CHECK, INTERVAL, FAILURES)

_NUMBER = re.compile("[0-9]{1,6}", re.ASCII)
_PATH = re.compile(r"/[!-~]{0,1023}", re.ASCII)


class Check(msgspec.Struct, frozen=True):
    """How a machine finds out whether a unit works. `kind` is HTTP (GET of `path` at `port`; a status of 200 to 399 is
    well), TCP (`port` takes a connection), EXEC (`command`, its program first, exits with 0) or CONTAINER (podman calls
    the unit's container healthy)."""

    kind: str
    port: int = 0
    path: str = ""
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind == CONTAINER:
            return CONTAINER
        return f"{self.kind}:{' '.join(self.command) if self.command else f'{self.port}{self.path}'}"


class AnnounceOptions(msgspec.Struct, frozen=True):
    """What a unit announces: ports by name. `check` is None if being active is enough; it is made each `interval_s`,
    and `failures` in a row mean that the unit does not work. Before the unit is stopped, it has not been announced for
    `delay_s`."""

    services: tuple[tuple[str, tuple[ServicePort, ...]], ...] = ()
    check: Check | None = None
    interval_s: float = DEFAULT_INTERVAL_S
    failures: int = DEFAULT_FAILURES
    delay_s: float = DEFAULT_DELAY_S

    @property
    def timeout_s(self) -> float:
        """How long one check may take."""
        return min(self.interval_s, LONGEST_CHECK_S)


NOTHING = AnnounceOptions()


def parse_announce_options(options: Iterable[UnitOption], name: UnitName) -> AnnounceOptions:
    """What a unit of this name and these options announces. Raises InvalidRequirements."""
    values = requirement_values(options)
    if values.keys().isdisjoint(_OPTIONS):
        return NOTHING
    ports: dict[str, dict[ServicePort, None]] = {}
    announced = _since_reset(values.get(ANNOUNCE, ()))
    if len(announced) > MAX_ANNOUNCED:
        raise InvalidRequirements(f"{ANNOUNCE} has {len(announced)} values, and at most {MAX_ANNOUNCED} are allowed")
    for value in announced:
        service, port = _parse_announce(expand_specifiers(value, name), name)
        ports.setdefault(service, {})[port] = None
    checks = _since_reset(values.get(CHECK, ()))
    check = _parse_check(expand_specifiers(checks[-1], name)) if checks else None
    intervals, failures = _since_reset(values.get(INTERVAL, ())), _since_reset(values.get(FAILURES, ()))
    delays = _since_reset(values.get(DELAY, ()))
    delay_s = parse_span(DELAY, delays[-1], 0.0, LONGEST_DELAY_S) if delays else DEFAULT_DELAY_S
    interval_s = DEFAULT_INTERVAL_S
    if intervals:
        interval_s = parse_span(INTERVAL, intervals[-1], SHORTEST_INTERVAL_S, LONGEST_INTERVAL_S)
    count = _parse_failures(failures[-1]) if failures else DEFAULT_FAILURES
    if not ports:
        given = [option for option in _OPTIONS[1:] if _since_reset(values.get(option, ()))]
        if given:
            raise InvalidRequirements(f"{given[0]} has no effect without {ANNOUNCE}: add {ANNOUNCE}=NAME PORT")
        return NOTHING
    if check is None and (intervals or failures):
        raise InvalidRequirements(
            f"{INTERVAL if intervals else FAILURES} has no effect without {CHECK}: add {CHECK}=tcp:PORT, or another"
        )
    if check is not None and check.kind == CONTAINER:
        if intervals or failures:
            option, key = (INTERVAL, "HealthInterval") if intervals else (FAILURES, "HealthRetries")
            raise InvalidRequirements(
                f"{option} has no effect with {CHECK}={CONTAINER}, which podman checks: write {key}= in [Container]"
            )
        count = 1
    services = tuple((each, tuple(sorted(ports[each]))) for each in ports)
    return AnnounceOptions(services, check, interval_s, count, delay_s)


def announced_names(options: Iterable[UnitOption], name: UnitName) -> list[str]:
    """The names that a unit of this name and these options announces, whether they are valid or not; of a template
    patterns of those of its instances."""
    if name.is_template:
        name = msgspec.structs.replace(name, instance="*")
    announced = _since_reset(requirement_values(options).get(ANNOUNCE, ()))
    words = (expand_specifiers(value, name).split() for value in announced)
    return [each[0] if len(each) > 1 else name.prefix for each in words]


def validate_announcing(options: Sequence[UnitOption], name: str = "") -> None:
    """Raises InvalidRequirements for the first value that cannot be carried out. Without a name, and for a template,
    what depends on the instance is taken to be well."""
    given = name if "." in name else "any.service"
    parsed = parse_name(given)
    if not parsed.is_instance:
        parsed = msgspec.structs.replace(parsed, instance="1")
    announced = parse_announce_options(options, parsed)
    if announced.check == Check(CONTAINER) and not _runs_podman(options):
        raise InvalidRequirements(
            f"{CHECK}={CONTAINER} needs a unit that runs a container of podman's: write the unit as NAME.container, or "
            f"{CHECK}=tcp:PORT"
        )


def has_unknown_health(options: Sequence[UnitOption]) -> bool:
    """Whether a unit of these options has Check=container, and names no check for podman: then it depends on the
    image."""
    checks = _since_reset(requirement_values(options).get(CHECK, ()))
    return checks[-1:] == [CONTAINER] and not any("--health-cmd" in each for each in _commands(options))


def _runs_podman(options: Iterable[UnitOption]) -> bool:
    return any("podman" in each for each in _commands(options))


def _commands(options: Iterable[UnitOption]) -> list[str]:
    return [each.value for each in options if (each.section, each.name) == ("Service", "ExecStart")]


@lru_cache(maxsize=1024)
def announce_options_of(content: Content, name: str) -> AnnounceOptions:
    """What a unit of this content and name announces: nothing if that cannot be parsed (it was refused)."""
    if ANNOUNCE not in content.text and not any(ANNOUNCE in dropin.text for dropin in content.dropins):
        return NOTHING  # most units
    try:
        return parse_announce_options(content.options(), parse_name(name))
    except (InvalidRequirements, UnitFileError, InvalidName):
        return NOTHING


def _since_reset(values: Iterable[str]) -> list[str]:
    found: list[str] = []
    for value in values:
        found = [*found, value.strip()] if value.strip() else []
    return found


def _parse_announce(value: str, name: UnitName) -> tuple[str, ServicePort]:
    words = value.split()
    if len(words) > 2:
        raise InvalidRequirements(f"{ANNOUNCE}={value} has {len(words)} words: write {ANNOUNCE}=NAME PORT")
    service = words[0] if len(words) == 2 else name.prefix
    if refusal := refuse_service_name(service):
        hint = "" if len(words) == 2 else f"; the unit's own name is none, so write {ANNOUNCE}=NAME {value}"
        raise InvalidRequirements(f"{ANNOUNCE}={value}: {refusal}{hint}")
    number, slash, protocol = words[-1].partition("/")
    if slash and protocol not in PROTOCOLS:
        raise InvalidRequirements(f'{ANNOUNCE}={value}: "{protocol}" is no protocol; write tcp or udp')
    port = _parse_port(f"{ANNOUNCE}={value}", number)
    return service, ServicePort(port, protocol or PROTOCOLS[0])


def _parse_port(where: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_PORT:
        raise InvalidRequirements(f'{where}: "{text}" is no port; write a number from 1 to {MAX_PORT}')
    return int(text)


def _parse_check(value: str) -> Check:
    where = f"{CHECK}={value}"
    if value == CONTAINER:
        return Check(CONTAINER)
    kind, _, rest = value.partition(":")
    if kind == HTTP:
        number, slash, path = rest.partition("/")
        if not _PATH.fullmatch(f"/{path}"):
            raise InvalidRequirements(f"{where}: the path has to be of printable ASCII characters without spaces")
        return Check(HTTP, _parse_port(where, number), slash + path or "/")
    if kind == TCP:
        return Check(TCP, _parse_port(where, rest))
    if kind == EXEC:
        command = tuple(rest.split())
        if not command or not command[0].startswith("/"):
            raise InvalidRequirements(f"{where}: a program begins with /; write {CHECK}=exec:/PROGRAM ARGUMENT…")
        return Check(EXEC, command=command)
    raise InvalidRequirements(
        f"{where} is no check: write http:PORT/PATH, tcp:PORT, exec:/PROGRAM ARGUMENT… or {CONTAINER}"
    )


def _parse_failures(text: str) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= MAX_FAILURES:
        raise InvalidRequirements(f"{FAILURES}={text} has to be a number from 1 to {MAX_FAILURES}")
    return int(text)
