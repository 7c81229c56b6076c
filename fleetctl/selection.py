"""Which units of the cluster the arguments of a command name: names as they are, and patterns as systemctl takes them.

A pattern is matched by fnmatch(3) against the whole name, without escapes: names have backslashes of their own. What
has a slash is a path, and never a pattern. What is said of an argument that names nothing is each command's own matter.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from fleetctl.errors import CommandFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.output import printable
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.names import parse_name

if TYPE_CHECKING:
    from fleetctl.client import Client

Wanted = Callable[[schema.UnitReport], bool]


class Selection(msgspec.Struct, frozen=True):
    """The units that were found, in the order of the arguments and each once, and the arguments that name none."""

    found: tuple[schema.UnitReport, ...]
    missing: tuple[str, ...]


def is_pattern(argument: str) -> bool:
    """Whether an argument is a pattern: no unit's name has these characters."""
    return "/" not in argument and not {"*", "?", "["}.isdisjoint(argument)


@cache
def match_names(argument: str) -> Callable[[str], bool]:
    """Whether a name is the one that the argument names, or matches it as a pattern."""
    if not is_pattern(argument):
        return parse_argument(argument).name.full.__eq__
    matches = re.compile(translate(argument.replace("[^", "[!"))).match
    return lambda name: matches(name) is not None


def is_no_template(report: schema.UnitReport) -> bool:
    """Whether the unit can be on a machine."""
    return not parse_name(report.name).is_template


def is_active(report: schema.UnitReport) -> bool:
    """Whether the unit is wanted on a machine."""
    return report.target != "inactive"


def select_units(client: "Client", arguments: Sequence[str], wanted: Wanted = lambda report: True) -> Selection:
    """What the arguments name; of what a pattern matches, the `wanted` alone. Raises ClientError."""
    texts = [text if is_pattern(text) else parse_argument(text).name.full for text in dict.fromkeys(arguments)]
    reports = client.every_report() if any(map(is_pattern, texts)) else client.reports(texts)
    found: dict[str, schema.UnitReport] = {}
    missing = []
    for text in texts:
        matches = match_names(text)
        matching = [name for name in sorted(reports) if matches(name)] if is_pattern(text) else [text]
        known = [reports[name] for name in matching if name in reports]
        taken = list(filter(wanted, known)) if is_pattern(text) else known
        missing += [] if taken else [text]
        found |= {report.name: report for report in taken}
    return Selection(tuple(found.values()), tuple(dict.fromkeys(missing)))


def find_all(client: "Client", arguments: Sequence[str], verb: str, wanted: Wanted) -> list[schema.UnitReport]:
    """The same, where each argument must name something. Raises CommandFailed."""
    selection = _select(client, arguments, wanted)
    for name in selection.missing:
        raise CommandFailed(describe_missing(client, name, verb))
    return list(selection.found)


def _select(client: "Client", arguments: Sequence[str], wanted: Wanted) -> Selection:
    with failing_as(f"Error retrieving Unit {' '.join(arguments)}: "):
        return select_units(client, arguments, wanted)


def expand_patterns(
    client: "Client", arguments: Iterable[str], verb: str, wanted: Wanted, *, ignore_missing: bool = False
) -> list[str]:
    """The arguments, with the names that match in the place of each pattern. Raises CommandFailed, for one that matches
    none, too, unless that is to be ignored."""
    expanded = []
    for argument in arguments:
        if not is_pattern(argument):
            expanded.append(argument)
        elif ignore_missing:
            expanded += [report.name for report in _select(client, [argument], wanted).found]
        else:
            expanded += [report.name for report in find_all(client, [argument], verb, wanted)]
    return expanded


def describe_missing(client: "Client", text: str, verb: str) -> str:
    """What to say of an argument that names nothing to do this with; at a terminal, with what may have been meant."""
    shown = printable(text)
    if is_pattern(text):
        return f"No unit to {verb} matches {shown}"
    return f"Unit {shown} does not exist.{suggest_unit(client, text)}"
