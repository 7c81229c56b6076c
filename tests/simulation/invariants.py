"""What must hold at every moment, each checker named after its rule in docs/architecture.md ("What must always hold").

Checkers see each write to the store as it is made, each request that arrives there, whatever is asked of a systemd,
and the whole cluster whenever time is about to pass. What *runs* is judged by the processes of the systemds alone.
convergence.py judges what must hold when the faults are over.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetd.model.machine import MachineMode
from fleetd.model.names import is_reserved, matches_glob
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState, Unit
from fleetd.model.unitfile import hash_unit_file
from fleetd.registry.records import DECISIONS, LEADER, MACHINES, PLACEMENTS, SETTINGS, STATES, SYNCED, UNITS, RecordKey
from fleetd.scheduler.snapshot import requirements_of
from fleetd.store.protocol import Comparison, CreatedAt, Event, HasValue, Operation, Put, Unchanged

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine
    from tests.simulation.world import World

Copy = tuple[str, str]  # (machine, unit)

MEMORY_S = 120.0  # an order may be carried out so much later: a step is tried again after up to a minute
REREGISTRATION_S = 8.0  # within which a machine that can, is registered again
HEARING_S = 12.0  # within which a machine that can has read its orders: it tries again after up to eight seconds
NEWS_S = 4.0  # a message takes no longer
STORM_S = 10.0
STORM_REQUESTS = 1_000  # a busy leader asks for some tens in that time
LINGER_S = 15.0  # a lease may end so much later than it should


def now() -> float:
    return asyncio.get_running_loop().time()


class Checker:
    """One rule. `fail` ends the run."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.truth = world.truth

    def fail(self, what: str) -> None:
        """The rule is broken."""
        self.world.fail(type(self).__name__, what)

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        """A write has been made. `before`: the orders that it changed or deleted, as they were."""

    def see_request(self, writer: str, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
        """A transaction of that machine's has reached the store, which will look at it next."""

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        """The machine's systemd is asked this now."""

    def see_restore(self, before: dict[Copy, Placement]) -> None:
        """The store was set back, and these orders stood in it `before`."""

    def see_rest(self) -> None:
        """Nothing is left to be done at this moment."""


class OneMachinePerUnit(Checker):
    """Rule 3, as placed: a unit that is not global is ordered to stay on one machine at most."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for name in dict.fromkeys(path.names[1] for path, _ in events if path.kind is PLACEMENTS):
            homes = [
                machine
                for machine in self.truth.homes(name)
                if not requirements_of(self.truth.placements[machine, name].content, name).is_global
            ]
            if len(homes) > 1:
                self.fail(f"{name} is placed on {', '.join(homes)}")


class ConflictsApart(Checker):
    """No two units that conflict are ordered to be on one machine (a superseded allocation hinders no other)."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for machine in dict.fromkeys(path.names[0] for path, _ in events if path.kind is PLACEMENTS):
            orders = {n: o for (m, n), o in self.truth.placements.items() if m == machine and o.is_active}
            for name, order in orders.items():
                patterns = requirements_of(order.content, name).conflicts
                other = next((o for o in orders if o != name and any(matches_glob(p, o) for p in patterns)), None)
                if other:
                    self.fail(f"{name} and {other}, which conflict, are both on {machine}")


class OnlyTheLeaderDecides(Checker):
    """Every write of a leader is guarded by its term, and by the former decision of each unit that it touches; nobody
    writes what is another's to write."""

    def see_request(self, writer: str, comparisons: Sequence[Comparison], operations: Sequence[Operation]) -> None:
        leader = self.world.registry.key(LEADER)
        term = {type(each) for each in comparisons if each.key == leader}
        guarded = {each.key for each in comparisons if isinstance(each, Unchanged)}
        for operation in operations:
            path = self.truth.path(operation.key)
            if path is None:
                continue  # what the store is, not what is in it
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
    """No machine is taken for dead that could have registered: an order to it is taken back while it is absent only if
    something was wrong with the machine itself, lately, whatever befell the store."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for path, event in events:
            former = before.get(path.names)
            if event.item is not None or former is None or former.is_withdrawn or path.names[0] in self.truth.machines:
                continue  # a withdrawn one goes when it is carried out, be the machine there just then or not
            patience_s = self.world.ttl_s + REREGISTRATION_S
            alike = [machine for machine in self.world.machines.values() if machine.id == path.names[0]]
            if all(machine.well_for_s > patience_s for machine in alike):
                self.fail(f"{path.names[0]} was taken for dead, of {path.names[1]}, though nothing was wrong with it")


class DelaysAreKept(Checker):
    """An order to a machine that is absent is not taken back from a unit that is to run and waits for that machine,
    before the unit's own delay is over; but where a copy of it runs elsewhere, or may for all that is known."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for path, event in events:
            former = before.get(path.names)
            if event.item is not None or former is None or not former.is_active or path.names[0] in self.truth.machines:
                continue
            unit = self.truth.units.get(path.names[1])
            if unit is None or unit.target is not TargetState.LAUNCHED or unit.generation != former.generation:
                continue
            asked = requirements_of(unit.content, unit.name)
            own_s = asked.failover_delay_s
            delay_s = 0.0 if asked.is_global else self.world.config.failover_delay_s if own_s is None else own_s
            absent_s = now() - self.truth.absent_since.get(path.names[0], now())
            reported = [m for (m, n), state in self.truth.states.items() if n == path.names[1] and state.runs]
            if absent_s < delay_s and not reported:
                self.fail(f"{path.names[1]} waits for {path.names[0]} only {absent_s:g} of {delay_s:g} s")


class Rule1MovesHaveReasons(Checker):
    """A unit that a person wants is ordered away from a machine that is there only with a reason said."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for path, _ in events:
            if path.kind is not PLACEMENTS or path.names not in before:
                continue
            former = before[path.names]
            order = self.truth.placements.get(path.names)
            unit = self.truth.units.get(path.names[1])
            if order is None or not (former.is_active and order.is_withdrawn) or unit is None:
                continue
            decision = self.truth.decisions.get(path.names[1])
            if unit.target is not TargetState.INACTIVE and not (decision and decision.reason):
                self.fail(f"{path.names[1]} is ordered away from {path.names[0]} without a reason")


class Rule2OrdersAlone(Checker):
    """What fleetd asks of systemd follows an order of the leader: a restart of fleetd, an outage or an absence are
    none. A unit is stopped only where it was withdrawn, replaced or is to be loaded only; started only where it is to
    be launched."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._past: dict[Copy, list[tuple[float, Placement | None]]] = {}  # what was replaced, and when

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for path, _ in events:
            if path.kind is PLACEMENTS:
                copy = path.names
                past = self._past.setdefault(copy, [])
                if past or copy in before:  # that there was none before the first one excuses nothing
                    past.append((now(), before.get(copy)))
                del past[:-8]

    def see_restore(self, before: dict[Copy, Placement]) -> None:
        for copy, order in before.items():
            self._past.setdefault(copy, []).append((now(), order))

    def see_call(self, machine: str, verb: str, names: Sequence[str]) -> None:
        if verb not in ("start", "stop"):
            return
        found = self.world.machines[machine]
        for name in names:
            copy = (found.id, name)
            hears_for_s = min(found.well_for_s, self.world.server.answers_for_s)
            oldest_s = now() - MEMORY_S if hears_for_s > HEARING_S else 0.0
            orders = [order for at_s, order in self._past.get(copy, []) if at_s >= oldest_s]
            orders.append(self.truth.placements.get(copy))
            if verb == "stop" and not any(self._stops(machine, order, name) for order in orders):
                self.fail(f"{machine} stops {name}, which it was not told to")
            if verb == "start" and not any(o and o.is_active and o.target is TargetState.LAUNCHED for o in orders):
                self.fail(f"{machine} starts {name}, which it was not told to")

    def _stops(self, machine: str, order: Placement | None, name: str) -> bool:
        """Whether an order lets a unit be stopped. The absence of one does if the leader has taken the machine in."""
        found = self.world.machines[machine]
        if order is None:
            return self.truth.synced.get(found.id) is not None
        if order.superseded:
            return False
        held = found.systemd.read_files().get(name, "")
        replaced = hash_unit_file(held) != hash_unit_file(order.text)
        return order.is_withdrawn or replaced or order.target is not TargetState.LAUNCHED


class Rule3OneCopyRuns(Checker):
    """Of each unit that is not global one process runs, but for copies that a cut left behind: those on machines that
    were absent when another was given the unit, those that are told to retire, and those that a restored store knows
    nothing of."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.left_behind: dict[Copy, None] = {}
        self._seen: dict[Copy, int] | None = None  # the processes, as of the last look
        self._globals: dict[str, None] = {}  # units that were global once

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        self._seen = None
        for path, event in events:
            if path.kind is UNITS and event.item and self._is_global(path.names[0]):
                self._globals[path.names[0]] = None
            if path.kind is MACHINES and event.item is not None:
                self._leave_behind_twins(path.names[0])
            if path.kind is PLACEMENTS and event.item is not None and path.names not in before:
                for machine in self.world.machines.values():
                    if machine.id != path.names[0] and machine.id not in self.truth.machines:
                        self.left_behind[machine.name, path.names[1]] = None
            if path.kind is PLACEMENTS and event.item is not None and self._retires(path):
                self._leave_behind(*path.names)

    def _retires(self, path: RecordKey) -> bool:
        """Whether the leader lets this copy run on for a while, as one that outlived a cut."""
        order = self.truth.placements.get(path.names)
        return order is not None and order.superseded

    def _leave_behind(self, id_: str, unit: str) -> None:
        for machine in self.world.machines.values():
            if machine.id == id_:
                self.left_behind[machine.name, unit] = None

    def _leave_behind_twins(self, id_: str) -> None:
        """One machine of this id is registered: the others are not, whatever they were told before."""
        names = dict.fromkeys(unit for machine, unit in self.truth.placements if machine == id_)
        for twin in self.world.machines.values():
            if twin.id == id_ and not self._is_registered(twin):
                running = [unit for machine, unit in self.world.processes if machine == twin.name]
                self.left_behind |= {(twin.name, unit): None for unit in (*names, *running)}

    def _is_registered(self, machine: "SimulatedMachine") -> bool:
        """Whether the registration of its id is its own."""
        record = self.truth.machines.get(machine.id)
        return record is not None and record.address == machine.address

    def see_restore(self, before: dict[Copy, Placement]) -> None:
        """All that runs, and that the store as it is now does not place where it runs, is left over."""
        for copy in self.world.processes:
            order = self.truth.placements.get((self.world.machines[copy[0]].id, copy[1]))
            if order is None or not order.is_active:
                self.left_behind[copy] = None

    def see_rest(self) -> None:
        if self._seen is self.world.processes:
            return
        self._seen = self.world.processes
        running: dict[str, list[str]] = {}
        for machine, name in self.world.processes:
            running.setdefault(name, []).append(machine)
        for copy in list(self.left_behind):
            if copy not in self.world.processes and self._is_informed(copy[0]):
                del self.left_behind[copy]
        for name, machines in running.items():
            proper = [machine for machine in machines if (machine, name) not in self.left_behind]
            if len(proper) > 1 and name not in self._globals:
                self.fail(f"{name} runs on {', '.join(machines)}")

    def _is_informed(self, machine: str) -> bool:
        """Whether the machine knows its orders as they are now, so that it starts nothing for an old one."""
        found = self.world.machines[machine]
        record = self.truth.machines.get(found.id)
        return self._is_registered(found) and record is not None and self.truth.synced.get(found.id) == record.session

    def _is_global(self, name: str) -> bool:
        return requirements_of(self.truth.units[name].content, name).is_global


class Rule3TheLastCopyStays(Checker):
    """A copy that retires is not stopped for that while it is the only one that runs, if a person wants the unit
    launched, its machine takes work, and it hinders nothing that was placed beside it."""

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for path, _ in events:
            copy, order = path.names, self.truth.placements.get(path.names)
            if path.kind is not PLACEMENTS or copy not in before or order is None:
                continue
            unit, decision = self.truth.units.get(path.names[1]), self.truth.decisions.get(path.names[1])
            if not (before[copy].superseded and order.is_withdrawn) or unit is None:
                continue
            if unit.target is not TargetState.LAUNCHED or (decision and decision.completed == unit.generation):
                continue
            record = self.truth.machines.get(path.names[0])
            if record is None or record.mode is not MachineMode.READY or self._hinders(*path.names):
                continue
            id_, name = path.names
            runs_here = any(n == name and self.world.machines[m].id == id_ for m, n in self.world.processes)
            elsewhere = [m for m, n in self.world.ran_lately() if n == name and self.world.machines[m].id != id_]
            if runs_here and not elsewhere:
                self.fail(f"the only copy of {name} that runs, on {id_}, is told to stop as a second one")

    def _hinders(self, machine: str, name: str) -> bool:
        """Whether something that conflicts with the unit was placed beside it."""
        asked = requirements_of(self.truth.units[name].content, name)
        others = {
            n: o for (m, n), o in self.truth.placements.items() if m == machine and n != name and not o.superseded
        }
        patterns = {other: requirements_of(order.content, other).conflicts for other, order in others.items()}
        conflicts = any(matches_glob(p, other) for other in others for p in asked.conflicts)
        return conflicts or any(matches_glob(p, name) for each in patterns.values() for p in each)


class Rule5NothingCompletedRunsAgain(Checker):
    """A completed oneshot is not started again for the same generation, and its completion is forgotten only if
    it is to run again when its machine is lost."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._completed: dict[str, int] = {}  # unit → the generation that is known to be completed
        self._since_s: dict[str, float] = {}  # unit → when that was written

    def see_restore(self, before: dict[Copy, Placement]) -> None:
        self._completed.clear()

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        for name in (path.names[0] for path, _ in events if path.kind is DECISIONS):
            unit, decision = self.truth.units.get(name), self.truth.decisions.get(name)
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
            decision = self.truth.decisions.get(name)
            order = self.truth.placements.get((self.world.machines[machine].id, name))
            if self._is_news(machine, name):
                continue
            if decision and order and decision.completed == order.generation:
                self.fail(f"{machine} starts {name} again, which is completed")

    def _is_news(self, machine: str, name: str) -> bool:
        """Whether it was a clone of the machine that ran the unit, and the word of that is on its way."""
        id_ = self.world.machines[machine].id
        twins = [twin for twin in self.world.machines.values() if twin.id == id_]
        return len(twins) > 1 and now() - self._since_s.get(name, 0.0) < NEWS_S


class Rule5NothingAcknowledgedIsLost(Checker):
    """What the API has acknowledged stands in the store, until another operation follows."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._answers = 0  # as of the last look

    def see_events(self, events: Sequence[tuple[RecordKey, Event]], before: dict[Copy, Placement]) -> None:
        if any(path.kind is UNITS for path, _ in events):
            self._answers = -1

    def see_rest(self) -> None:
        if self._answers == self.world.people.answers:
            return
        self._answers = self.world.people.answers
        for name in self.world.people.names:
            unit = self.truth.units.get(name)
            operation = (unit.text, unit.target) if unit else None
            if self.world.server.is_up and not self.world.people.accounts_for(name, operation):
                found = unit.target if unit else "no unit"
                self.fail(f"{name}: the store has {found}, the API promised {self.world.people.describe(name)}")


class Rule6StopsAreFinished(Checker):
    """No file goes while anything of its unit runs."""

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
    """No state is kept of a machine that is gone, longer than the lease that it may just be registering on."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._next_s = 0.0
        self._since_s: dict[
            tuple[Copy, int], float
        ] = {}  # since when a state is there, on this lease, and its machine not

    def see_rest(self) -> None:
        if not self._since_s and now() < self._next_s:
            return
        self._next_s = now() + 1.0
        if not self.world.server.answers:
            self._since_s.clear()  # a store that does not run ends no lease
            return
        ghosts = [copy for copy in self.truth.states if copy[0] not in self.truth.machines]
        leases = {copy: item.lease for copy in ghosts if (item := self.truth.item(STATES, *copy))}
        self._since_s = {found: self._since_s.get(found, now()) for found in leases.items()}
        for ((machine, name), lease), since_s in self._since_s.items():
            if now() - since_s > self.world.server.store.lease_ttl_s(lease) + LINGER_S:
                self.fail(f"{name} is shown on {machine}, which is gone for {now() - since_s:g} s")


class Rule8NobodyStorms(Checker):
    """However things stand, no fleetd asks the store for more than so much in any ten seconds."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self._next_s = 0.0
        self._counts: dict[str, int] = {}

    def see_rest(self) -> None:
        if now() < self._next_s:
            return
        self._next_s = now() + STORM_S
        counts = {
            machine.name: sum(machine.wire.requests.values())
            for machine in self.world.machines.values()
            if machine.wire is not None
        }
        for machine, count in counts.items():
            asked = count - self._counts.get(machine, 0)
            if asked > STORM_REQUESTS:
                self.fail(f"{machine} has asked the store {asked} times in {STORM_S:g} s")
        self._counts = counts


CHECKERS: tuple[type[Checker], ...] = (
    OneMachinePerUnit,
    ConflictsApart,
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
    Rule8NobodyStorms,
)
