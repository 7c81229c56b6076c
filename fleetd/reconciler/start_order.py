"""In which order the jobs of many units are queued, so that systemd orders them as it does those of one transaction.

systemd holds a job back only for others that are queued already (systemd.unit(5), Before=). So what comes first is
queued first. Only what our own files say is looked at: what a unit pulls in is queued with it, in order. Pure.
"""

import re
from collections.abc import Iterator, Mapping

from fleetd.model.names import InvalidName, UnitName, expand_specifiers, parse_name
from fleetd.model.unitfile import Option, UnitFileError, parse_unit_file

# What may say something of order, and is in few files: the others need not be parsed.
_MAY_ORDER = re.compile(r"^\s*(?:After|Before|Sockets|Alias)\s*=", re.MULTILINE)
# Units of these types come before the unit that they start: the option that names it, and its type where none does.
_TRIGGERS = {
    "socket": ("Socket", "Service", "service"),
    "timer": ("Timer", "Unit", "service"),
    "path": ("Path", "Unit", "service"),
    "automount": ("Automount", "", "mount"),
}


def order_starts(texts: Mapping[str, str]) -> tuple[str, ...]:
    """The units of these files (name → text), each after those that it comes after, also by way of units that are not
    among them; else by name. Where some come after one another in a circle, one of these relations is passed over."""
    edges: dict[str, dict[str, None]] = {name: {} for name in sorted(texts)}  # unit → those before it
    aliases: dict[str, str] = {}
    for name in list(edges):
        for kind, other in _relations(name, texts[name]):
            if kind == "alias":
                aliases |= {} if other in texts else {other: name}
            else:
                first, then = (other, name) if kind == "after" else (name, other)
                edges.setdefault(then, {})[first] = None
    before: dict[str, dict[str, None]] = {}
    for name, others in edges.items():
        real = aliases.get(name, name)
        found = {aliases.get(other, other): None for other in others}
        before[real] = before.get(real, {}) | {other: None for other in found if other != real}
    return tuple(name for name in _sort(before) if name in texts)


def _sort(before: Mapping[str, Mapping[str, None]]) -> Iterator[str]:
    """All names, each after those before it; what closes a circle is passed over. Each relation is looked at once."""
    begun: dict[str, None] = {}
    for root in sorted(before):
        begun_here = [] if root in begun else [(root, iter(sorted(before[root])))]
        begun[root] = None
        while begun_here:
            name, others = begun_here[-1]
            other = next((other for other in others if other not in begun), None)
            if other is None:
                begun_here.pop()
                yield name
            else:
                begun[other] = None
                begun_here.append((other, iter(sorted(before.get(other, ())))))


def _relations(name: str, text: str) -> Iterator[tuple[str, str]]:
    """What a unit says of order, as (`after`, `before` or `alias`, another's name)."""
    section, option, other_kind = _TRIGGERS.get(name.rpartition(".")[2], ("", "", ""))
    if not other_kind and not _MAY_ORDER.search(text):
        return
    try:
        options, unit = parse_unit_file(text), parse_name(name)
    except (UnitFileError, InvalidName):
        return
    for kind, where, key in (
        ("after", "Unit", "After"),
        ("before", "Unit", "Before"),
        ("after", "Service", "Sockets"),
        ("alias", "Install", "Alias"),
    ):
        yield from ((kind, other) for other in _words(options, where, key, unit))
    if other_kind:
        named = _words(options, section, option, unit)
        yield from (("before", other) for other in named or [f"{name.rpartition('.')[0]}.{other_kind}"])


def _words(options: tuple[Option, ...], section: str, name: str, unit: UnitName) -> list[str]:
    """The names in these options, specifiers replaced; an empty value takes back those before it."""
    words: list[str] = []
    for option in options:
        if (option.section, option.name) == (section, name):
            found = expand_specifiers(option.value.replace("\\\n", " "), unit).split()
            words = [*words, *found] if found else []
    return words
