"""list-unit-files: list the units of the cluster, and what is wanted of them."""

import msgspec

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.errors import failing_as
from fleetctl.listing import Columns, list_options, parse_fields, shorten_hash, show_list
from fleetctl.parsing import command as new_command
from fleetctl.parsing import pass_settings
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.core.names import parse_name
from fleetd.core.unit import parse_requirements
from fleetd.core.unitfile import Option, first_value, hash_unit_file, render_unit_file


class Row(msgspec.Struct, frozen=True):
    """A unit, what its unit file says, and the address of its machine ('' where none is known)."""

    unit: schema.Unit
    options: tuple[Option, ...]
    is_global: bool
    address: str

    def place(self, full: bool) -> str:
        """Where the unit is placed."""
        if self.is_global:
            return "global"
        return output.place(self.unit.machine_id, self.address, full) if self.unit.machine_id else "-"


def make_row(unit: schema.Unit, addresses: dict[str, str]) -> Row:
    """The row of a unit; `addresses` are those of machines, by id."""
    options = tuple(Option(option.section, option.name, option.value) for option in unit.options)
    is_global = parse_requirements(options, parse_name(unit.name)).is_global
    return Row(unit, options, is_global, addresses.get(unit.machine_id, ""))


COLUMNS: Columns[Row] = {
    "desc": lambda row, full: first_value(row.options, "Unit", "Description") or "-",
    "dstate": lambda row, full: row.unit.desired_state or "-",
    "global": lambda row, full: str(row.is_global).lower(),
    "hash": lambda row, full: shorten_hash(hash_unit_file(render_unit_file(row.options)), full),
    "state": lambda row, full: "-" if row.is_global else row.unit.current_state or "-",
    "target": lambda row, full: row.place(full),
    "tmachine": lambda row, full: row.place(full),
    "unit": lambda row, full: row.unit.name,
}


@new_command("list-unit-files", usage="[--full] [--no-legend] [--fields=FIELD,...]")
@list_options(COLUMNS, default="unit,hash,dstate,state,target")
@pass_settings
def command(settings: Settings, full: bool, no_legend: bool, fields: str, ignored: tuple[str, ...]) -> int:
    """Lists every unit of the cluster, templates included: what is wanted of it (dstate), and what it has come to."""
    columns = parse_fields(fields, COLUMNS)
    if "tmachine" in columns:
        output.warning("WARNING: The tmachine field is deprecated: use target")
    client = open_client(settings)
    with failing_as("Error retrieving list of units from repository: "):
        units = client.units()
        placed = "target" in columns or "tmachine" in columns
        addresses = {machine.id: machine.primary_ip for machine in client.machines()} if placed else {}
    units.sort(key=lambda unit: unit.name)
    rows = [make_row(unit, addresses) for unit in units]
    show_list(rows, COLUMNS, columns, full, no_legend)
    return 0
