"""Selects units by the arguments of a command: names, and patterns as in systemctl.

A pattern is matched against the whole name (fleetd/model/name_patterns.py). An argument with a slash is a path, never
a pattern.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from fleetctl.errors import CommandFailed, failing_as
from fleetctl.local_files import parse_argument
from fleetctl.output import printable
from fleetctl.suggestion import suggest_unit
from fleetd.api import schema
from fleetd.model.name_patterns import compile_name_pattern, is_name_pattern
from fleetd.model.names import parse_name
from fleetd.model.unit import TargetState

if TYPE_CHECKING:
    from fleetctl.client import Client

ReportFilter = Callable[[schema.UnitReport], bool]


class Selection(msgspec.Struct, frozen=True):
    """The selected units, in the order of the arguments and each once, and the arguments that select none."""

    found: tuple[schema.UnitReport, ...]
    missing: tuple[str, ...]


def is_pattern(argument: str) -> bool:
    """True for a pattern; names of units have none of these characters."""
    return "/" not in argument and is_name_pattern(argument)


@cache
def match_names(argument: str) -> Callable[[str], bool]:
    """A predicate: the name is the argument, or matches it as a pattern."""
    if not is_pattern(argument):
        return parse_argument(argument).name.full.__eq__
    matches = compile_name_pattern(argument).match
    return lambda name: matches(name) is not None


def is_no_template(report: schema.UnitReport) -> bool:
    """True if the unit can be on a machine."""
    return not parse_name(report.name).is_template


def is_active(report: schema.UnitReport) -> bool:
    """True if the target state is loaded or launched."""
    return report.target != TargetState.INACTIVE


def select_units(client: "Client", arguments: Sequence[str], wanted: ReportFilter = lambda report: True) -> Selection:
    """The units that the arguments select; patterns select only `wanted` ones. Raises ClientError."""
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


def find_all(client: "Client", arguments: Sequence[str], verb: str, wanted: ReportFilter) -> list[schema.UnitReport]:
    """The units that the arguments select; each must select some. Raises CommandFailed."""
    selection = _select(client, arguments, wanted)
    for name in selection.missing:
        raise CommandFailed(describe_missing(client, name, verb))
    return list(selection.found)


def _select(client: "Client", arguments: Sequence[str], wanted: ReportFilter) -> Selection:
    with failing_as(f"Error retrieving Unit {' '.join(arguments)}: "):
        return select_units(client, arguments, wanted)


def expand_patterns(
    client: "Client", arguments: Iterable[str], verb: str, wanted: ReportFilter, *, ignore_missing: bool = False
) -> list[str]:
    """The arguments with each pattern replaced by the names it matches.

    Raises CommandFailed, also for a pattern without match unless `ignore_missing`.
    """
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
    """The error for an argument that selects nothing; at a terminal with similar names."""
    shown = printable(text)
    if is_pattern(text):
        return f"No unit to {verb} matches {shown}"
    return f"Unit {shown} does not exist.{suggest_unit(client, text)}"
