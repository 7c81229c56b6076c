"""What must hold at every moment; each checker is named after its rule in docs/architecture.md ("What must always
hold").

Checkers see each write to the store, each request that arrives there, each call to systemd, and the whole cluster
whenever time is about to pass. Whether a unit *runs* is decided by the processes of the systemds alone. convergence.py
checks what must hold after the faults.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.config.cluster_settings import failover_policy
from fleetd.model.machine import MachineMode
from fleetd.model.names import is_reserved, matches_glob
from fleetd.model.placement import Placement
from fleetd.model.requirements import requirements_of
from fleetd.model.unit import TargetState, Unit
from fleetd.registry.records import DECISIONS, LEADER, MACHINES, PLACEMENTS, SETTINGS, STATES, SYNCED, UNITS, RecordKey
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.store.protocol import Comparison, CreatedAt, Event, HasValue, Operation, Put, Unchanged
from tests.simulation.announcement_invariants import OnlyTheHealthyAreAnnounced, WithdrawalComesFirst
from tests.simulation.certificate_invariants import RevokedAreNotServed, TrustOnlyGrows, WorkersAreLetIn
from tests.simulation.checker import Checker, Key, now
from tests.simulation.download_invariants import DownloadsComeFirst, NothingHealthyStopsForADownload
from tests.simulation.drain_invariants import DrainsKeepTheBudget, KeptPlacesAreKept
from tests.simulation.event_invariants import EventsTellWhatWasDone
from tests.simulation.event_reader import EachEventIsReadOnceInOrder
from tests.simulation.handover_invariants import StartFirstIsAskedFor, StartFirstKeepsWhatRuns
from tests.simulation.isolation_invariants import ASKED, LocksAreKept, SinglesRunOnce
from tests.simulation.limit_invariants import LimitsAreKept, held_contents, may_not_stay, takes
from tests.simulation.placement_invariants import ConflictsApart, CordonedMachinesGetNothingNew, OneMachinePerUnit
from tests.simulation.reboot_invariants import RebootsKeepTheBudget, RebootsTakeTurns, WhatStaysIsWaitedFor
from tests.simulation.rollout_invariants import DisruptionBudgetIsKept
from tests.simulation.secret_invariants import SecretsComeFirst
from tests.simulation.storm_invariants import Rule8NobodyStorms
from tests.simulation.worker_invariants import WorkersHaveTheirOwnOnly, hears_for_s, served_for_s

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine
    from tests.simulation.world import World

MEMORY_S = 120.0  # the longest time until a placement is carried out: an action is retried after a minute at most
REREGISTRATION_S = 8.0  # the longest time until a machine that can is registered again
# the longest time until a machine that can has read its placements: it retries after eight seconds at most
HEARING_S = 12.0
SETTING_KNOWN_S = 30.0  # the longest time until a leader, whose watch may be mute, goes by a new setting
NEWS_S = 4.0  # the longest time that a message takes
LINGER_S = 15.0  # the longest delay of a lease's end


class OnlyTheLeaderDecides(Checker):
    """Every write of a leader is guarded by its term, and by the former decision of each unit that it touches; each key
    is written only by its owner."""

    def see_request(self, writer: str, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
        leader = self.world.registry.key(LEADER)
        term = {type(each) for each in comparisons if each.key == leader}
        guarded = {each.key for each in comparisons if isinstance(each, Unchanged)}
        for operation in operations:
            path = self.records.path(operation.key)
            if path is None:
                continue  # the store's identity, not its content
            if path.kind in (PLACEMENTS, DECISIONS, SYNCED):
                if not {CreatedAt, HasValue} <= term:
                    self.fail(f"{writer} writes {operation.key} unguarded by its term")
                unit = path.names[-1]
                if path.kind is not SYNCED and self.world.registry.key(DECISIONS, unit) not in guarded:
                    self.fail(f"{writer} writes {operation.key} unguarded by the decision for {unit}")
            if path.kind in (MACHINES, STATES) and path.names[0] != self.world.machines[writer].id:
                self.fail(f"{writer} writes {operation.key}, which is another machine's")
            if path.kind in (UNITS, SETTINGS) and operation.key not in guarded:
                self.fail(f"{writer} writes {operation.key} without comparing it to what was read")
            if path.kind in (MACHINES, STATES) and isinstance(operation, Put) and not operation.lease:
                self.fail(f"{writer} writes {operation.key} on no lease")


class Rule1StoreIsNoLifeLine(Checker):
    """No machine that could have registered is taken for dead: the placement of an absent machine is deleted only if
    something was wrong with the machine itself lately, or, if it is a worker, with every server, whatever happened to
    the store."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, event in events:
            former = before.get(path.names)
            if (
                event.item is not None
                or former is None
                or former.is_withdrawn
                or path.names[0] in self.records.machines
            ):
                continue  # a withdrawn one is deleted once it is carried out, whether the machine is present or not
            patience_s = self.world.ttl_s + REREGISTRATION_S
            alike = [machine for machine in self.world.machines.values() if machine.id == path.names[0]]
            if all(served_for_s(self.world, machine) > patience_s for machine in alike):
                self.fail(f"{path.names[0]} was taken for dead, of {path.names[1]}, though nothing was wrong with it")


