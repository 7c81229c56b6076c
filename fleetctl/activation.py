"""What load and start share: create what is missing, say what is wanted, wait until it is so.

How a unit comes into the cluster is creation.py's matter, when it has arrived waiting.py's.
"""

from collections.abc import Sequence

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.creation import Creation, Wanted, apply_creations, observe_wanted, plan_creations
from fleetctl.errors import failing_as
from fleetctl.parsing import bound_s
from fleetctl.settings import Settings
from fleetctl.waiting import Arrived, Judge, Wait, has_completed_elsewhere, judge_launched, judge_loaded
from fleetd.api import schema
from fleetd.core.unit import TargetState


class Verb(msgspec.Struct, frozen=True):
    """A command that brings units to a target state, and its words."""

    name: str
    doing: str
    target: TargetState
    judge: Judge


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
    wanted = observe_wanted(client, units)
    creations = plan_creations(client, wanted, verb.target, replace)
    apply_creations(client, creations)
    sent = {creation.name: creation for creation in creations}
    waited = []
    for unit in wanted:
        if _wish(client, unit, sent.get(unit.name), verb, no_block):
            waited.append(unit.name)
    return 0 if no_block else _wait(client, waited, verb, bound_s(block_attempts))


def _wish(client: Client, unit: Wanted, creation: Creation | None, verb: Verb, no_block: bool) -> bool:
    """Say what is wanted of the unit, unless that is so or said already; whether it is to be waited for."""
    is_global = creation.is_global if creation else bool(unit.report and unit.report.is_global)
    sent = creation is not None and creation.target is verb.target
    if creation is None and unit.report and not needs_wish(unit.report, verb):
        return not is_global and not _has_arrived(unit.report, verb)
    if not sent:
        with failing_as(f"Error {verb.doing} units: "):
            client.set_target(unit.name, verb.target)
    if is_global:
        output.result(f"Triggered global unit {unit.name} {verb.name}")
    elif no_block:
        output.result(f"Triggered unit {unit.name} {verb.name}")
    return not is_global


def needs_wish(report: schema.UnitReport, verb: Verb) -> bool:
    """Whether the target state must be set: it is another one, or the unit was launched and runs no more."""
    if report.target != verb.target or has_completed_elsewhere(report):
        return True
    copies = [copy for copy in report.copies if not copy.retiring and not copy.orphaned]
    ended = ("inactive", "failed", "deactivating")
    return verb.target is TargetState.LAUNCHED and any(copy.active in ended or copy.completed for copy in copies)


def _has_arrived(report: schema.UnitReport, verb: Verb) -> bool:
    return isinstance(verb.judge(report, report.generation), Arrived)


def _wait(client: Client, names: Sequence[str], verb: Verb, bound_s: float) -> int:
    wait = Wait(client, verb.target, verb.judge)
    with failing_as("Error waiting for units: "):
        wait.until(names, bound_s)
    late = wait.report_late()
    if late:
        output.error(f"Error waiting for unit states, exit status: {late}")
    return 1 if late or wait.failed else 0
