"""What systemd says of units on their machines, as fleetd reads it there, in the manner of `systemctl status`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode

import msgspec

from fleetctl import output, terminal
from fleetctl.client import ApiError, Client, NotFleet
from fleetctl.logs import render_entry
from fleetctl.remote import COLOURS
from fleetctl.request_paths import MAX_QUERY
from fleetctl.unit_locations import Location
from fleetd.api import schema
from fleetd.model.decoding import UNREADABLE
from fleetd.model.names import visible

NOT_RUNNING, NOT_FOUND = 3, 4  # exit statuses of systemctl status
LABEL = 11  # columns of what stands before the colon
_AT_REST = ("inactive", "failed")


def show_status(
    client: Client, unit: str, places: Sequence[Location], *, has_heads: bool
) -> tuple[int, list[Location]]:
    """Print the status of a unit on each of these machines, with its last log lines, each headed by its machine if
    `has_heads`. Returns the first exit status that is not 0, and the machines that have to be asked otherwise; why is
    printed on stderr. Raises ClientError."""
    query = urlencode([("unit", unit)] + [("machine", place.machine) for place in places], errors="surrogateescape")
    if len(query) > MAX_QUERY:
        return 0, list(places)
    try:
        found = msgspec.json.decode(client.read_insight(f"status?{query}"), type=schema.UnitStatuses)
    except UNREADABLE:
        output.note("Using SSH, because what answers is no fleetd that shows states")
        return 0, list(places)
    except (ApiError, NotFleet) as error:
        output.note(f"Using SSH, because fleetd does not show states: {error}")
        return 0, list(places)
    known = {each.machine: each for each in found.units if each.unit == unit}
    why = {each.machine: each.failure for each in found.silent}
    left, status = [], 0
    for number, place in enumerate(places):
        if place.machine not in known:
            output.note(f"Using SSH for machine {place}: {output.printable(why.get(place.machine, 'it is not shown'))}")
            left.append(place)
            continue
        if has_heads:
            colour = COLOURS[number % len(COLOURS)]
            output.result("\n" * (number > len(left)) + terminal.paint(f"{place}:", colour, sys.stdout))
        for line in render_status(known[place.machine]):
            output.result(output.for_terminal(line) if sys.stdout.isatty() else line)
        status = status or exit_status(known[place.machine].properties)
    return status, left


def exit_status(properties: Mapping[str, str]) -> int:
    """That of systemctl status for such a unit."""
    if properties.get("LoadState") == "not-found":
        return NOT_FOUND
    return NOT_RUNNING if properties.get("ActiveState", "inactive") in _AT_REST else 0


def render_status(status: schema.UnitStatus) -> Iterator[str]:
    """The lines for a unit: what systemd says, an empty line, and the last lines of its log."""
    properties = status.properties
    description = properties.get("Description", status.unit)
    bullet = {"failed": "\N{MULTIPLICATION SIGN}", "inactive": "○"}.get(properties.get("ActiveState", ""), "●")
    yield f"{bullet} {status.unit}" + (f" - {visible(description)}" if description != status.unit else "")
    for label, value in _rows(properties):
        if value:
            yield f"{label:>{LABEL}}: {visible(value)}"
    if status.log:
        yield ""
    for entry in status.log:
        yield from render_entry(entry, "short")


def _rows(properties: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    get = properties.get
    where = "; ".join(filter(None, (get("FragmentPath"), get("UnitFileState"))))
    yield "Loaded", get("LoadState", "unknown") + (f" ({where})" if where else "")
    yield "Drop-In", get("DropInPaths", "")
    yield "Active", _describe_activity(properties)
    yield "TriggeredBy", get("TriggeredBy", "")
    yield "Triggers", get("Triggers", "")
    main = get("MainPID", "0")
    yield "Main PID", main if main != "0" else ""
    yield "Status", f'"{get("StatusText")}"' if get("StatusText") else ""
    yield "Restarts", get("NRestarts", "") if get("NRestarts", "0") != "0" else ""
    yield "Tasks", get("TasksCurrent", "")
    memory, peak = _size(get("MemoryCurrent", "")), _size(get("MemoryPeak", ""))
    yield "Memory", memory + (f" (peak: {peak})" if memory and peak else "")
    yield "CPU", f"{int(get('CPUUsageNSec', '')) / 1e9:.3f}s" if _is_number(get("CPUUsageNSec", "")) else ""
    yield "CGroup", get("ControlGroup", "")


def _describe_activity(properties: Mapping[str, str]) -> str:
    get = properties.get
    active, result = get("ActiveState", "unknown"), get("Result", "success")
    why = f"Result: {result}" if active == "failed" else get("SubState", "")
    since = get("InactiveEnterTimestamp" if active in _AT_REST else "ActiveEnterTimestamp", "")
    ended = get("ExecMainStatus", "0")
    status = f"exit status {ended}" if active in _AT_REST and ended != "0" else ""
    details = "; ".join(filter(None, (why, status)))
    return active + (f" ({details})" if details else "") + (f" since {since}" if since else "")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19  # systemd writes 2^64 - 1 for "not known"


def _size(text: str) -> str:
    """Bytes as systemctl shows them; '' if they are not known."""
    if not _is_number(text):
        return ""
    size, units = float(text), "BKMGT"
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f}B" if units[0] == "B" else f"{size:.1f}{units[0]}"
