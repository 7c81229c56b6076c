"""How long units wait for a lost machine, and which completed oneshots run again (FailoverDelay=, RerunAfterFailover=,
or the leader's configuration)."""

import math

import msgspec

from fleetd.model.ordered import Names, reachable
from fleetd.model.unit import TargetState
from fleetd.scheduler.isolation import isolation_hold_s
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
        self._waits: dict[tuple[str, str], tuple[float, float]] = {}  # (machine, unit) → of its MachineOf= group there

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
        end_s = max(end_s, self._group_end_s(name, machine))
        kept_until = self.kept_until(name, machine)
        return max(end_s, self._now.clock_s + kept_until - self._now.unix_s) if kept_until else end_s

    def isolation_end_s(self, name: str, machine: str) -> float:
        """Leader-clock time after which this dead machine has stopped the unit for certain, by what was placed there
        (IsolationSec=); -math.inf for a unit that may run twice.

        The machine counts from its last heartbeat, which was sent before its key was gone; the leader counts from when
        it saw that, or took office.
        """
        return self._gone_s(machine, self._hold_s(name, machine))

    def isolated_until(self, name: str, machine: str) -> float:
        """The same in Unix time."""
        return self._gone_at(machine, self._hold_s(name, machine))

    def is_isolating(self, name: str, machine: str) -> bool:
        """True until then: the unit may still run on this dead machine, and must not be started elsewhere."""
        return self._now.clock_s < self.isolation_end_s(name, machine)

    def is_isolation_the_longest(self, name: str, machine: str) -> bool:
        """True if nothing keeps the unit, or what MachineOf= joins to it, from moving but that."""
        return self.loss(machine).since_s + self.delay_s(name, machine) < self._group_end_s(name, machine)

    def is_waiting(self, name: str, machine: str) -> bool:
        """True until that deadline."""
        return self._now.clock_s < self.end_s(name, machine)

    def until(self, name: str, machine: str) -> float:
        """Unix time at which the unit fails over from this dead machine; 0 for never."""
        delay_s = self.delay_s(name, machine)
        if math.isinf(delay_s):
            return 0.0
        isolated_until = self._gone_at(machine, self._group_waits(name, machine)[1])
        return max(self.loss(machine).at + delay_s, self.kept_until(name, machine), isolated_until)

    def runs_again(self, name: str) -> bool:
        """True if a oneshot that completed on a machine runs again when that machine is lost."""
        unit = self._snapshot.units.get(name)
        asked = self._snapshot.requirements(name).rerun_after_failover if unit else False
        return self._policy.rerun if asked is None else asked

    def delay_s(self, name: str, machine: str) -> float:
        """How long the unit stays assigned to this machine once it is dead.

        Only a unit that is to run waits. Units joined by MachineOf= move together, after the longest of their delays.
        """
        return self._group_waits(name, machine)[0]

    def _group_waits(self, name: str, machine: str) -> tuple[float, float]:
        """How long the unit waits with those that MachineOf= joins to it there, and how long one of them may run on
        there that must not run twice. One that is not to run waits for itself alone."""
        if not self._is_launched(name):
            return 0.0, self._hold_s(name, machine)
        if (machine, name) not in self._waits:
            group = self._bound_there(name, machine)
            delay_s = max(self._own_delay_s(each) for each in group if self._is_launched(each))
            hold_s = max(self._hold_s(each, machine) for each in group)
            self._waits |= dict.fromkeys(((machine, each) for each in group), (delay_s, hold_s))
        return self._waits[machine, name]

    def _group_end_s(self, name: str, machine: str) -> float:
        return self._gone_s(machine, self._group_waits(name, machine)[1])

    def _hold_s(self, name: str, machine: str) -> float:
        placement = self._snapshot.placements.get(name, {}).get(machine)
        return isolation_hold_s(placement) if placement is not None else 0.0

    def _gone_s(self, machine: str, hold_s: float) -> float:
        """Leader-clock time that is so long after the machine's key was gone; -math.inf for 0."""
        loss = self.loss(machine)
        return loss.since_s - loss.absent_s + hold_s if hold_s else -math.inf

    def _gone_at(self, machine: str, hold_s: float) -> float:
        """The same in Unix time. It is of the moment of the loss: from pass to pass it is the same."""
        loss = self.loss(machine)
        return loss.at - loss.absent_s + hold_s if hold_s else 0.0

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
