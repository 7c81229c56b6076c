"""Plans of what would happen, as lines for people and as objects for programs."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from fleetctl import output, terminal
from fleetctl.client import Client, open_client
from fleetctl.listing import JSON, render_json
from fleetctl.settings import Settings
from fleetd.api import schema

TIMEOUT_S = 60.0  # for an answer: a plan of a large cluster takes seconds
PLACE, MOVE, CHANGE, STOP, NOWHERE, STAYS = "place", "move", "change", "stop", "nowhere", "stays"
_SPREAD = 2  # columns between two fields
_SHORT_ID = 8


class Step(msgspec.Struct, frozen=True):
    """One line of a plan: a unit, what happens to it, from where to where, and why. `along_with` is the unit that it
    goes along with, `state` why it stays, as in the API."""

    action: str
    unit: str
    origin: str
    machine: str
    places: str
    reason: str
    along_with: str = ""
    state: str = ""
    cause: schema.Cause | None = None


VALUES: Mapping[str, Callable[[Step], Any]] = {
    "action": attrgetter("action"),
    "unit": attrgetter("unit"),
    "origin": lambda step: step.origin or None,
    "machine": lambda step: step.machine or None,
    "with": lambda step: step.along_with or None,
    "state": lambda step: step.state or None,
    "reason": attrgetter("reason"),
    "cause": attrgetter("cause"),
}


def open_patient_client(settings: Settings) -> Client:
    """A client that waits longer for each answer."""
    timeout_s = max(settings.request_timeout_s, TIMEOUT_S)
    return open_client(msgspec.structs.replace(settings, request_timeout_s=timeout_s))


def show_plan(plan: schema.Plan, form: str, idle: str = "nothing would move", remarks: Sequence[str] = ()) -> None:
    """Print the plan, with the remarks below its first line. `idle` says that nothing happens."""
    steps = list(_steps(plan))
    if form == JSON:
        output.result(render_json(steps, VALUES))
        return
    output.result(f"at revision {plan.revision}, {plan.machines} machines, {plan.units} units")
    for remark in remarks:
        output.result(remark)
    rows = [[step.action, output.printable(step.unit), step.places] for step in steps]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    heads = [
        "  " + (" " * _SPREAD).join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows
    ]
    reasons = [output.indented(step.reason) for step in steps]
    room = terminal.measure(sys.stdout).columns if terminal.is_watched(sys.stdout) else math.inf
    is_wide = any(len(head) + _SPREAD + len(reason) > room for head, reason in zip(heads, reasons, strict=True))
    for head, reason in zip(heads, reasons, strict=True):
        output.result(((head.rstrip() + "\n      " if is_wide else head + " " * _SPREAD) + reason).rstrip())
    output.result(_summarise(plan, steps) or idle)


def _steps(plan: schema.Plan) -> Iterator[Step]:
    for move in plan.moves:
        origin, machine = _place(move.origin, move.origin_address), _place(move.machine, move.address)
        places = " ".join(filter(None, (origin, f"→ {machine}" if machine else "")))
        action = STOP if not move.machine else MOVE if move.origin else PLACE
        yield Step(action, move.unit, move.origin, move.machine, places, move.reason, move.along_with)
    for change in plan.changes:
        place = _place(change.machine, change.address)
        yield Step(CHANGE, change.unit, change.machine, change.machine, place, _describe_change(change))
    for unit in plan.nowhere:
        yield Step(NOWHERE, unit.unit, "", "", "", unit.reason, "", unit.state, unit.cause)
    for unit in plan.stays:
        reason = "global" if unit.state == "global" else unit.reason
        place = _place(unit.machine, unit.address)
        yield Step(STAYS, unit.unit, unit.machine, unit.machine, place, reason, "", unit.state, unit.cause)


def _describe_change(change: schema.PlannedChange) -> str:
    parts = ["gets its new content"] if change.content else []
    parts += [f"becomes {change.target}"] if change.target else []
    return " and ".join(parts) or "is started again"


def changes_nothing(plan: schema.Plan) -> bool:
    """Whether nothing would happen to any unit."""
    return not (plan.moves or plan.changes or plan.nowhere)


def _place(machine: str, address: str) -> str:
    is_supposed = len(machine) < _SHORT_ID  # one that would join: its id is as short as it can be
    return output.place(machine, address, full=is_supposed) if machine else ""


def _summarise(plan: schema.Plan, steps: list[Step]) -> str:
    """How many units would be placed, move, be changed, stop, run nowhere or stay; '' for none."""
    if plan.endless:
        return "the cluster would never come to rest"
    words = {
        PLACE: "would be placed",
        MOVE: "would move",
        CHANGE: "would be changed",
        STOP: "would stop",
        NOWHERE: "would run nowhere",
        STAYS: "would stay",
    }
    counts = {action: sum(step.action == action for step in steps) for action in words}
    return ", ".join(f"{count} {words[action]}" for action, count in counts.items() if count)
