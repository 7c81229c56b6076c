"""Unit names: which are valid, their parts, the specifiers that stand for them, and the globs that match them."""

import re
from functools import lru_cache

import msgspec

MAX_NAME_BYTES = 256
TEMPLATE_TYPES = frozenset({"path", "service", "socket", "target", "timer"})
UNIT_TYPES = TEMPLATE_TYPES | {"automount", "busname", "device", "mount", "scope", "slice", "snapshot", "swap"}
DEFAULT_SUFFIX = ".service"
SYSTEMD_MAX_NAME_LENGTH = 255

# fleet's own units on a machine: fleetd, what it leaves behind, what stops units, and what is run for a moment.
_OF_FLEET = (
    *("fleet.", "fleet-park.", "fleet-lease.", "fleet-isolate.", "fleet-isolated."),
    *("fleet-fetch-", "fleet-look-", "fleet-podman-", "fleet-pull-", "fleet-remove-"),
)
# What a machine needs to run fleet itself. No unit of the cluster may take these names.
RESERVED = (*_OF_FLEET, "dbus.", "systemd-")

# systemd's own units that need no file: it makes them, of sessions, users and what the kernel mounts.
_WITHOUT_FILE = re.compile(
    r"""
    .* [.]scope
  | (?: - | system | user | machine | user-.* ) [.]slice
  | (?: user | user-runtime-dir ) @.* [.]service
  | (?: - | run | run-lock | run-user.* | (?: dev | proc | sys ) (?: -.* )? ) [.]mount
    """,
    re.VERBOSE | re.DOTALL,
)
_FOREIGN_CHARACTER = re.compile(r"[^A-Za-z0-9:\-_.\\@]")


class InvalidName(ValueError):
    """The text is not a valid unit name."""


class UnitName(msgspec.Struct, frozen=True):
    """A name and its parts. For `web@eu.1.service`: stem `web@eu.1`, suffix `service`, prefix `web`,
    template `web@.service`, instance `eu.1`. Template and instance are '' for a plain unit.
    """

    full: str
    stem: str
    suffix: str
    prefix: str
    template: str
    instance: str

    @property
    def is_template(self) -> bool:
        return self.template != "" and self.instance == ""

    @property
    def is_instance(self) -> bool:
        return self.instance != ""


