"""import: give the cluster the units, sets and settings of an export."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
import msgspec

from fleetctl import output
from fleetctl.client import Client
from fleetctl.command_line import flag, new_command
from fleetctl.commands.apply import output_option
from fleetctl.errors import ClientError, CommandFailed, cause_of, failing_as
from fleetctl.exports.carry_out import carry_out
from fleetctl.exports.compare import Change, ImportPlan, needed_secrets, plan_import
from fleetctl.exports.file import BrokenExport, Exported, parse_export
from fleetctl.exports.gather import gather
from fleetctl.listing import JSON, render_json
from fleetctl.plans import open_patient_client
from fleetctl.settings import Settings

STANDARD_INPUT = "-"
MOST_BYTES = 1024**3


class Line(msgspec.Struct, frozen=True):
    """One line of the plan: a setting, unit or machine, what becomes of it, and what is different."""

    kind: str
    name: str
    change: Change
    what: str


VALUES: Mapping[str, Callable[[Line], Any]] = {
    "kind": lambda line: line.kind,
    "name": lambda line: line.name,
    "change": lambda line: line.change,
    "what": lambda line: line.what,
}


@new_command("import", usage="[--yes] [--replace] [--output=json] FILE", completes=("files",))
@flag("--yes", text="do what the plan says")
@flag("--replace", text="change what the cluster has otherwise than the file")
@output_option("an array of objects, one for each line of the plan")
@click.argument("file")
def command(settings: Settings, file: str, yes: bool, replace: bool, form: str) -> int:
    """Prints what has to be changed so that the cluster has what an export holds, and with --yes changes it: settings,
    units with their drop-ins, target states and sets, and cordons of machines that the cluster has. Without --yes
    nothing is changed. FILE may be - for standard input.

    What is there already is compared. What is the same is not touched: to import a file twice changes nothing. What
    the cluster has otherwise than the file is kept, and with --replace changed: a content by a rollout, as `apply`
    does. What the file does not hold stays as it is. If one line of the file is broken, nothing is imported, and every
    error is printed with its line.

    Secrets are not in an export: the command says which ones units need and the cluster does not have. Units start
    while the import goes on; it does not wait for them.

    Exits with 1 if something is refused, or is kept otherwise than the file has it.
    """
    wanted = read_export(file)
    client = open_patient_client(settings)
    with failing_as("Error comparing with the cluster: "):
        plan = plan_import(wanted, gather(client), replace=replace)
    lines = list(_lines(plan))
    if form == JSON:
        output.result(render_json(lines, VALUES))
    else:
        _show(lines, plan, is_plan=not yes)
    _warn_of_secrets(client, plan)
    kept = plan.count(Change.KEPT)
    if kept:
        verb = "is" if kept == 1 else "are"
        output.error(f"{kept} of these {verb} otherwise in the cluster, and kept so without --replace")
    status = 1 if kept else 0
    if not yes:
        return status
    with failing_as("Error importing: ", "; it is not known what was done: import the file again"):
        for failure in carry_out(client, plan):
            output.error(output.indented(failure))
            status = 1
    return status


def read_export(path: str) -> Exported:
    """What the file holds (`-`: standard input). Raises CommandFailed."""
    name = "standard input" if path == STANDARD_INPUT else output.printable(path)
    try:
        with open(0 if path == STANDARD_INPUT else path, "rb", closefd=path != STANDARD_INPUT) as opened:
            data = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        cause = cause_of(error) if isinstance(error, OSError) else str(error)
        raise CommandFailed(f"Error reading {name}: {cause}") from error
    if len(data) > MOST_BYTES:
        raise CommandFailed(f"{name} is larger than 1 GiB, and no export")
    try:
        return parse_export(data)
    except BrokenExport as error:
        for fault in error.faults:
            output.error(f"{name}: {output.indented(fault)}")
        raise CommandFailed(f"{name} is broken: nothing is done") from error


def _lines(plan: ImportPlan) -> Iterator[Line]:
    for setting in plan.settings:
        yield Line("setting", setting.after.name, setting.change, setting.describe())
    for unit in plan.units:
        yield Line("unit", unit.after.name, unit.change, unit.describe())
    for cordon in plan.cordons:
        yield Line("machine", cordon.after.id, cordon.change, cordon.describe())


def _show(lines: list[Line], plan: ImportPlan, *, is_plan: bool) -> None:
    rows = [[line.kind, output.printable(line.name), line.change, output.printable(line.what)] for line in lines]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        output.result("  " + "  ".join([*cells, row[3]]).rstrip())
    counts: dict[str, int] = {change: plan.count(change) for change in Change}
    counts["unchanged"] = plan.unchanged
    listed = ", ".join(f"{count} {change}" for change, count in counts.items() if count)
    if not lines:
        output.result("nothing to do" + (f" ({listed})" if listed else ""))
    else:
        output.result(listed + (" (a plan: nothing is done without --yes)" if is_plan else ""))


def _warn_of_secrets(client: Client, plan: ImportPlan) -> None:
    """Name the secrets that units need and the cluster does not have, to whom may see secrets."""
    needed = needed_secrets(plan)
    if not needed:
        return
    there: set[str] = set()
    with contextlib.suppress(ClientError):
        there = {secret.name for secret in client.secrets()}
    for secret, units in needed.items():
        if secret not in there:
            more = f" and {len(units) - 1} more" if len(units) > 1 else ""
            output.warning(
                f"WARNING: {output.printable(units[0])}{more} needs the secret {secret}, which the cluster does not "
                f"have, nor any export: fleetctl secret set {secret} < FILE"
            )