class DelaysAreKept(Checker):
    """The placement of an absent machine for a unit that waits for this machine is not deleted before the unit's own
    delay is over, or that of the cluster, unless the unit runs elsewhere, or may run there."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._delay_s = world.config.failover_delay_s  # of the cluster
        self._former: list[tuple[float, float]] = []  # delays of the cluster before, with the times when they ended

    def _shortest_s(self) -> float:
        """The shortest delay of the cluster that the leader may go by: it learns late of a change."""
        configured = FailoverPolicy(self.world.config.failover_delay_s)
        delay_s = failover_policy(self.records.cluster_settings, configured).delay_s
        if delay_s != self._delay_s:
            self._former.append((now(), self._delay_s))
            self._delay_s = delay_s
        return min([delay_s, *(former_s for ended_s, former_s in self._former if now() - ended_s < SETTING_KNOWN_S)])

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._shortest_s()

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        cluster_s = self._shortest_s()
        for path, event in events:
            former = before.get(path.names)
            if (
                event.item is not None
                or former is None
                or not former.is_active
                or path.names[0] in self.records.machines
            ):
                continue
            unit = self.records.units.get(path.names[1])
            if unit is None or unit.target is not TargetState.LAUNCHED or unit.generation != former.generation:
                continue
            asked = requirements_of(unit.content, unit.name)
            own_s = asked.failover_delay_s
            delay_s = 0.0 if asked.is_global else cluster_s if own_s is None else own_s
            absent_s = now() - self.records.absent_since.get(path.names[0], now())
            reported = [m for (m, n), state in self.records.states.items() if n == path.names[1] and state.runs]
            if absent_s < delay_s and not reported:
                self.fail(f"{path.names[1]} waits for {path.names[0]} only {absent_s:g} of {delay_s:g} s")


class Rule1MovesHaveReasons(Checker):
    """A wanted unit is moved away from a present machine only with a reason."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, _ in events:
            if path.kind is not PLACEMENTS or path.names not in before:
                continue
            former = before[path.names]
            placement = self.records.placements.get(path.names)
            unit = self.records.units.get(path.names[1])
            if placement is None or not (former.is_active and placement.is_withdrawn) or unit is None:
                continue
            decision = self.records.decisions.get(path.names[1])
            if unit.target is not TargetState.INACTIVE and not (decision and decision.reason):
                self.fail(f"{path.names[1]} is ordered away from {path.names[0]} without a reason")


