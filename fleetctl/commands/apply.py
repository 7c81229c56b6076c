"""apply: make the units of a folder those of the cluster. `diff` and `scale` share its options and its output."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import DEFAULT_BOUND_S, Callback, flag, new_command
from fleetctl.commands.start import wait_for
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.folder import BrokenFolder, Folder, read_folder
from fleetctl.images import resolve_folder
from fleetctl.listing import JSON, TABLE, render_json
from fleetctl.plan_lines import CHANGED, DESTROYED, NEW, VALUES, render_plan, summarise
from fleetctl.rollouts import follow
from fleetctl.settings import Settings
from fleetctl.wait import wait_until_gone
from fleetctl.wait_outcome import Check, check_launched, check_loaded, on_every_machine
from fleetd.api import schema
from fleetd.model.group import group_of
from fleetd.model.unit import TargetState
from fleetd.model.unit_set import refuse_set_name

WRITING_S = 30.0  # for the answer to a request that writes thousands of units
MOST_BYTES = 2 * 1024 * 1024  # of a request
_CHECKS: dict[str, Check] = {TargetState.LAUNCHED: check_launched, TargetState.LOADED: check_loaded}


def folder_options(function: Callback) -> Callback:
    """Adds DIR, --set, --prune and --take-over."""
    function = click.argument("folder", metavar="DIR")(function)
    function = flag("--take-over", text="take units out of other sets")(function)
    function = flag("--prune", text="destroy the units of the set that the folder no longer has")(function)
    return click.option("--set", "set_", default="", help="the set of the units (default: the folder's name)")(function)


def output_option(text: str) -> Callable[[Callback], Callback]:
    """Adds --output."""
    choices = click.Choice([TABLE, JSON])
    return click.option("--output", "form", type=choices, default=TABLE, help=f"table, or json: {text}")


def note_option(function: Callback) -> Callback:
    """Adds --note."""
    return click.option("--note", default="", help="a remark of one line, kept with the units and their version")(
        function
    )


@new_command(
    "apply",
    usage="[--set=NAME] [--prune] [--yes] [--take-over] [--retry] [--note=TEXT] [--plan] [--if=REVISION] "
    "[--output=json] [--no-block] DIR",
    completes=("folders",),
)
@folder_options
@flag("--yes", text="let --prune destroy more than half of the set")
@flag("--retry", text="roll out again what was reverted")
@note_option
@flag("--plan", text="only print what would be done")
@click.option(
    "--if",
    "revision",
    type=click.IntRange(min=0),
    default=0,
    help="only if no unit of it has changed since this revision, which plan prints; 0: in any case",
)
@output_option("an array of objects, one for each unit that changes")
@flag("--no-block", text="do not wait for the end of the rollouts")
def command(
    settings: Settings,
    folder: str,
    set_: str,
    prune: bool,
    take_over: bool,
    yes: bool,
    retry: bool,
    note: str,
    plan: bool,
    revision: int,
    form: str,
    no_block: bool,
) -> int:
    """Creates and changes units so that the cluster has what the folder says, and prints what changes. A unit whose
    content is the same is not touched: to apply a folder twice changes nothing. If one file is broken, nothing is
    applied, and every error is printed with file and line.

    The folder holds unit files, drop-ins in `NAME.d/`, and templates with the instances that their Instances= names, or
    that are links to them (`web@eu.service` to `web@.service`). Without either, the instances that the cluster has
    follow their template. Instances= also destroys what it no longer names.

    New units get the target state of their DesiredState= (launched). The target state of others stays: what a person
    has stopped stays stopped.

    The units belong to a set from then on. --prune destroys those members that the folder no longer has. A unit of
    another set is refused without --take-over.

    Changes reach the units of a group one after the other, as its options say (MaxUnavailable= and those that begin
    with Update), and different groups at the same time. A line is printed for each unit that is proven or fails.

    `fleetctl plan apply` shows beforehand where each unit would go, at a revision of the store. With --if=REVISION
    nothing is written if one of the units was changed after that, by whomever.

    Exits with 0 once each rollout is done, and with 1 and the reason if one is not: it was reverted, or is paused. What
    was reverted is rolled out again only with --retry.
    """
    _, request = make_request(
        folder,
        set_,
        prune=prune,
        confirmed=yes,
        take_over=take_over,
        retry=retry,
        plan=plan,
        note=note,
        revision=revision,
    )
    client = open_patiently(settings)
    answer = send(client, folder, resolve_folder(client, request))
    return finish(client, request.set, answer, form, plan, no_block)


def make_request(path: str, set_: str, **options: Any) -> tuple[Folder, schema.Apply]:
    """The units in the folder, and the request to apply them with these options of schema.Apply. Prints warnings;
    raises CommandFailed."""
    found = _load_folder(path)
    return found, schema.Apply(units=_describe_units(found), set=_name_set(path, set_), **options)


def _load_folder(path: str) -> Folder:
    """The units in the folder; prints warnings. Raises CommandFailed."""
    try:
        found = read_folder(path)
    except BrokenFolder as error:
        for fault in error.faults:
            output.error(fault)
        count = len(error.faults)
        raise CommandFailed(f"{path} cannot be applied: it has {count} error{'s'[: count > 1]}") from error
    for warning in found.warnings:
        output.warning(f"WARNING: {warning}")
    if not found.units:
        raise CommandFailed(f"{path} holds no unit files: nothing is applied")
    return found


def _describe_units(folder: Folder) -> tuple[schema.AppliedUnit, ...]:
    """The units of the folder as the API takes them."""
    return tuple(
        schema.AppliedUnit(
            unit.name, unit.text, tuple(schema.DropIn(dropin.name, dropin.text) for dropin in unit.dropins)
        )
        for unit in folder.units
    )


def _name_set(folder: str, given: str) -> str:
    """The set of the folder's units. Raises CommandFailed."""
    name = given or os.path.basename(os.path.realpath(folder))
    if refusal := refuse_set_name(name):
        raise CommandFailed(refusal + ("" if given else "; name one with --set"))
    return name


