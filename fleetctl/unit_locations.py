"""The machines that have a unit, and the choice of one of them."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click
import msgspec

from fleetctl import output
from fleetctl.command_line import Callback
from fleetctl.errors import CommandFailed
from fleetctl.wait_outcome import runs, why_unplaced
from fleetd.api import schema

if TYPE_CHECKING:
    from fleetctl.client import Client

machine_option = partial(
    click.option, "--machine", default="", metavar="ID", help="only this machine, by a prefix of its id"
)
port_option = partial(
    click.option,
    "--ssh-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="port of the machine's SSH server; 0 is what ~/.ssh/config says, else 22",
)


class Location(msgspec.Struct, frozen=True):
    """A machine and its address ('' if it has published none)."""

    machine: str
    address: str

    def __str__(self) -> str:
        return output.place(self.machine, self.address)


def remote_options(function: Callback) -> Callback:
    """Adds --machine and --ssh-port, for commands that connect to the machines of a unit."""
    return machine_option()(port_option()(function))


def has_machine(report: schema.UnitReport) -> bool:
    """True if some machine's systemd has the unit."""
    return bool(places_of(report))


def explain_absence(report: schema.UnitReport, what: str) -> str:
    """The error for a unit that is on no machine and so is not `what` (running, loaded)."""
    why = why_unplaced(report)
    return f"Unit {report.name} does not appear to be {what}.{f' It {why}.' if why else ''}"


def places_of(report: schema.UnitReport) -> list[Location]:
    """The machines whose systemd has the unit, by id."""
    there = (allocation for allocation in report.allocations if allocation.hash or runs(allocation))
    return [
        Location(allocation.machine, allocation.address)
        for allocation in sorted(there, key=lambda allocation: allocation.machine)
    ]


def places_of_all(reports: Iterable[schema.UnitReport]) -> list[Location]:
    """The machines whose systemd has any of the units, by id."""
    return sorted({place for report in reports for place in places_of(report)}, key=lambda place: place.machine)


def pick_place(places: Sequence[Location], beginning: str, unit: str) -> Location:
    """The machine with this id prefix among those of a unit. Raises CommandFailed."""
    picked = match_machines(places, beginning)
    if len(picked) == 1:
        return picked[0]
    listed = ", ".join(map(str, picked or places)) or "none"
    if picked:
        raise CommandFailed(f"{beginning} is a prefix of several machines' ids: {listed}")
    raise CommandFailed(f"Unit {unit} is not on a machine {beginning}, but on {listed}")


def all_locations(client: "Client") -> list[Location]:
    """All machines of the cluster, by id. Raises ClientError."""
    return [Location(machine.id, machine.primary_ip) for machine in client.machines()]


def match_machines(places: Sequence[Location], text: str) -> list[Location]:
    """The machines with this id prefix."""
    return [place for place in places if has_id(place.machine, text)]


def has_id(machine: str, text: str) -> bool:
    """True if the text is a prefix of the machine's id, also as lists show it, `ID8.../IP`."""
    beginning = text.partition("/")[0].rstrip(".").lower()
    return bool(beginning) and machine.startswith(beginning)