class Rule2OrdersAlone(Checker):
    """What fleetd asks of systemd follows a placement; a restart of fleetd, an outage or an absence is no placement. A
    unit is stopped only if it was withdrawn, replaced or is to be loaded only, or if its machine does not take it;
    started only if it is to be launched."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._past: dict[Key, list[tuple[float, Placement | None]]] = {}  # the replaced text, and when

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, _ in events:
            if path.kind is PLACEMENTS:
                allocation = path.names
                past = self._past.setdefault(allocation, [])
                if past or allocation in before:  # the absence of a placement before the first one excuses nothing
                    past.append((now(), before.get(allocation)))
                del past[:-8]

    def see_restore(self, before: dict[Key, Placement]) -> None:
        for allocation, placement in before.items():
            self._past.setdefault(allocation, []).append((now(), placement))

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        if verb not in ("start", "stop"):
            return
        found = self.world.machines[machine]
        for name in names:
            allocation = (found.id, name)
            informed_s = min(hears_for_s(self.world, found), self.world.server.answers_for_s)
            oldest_s = now() - MEMORY_S if informed_s > HEARING_S else 0.0
            placements = [placement for at_s, placement in self._past.get(allocation, []) if at_s >= oldest_s]
            placements.append(self.records.placements.get(allocation))
            if verb == "stop" and not any(self._stops(machine, placement, name) for placement in placements):
                self.fail(f"{machine} stops {name}, which it was not told to")
            if verb == "start" and not any(o and o.is_active and o.target is TargetState.LAUNCHED for o in placements):
                self.fail(f"{machine} starts {name}, which it was not told to")

    def _stops(self, machine: str, placement: Placement | None, name: str) -> bool:
        """True if the placement allows a stop. A missing one does if the leader has acknowledged the machine."""
        found = self.world.machines[machine]
        if placement is None:
            return self.records.synced.get(found.id) is not None
        if may_not_stay(found, name) or (name in ASKED and ASKED[name].lock):
            return True  # what runs without its lock is stopped
        if placement.superseded:
            return False
        replaced = held_contents(found).get(name) != placement.content
        return placement.is_withdrawn or replaced or placement.target is not TargetState.LAUNCHED


class Rule3OneCopyRuns(Checker):
    """Each unit that is not global has one process, except superseded ones: on machines that were absent when another
    got the unit or when it was given up there, on machines told that it is superseded, and units that a restored store
    does not know."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.left_behind: dict[Key, None] = {}
        self._seen: dict[Key, int] | None = None  # the processes at the last check
        self._globals: dict[str, None] = {}  # units that were once global

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        self._seen = None
        for path, event in events:
            if path.kind is UNITS and event.item and self._is_global(path.names[0]):
                self._globals[path.names[0]] = None
            if path.kind is MACHINES and event.item is not None:
                self._leave_behind_twins(path.names[0])
            if path.kind is PLACEMENTS and event.item is not None and path.names not in before:
                for machine in self.world.machines.values():
                    if machine.id != path.names[0] and machine.id not in self.records.machines:
                        self.left_behind[machine.name, path.names[1]] = None
                self._leave_behind_for_adopted(*path.names)
            if path.kind is PLACEMENTS and (self._is_given_up(path, event) or self._retires(path)):
                self._leave_behind(*path.names)

    def _leave_behind_for_adopted(self, id_: str, unit: str) -> None:
        """An allocation that was left behind is assigned again: the others are told to stop."""
        running = [machine for machine, name in self.world.processes if name == unit]
        if any((machine, unit) in self.left_behind for machine in running if self.world.machines[machine].id == id_):
            others = (machine for machine in running if self.world.machines[machine].id != id_)
            self.left_behind |= {(machine, unit): None for machine in others}

    def _is_given_up(self, path: RecordKey, event: Event) -> bool:
        """True if the machine is absent, and nothing is waited for there any more."""
        return event.item is None and path.names[0] not in self.records.machines

    def _retires(self, path: RecordKey) -> bool:
        """True if the leader lets this superseded allocation run for a while."""
        placement = self.records.placements.get(path.names)
        return placement is not None and placement.superseded

    def _leave_behind(self, id_: str, unit: str) -> None:
        for machine in self.world.machines.values():
            if machine.id == id_:
                self.left_behind[machine.name, unit] = None

    def _leave_behind_twins(self, id_: str) -> None:
        """Of the machines with one id, one is registered; the others are not, whatever they saw before."""
        names = dict.fromkeys(unit for machine, unit in self.records.placements if machine == id_)
        for twin in self.world.machines.values():
            if twin.id == id_ and not self._is_registered(twin):
                running = [unit for machine, unit in self.world.processes if machine == twin.name]
                self.left_behind |= {(twin.name, unit): None for unit in (*names, *running)}

    def _is_registered(self, machine: "SimulatedMachine") -> bool:
        """True if the registration of its id is its own."""
        record = self.records.machines.get(machine.id)
        return record is not None and record.boot_id.startswith(f"{machine.name}-boot-")

    def see_restore(self, before: dict[Key, Placement]) -> None:
        """All running units that the store's present content does not place where they run are left over."""
        for allocation in self.world.processes:
            placement = self.records.placements.get((self.world.machines[allocation[0]].id, allocation[1]))
            if placement is None or not placement.is_active:
                self.left_behind[allocation] = None

    def see_rest(self) -> None:
        if self._seen is self.world.processes:
            return
        self._seen = self.world.processes
        running: dict[str, list[str]] = {}
        for machine, name in self.world.processes:
            running.setdefault(name, []).append(machine)
        for allocation in list(self.left_behind):
            if allocation not in self.world.processes and self._has_ended(*allocation):
                del self.left_behind[allocation]
        for name, machines in running.items():
            proper = [machine for machine in machines if (machine, name) not in self.left_behind]
            if len(proper) > 1 and name not in self._globals:
                self.fail(f"{name} runs on {', '.join(machines)}")

    def _has_ended(self, machine: str, unit: str) -> bool:
        """True if the machine knows its present placements, so that it starts nothing for an old one, and no start is
        queued there behind another unit, whose stop would let it begin."""
        found = self.world.machines[machine]
        if found.systemd.has_job(unit):
            return False
        record = self.records.machines.get(found.id)
        return self._is_registered(found) and record is not None and self.records.synced.get(found.id) == record.session

    def _is_global(self, name: str) -> bool:
        return requirements_of(self.records.units[name].content, name).is_global