def validate_name(name: str) -> None:
    """Raises InvalidName with the first fault of a name."""
    if not name:
        raise InvalidName("unit name cannot be empty")
    if len(name.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidName(f"unit name exceeds maximum length ({MAX_NAME_BYTES})")
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        raise InvalidName('unit name must contain "."')
    if not suffix:
        raise InvalidName('unit name cannot end in "."')
    if suffix not in UNIT_TYPES:
        raise InvalidName(f'invalid unit type: "{visible(suffix)}"')
    if "@" in stem and suffix not in TEMPLATE_TYPES:
        raise InvalidName(f'invalid unit type for template: "{suffix}"')
    foreign = _FOREIGN_CHARACTER.search(stem)
    if foreign:
        raise InvalidName(f"invalid character '{visible(foreign[0])}' in unit name")
    if stem.startswith("@"):
        raise InvalidName('unit name cannot start in "@"')


def is_systemd_name(name: str) -> bool:
    """True if systemd accepts this name for a unit or a template. fleet accepts some more (validate_name)."""
    stem, _, suffix = name.rpartition(".")
    has_type = suffix in UNIT_TYPES and suffix not in ("busname", "snapshot")
    has_stem = stem != "" and not stem.startswith("@") and not _FOREIGN_CHARACTER.search(stem)
    return len(name) <= SYSTEMD_MAX_NAME_LENGTH and has_type and has_stem


def is_loadable(name: str) -> bool:
    """True if systemd can load a unit of this name; a template it cannot load without an instance."""
    return is_systemd_name(name) and not is_template(name)


def visible(text: str) -> str:
    """The text with characters escaped that a terminal would interpret or not show."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


@lru_cache(maxsize=16384)
def parse_name(name: str) -> UnitName:
    """The parts of a name, valid or not. Raises InvalidName if it contains no dot."""
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        raise InvalidName('unit name must contain "."')
    prefix, at, instance = stem.partition("@")
    return UnitName(name, stem, suffix, prefix, f"{prefix}@.{suffix}" if at else "", instance)


def template_of(name: str) -> str:
    """The template of an instance, or of a template; '' for a plain unit. Faster than parse_name."""
    if "@" not in name:
        return ""
    stem, _, suffix = name.rpartition(".")
    prefix, at, _ = stem.partition("@")
    return f"{prefix}@.{suffix}" if at else ""


def is_template(name: str) -> bool:
    """True for the name of a template."""
    return "@." in name and template_of(name) == name


def with_default_suffix(argument: str) -> str:
    """The unit name that a user typed, with `.service` added unless it ends in a unit type."""
    _, dot, suffix = argument.rpartition(".")
    return argument if dot and suffix in UNIT_TYPES else argument + DEFAULT_SUFFIX


def is_reserved(name: str) -> bool:
    """True if the name belongs to a unit that runs the machine itself: fleet never writes, starts or stops it."""
    return name.startswith(RESERVED) or _WITHOUT_FILE.fullmatch(name) is not None


def is_of_fleet(name: str) -> bool:
    """True if the name belongs to a unit of fleet's own on a machine."""
    return name.startswith(_OF_FLEET)


def expand_specifiers(value: str, name: UnitName) -> str:
    """Replace `%n`, `%N`, `%p`, `%i`, in this order. There is no escape: `%%p` is a percent sign and the prefix."""
    if "%" not in value:
        return value
    for specifier, part in (("%n", name.full), ("%N", name.stem), ("%p", name.prefix), ("%i", name.instance)):
        value = value.replace(specifier, part)
    return value


_SPECIAL = re.compile(r"[*?\[\\]")
_GLOB_TOKEN = re.compile(
    r"""
    (?P<star> \*+ )
  | (?P<any> \? )
  | \\ (?P<escaped> . )
  | \[ (?P<negated> \^?+ ) (?P<ranges> (?: (?: [^\]\\-] | \\. ) (?: - (?: [^\]\\-] | \\. ) )? )+ ) \]
  | (?P<literal> [^\\\[] )
    """,
    re.VERBOSE | re.DOTALL,
)
_GLOB_RANGE = re.compile(r"(?: \\ (.) | (.) ) (?: - (?: \\ (.) | (.) ) )?", re.VERBOSE | re.DOTALL)


def matches_glob(pattern: str, name: str) -> bool:
    """True if the pattern, in the syntax of Go's path.Match, matches the whole name. A malformed pattern matches
    none."""
    compiled = compile_glob(pattern)
    return compiled is not None and compiled.fullmatch(name) is not None


def literal_prefix(pattern: str) -> str:
    """What every name that matches the pattern begins with: a cheap first test."""
    return _SPECIAL.split(pattern, maxsplit=1)[0]


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> re.Pattern[str] | None:
    """The pattern as a regular expression for fullmatch; None if it is malformed or longer than any name."""
    expression = glob_expression(pattern)
    return None if expression is None else re.compile(expression, re.DOTALL)


def glob_expression(pattern: str) -> str | None:
    """The source of that expression (DOTALL, without capturing groups).

    Every star but the last is atomic, shortest match first: time stays proportional to pattern times name, and a
    pattern of many stars cannot hold up the leader.
    """
    chunks = [""]
    at = characters = 0
    while at < len(pattern):
        token = _GLOB_TOKEN.match(pattern, at)
        if token is None:
            return None
        at = token.end()
        if token["star"]:
            chunks.append("")
        else:
            characters += 1
            if characters > MAX_NAME_BYTES:
                return None
            chunks[-1] += _glob_character(token)
    first, *middle, last = ["", *chunks] if len(chunks) == 1 else chunks
    starred = "[^/]*" if len(chunks) > 1 else ""
    return first + "".join(f"(?>[^/]*?{chunk})" for chunk in middle) + starred + last


def _glob_character(token: re.Match[str]) -> str:
    """The regular expression for a token that matches one character."""
    if token["any"]:
        return "[^/]"
    if token["ranges"] is None:
        return re.escape(token["escaped"] or token["literal"])
    ranges = ""
    for found in _GLOB_RANGE.finditer(token["ranges"]):
        low = found[1] or found[2]
        high = found[3] or found[4] or low
        if low <= high:
            ranges += f"{re.escape(low)}-{re.escape(high)}"
    if not ranges:  # only reversed ranges, which contain no character
        return "." if token["negated"] else "(?!)"
    return f"[{'^' if token['negated'] else ''}{ranges}]"
