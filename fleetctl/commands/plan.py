"""plan: what would happen if machines or units were changed."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from fleetctl import output
from fleetctl.actions import Action, run_action
from fleetctl.client import Client, put_operation
from fleetctl.command_line import flag, new_command
from fleetctl.commands.apply import make_request
from fleetctl.commands.start import START, Remaining, plan_unit
from fleetctl.commands.stop import find_units
from fleetctl.commands.submit import plan_creations, resolve_units
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.images import resolve_folder
from fleetctl.listing import JSON, TABLE
from fleetctl.machine_changes import pick_machine
from fleetctl.plan_lines import render_plan, summarise
from fleetctl.plans import changes_nothing, open_patient_client, show_plan
from fleetctl.selection import expand_patterns, is_no_template
from fleetctl.settings import Settings
from fleetctl.unit_locations import all_locations
from fleetd.api import schema

CHANGES_STATUS = 2


def _drain(
    settings: Settings, words: Sequence[str], *, with_globals: bool, force: bool, form: str, exit_code: bool
) -> int:
    client = open_patient_client(settings)
    drains = tuple(schema.PlannedDrain(machine, with_globals, force) for machine in _pick_machines(client, words))
    return _ask(client, schema.PlanRequest(drain=drains), form, exit_code)


def _lose(settings: Settings, words: Sequence[str], *, form: str, exit_code: bool) -> int:
    client = open_patient_client(settings)
    return _ask(client, schema.PlanRequest(lose=tuple(_pick_machines(client, words))), form, exit_code)


def _pick_machines(client: Client, words: Sequence[str]) -> list[str]:
    """The ids of the machines that are named. Raises CommandFailed."""
    if not words:
        raise CommandFailed("No machines given")
    with failing_as("Error retrieving list of active machines from fleet API (", ")"):
        known = all_locations(client)
    return list(dict.fromkeys(pick_machine(known, text).machine for text in words))


def _join(settings: Settings, words: Sequence[str], *, count: int, form: str, exit_code: bool) -> int:
    metadata = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise CommandFailed(f"{output.printable(word)} is no metadata: give KEY=VALUE, as in zone=b")
        metadata[key] = value
    request = schema.PlanRequest(join=(schema.PlannedMachine(metadata),) * count)
    return _ask(open_patient_client(settings), request, form, exit_code)


def _start(settings: Settings, words: Sequence[str], *, replace: bool, form: str, exit_code: bool) -> int:
    client = open_patient_client(settings)
    if not words:
        raise CommandFailed("No units given")
    with contextlib.redirect_stdout(sys.stderr):  # what start would tell of them is a remark here
        wanted = resolve_units(client, expand_patterns(client, words, START.name, is_no_template))
        creations = {each.name: each for each in plan_creations(client, wanted, START.target, replace)}
    operations = [
        put_operation(each.name, each.content.options, each.target, only_new=not each.replaces)
        for each in creations.values()
    ]
    operations += [
        schema.UnitOperation(unit.name, desired_state=START.target)
        for unit in wanted
        if unit.name not in creations and plan_unit(unit, None, START) is Remaining.SET_TARGET
    ]
    return _plan_operations(client, operations, form, exit_code)


def _destroy(settings: Settings, words: Sequence[str], *, form: str, exit_code: bool) -> int:
    client = open_patient_client(settings)
    if not words:
        raise CommandFailed("No units given")
    found = find_units(client, words, "destroy", lambda report: True, ignore_missing=False).found
    if not found:
        return 1
    return _plan_operations(client, [schema.UnitOperation(each.name, destroy=True) for each in found], form, exit_code)


def _plan_operations(client: Client, operations: Sequence[schema.UnitOperation], form: str, exit_code: bool) -> int:
    if not operations:
        output.note("There is nothing to do: the units are as they are to be")
        if form == JSON:
            output.result("[]")
        return 0
    return _ask(client, schema.PlanRequest(operations=tuple(operations)), form, exit_code)


def _apply(settings: Settings, words: Sequence[str], *, form: str, exit_code: bool, set_: str, **options: bool) -> int:
    if len(words) != 1:
        raise CommandFailed("plan apply takes one folder: fleetctl plan apply DIR")
    _, request = make_request(words[0], set_, **options)
    client = open_patient_client(settings)
    return _ask(client, schema.PlanRequest(apply=resolve_folder(client, request, asks=False)), form, exit_code)


def _ask(client: Client, request: schema.PlanRequest, form: str, exit_code: bool) -> int:
    """Have it planned, and print the plan. Returns the exit status."""
    with failing_as("Error planning: "):
        plan = client.plan(request)
    applied = plan.applied or schema.Applied()
    remarks = [*render_plan(applied), summarise(applied)] if plan.applied else []
    show_plan(plan, form, "nothing would change", remarks)
    for note in applied.notes:
        output.warning(f"WARNING: {note}")
    for refusal in applied.refusals:
        output.error(f"Refused: {refusal}")
    if applied.refusals or plan.endless:
        return 1
    return CHANGES_STATUS if exit_code and not (changes_nothing(plan) and not applied.units) else 0


_COMMON = ("form", "exit_code")
ACTIONS: dict[str, Action] = {
    "drain": Action("if machines were drained together", _drain, ("with_globals", "force", *_COMMON)),
    "apply": Action(
        "if the units of a folder were applied",
        _apply,
        ("set_", "prune", "confirmed", "take_over", "retry", *_COMMON),
    ),
    "start": Action("if units were started", _start, ("replace", *_COMMON)),
    "destroy": Action("if units were destroyed", _destroy, _COMMON),
    "lose": Action("if machines were lost together", _lose, _COMMON),
    "join": Action("if machines with this metadata joined", _join, ("count", *_COMMON)),
}


@new_command(
    "plan",
    usage="drain [--globals] [--force] MACHINE... | apply [--set=NAME] [--prune] [--yes] [--take-over] [--retry] DIR | "
    "start [--replace] UNIT... | destroy UNIT... | lose MACHINE... | join [--count=N] [KEY=VALUE...]",
    completes=("plan-actions", "plan-arguments"),
)
@flag("--globals", "with_globals", text="with drain: stop global units there, too")
@flag("--force", text="with drain: whatever becomes unavailable, and stop what fits nowhere else")
@click.option("--set", "set_", default="", help="with apply: the set of the units (default: the folder's name)")
@flag("--prune", text="with apply: destroy the units of the set that the folder no longer has")
@flag("--yes", "confirmed", text="with apply: let --prune destroy more than half of the set")
@flag("--take-over", text="with apply: take units out of other sets")
@flag("--retry", text="with apply: roll out again what was reverted")
@flag("--replace", text="with start: replace the unit in the cluster by the local unit file")
@click.option("--count", type=click.IntRange(1, 1000), default=1, help="with join: so many machines")
@flag("--exit-code", text="exit with 2 if anything would change, and with 0 if nothing would")
@click.option(
    "--output", "form", type=click.Choice([TABLE, JSON]), default=TABLE, help="table, or json: an array of objects"
)
@click.argument("words", nargs=-1)
def command(settings: Settings, words: tuple[str, ...], exit_code: bool, **options: Any) -> int:
    """Prints what would happen if machines were drained, lost or joined, or units were applied, started or destroyed,
    and changes nothing: which units would be placed, moved, changed where they are or stopped, in order and with the
    reason, and what would run nowhere.

    The fleetd that is asked computes it with the leader's own rules, from one look at the store. It takes every start
    to succeed, and no time to pass but the failover delays of lost machines; what is under way otherwise is part of it.
    A machine that joins has an id after all others, so that of machines that are equally good it is the last choice.

    The first line says at which revision of the store this was so; `fleetctl apply --if=REVISION` applies a folder only
    while its units are as they were then.

    Exits with 0, and with 1 if it cannot be planned, or would be refused. With --exit-code it exits with 2 if anything
    would change.
    """
    try:
        return run_action("plan", ACTIONS, settings, words, {**options, "exit_code": exit_code})
    except CommandFailed as error:
        if not exit_code:
            raise
        raise CommandFailed(str(error), status=1) from error  # 2 means that something would change
