"""The order in which to queue the jobs of many units, so that systemd orders them as within one transaction.

systemd delays a job only for jobs that are already queued (systemd.unit(5), Before=), so the unit that comes first is
queued first. Only fleet's own units are considered: systemd queues what a unit pulls in together with it.
"""

import re
from collections.abc import Iterator, Mapping

from fleetd.model.content import Content
from fleetd.model.names import InvalidName, UnitName, expand_specifiers, parse_name
from fleetd.model.unit_option import UnitOption
from fleetd.model.unitfile import UnitFileError, list_values

# Options that order units. Few files have one; the others need not be parsed.
_MAY_ORDER = re.compile(r"^\s*(?:After|Before|Sockets|Alias)\s*=", re.MULTILINE)
# A unit of these types comes before the unit that it triggers. Section and option that name that unit, and its type if
# the option is absent.
_TRIGGERS = {
    "socket": ("Socket", "Service", "service"),
    "timer": ("Timer", "Unit", "service"),
    "path": ("Path", "Unit", "service"),
    "automount": ("Automount", "", "mount"),
}


def order_starts(contents: Mapping[str, Content]) -> tuple[str, ...]:
    """Sort these units (name → content) by After= and Before=, also by way of units that are not among them; otherwise
    by name. In an ordering cycle, one of the relations is ignored."""
    edges: dict[str, dict[str, None]] = {name: {} for name in sorted(contents)}  # unit → those before it
    aliases: dict[str, str] = {}
    for name in list(edges):
        for kind, other in _relations(name, contents[name]):
            if kind == "alias":
                aliases |= {} if other in contents else {other: name}
            else:
                first, then = (other, name) if kind == "after" else (name, other)
                edges.setdefault(then, {})[first] = None
    before: dict[str, dict[str, None]] = {}
    for name, others in edges.items():
        real = aliases.get(name, name)
        found = {aliases.get(other, other): None for other in others}
        before[real] = before.get(real, {}) | {other: None for other in found if other != real}
    return tuple(name for name in _sort(before) if name in contents)


def _sort(before: Mapping[str, Mapping[str, None]]) -> Iterator[str]:
    """Yield all names in order, ignoring relations that close a cycle. Linear in the number of relations."""
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


def _relations(name: str, content: Content) -> Iterator[tuple[str, str]]:
    """Yield the unit's ordering relations as (`after`, `before` or `alias`, other unit)."""
    section, option, other_kind = _TRIGGERS.get(name.rpartition(".")[2], ("", "", ""))
    texts = (content.text, *(dropin.text for dropin in content.dropins))
    if not other_kind and not any(map(_MAY_ORDER.search, texts)):
        return
    try:
        options, unit = content.options(), parse_name(name)
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


def _words(options: tuple[UnitOption, ...], section: str, name: str, unit: UnitName) -> list[str]:
    """Return the names in these options, specifiers replaced."""
    return " ".join(expand_specifiers(value, unit) for value in list_values(options, section, name)).split()
