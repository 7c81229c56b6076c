"""What must hold of machines that do not take every unit (accept= and confine= in fleet.conf)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.agent.executor import as_placed, read_contents
from fleetd.model.content import Content
from fleetd.model.machine import Machine
from fleetd.model.names import is_template, matches_glob
from fleetd.model.placement import Placement
from fleetd.registry.records import PLACEMENTS, RecordKey
from fleetd.store.protocol import Event
from tests.simulation.checker import Checker, Key

if TYPE_CHECKING:
    from fleetd.model.confinement import Limits
    from tests.simulation.machine import SimulatedMachine


def takes(limits: "Limits | Machine", name: str) -> bool:
    """True if a machine takes a unit of the simulation, by the simulator's own rules: of these, services alone can be
    confined."""
    is_accepted = not limits.accept or any(matches_glob(pattern, name) for pattern in limits.accept)
    return is_accepted and (not limits.confine or (name.endswith(".service") and not is_template(name)))


def held_contents(machine: "SimulatedMachine") -> dict[str, Content]:
    """The contents of units on this machine, without what confines them."""
    return as_placed(read_contents(machine.systemd), machine.limits_in_force)[0]


def may_not_stay(machine: "SimulatedMachine", name: str) -> bool:
    """True if the machine stops the unit whatever the cluster says: it does not take it, or it is not confined."""
    limits = machine.limits_in_force
    return not takes(limits, name) or name in as_placed(read_contents(machine.systemd), limits)[1]


class LimitsAreKept(Checker):
    """A machine starts nothing that it does not take, and nothing that is to be confined and is not."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path in (path for path, _ in events if path.kind is PLACEMENTS):
            placement, record = self.records.placements.get(path.names), self.records.machines.get(path.names[0])
            if placement is not None and placement.is_withdrawn and record and not takes(record, path.names[1]):
                self.world.drained[path.names[1]] = None

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        found = self.world.machines[machine]
        for name in names if verb in ("start", "restart") else ():
            if may_not_stay(found, name):
                self.fail(f"{machine} starts {name}, which its fleet.conf does not allow as it is")
