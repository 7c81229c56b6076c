"""What the loss of a machine means for its units: how long they wait for it, and what runs again that has finished.

A unit says so itself (`FailoverDelay=`, `RerunAfterFailover=`), or the configuration of the leader does. What follows
for its copies is copies.py's matter; who is dead at all liveness.py's.
"""

import math
from collections.abc import Mapping

import msgspec

from fleetd.model.ordered import Names
from fleetd.model.unit import TargetState
from fleetd.scheduler.snapshot import Snapshot


class MachineLoss(msgspec.Struct, frozen=True):
    """A machine was judged dead: when, by the leader's own clock, and in Unix time, which is for people to read."""

    since_s: float
    at: float


class FailoverPolicy(msgspec.Struct, frozen=True):
    """What the configuration says for units that say nothing themselves, and which machines are `lost` (a machine that
    is dead and not among them is lost just now). `clock_s` is what the leader's own clock shows."""

    delay_s: float = 0.0
    rerun: bool = False
    lost: Mapping[str, MachineLoss] = {}
    clock_s: float = 0.0


class FailoverDelays:
    """How long units wait, in one plan: the view may not change meanwhile. `now_s` is Unix time."""

    def __init__(self, snapshot: Snapshot, failover: FailoverPolicy, now_s: float) -> None:
        self._snapshot = snapshot
        self._failover = failover
        self._now_s = now_s
        self._delays: dict[tuple[str, str], float] = {}  # (machine, unit) → of the units bound together there

    def loss(self, machine: str) -> MachineLoss:
        """Since when this machine, which is dead, is lost."""
        return self._failover.lost.get(machine) or MachineLoss(self._failover.clock_s, self._now_s)

    def end_s(self, name: str, machine: str) -> float:
        """When (leader's own clock) a unit that is placed on this machine, which is dead, waits for it no longer."""
        return self.loss(machine).since_s + self.delay_s(name, machine)

    def is_waiting(self, name: str, machine: str) -> bool:
        """Whether that is yet to come."""
        return self._failover.clock_s < self.end_s(name, machine)

    def until(self, name: str, machine: str) -> float:
        """Unix time at which the unit fails over from this dead machine; 0 for never."""
        delay_s = self.delay_s(name, machine)
        return 0.0 if math.isinf(delay_s) else self.loss(machine).at + delay_s

    def runs_again(self, name: str) -> bool:
        """Whether a oneshot that finished on a machine is run again when that is lost."""
        unit = self._snapshot.units.get(name)
        asked = self._snapshot.requirements(name).rerun_after_failover if unit else False
        return self._failover.rerun if asked is None else asked

    def delay_s(self, name: str, machine: str) -> float:
        """For how long the unit stays on this machine once it is dead.

        Only what is to run waits: what does not can be anywhere. Units bound by MachineOf go together, after the
        longest delay of any, so that none is torn from its peers."""
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
        """Whether it is wanted running, on one machine."""
        unit = self._snapshot.units.get(name)
        launched = unit is not None and unit.target is TargetState.LAUNCHED
        return launched and not self._snapshot.requirements(name).is_global

    def _bound_there(self, name: str, machine: str) -> Names:
        """The unit, and those on the same machine that MachineOf binds to it, however far."""
        group: Names = {name: None}
        pending = [name]
        while pending:
            for other in self._snapshot.colocated_with(pending.pop()):
                if other not in group and self._snapshot.assigned_machine(other) == machine:
                    group[other] = None
                    pending.append(other)
        return group
