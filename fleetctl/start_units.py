"""What load and start share: create what is missing, say what is wanted, wait until it is so.

How a unit comes into the cluster is creation.py's matter, when it has arrived waiting.py's.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.errors import failing_as
from fleetctl.parsing import bound_s
from fleetctl.selection import expand_patterns, is_no_template
from fleetctl.settings import Settings
from fleetctl.submit_units import Creation, Wanted, apply_creations, observe_wanted, plan_creations
from fleetctl.wait import Wait
from fleetctl.wait_outcome import Arrived, Judge, has_completed_elsewhere, judge_launched, judge_loaded
from fleetd.api import schema
from fleetd.model.unit import TargetState


class Verb(msgspec.Struct, frozen=True):
    """A command that brings units to a target state, and its words."""

    name: str
    doing: str
    target: TargetState
    judge: Judge


class Step(Enum):
    """What there is to do for a unit: nothing, to wait only, to say what is wanted, or to wait since it was said."""

    NOTHING = auto()
    WAIT = auto()
    WISH = auto()
    WISHED = auto()


LOAD = Verb("load", "loading", TargetState.LOADED, judge_loaded)
START = Verb("start", "starting", TargetState.LAUNCHED, judge_launched)


def activate(
    settings: Settings, units: Sequence[str], verb: Verb, replace: bool, no_block: bool, block_attempts: int
) -> int:
    """Bring the units to the verb's target state; the exit status."""
    client = open_client(settings)
    if not units:
        output.error("No units given")
        return 0
    wanted = observe_wanted(client, expand_patterns(client, units, verb.name, is_no_template))
    creations = plan_creations(client, wanted, verb.target, replace)
    sent = apply_creations(client, creations)
    created = {creation.name: creation for creation in creations if creation.name not in sent.overtaken}
    found = [
        msgspec.structs.replace(unit, report=sent.overtaken.get(unit.name, unit.report))
        for unit in wanted
        if unit.name not in sent.failed
    ]
    refused, waited = _wish_all(client, found, created, verb, no_block)
    status = 1 if sent.failed or refused else 0
    return status if no_block else max(status, _wait(client, waited, verb, bound_s(block_attempts)))


def _wish_all(
    client: Client, units: Sequence[Wanted], created: Mapping[str, Creation], verb: Verb, no_block: bool
) -> tuple[bool, list[str]]:
    """Say what is wanted of the units, unless that is so or said already; whether any was refused, and which of them
    are to be waited for."""
    plans = [(unit, _plan_wish(unit, created.get(unit.name), verb)) for unit in units]
    operations = [
        schema.UnitOperation(unit.name, desired_state=verb.target) for unit, step in plans if step is Step.WISH
    ]
    with failing_as(f"Error {verb.doing} units: "):
        refused = client.carry_out(operations)
    waited = []
    for unit, step in plans:
        creation = created.get(unit.name)
        is_global = creation.is_global if creation else bool(unit.report and unit.report.is_global)
        if unit.name in refused:
            output.error(f"Error {verb.doing} units: unit {unit.name}: {refused[unit.name]}")
            continue
        if step in (Step.WISH, Step.WISHED) and (is_global or no_block):
            output.result(f"Triggered {'global ' * is_global}unit {unit.name} {verb.name}")
        if step is not Step.NOTHING and not is_global:
            waited.append(unit.name)
    return bool(refused), waited


def _plan_wish(unit: Wanted, creation: Creation | None, verb: Verb) -> Step:
    """What there is to do for a unit, given how it was sent, if it was."""
    if creation is not None:
        return Step.WISHED if creation.target is verb.target else Step.WISH
    assert unit.report is not None
    if needs_wish(unit.report, verb):
        return Step.WISH
    return Step.NOTHING if isinstance(verb.judge(unit.report, unit.report.generation), Arrived) else Step.WAIT


def needs_wish(report: schema.UnitReport, verb: Verb) -> bool:
    """Whether the target state must be set: it is another one, or the unit was launched and runs no more."""
    if report.target != verb.target or has_completed_elsewhere(report):
        return True
    allocations = [
        allocation for allocation in report.allocations if not allocation.superseded and not allocation.orphaned
    ]
    ended = ("inactive", "failed", "deactivating")
    return verb.target is TargetState.LAUNCHED and any(
        allocation.active in ended or allocation.completed for allocation in allocations
    )


def _wait(client: Client, names: Sequence[str], verb: Verb, bound_s: float) -> int:
    wait = Wait(client, verb.target, verb.judge)
    with failing_as("Error waiting for units: "):
        wait.until(names, bound_s)
    late = wait.report_late()
    if late:
        output.error(f"Error waiting for unit states, exit status: {late}")
    return 1 if late or wait.failed else 0