class Rule3TheLastCopyStays(Checker):
    """A superseded allocation is not stopped while it is the only one that runs, if the unit is to be launched, its
    machine accepts work, and it conflicts with nothing placed beside it."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for path, _ in events:
            allocation, placement = path.names, self.records.placements.get(path.names)
            if path.kind is not PLACEMENTS or allocation not in before or placement is None:
                continue
            unit, decision = self.records.units.get(path.names[1]), self.records.decisions.get(path.names[1])
            if not (before[allocation].superseded and placement.is_withdrawn) or unit is None:
                continue
            if unit.target is not TargetState.LAUNCHED or (decision and decision.completed == unit.generation):
                continue
            record = self.records.machines.get(path.names[0])
            if record is None or record.mode is not MachineMode.READY or self._hinders(*path.names):
                continue
            if not takes(record, path.names[1]):
                continue
            id_, name = path.names
            here = self.world.registered(id_)  # the leader knows nothing of a clone of it
            runs_here = here is not None and (here.name, name) in self.world.processes
            elsewhere = [m for m, n in self.world.ran_lately() if n == name and self.world.machines[m].id != id_]
            if runs_here and not elsewhere:
                self.fail(f"the only allocation of {name} that runs, on {id_}, is told to stop as superseded")

    def _hinders(self, machine: str, name: str) -> bool:
        """True if a conflicting unit was placed beside it."""
        asked = requirements_of(self.records.units[name].content, name)
        others = {
            n: o for (m, n), o in self.records.placements.items() if m == machine and n != name and not o.superseded
        }
        patterns = {other: requirements_of(placement.content, other).conflicts for other, placement in others.items()}
        conflicts = any(matches_glob(p, other) for other in others for p in asked.conflicts)
        return conflicts or any(matches_glob(p, name) for each in patterns.values() for p in each)


class Rule5NothingCompletedRunsAgain(Checker):
    """A completed oneshot is not started again for the same generation, and its completion is forgotten only if it is
    to run again when its machine is lost."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._completed: dict[str, int] = {}  # unit → the generation known to be completed
        self._since_s: dict[str, float] = {}  # unit → when that was written

    def see_restore(self, before: dict[Key, Placement]) -> None:
        self._completed.clear()

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        for name in (path.names[0] for path, _ in events if path.kind is DECISIONS):
            unit, decision = self.records.units.get(name), self.records.decisions.get(name)
            completed = decision.completed if decision else 0
            forgotten = unit is not None and self._completed.get(name) == unit.generation != completed
            if unit and decision and forgotten and not self._may_run_again(unit):
                self.fail(f"it is forgotten that {name} is completed")
            if self._completed.get(name) != completed:
                self._since_s[name] = now()
            self._completed[name] = completed

    def _may_run_again(self, unit: Unit) -> bool:
        asked = requirements_of(unit.content, unit.name).rerun_after_failover
        return self.world.config.rerun_after_failover if asked is None else asked

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        for name in names if verb == "start" else ():
            decision = self.records.decisions.get(name)
            placement = self.records.placements.get((self.world.machines[machine].id, name))
            if self._is_news(machine, name):
                continue
            if decision and placement and decision.completed == placement.generation:
                self.fail(f"{machine} starts {name} again, which is completed")

    def _is_news(self, machine: str, name: str) -> bool:
        """True if a clone of the machine ran the unit, and its report is on its way."""
        id_ = self.world.machines[machine].id
        duplicates = [twin for twin in self.world.machines.values() if twin.id == id_]
        return len(duplicates) > 1 and now() - self._since_s.get(name, 0.0) < NEWS_S


