"""list-unit-files: list the units of the cluster, and their target states."""

from collections.abc import Mapping, Sequence

import msgspec

from fleetctl import output
from fleetctl.client import Client, open_client
from fleetctl.command_line import new_command
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, Listing, Values, View, list_command, shorten_hash
from fleetctl.settings import Settings
from fleetctl.wait_outcome import why_unplaced
from fleetd.api import schema
from fleetd.model.constraints import parse_requirements
from fleetd.model.names import parse_name
from fleetd.model.timespan import render_moment
from fleetd.model.unit import TargetState
from fleetd.model.unitfile import first_value, hash_unit_file, render_unit_file


class Row(msgspec.Struct, frozen=True):
    """A unit, the address of its machine ('' if unknown), why it is not placed ('' if it is), and who wrote it last at
    which Unix time, if that was asked."""

    unit: schema.Unit
    is_global: bool
    address: str
    reason: str = ""
    by: str = ""
    at: int = 0

    def place(self, full: bool) -> str:
        """The machine of the unit."""
        if self.is_global:
            return "global"
        return output.place(self.unit.machine_id, self.address, full) if self.unit.machine_id else "-"

    @property
    def is_unplaced(self) -> bool:
        """True if the unit should be on a machine and is not."""
        is_wanted = self.unit.desired_state in (TargetState.LOADED, TargetState.LAUNCHED)
        return is_wanted and not self.is_global and not self.unit.machine_id

    @property
    def hash(self) -> str:
        """The hash of the unit file."""
        return hash_unit_file(render_unit_file(self.unit.options))

    @property
    def description(self) -> str:
        """Description= of the unit file."""
        return first_value(self.unit.options, "Unit", "Description") or ""


def make_row(unit: schema.Unit, addresses: Mapping[str, str]) -> Row:
    """The row of a unit; `addresses` are by machine id."""
    is_global = parse_requirements(unit.options, parse_name(unit.name)).is_global
    return Row(unit, is_global, addresses.get(unit.machine_id, ""))


def add_reports(client: Client, rows: Sequence[Row], *, with_authors: bool) -> list[Row]:
    """The rows with the reason of each unplaced unit, asking the cluster only about those, or with the authors of
    all."""
    asked = [row.unit.name for row in rows if with_authors or row.is_unplaced]
    reports = client.reports(asked) if asked else {}
    return [_add_report(row, reports[row.unit.name]) if row.unit.name in reports else row for row in rows]


def _add_report(row: Row, report: schema.UnitReport) -> Row:
    reason = why_unplaced(report) if row.is_unplaced else ""
    return msgspec.structs.replace(row, reason=reason, by=report.by, at=report.at)


COLUMNS: Columns[Row] = {
    "at": lambda row, full: render_moment(row.at) if row.at else "-",
    "by": lambda row, full: row.by or "-",
    "desc": lambda row, full: row.description or "-",
    "dstate": lambda row, full: row.unit.desired_state or "-",
    "global": lambda row, full: str(row.is_global).lower(),
    "hash": lambda row, full: shorten_hash(row.hash, full),
    "reason": lambda row, full: row.reason or "-",
    "state": lambda row, full: "-" if row.is_global else row.unit.current_state or "-",
    "target": lambda row, full: row.place(full),
    "tmachine": lambda row, full: row.place(full),
    "unit": lambda row, full: row.unit.name,
}
VALUES: Values[Row] = {
    "unit": lambda row: row.unit.name,
    "hash": lambda row: row.hash,
    "dstate": lambda row: row.unit.desired_state or None,
    "state": lambda row: None if row.is_global else row.unit.current_state or None,
    "target": lambda row: row.unit.machine_id or None,
    "ip": lambda row: row.address or None,
    "global": lambda row: row.is_global,
    "desc": lambda row: row.description or None,
    "reason": lambda row: row.reason or None,
    "by": lambda row: row.by or None,
    "at": lambda row: row.at or None,
}
LISTING = Listing(COLUMNS, VALUES, default="unit,hash,dstate,state,target")
_PLACES = {"target", "tmachine", "ip"}
_AUTHORS = {"by", "at"}
MOST_REASONS = 10


@new_command(
    "list-unit-files",
    usage="[--full] [--no-legend] [--fields=FIELD,...] [--output=json] [UNIT...]",
    completes=("units",),
)
@list_command(LISTING)
def command(settings: Settings, view: View[Row]) -> int:
    """Lists all units of the cluster, templates included, with target state (dstate) and current state (state); with
    names or patterns, only those. --fields=unit,by,at says who wrote each last, and when. Why units are not placed is
    printed on standard error.
    """
    if "tmachine" in view.fields:
        output.warning("WARNING: The tmachine field is deprecated: use target")
    client = open_client(settings)
    with failing_as("Error retrieving list of units from repository: "):
        units = client.units()
        placed = not _PLACES.isdisjoint(view.fields)
        addresses = {machine.id: machine.primary_ip for machine in client.machines()} if placed else {}
        units = sorted(filter(lambda unit: view.wants(unit.name), units), key=lambda unit: unit.name)
        with_authors = not _AUTHORS.isdisjoint(view.fields)
        rows = add_reports(client, [make_row(unit, addresses) for unit in units], with_authors=with_authors)
    view.show(rows)
    if "reason" not in view.fields:
        reasons = [f"Unit {row.unit.name} {row.reason}." for row in rows if row.reason]
        for reason in reasons[:MOST_REASONS]:
            output.warning(reason)
        if len(reasons) > MOST_REASONS:
            output.warning(f"And {len(reasons) - MOST_REASONS} more: --fields=unit,reason shows all")
    return 0
