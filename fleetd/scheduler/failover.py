"""What follows for units when a machine is lost: how long they wait for it, and which completed oneshots run again
(FailoverDelay=, RerunAfterFailover=, or the leader's configuration)."""

import math
from collections.abc import Mapping

import msgspec

from fleetd.model.ordered import Names
from fleetd.model.unit import TargetState
from fleetd.scheduler.snapshot import Snapshot


class MachineLoss(msgspec.Struct, frozen=True):
    """A machine was judged dead at `since_s` on the leader's clock, and at `at` in Unix time."""

    since_s: float
    at: float


class FailoverPolicy(msgspec.Struct, frozen=True):
    """The configured defaults, and the `lost` machines. A dead machine that is not among them is lost as of `clock_s`,
    the leader's clock."""

    delay_s: float = 0.0
    rerun: bool = False
    lost: Mapping[str, MachineLoss] = {}
    clock_s: float = 0.0


class FailoverDelays:
    """How long units wait for lost machines, for one plan over one snapshot. `now_s` is Unix time."""

    def __init__(self, snapshot: Snapshot, failover: FailoverPolicy, now_s: float) -> None:
        self._snapshot = snapshot
        self._failover = failover
        self._now_s = now_s
        self._delays: dict[tuple[str, str], float] = {}  # (machine, unit) → delay of its MachineOf= group there

    def loss(self, machine: str) -> MachineLoss:
        """When this dead machine was lost."""
        return self._failover.lost.get(machine) or MachineLoss(self._failover.clock_s, self._now_s)

    def end_s(self, name: str, machine: str) -> float:
        """Leader-clock deadline after which the unit fails over from this dead machine."""
        return self.loss(machine).since_s + self.delay_s(name, machine)

    def is_waiting(self, name: str, machine: str) -> bool:
        """True until that deadline."""
        return self._failover.clock_s < self.end_s(name, machine)

    def until(self, name: str, machine: str) -> float:
        """Unix time at which the unit fails over from this dead machine; 0 for never."""
        delay_s = self.delay_s(name, machine)
        return 0.0 if math.isinf(delay_s) else self.loss(machine).at + delay_s

    def runs_again(self, name: str) -> bool:
        """True if a oneshot that completed on a machine runs again when that machine is lost."""
        unit = self._snapshot.units.get(name)
        asked = self._snapshot.requirements(name).rerun_after_failover if unit else False
        return self._failover.rerun if asked is None else asked

    def delay_s(self, name: str, machine: str) -> float:
        """How long the unit stays assigned to this machine once it is dead.

        Only a unit that is to run waits. Units joined by MachineOf= move together, after the longest of their delays.
        """
        if not self._is_launched(name):
            return 0.0
        if (machine, name) not in self._delays:
            group = self._bound_there(name, machine)
            delay_s = max(self._own_delay_s(each) for each in group if self._is_launched(each))
            self._delays |= dict.fromkeys(((machine, each) for each in group), delay_s)
        return self._delays[machine, name]

    def _own_delay_s(self, name: str) -> float:
        asked = self._snapshot.requirements(name).failover_delay_s
        return self._failover.delay_s if asked is None else asked

    def _is_launched(self, name: str) -> bool:
        """True if the unit is to run, on one machine."""
        unit = self._snapshot.units.get(name)
        launched = unit is not None and unit.target is TargetState.LAUNCHED
        return launched and not self._snapshot.requirements(name).is_global

    def _bound_there(self, name: str, machine: str) -> Names:
        """The unit, and the units on the same machine that MachineOf= joins to it, directly or through others."""
        group: Names = {name: None}
        pending = [name]
        while pending:
            for other in self._snapshot.colocated_with(pending.pop()):
                if other not in group and self._snapshot.assigned_machine(other) == machine:
                    group[other] = None
                    pending.append(other)
        return group