class Rule5NothingAcknowledgedIsLost(Checker):
    """What the API has acknowledged is in the store, until another operation follows."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._answers = 0  # at the last check

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Key, Placement]) -> None:
        if any(path.kind is UNITS for path, _ in events):
            self._answers = -1

    def see_rest(self) -> None:
        if self._answers == self.world.operators.answers:
            return
        self._answers = self.world.operators.answers
        for name in self.world.operators.names:
            unit = self.records.units.get(name)
            operation = (unit.content, unit.target) if unit else None
            if self.world.server.is_up and not self.world.operators.accounts_for(name, operation):
                found = unit.target if unit else "no unit"
                self.fail(f"{name}: the store has {found}, the API promised {self.world.operators.describe(name)}")


class Rule6StopsAreFinished(Checker):
    """No file is removed while its unit runs."""

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        running = self.world.machines[machine].systemd.processes()
        for name in names if verb == "remove" else ():
            if name in running:
                self.fail(f"{machine} removes the file of {name}, which runs")


class Rule7OnlyOurs(Checker):
    """No unit of the machine's own is touched."""

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        if verb not in ("start", "stop", "write", "remove"):
            return
        for name in names:
            if name in self.world.machines[machine].systemd.own_names or is_reserved(name):
                self.fail(f"{machine}: {verb} {name}, which is the machine's own")


class StatesGoWithTheirMachine(Checker):
    """No state of an absent machine is kept longer than a lease that it may just be registering on."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._next_s = 0.0
        self._since_s: dict[
            tuple[Key, int], float
        ] = {}  # since when a state exists, on this lease, without its machine

    def see_rest(self) -> None:
        if not self._since_s and now() < self._next_s:
            return
        self._next_s = now() + 1.0
        if not self.world.server.answers:
            self._since_s.clear()  # a store that is down ends no lease
            return
        absent = [allocation for allocation in self.records.states if allocation[0] not in self.records.machines]
        leases = {allocation: item.lease for allocation in absent if (item := self.records.item(STATES, *allocation))}
        self._since_s = {found: self._since_s.get(found, now()) for found in leases.items()}
        for ((machine, name), lease), since_s in self._since_s.items():
            if now() - since_s > self.world.server.store.lease_ttl_s(lease) + LINGER_S:
                self.fail(f"{name} is shown on {machine}, which is gone for {now() - since_s:g} s")


CHECKERS: tuple[type[Checker], ...] = (
    OneMachinePerUnit,
    ConflictsApart,
    CordonedMachinesGetNothingNew,
    DrainsKeepTheBudget,
    KeptPlacesAreKept,
    StartFirstIsAskedFor,
    StartFirstKeepsWhatRuns,
    OnlyTheLeaderDecides,
    Rule1StoreIsNoLifeLine,
    DelaysAreKept,
    Rule1MovesHaveReasons,
    Rule2OrdersAlone,
    Rule3OneCopyRuns,
    Rule3TheLastCopyStays,
    Rule5NothingCompletedRunsAgain,
    Rule5NothingAcknowledgedIsLost,
    Rule6StopsAreFinished,
    Rule7OnlyOurs,
    StatesGoWithTheirMachine,
    DisruptionBudgetIsKept,
    RebootsTakeTurns,
    RebootsKeepTheBudget,
    WhatStaysIsWaitedFor,
    SecretsComeFirst,
    EventsTellWhatWasDone,
    LimitsAreKept,
    EachEventIsReadOnceInOrder,
    WorkersHaveTheirOwnOnly,
    RevokedAreNotServed,
    TrustOnlyGrows,
    WorkersAreLetIn,
    OnlyTheHealthyAreAnnounced,
    WithdrawalComesFirst,
    DownloadsComeFirst,
    NothingHealthyStopsForADownload,
    Rule8NobodyStorms,
    SinglesRunOnce,
    LocksAreKept,
)
