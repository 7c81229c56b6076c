"""start: start units; submits those that the cluster does not have. `load` does the same with a lower target state.

Missing units are submitted, then target states are set, then the units are waited for.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto

import msgspec

from fleetctl import output
from fleetctl.client import Client
from fleetctl.command_line import blocking_options, bound_s, creation_options, new_command, unit_arguments
from fleetctl.commands.submit import Creation, RequestedUnit, apply_creations, plan_creations, resolve_units
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.images import open_client_for
from fleetctl.selection import expand_patterns, is_no_template
from fleetctl.settings import Settings
from fleetctl.wait import Wait
from fleetctl.wait_outcome import (
    Check,
    Reached,
    active_allocations,
    check_launched,
    check_loaded,
    has_completed_elsewhere,
)
from fleetd.api import schema
from fleetd.model.unit import TargetState


class StartVerb(msgspec.Struct, frozen=True):
    """A command that raises units to a target state, and its words."""

    name: str
    doing: str
    target: TargetState
    check: Check


class Remaining(Enum):
    """What is left to do for a unit; WAIT_SENT: wait for the target state that was sent with its content."""

    NOTHING = auto()
    WAIT = auto()
    SET_TARGET = auto()
    WAIT_SENT = auto()


LOAD = StartVerb("load", "loading", TargetState.LOADED, check_loaded)
START = StartVerb("start", "starting", TargetState.LAUNCHED, check_launched)


@new_command("start", usage="[--no-block|--block-attempts=N] [--replace] UNIT...", completes=("units", "unit-files"))
@blocking_options
@creation_options
@unit_arguments
def command(settings: Settings, units: tuple[str, ...], replace: bool, no_block: bool, block_attempts: int) -> int:
    """Starts units on machines that meet their constraints; submits those that the cluster does not have. A launched
    unit that has failed or ended is started again.

    Exits with 0 once all are active (or oneshots that have completed), and with 1 and the reason if one has failed or
    cannot be loaded. A unit that no machine accepts yet is waited for, and the reason is printed at once. A service
    counts as active after a tenth of a second; use Type=notify for one that takes longer to be ready. Global units are
    not waited for.
    """
    return run_start(settings, units, START, replace, no_block, block_attempts)


def run_start(
    settings: Settings, units: Sequence[str], verb: StartVerb, replace: bool, no_block: bool, block_attempts: int
) -> int:
    """Bring the units to the target state; returns the exit status."""
    client = open_client_for(settings, units)
    if not units:
        raise CommandFailed("No units given", status=0)
    wanted = resolve_units(client, expand_patterns(client, units, verb.name, is_no_template))
    creations = plan_creations(client, wanted, verb.target, replace)
    sent = apply_creations(client, creations)
    created = {creation.name: creation for creation in creations if creation.name not in sent.overtaken}
    found = [
        msgspec.structs.replace(unit, report=sent.overtaken.get(unit.name, unit.report))
        for unit in wanted
        if unit.name not in sent.failed
    ]
    refused, waited = _set_targets(client, found, created, verb, no_block)
    status = 1 if sent.failed or refused else 0
    if no_block:
        return status
    return max(status, wait_for(client, waited, verb.target, verb.check, bound_s(block_attempts)))


def _set_targets(
    client: Client, units: Sequence[RequestedUnit], created: Mapping[str, Creation], verb: StartVerb, no_block: bool
) -> tuple[bool, list[str]]:
    """Set the target states that are not set yet; returns whether any was refused, and the units to wait for."""
    plans = [(unit, plan_unit(unit, created.get(unit.name), verb)) for unit in units]
    operations = [
        schema.UnitOperation(unit.name, desired_state=verb.target)
        for unit, remaining in plans
        if remaining is Remaining.SET_TARGET
    ]
    with failing_as(f"Error {verb.doing} units: "):
        refused = client.carry_out(operations)
    waited = []
    for unit, remaining in plans:
        creation = created.get(unit.name)
        is_global = creation.is_global if creation else bool(unit.report and unit.report.is_global)
        if unit.name in refused:
            output.error(f"Error {verb.doing} units: unit {unit.name}: {refused[unit.name]}")
            continue
        if remaining in (Remaining.SET_TARGET, Remaining.WAIT_SENT) and (is_global or no_block):
            output.result(f"Triggered {'global ' * is_global}unit {unit.name} {verb.name}")
        if remaining is not Remaining.NOTHING and not is_global:
            waited.append(unit.name)
    return bool(refused), waited


def plan_unit(unit: RequestedUnit, creation: Creation | None, verb: StartVerb) -> Remaining:
    """What is left to do for a unit; `creation` is what was sent of it, if anything."""
    if creation is not None:
        return Remaining.WAIT_SENT if creation.target is verb.target else Remaining.SET_TARGET
    assert unit.report is not None
    if needs_target(unit.report, verb):
        return Remaining.SET_TARGET
    return Remaining.NOTHING if isinstance(verb.check(unit.report, unit.report.generation), Reached) else Remaining.WAIT


def needs_target(report: schema.UnitReport, verb: StartVerb) -> bool:
    """True if the target state must be set: it differs, or the unit is launched and has ended."""
    if report.target != verb.target or has_completed_elsewhere(report):
        return True
    ended = ("inactive", "failed", "deactivating")
    return verb.target is TargetState.LAUNCHED and any(
        allocation.active in ended or allocation.completed for allocation in active_allocations(report)
    )


def wait_for(client: Client, names: Sequence[str], target: str, check: Check, bound_s: float) -> int:
    """Wait for the units to reach the target state, and print errors; returns the exit status."""
    wait = Wait(client, target, check)
    with failing_as("Error waiting for units: "):
        wait.until(names, bound_s)
    late = wait.report_late()
    if late:
        output.error(f"Error waiting for unit states, exit status: {late}")
    return 1 if late or wait.failed else 0