def open_patiently(settings: Settings) -> Client:
    """A client for requests that write much."""
    timeout_s = max(settings.request_timeout_s, WRITING_S)
    return open_client(msgspec.structs.replace(settings, request_timeout_s=timeout_s))


def send(client: Client, folder: str, request: schema.Apply) -> schema.Applied:
    """The answer to the request. Raises CommandFailed."""
    size = len(msgspec.json.encode(request))
    if size > MOST_BYTES:
        raise CommandFailed(
            f"the units of {folder} have {size} bytes together, and at most {MOST_BYTES} can be applied at once: "
            "make several folders of it"
        )
    with failing_as(f"Error applying {folder}: "):
        return client.apply(request)


def finish(client: Client, subject: str, answer: schema.Applied, form: str, plan: bool, no_block: bool) -> int:
    """Print what was done, or with `plan` would be, and wait for it, unless `no_block`. Returns the exit status."""
    if form == JSON:
        output.result(render_json(answer.units, VALUES))
    else:
        _print(subject, answer, plan)
    for note in answer.notes:
        output.warning(f"WARNING: {note}")
    for refusal in answer.refusals:
        output.error(f"Refused: {refusal}")
    if answer.reverted:
        _report_reverted(client, answer.reverted)
    status = 1 if answer.refusals or answer.reverted else 0
    if plan or no_block or not answer.id:
        return status
    with contextlib.redirect_stdout(sys.stderr) if form == JSON else contextlib.nullcontext():
        return max(status, _wait(client, answer.units))


def _report_reverted(client: Client, groups: Sequence[str]) -> None:
    """Say why units do not run what was applied, though nothing is left to write."""
    with failing_as("Error retrieving rollouts: "):
        rollouts = client.rollouts(groups)
    for group in groups:
        why = output.indented(rollouts[group].status) if group in rollouts else "was reverted"
        output.error(f"{group}: {why}\n    This was applied before, and is not tried again without --retry")


def _print(subject: str, answer: schema.Applied, plan: bool) -> None:
    for line in render_plan(answer):
        output.result(line)
    if answer.units or answer.id:
        output.result(f"{subject}: {summarise(answer)}{' (a plan: nothing is done)' if plan else ''}")
    else:
        output.result(f"{subject}: nothing to do" + (f" ({summarise(answer)})" if answer.unchanged else ""))


def _wait(client: Client, units: Sequence[schema.PlannedUnit]) -> int:
    """Wait until the rollouts of changed units are over, new units run, and the destroyed ones are gone; returns the
    exit status."""
    groups = dict.fromkeys(group_of(unit.name) for unit in units if unit.change == CHANGED)
    status = follow(client, groups) if groups else 0
    status = max(status, _wait_for_new(client, [unit for unit in units if unit.change == NEW]))
    left = [unit.name for unit in units if unit.change == DESTROYED]
    with failing_as("Error waiting for units: "):
        for name in wait_until_gone(client, left, DEFAULT_BOUND_S):
            output.result(f"Destroyed {name}")
            left.remove(name)
    for name in left:
        output.error(
            f"Error waiting for units: timed out waiting for destroyed unit {name} to stop; it goes once it has"
        )
    return 1 if left else status


def _wait_for_new(client: Client, units: Sequence[schema.PlannedUnit]) -> int:
    """Wait for new units as start does: there is nothing that a rollout would have to be careful of."""
    status = 0
    for target, check in _CHECKS.items():
        for is_global in (False, True):
            names = [unit.name for unit in units if (unit.target, unit.is_global) == (target, is_global)]
            if names:
                chosen = on_every_machine(check) if is_global else check
                status = max(status, wait_for(client, names, target, chosen, DEFAULT_BOUND_S))
    return status
