"""Logs of units as the API shows them, without SSH: read on their machines by fleetd."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from fleetctl import output, terminal
from fleetctl.client import ApiError, Client, NotFleet
from fleetctl.errors import CommandFailed
from fleetctl.remote import COLOURS
from fleetctl.request_paths import MAX_QUERY
from fleetctl.unit_locations import Location
from fleetd.model.decoding import UNREADABLE
from fleetd.model.names import visible

FORMATS = ("short", "short-iso", "cat", "json")  # the formats of journalctl that are known here
MAX_LINES = 10_000
BAD_PATTERN = "journalctl fails: Bad pattern"  # which SSH would not change

Entry = Mapping[str, Any]


class LogQuery(msgspec.Struct, frozen=True):
    """Which entries are shown: the last `lines` of these units, since a Unix time (0: from the first on), whose message
    matches `grep` ('': all); and in which format of journalctl."""

    units: Sequence[str]
    lines: int
    since_s: float
    grep: str
    form: str

    def render(self, places: Sequence[Location]) -> str:
        """The query of the API for the entries on these machines; without any: on those where the units are."""
        query = [("unit", unit) for unit in self.units] + [("machine", place.machine) for place in places]
        query += [("lines", str(self.lines))] + ([("since", f"{self.since_s:.6f}")] if self.since_s else [])
        query += [("grep", self.grep)] if self.grep else []
        return urlencode(query, errors="surrogateescape")

    def journalctl(self, unit_option: str) -> list[str]:
        """The journalctl that shows the same on a machine; `unit_option` is --unit, or --user-unit."""
        units = (f"{unit_option}={unit}" for unit in self.units)
        argv = ["journalctl", *units, "--no-pager", "-n", str(self.lines), "--output", self.form]
        argv += [f"--since=@{self.since_s:.0f}"] if self.since_s else []
        return argv + ([f"--grep={self.grep}"] if self.grep else [])


def show_logs(
    client: Client,
    query: LogQuery,
    places: Sequence[Location],
    *,
    has_heads: bool,
    others: Sequence[Location] = (),
) -> list[Location]:
    """Print the entries of each of these machines, by time, each headed by its machine if `has_heads`. With `others`,
    which are all machines of the cluster, those are asked, too, on which the units were before. Returns the machines
    that have to be asked otherwise; why is printed on stderr. Raises ClientError."""
    text = query.render([] if others else places) + ("&previous=true" if others else "")
    if len(text) > MAX_QUERY:
        return list(places)
    try:
        lines_of_json = client.read_insight(f"journal?{text}").splitlines()
        found = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines_of_json]
    except UNREADABLE:
        output.note("Using SSH, because what answers is no fleetd that shows logs")
        return list(places)
    except (ApiError, NotFleet) as error:
        output.note(f"Using SSH, because fleetd does not show logs: {error}")
        return list(places)
    by_id = {place.machine: place for place in (*places, *others)}
    for each in found:
        if each.get("machine") not in by_id and others:
            output.note(f"Machine {output.printable(str(each.get('machine')))}: {why_not(each) or 'it has gone'}")
    found = [each for each in found if each.get("machine") in by_id]
    left = {each["machine"]: why for each in found if (why := why_not(each))}
    if refusal := next((why for why in left.values() if why.startswith(BAD_PATTERN)), ""):
        raise CommandFailed(refusal)
    for machine, why in left.items():
        output.note(f"Using SSH for machine {by_id[machine]}: {why}")
    told = sorted({str(each["machine"]) for each in found})
    colours = {machine: COLOURS[number % len(COLOURS)] for number, machine in enumerate(told)}
    for each in found:
        machine = each["machine"]
        if machine in left:
            continue
        head = terminal.paint(f"{by_id[machine]}:", colours[machine], sys.stdout) + " " if has_heads else ""
        for line in render_entry(each, query.form):
            output.result(head + (output.for_terminal(line) if sys.stdout.isatty() else line))
    return [by_id[machine] for machine in sorted(left)]


def why_not(entry: Entry) -> str:
    """Why the machine of this entry has to be asked otherwise; '' for an entry of its journal."""
    if "MESSAGE" in entry or "__CURSOR" in entry:  # whatever other fields a program gave it
        return ""
    if entry.get("cut"):
        return "it has more than it answers at once"
    return output.printable(str(entry.get("failure", "")))


def render_entry(entry: Entry, form: str) -> Iterator[str]:
    """An entry as journalctl shows it in this format: its lines, in local time."""
    if form == "json":
        yield json.dumps(entry, ensure_ascii=False)
        return
    message = _text(entry.get("MESSAGE")).split("\n")
    if form == "cat":
        yield from message
        return
    # What logs says its own name, in which a line break would begin a line that seems to be of another.
    head = " ".join((_moment(entry, form), visible(_text(entry.get("_HOSTNAME"))) or "-", f"{_program(entry)}: "))
    yield head + message[0]
    yield from (" " * len(head) + line for line in message[1:])


def _moment(entry: Entry, form: str) -> str:
    text = _text(entry.get("__REALTIME_TIMESTAMP"))
    try:
        moment = datetime.fromtimestamp(int(text) / 1e6).astimezone()
    except (ValueError, OverflowError, OSError):
        return "-"
    return moment.isoformat(timespec="seconds") if form == "short-iso" else f"{moment:%b %d %H:%M:%S}"


def _program(entry: Entry) -> str:
    """Who wrote the entry, with the id of the process."""
    name = _text(entry.get("SYSLOG_IDENTIFIER")) or _text(entry.get("_COMM")) or "unknown"
    process = _text(entry.get("SYSLOG_PID")) or _text(entry.get("_PID"))
    return visible(f"{name}[{process}]" if process else name)


def _text(value: object) -> str:
    """A field as text. systemd writes what is no text as a list of bytes."""
    if isinstance(value, list) and all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return bytes(value).decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
