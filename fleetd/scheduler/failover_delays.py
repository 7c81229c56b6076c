"""How long units wait for a lost machine, and which completed oneshots run again (FailoverDelay=, RerunAfterFailover=,
or the leader's configuration)."""

import math

import msgspec

from fleetd.model.ordered import Names, reachable
from fleetd.model.unit import TargetState
from fleetd.scheduler.snapshot import MachineLoss, Snapshot


class Now(msgspec.Struct, frozen=True):
    """The time of one pass: on the leader's monotonic clock, and in Unix time."""

    clock_s: float = 0.0
    unix_s: float = 0.0


class FailoverPolicy(msgspec.Struct, frozen=True):
    """The configured defaults: how long units wait for a lost machine, whether completed oneshots run again, and how
    long a superseded allocation runs on while its replacement does not."""

    delay_s: float = 0.0
    rerun: bool = False
    handover_timeout_s: float = math.inf


START = Now()
NO_DELAYS = FailoverPolicy()


class FailoverDelays:
    """How long units wait for lost machines, for one plan over one snapshot. A dead machine that is not in
    `snapshot.lost` is lost as of now."""

    def __init__(self, snapshot: Snapshot, policy: FailoverPolicy, now: Now) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._now = now
        self._delays: dict[tuple[str, str], float] = {}  # (machine, unit) → delay of its MachineOf= group there

    def loss(self, machine: str) -> MachineLoss:
        """When this dead machine was lost."""
        return self._snapshot.lost.get(machine) or MachineLoss(self._now.clock_s, self._now.unix_s)

    def kept_until(self, name: str, machine: str) -> float:
        """Until when (Unix time) the unit waits for this machine, which was told to reboot, and which the unit could
        not leave; 0 if it does not."""
        reboot = self._snapshot.reboots.get(machine)
        is_kept = reboot is not None and self._now.unix_s < reboot.kept_until and name in reboot.kept
        return reboot.kept_until if reboot is not None and is_kept else 0.0

    def end_s(self, name: str, machine: str) -> float:
        """Leader-clock deadline after which the unit fails over from this dead machine."""
        end_s = self.loss(machine).since_s + self.delay_s(name, machine)
        kept_until = self.kept_until(name, machine)
        return max(end_s, self._now.clock_s + kept_until - self._now.unix_s) if kept_until else end_s

    def is_waiting(self, name: str, machine: str) -> bool:
        """True until that deadline."""
        return self._now.clock_s < self.end_s(name, machine)

    def until(self, name: str, machine: str) -> float:
        """Unix time at which the unit fails over from this dead machine; 0 for never."""
        delay_s = self.delay_s(name, machine)
        return 0.0 if math.isinf(delay_s) else max(self.loss(machine).at + delay_s, self.kept_until(name, machine))

    def runs_again(self, name: str) -> bool:
        """True if a oneshot that completed on a machine runs again when that machine is lost."""
        unit = self._snapshot.units.get(name)
        asked = self._snapshot.requirements(name).rerun_after_failover if unit else False
        return self._policy.rerun if asked is None else asked

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
        return self._policy.delay_s if asked is None else asked

    def _is_launched(self, name: str) -> bool:
        """True if the unit is to run, on one machine."""
        unit = self._snapshot.units.get(name)
        launched = unit is not None and unit.target is TargetState.LAUNCHED
        return launched and not self._snapshot.requirements(name).is_global

    def _bound_there(self, name: str, machine: str) -> Names:
        """The unit, and the units on the same machine that MachineOf= joins to it, directly or through others."""
        snapshot = self._snapshot

        def bound_to(each: str) -> list[str]:
            return [other for other in snapshot.colocated_with(each) if snapshot.assigned_machine(other) == machine]

        return reachable((name,), bound_to)
