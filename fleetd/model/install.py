"""[Install] in fleet: the aliases and dependencies that a unit gets on its machine.

The [Install] sections of all units on a machine become a plan of symlinks in systemd's runtime directory: `ALIAS`,
`OWNER.wants/UNIT`, `OWNER.requires/UNIT`, `OWNER.upholds/UNIT`. The rules are in fleet.unit(5); systemd.unit(5) says
what systemd makes of these links.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from fleetd.model.names import InvalidName, UnitName, is_reserved, parse_name, validate_name
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import list_values

INSTALL_SECTION = "Install"
FOLDERS = {"WantedBy": "wants", "RequiredBy": "requires", "UpheldBy": "upholds"}
ALIASED_TYPES = frozenset({"service", "socket", "target", "device", "timer", "path"})  # those that systemd lets alias

# Specifiers that are the machine's, and those that are the same for every unit of a system (not of a user).
HOST_SPECIFIERS = frozenset("aAbBHlmMoqvwW")
_CONSTANTS = {"%": "%", "u": "root", "U": "0", "g": "root", "G": "0"}
_SPECIFIER = re.compile(r"%(.?)", re.DOTALL)
_WORD = re.compile(r'"([^"]*)"|\'([^\']*)\'|(\S+)')


class InvalidInstall(ValueError):
    """An [Install] section that systemd would refuse to enable, or that asks for a name that no unit may have."""


class Install(msgspec.Struct, frozen=True):
    """What one unit asks for, with specifiers replaced: other names, and (option, unit) that are to depend on it."""

    aliases: tuple[str, ...] = ()
    dependents: tuple[tuple[str, str], ...] = ()


class LinkPlan(msgspec.Struct, frozen=True):
    """The links of a machine (link → unit that it leads to), and, by unit, why others that it asks for are not made."""

    links: Mapping[str, str]
    complaints: Mapping[str, tuple[str, ...]]


def install_values(options: Iterable[UnitOption], name: str) -> list[str]:
    """The words of one option of the section, in order; an empty value resets the list, as in systemd."""
    values = list_values(options, INSTALL_SECTION, name)
    return list(dict.fromkeys("".join(match) for value in values for match in _WORD.findall(value)))


def parse_install(options: Iterable[UnitOption], name: UnitName, host: Mapping[str, str] | None = None) -> Install:
    """The [Install] section of this unit. `host` are the machine's specifiers by letter; without them, words that
    contain one are left out.

    A template asks for nothing: it is not on a machine. Raises InvalidInstall.
    """
    if name.is_template:
        return Install()
    options = tuple(options)
    aliases: dict[str, None] = {}
    dependents: dict[tuple[str, str], None] = {}
    for word in install_values(options, "Alias"):
        alias = _expand(word, name, host)
        if alias is not None:
            aliases[_check_alias(alias, name)] = None
    for option in FOLDERS:
        for word in install_values(options, option):
            owner = _expand(word, name, host)
            if owner is not None:
                _check_name(owner, option)
                dependents[option, owner] = None
    aliases.pop(name.full, None)
    return Install(tuple(aliases), tuple(dependents))


def _expand(word: str, name: UnitName, host: Mapping[str, str] | None) -> str | None:
    """The word with its specifiers replaced, or None if it contains one of the machine's and these are unknown."""
    known = _CONSTANTS | {
        "n": name.full,
        "N": name.stem,
        "p": name.prefix if name.is_instance else name.stem,
        "i": name.instance,
        "j": name.prefix.rpartition("-")[2],
        **(host or {}),
    }
    letters = _SPECIFIER.findall(word)
    for letter in letters:
        if letter not in known and (host is not None or letter not in HOST_SPECIFIERS):
            raise InvalidInstall(f"[Install] has %{letter} in {word!r}, which is no specifier here; write %% for %")
    if any(letter not in known for letter in letters):
        return None
    return _SPECIFIER.sub(lambda match: known[match[1]], word)


def _check_name(name: str, option: str) -> None:
    try:
        validate_name(name)
    except InvalidName as error:
        raise InvalidInstall(f"[Install] {option}={name!r} names no unit: {error}") from error


def _check_alias(alias: str, name: UnitName) -> str:
    """The alias by systemd's rules on which names may be aliases; of an instance, a template alias becomes an
    instance."""
    _check_name(alias, "Alias")
    parsed = parse_name(alias)
    if parsed.suffix != name.suffix or name.suffix not in ALIASED_TYPES:
        raise InvalidInstall(f"[Install] Alias={alias}: systemd cannot alias {name.full} as {alias}")
    if parsed.is_template and name.is_instance:
        alias = f"{parsed.prefix}@{name.instance}.{name.suffix}"
    elif parsed.instance != name.instance or parsed.is_template:
        raise InvalidInstall(f"[Install] Alias={alias}: systemd cannot alias {name.full} as {alias}")
    return alias


def plan_links(
    installs: Mapping[str, Install], units: Collection[str], held: Mapping[str, str], refuse: Callable[[str], str]
) -> LinkPlan:
    """The links of a machine that has these units of fleet's.

    `installs` are those of units with a section, `held` the links that were made before. `refuse` tells why a name may
    not be used here ('': it may). A name is its unit's before it is an alias; an alias that several ask for is whose it
    was, else the first one's by name. Units that are not fleet's may come to want ours, which does nothing to them, but
    never to require or uphold it.
    """
    complaints: dict[str, list[str]] = {}
    links = _plan_aliases(installs, units, held, refuse, complaints)
    here = frozenset((*units, *links, *(parse_name(name).template for name in (*units, *links))))
    for unit in sorted(installs):
        for option, owner in installs[unit].dependents:
            if is_reserved(owner):
                why = f"{owner} is of what runs the machine itself"
            elif option != "WantedBy" and owner not in here:
                why = f"fleet has no {owner} on this machine"
            else:
                links[f"{owner}.{FOLDERS[option]}/{unit}"] = unit
                continue
            complaints.setdefault(unit, []).append(f"[Install] {option}={owner} has no effect: {why}")
    return LinkPlan(links, {unit: tuple(sentences) for unit, sentences in complaints.items()})


def _plan_aliases(
    installs: Mapping[str, Install],
    units: Collection[str],
    held: Mapping[str, str],
    refuse: Callable[[str], str],
    complaints: dict[str, list[str]],
) -> dict[str, str]:
    claims: dict[str, list[str]] = {}
    for unit in sorted(installs):
        for alias in installs[unit].aliases:
            claims.setdefault(alias, []).append(unit)
    links: dict[str, str] = {}
    for alias, claimants in claims.items():
        owner = held[alias] if held.get(alias) in claimants else claimants[0]
        if alias in units:
            owner, why = "", "a unit of this name is here"
        elif refusal := refuse(alias):
            owner, why = "", refusal
        else:
            links[alias] = owner
            why = f"{owner} has it"
        for unit in claimants:
            if unit != owner:
                complaints.setdefault(unit, []).append(f"[Install] Alias={alias} has no effect: {why}")
    return links
