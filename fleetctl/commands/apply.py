"""apply: make the units of a folder those of the cluster. `diff` and `scale` share its options and its output."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence

import click
import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import Callback, blocking_options, bound_s, flag, new_command
from fleetctl.commands.start import wait_for
from fleetctl.errors import CommandFailed, failing_as
from fleetctl.folder import BrokenFolder, Folder, read_folder
from fleetctl.listing import JSON, TABLE, render_json
from fleetctl.plan_lines import CHANGED, DESTROYED, NEW, VALUES, render_plan, summarise
from fleetctl.settings import Settings
from fleetctl.wait import wait_until_gone
from fleetctl.wait_outcome import Check, check_launched, check_loaded, on_every_machine
from fleetd.api import schema
from fleetd.model.names import is_template
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
    usage="[--set=NAME] [--prune] [--yes] [--take-over] [--note=TEXT] [--plan] [--output=json] "
    "[--no-block|--block-attempts=N] DIR",
    completes=("folders",),
)
@folder_options
@flag("--yes", text="let --prune destroy more than half of the set")
@note_option
@flag("--plan", text="only print what would be done")
@output_option("an array of objects, one for each unit that changes")
@blocking_options
def command(
    settings: Settings,
    folder: str,
    set_: str,
    prune: bool,
    take_over: bool,
    yes: bool,
    note: str,
    plan: bool,
    form: str,
    no_block: bool,
    block_attempts: int,
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

    Exits with 0 once all are as they are to be, and with 1 and the reason if one is not.
    """
    found = load_folder(folder)
    request = schema.Apply(
        units=describe_units(found),
        set=name_set(folder, set_),
        prune=prune,
        confirmed=yes,
        take_over=take_over,
        plan=plan,
        note=note,
    )
    client = open_patiently(settings)
    answer = send(client, folder, request)
    return finish(client, request.set, answer, form, plan, None if no_block else bound_s(block_attempts))


def load_folder(path: str) -> Folder:
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


def describe_units(folder: Folder) -> tuple[schema.AppliedUnit, ...]:
    """The units of the folder as the API takes them."""
    return tuple(
        schema.AppliedUnit(
            unit.name, unit.text, tuple(schema.DropIn(dropin.name, dropin.text) for dropin in unit.dropins)
        )
        for unit in folder.units
    )


def name_set(folder: str, given: str) -> str:
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


def finish(client: Client, subject: str, answer: schema.Applied, form: str, plan: bool, longest_s: float | None) -> int:
    """Print what was done, or with `plan` would be, and wait for it, unless `longest_s` is None. Returns the exit
    status."""
    if form == JSON:
        output.result(render_json(answer.units, VALUES))
    else:
        _print(subject, answer, plan)
    for note in answer.notes:
        output.warning(f"WARNING: {note}")
    for refusal in answer.refusals:
        output.error(f"Refused: {refusal}")
    if answer.refusals:
        return 1
    if plan or longest_s is None or not answer.id:
        return 0
    with contextlib.redirect_stdout(sys.stderr) if form == JSON else contextlib.nullcontext():
        return _wait(client, answer.units, longest_s)


def _print(subject: str, answer: schema.Applied, plan: bool) -> None:
    for line in render_plan(answer):
        output.result(line)
    if answer.units or answer.id:
        output.result(f"{subject}: {summarise(answer)}{' (a plan: nothing is done)' if plan else ''}")
    else:
        output.result(f"{subject}: nothing to do ({summarise(answer)})")


def _wait(client: Client, units: Sequence[schema.PlannedUnit], longest_s: float) -> int:
    """Wait until the units are as they are to be, and the destroyed ones gone; returns the exit status."""
    status = 0
    wanted = [unit for unit in units if unit.change in (NEW, CHANGED) and not is_template(unit.name)]
    for target, check in _CHECKS.items():
        for is_global in (False, True):
            names = [unit.name for unit in wanted if (unit.target, unit.is_global) == (target, is_global)]
            if names:
                chosen = on_every_machine(check) if is_global else check
                status = max(status, wait_for(client, names, target, chosen, longest_s))
    left = [unit.name for unit in units if unit.change == DESTROYED]
    with failing_as("Error waiting for units: "):
        for name in wait_until_gone(client, left, longest_s):
            output.result(f"Destroyed {name}")
            left.remove(name)
    for name in left:
        output.error(
            f"Error waiting for units: timed out waiting for destroyed unit {name} to stop; it goes once it has"
        )
    return 1 if left else status
