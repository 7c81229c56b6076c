"""One unit in full: its states, why it is where it is, and the last lines of its log. Pure."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fleetctl import output
from fleetctl.live.rows import Level, name_machine, render_age, unit_row
from fleetd.api import schema

MOST_MACHINES = 20  # of which it is told why the unit is not there
Entry = Mapping[str, Any]  # of systemd's journal, with `machine`


class Line(msgspec.Struct, frozen=True):
    """A line of text. `is_head`: the lines below belong to it."""

    text: str
    level: Level = Level.IDLE
    is_head: bool = False


class Detail(msgspec.Struct, frozen=True):
    """What was read about one unit. `no_explanation` and `no_log` say why there is none."""

    explanation: schema.Explanation | None = None
    no_explanation: str = ""
    log: tuple[Entry, ...] = ()
    no_log: str = ""


def describe(report: schema.UnitReport | None, detail: Detail | None, now_s: float) -> list[Line]:
    """The lines about a unit: what the lists know (None: it is gone), and what was read about it (None: not yet)."""
    lines = [Line("the cluster has this unit no more", Level.BAD)] if report is None else list(_state(report, now_s))
    if detail is None:
        return [*lines, Line(""), Line("asking fleetd why it is there, and for its log …")]
    return [*lines, Line(""), *_explain(report, detail), Line(""), *_log(detail)]


def _state(report: schema.UnitReport, now_s: float) -> Iterator[Line]:
    row = unit_row(report)
    yield Line(f"{row.cells[0]}  {row.cells[1]}", row.level, is_head=True)
    yield Line(f"  target      {output.printable(report.target)}" + _by(report, now_s))
    if report.since:
        yield Line(f"  decided     {render_age(now_s - report.since)} ago")
    for each in report.allocations:
        state = "/".join(filter(None, (each.active, each.sub))) or "not reported"
        word = " (replaced elsewhere)" if each.superseded else ""
        level = Level.BAD if each.active == "failed" or each.error else Level.IDLE
        yield Line(f"  {name_machine(each.machine, each.address)}  {output.printable(state)}{word}", level)
        for said in (each.error, each.refusal, each.note):
            for text in said.splitlines():
                yield Line(f"    {output.printable(text)}", level)


def _by(report: schema.UnitReport, now_s: float) -> str:
    by = f" by {output.printable(report.by)}" if report.by else ""
    return f", written{by} {render_age(now_s - report.at)} ago" if report.at else by


def _explain(report: schema.UnitReport | None, detail: Detail) -> Iterator[Line]:
    yield Line("why here", is_head=True)
    found = detail.explanation
    reason = found.reason if found else report.reason if report else ""
    if reason:
        yield Line(
            f"  it {output.printable(reason)}" if report is None or report.machine else f"  {output.printable(reason)}"
        )
    if found is None:
        for one in report.rejections if report else ():
            yield Line(f"  {output.printable(one.message)} ({one.machines} machine{'s'[: one.machines != 1]})")
        yield Line(f"  {detail.no_explanation}", Level.CHANGING)
        return
    left = found.machines
    for number, each in enumerate(found.why_here, 1):
        of = f"of {left} machines" if number == 1 else "of these"
        yield Line(f"  {number} {output.printable(each.message)}: {each.left} {of}")
        left = each.left
    if found.why_not:
        yield Line("why not", is_head=True)
    for other in found.why_not[:MOST_MACHINES]:
        yield Line(f"  {name_machine(other.machine, other.address)}  {output.printable(other.message)}")
    if (more := len(found.why_not) - MOST_MACHINES) > 0:
        yield Line(f"  and {more} more machines: fleetctl explain --full {output.printable(found.unit)}")


def _log(detail: Detail) -> Iterator[Line]:
    yield Line("log", is_head=True)
    if detail.no_log:
        yield Line(f"  {detail.no_log}", Level.CHANGING)
    shown = [line for entry in detail.log for line in log_lines(entry)]
    yield from shown
    if not shown and not detail.no_log:
        yield Line("  it has logged nothing")


def log_lines(entry: Entry) -> Iterator[Line]:
    """A line of fleetd's answer: an entry of a journal, or a remark about a machine."""
    machine = output.printable(str(entry.get("machine", ""))[:8])
    if "MESSAGE" not in entry:
        if why := str(entry.get("failure", "")):
            yield Line(f"  {machine}  does not answer: {output.printable(why)}", Level.BAD)
        elif entry.get("cut"):
            yield Line(f"  {machine}  has more than it answers at once", Level.CHANGING)
        return
    level = Level.BAD if _text(entry.get("PRIORITY")) in ("0", "1", "2", "3") else Level.IDLE
    head = f"  {_moment(entry)}  {machine}  "
    first, *others = _text(entry["MESSAGE"]).split("\n")
    yield Line(head + output.printable(first), level)
    for text in others:
        yield Line(" " * len(head) + output.printable(text), level)


def _moment(entry: Entry) -> str:
    """When it was logged, in local time."""
    try:
        return time.strftime("%b %d %H:%M:%S", time.localtime(int(_text(entry.get("__REALTIME_TIMESTAMP"))) // 10**6))
    except (ValueError, OverflowError, OSError):
        return "-"


def _text(value: object) -> str:
    """A field as text. systemd writes what is no text as a list of bytes."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return bytes(each for each in value if isinstance(each, int) and 0 <= each < 256).decode("utf-8", "replace")
    return value if isinstance(value, str) else ""
