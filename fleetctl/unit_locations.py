"""Which machines a command about a unit is about: those that have a copy of it, or the one that was picked.

Nothing is connected to here.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import click
import msgspec

from fleetctl import output
from fleetctl.errors import CommandFailed
from fleetctl.parsing import Callback
from fleetctl.wait_outcome import runs, why_nowhere
from fleetd.api import schema

machine_option = partial(
    click.option, "--machine", default="", metavar="ID", help="only this machine, by any beginning of its id"
)
port_option = partial(
    click.option,
    "--ssh-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="port of the machine's SSH server; 0 is what ~/.ssh/config says, else 22",
)


class Place(msgspec.Struct, frozen=True):
    """A machine and its address ('' where it has published none)."""

    machine: str
    address: str

    def __str__(self) -> str:
        return output.place(self.machine, self.address)


def remote_options(function: Callback) -> Callback:
    """--machine and --ssh-port, of every command that goes to the machines of a unit."""
    return machine_option()(port_option()(function))


def is_somewhere(report: schema.UnitReport) -> bool:
    """Whether any machine's systemd has the unit."""
    return bool(places_of(report))


def explain_absence(report: schema.UnitReport, what: str) -> str:
    """What to say of a unit that is on no machine, and `what` it therefore does not appear to be."""
    why = why_nowhere(report)
    return f"Unit {report.name} does not appear to be {what}.{f' It {why}.' if why else ''}"


def places_of(report: schema.UnitReport) -> list[Place]:
    """The machines whose systemd has the unit, by id."""
    there = (allocation for allocation in report.allocations if allocation.hash or runs(allocation))
    return [
        Place(allocation.machine, allocation.address)
        for allocation in sorted(there, key=lambda allocation: allocation.machine)
    ]


def places_of_all(reports: Iterable[schema.UnitReport]) -> list[Place]:
    """The machines whose systemd has any of the units, by id."""
    return sorted({place for report in reports for place in places_of(report)}, key=lambda place: place.machine)


def pick_place(places: Sequence[Place], beginning: str, unit: str) -> Place:
    """The machine of a unit that a person has picked. Raises CommandFailed."""
    picked = match_machines(places, beginning)
    if len(picked) == 1:
        return picked[0]
    listed = ", ".join(map(str, picked or places)) or "none"
    if picked:
        raise CommandFailed(f"{beginning} is the beginning of several machines' ids: {listed}")
    raise CommandFailed(f"Unit {unit} is not on a machine {beginning}, but on {listed}")


def match_machines(places: Sequence[Place], text: str) -> list[Place]:
    """The machines whose id begins so."""
    return [place for place in places if has_id(place.machine, text)]


def has_id(machine: str, text: str) -> bool:
    """Whether a machine's id begins so; also as lists show it, `ID8.../IP`."""
    beginning = text.partition("/")[0].rstrip(".").lower()
    return bool(beginning) and machine.startswith(beginning)
