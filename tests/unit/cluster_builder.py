"""A cluster on paper: what stands in the store, the leader's view of it, and machines that do as they are told.

A test puts together a scenario in a few lines (`machine`, `unit`, `runs`), lets the leader plan, and looks at what
follows. `World` holds the store and feeds the view record by record, as the leader's watch does; `Copy` is what really
is on a machine, whatever the store says of it. Nothing here decides anything: that is what is tested.
"""

import random
from typing import Any

import msgspec

from fleetd.leader.mirror import apply_record
from fleetd.model.machine import Machine, MachineMode, MachineSettings
from fleetd.model.names import matches_glob
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.reason import BEST, render, render_rejection
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry.records import (
    DECISIONS,
    MACHINES,
    PLACEMENTS,
    SETTINGS,
    STATES,
    SYNCED,
    UNITS,
    USAGE,
    Kind,
    Record,
    Synced,
)
from fleetd.scheduler.failover_delays import FailoverPolicy, Now
from fleetd.scheduler.impact import Affected, set_away
from fleetd.scheduler.planner import Plan, plan_cluster
from fleetd.scheduler.proposal import SessionPlan
from fleetd.scheduler.snapshot import MachineLoss, Snapshot, requirements_of
from fleetd.scheduler.unit_plan import UnitPlan

LAUNCHED, LOADED, INACTIVE = TargetState.LAUNCHED, TargetState.LOADED, TargetState.INACTIVE
A = "a.service"
NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC


class Copy(msgspec.Struct):
    """What is on a machine of one unit: the wish carried out, and how systemd sees it ('' where only a file is).
    `orphan`: the machine only keeps it running, as after a restore of the store."""

    generation: int
    target: TargetState
    active: str = "inactive"
    completed: bool = False
    orphan: bool = False

    @property
    def runs(self) -> bool:
        """Whether there are processes."""
        return self.active in ("active", "activating", "deactivating")


class World:
    """The store, the leader's view, and what is on the machines."""

    def __init__(self) -> None:
        self.store: dict[tuple[Kind[Record], tuple[str, ...]], Record] = {}
        self.revision = 1
        self.snapshot = Snapshot()
        self.changed: Affected | None = None  # None: everything, as after taking office
        self.copies: dict[str, dict[str, Copy]] = {}  # machine → unit → what is there
        self.away: set[str] = set()
        self.wakeups: dict[str, float] = {}  # unit → when it is to be planned again
        self.policy = FailoverPolicy(handover_timeout_s=30.0)
        self.clock_s = 0.0  # the leader's
        self.sessions = 0
        self.refuses: dict[str, dict[str, str]] = {}  # machine → unit → why it takes none of that name
        self.lacks = ""  # the unit that they lack which refuse any

    # What people and machines write.

    def write(self, kind: Kind[Record], names: tuple[str, ...], record: Record | None) -> None:
        """Write one record (None: delete it); the leader's view takes it in at once."""
        key = (kind, names)
        if record is None and key not in self.store:
            return
        self.revision += 1
        if isinstance(record, Unit):
            record = msgspec.structs.replace(record, generation=self.revision)
        elif isinstance(record, Decision):
            record = msgspec.structs.replace(record, revision=self.revision)
        if record is None:
            del self.store[key]
        else:
            self.store[key] = record
        self.affect(apply_record(self.snapshot, kind, names, record))

    def affect(self, affected: Affected) -> None:
        """These units count as changed."""
        if self.changed is not None:
            self.changed |= affected

    def unit(self, name: str, text: str = "", target: TargetState = LAUNCHED) -> None:
        """A person submits, replaces, starts, loads or stops a unit; `text` is its [X-Fleet] section."""
        self.write(UNITS, (name,), Unit(name, f"[X-Fleet]\n{text}\n", target))

    def destroy(self, name: str) -> None:
        """A person destroys a unit."""
        self.write(UNITS, (name,), None)

    def machine(
        self,
        name: str,
        mode: MachineMode = MachineMode.READY,
        session: str = "",
        *,
        shuts_down: bool = False,
        **metadata: str,
    ) -> None:
        """A machine registers, or says something new of itself."""
        former = self.snapshot.machines.get(name)
        session = session or (former.session if former else self._new_session())
        metadata = metadata or (former.metadata if former else {})
        self.copies.setdefault(name, {})
        self.write(MACHINES, (name,), Machine(name, session, metadata=metadata, mode=mode, shuts_down=shuts_down))
        if name in self.away:
            self.judge(self.away - {name})

    def settings(self, machine: str, **metadata: str) -> None:
        """A person sets metadata."""
        self.write(SETTINGS, (machine,), MachineSettings(metadata=metadata))

    def _new_session(self) -> str:
        self.sessions += 1
        return f"session-{self.sessions}"

    # What the leader does.

    def plan(self, overdue: frozenset[tuple[str, str]] = frozenset()) -> Plan:
        """Plan for what changed since the last plan. `overdue` are the (machine, unit) of superseded allocations whose
        handover time is up."""
        changed, self.changed = self.changed, Affected()
        self._observe(self.snapshot, overdue)
        plan = plan_cluster(self.snapshot, changed, now=self._now(), policy=self.policy)
        self.wakeups |= plan.wakeups
        return plan

    def plan_cold(self, snapshot: Snapshot | None = None, overdue: frozenset[tuple[str, str]] = frozenset()) -> Plan:
        """What would be planned for everything, in this snapshot or in the leader's; changes nothing."""
        snapshot = snapshot or self.snapshot
        self._observe(snapshot, overdue)
        return plan_cluster(snapshot, now=self._now(), policy=self.policy)

    def _now(self) -> Now:
        return Now(self.clock_s, float(self.revision))

    def _observe(self, snapshot: Snapshot, overdue: frozenset[tuple[str, str]]) -> None:
        """The leader notes since when machines are lost and allocations superseded."""
        loss = MachineLoss(self.clock_s, NOON + self.clock_s)
        dead = [machine for machine in snapshot.absent() if machine not in self.away]
        snapshot.lost = {machine: self.snapshot.lost.get(machine, loss) for machine in dead}
        long_ago_s = self.clock_s - self.policy.handover_timeout_s
        snapshot.superseded_since = {
            each: long_ago_s if each in overdue else self.clock_s for each in snapshot.superseded
        }

    def wait(self, for_s: float) -> None:
        """The leader's clock goes on; the units that are due count as changed."""
        self.clock_s += for_s
        self.affect(Affected({name: None for name, at_s in self.wakeups.items() if at_s <= self.clock_s}))
        self.wakeups = {name: at_s for name, at_s in self.wakeups.items() if at_s > self.clock_s}

    def apply(self, plan: Plan) -> None:
        """Write the whole plan."""
        for unit_plan in plan.units:
            self.apply_unit(unit_plan)
        self.acknowledge(plan)

    def apply_unit(self, plan: UnitPlan) -> None:
        """Write the plan for one unit, if its decision is still the one that the plan was made from."""
        decision = self.snapshot.decisions.get(plan.unit)
        assert plan.revision == (decision.revision if decision else 0), "the guard would refuse this"
        for machine in plan.deletes:
            self.write(PLACEMENTS, (machine, plan.unit), None)
        for order in plan.placements:
            self.write(PLACEMENTS, (order.machine, order.unit), order)
        self.write(DECISIONS, (plan.unit,), plan.decision)

    def acknowledge(self, plan: Plan) -> None:
        """Write which sessions are taken in, and the usage."""
        for write in plan.writes:
            if isinstance(write, SessionPlan):
                self.write(SYNCED, (write.machine,), Synced(write.session) if write.session else None)
            elif isinstance(write, Usage):
                self.write(USAGE, (), write)

    def judge(self, away: set[str]) -> None:
        """The leader takes these of the absent machines for alive, and all others for dead."""
        self.away = set(away)
        self.affect(set_away(self.snapshot, frozenset(away)))

    def elect(self, shuffle: random.Random | None = None) -> None:
        """Another leader takes office: it reads everything, in whatever order, and plans for all of it."""
        self.snapshot = self.fresh_view(shuffle)
        self.changed = None
        self.wakeups = {}

    def fresh_view(self, shuffle: random.Random | None = None) -> Snapshot:
        """The view of one who has read all records in the order of their keys, or in another."""
        snapshot = Snapshot()
        items = sorted(self.store.items(), key=lambda item: (item[0][0].name, item[0][1]))
        if shuffle:
            shuffle.shuffle(items)
        for (kind, names), record in items:
            apply_record(snapshot, kind, names, record)
        set_away(snapshot, frozenset(self.away))
        return snapshot

    # What machines do.

    def state(self, name: str, machine: str, active: str, **fields: object) -> None:
        """A machine reports a state, true or not."""
        unit = self.snapshot.units.get(name)
        fields = {"target": LAUNCHED, "generation": unit.generation if unit else 0} | fields
        self.write(STATES, (machine, name), UnitState("loaded", active, active, **fields))

    def runs(self, name: str, machine: str, active: str = "active", **fields: object) -> None:
        """The unit is placed on the machine and reported from there."""
        unit = self.snapshot.units[name]
        order = Placement(machine, name, unit.text, unit.target, unit.generation)
        self.write(PLACEMENTS, (machine, name), order)
        if name not in self.snapshot.decisions:
            self.write(DECISIONS, (name,), Decision(name, unit.generation, machine, reason=BEST))
        self.state(name, machine, active, **fields)

    def publish(self, machine: str, name: str) -> None:
        """The machine reports what is there of a unit, in the way of reconcile.report."""
        copy = self.copies[machine].get(name)
        order = self.snapshot.placements.get(name, {}).get(machine)
        state = None
        if copy is not None and copy.active == "deactivating":
            state = UnitState("loaded", "deactivating", "stop", target=LOADED)
        elif copy is not None:
            done = (copy.target, copy.generation, copy.completed)
            state = UnitState("loaded", copy.active, "", "", *done, orphan=copy.orphan)
        elif order is not None:
            refusal = self.refuses.get(machine, {}).get(name, "")
            generation = order.generation if order.is_withdrawn else 0
            refused = {"error": refusal, "refusal": refusal, "lacks": self.lacks if refusal else ""}
            state = UnitState("not-found", "inactive", "dead", generation=generation, **refused)
        if state != self.snapshot.states.get(name, {}).get(machine):
            self.write(STATES, (machine, name), state)

    def carry_out(self, machine: str, name: str, outcome: str = "active") -> bool:
        """The machine takes one unit one step nearer to what it is told; whether there was anything to do."""
        copies = self.copies[machine]
        copy = copies.get(name)
        order = self.snapshot.placements.get(name, {}).get(machine)
        before = msgspec.structs.replace(copy) if copy else None
        synced = self.snapshot.synced.get(machine) == self.snapshot.machines[machine].session
        if (order is None and synced) or (order is not None and order.is_withdrawn):
            self._let_go(machine, name)
        elif order is not None and order.is_active and name not in self.refuses.get(machine, {}):
            self._fulfil(machine, order, outcome)
        elif copy is not None and order is not None and order.superseded:
            copy.orphan = False
        revision = self.revision
        self.publish(machine, name)
        return before != copies.get(name) or revision != self.revision

    def _let_go(self, machine: str, name: str) -> None:
        copy = self.copies[machine].get(name)
        if copy is not None and copy.orphan:
            return
        if copy is not None and copy.runs and copy.active != "deactivating":
            copy.active = "deactivating"
        elif copy is not None:
            del self.copies[machine][name]

    def _fulfil(self, machine: str, order: Placement, outcome: str) -> None:
        copy = self.copies[machine].get(order.unit)
        if copy is not None:
            copy.orphan = False
        if copy is not None and copy.active == "activating":
            copy.active, copy.completed = ("inactive", True) if outcome == "completed" else (outcome, False)
        elif copy is not None and copy.active == "deactivating":
            copy.active = "inactive"
        elif copy is None or copy.generation < order.generation:
            running = copy is not None and copy.active == "active"
            active = ("active" if running else "activating") if order.target is LAUNCHED else "inactive"
            self.copies[machine][order.unit] = Copy(order.generation, order.target, active)

    def keep_running(self, machine: str, name: str) -> None:
        """The store was restored, and wants a unit gone that runs on the machine: it is kept running."""
        copy = self.copies[machine][name]
        copy.orphan, copy.generation = True, 0
        self.publish(machine, name)

    def vanish(self, machine: str, *, reboot: bool = False) -> None:
        """The machine's lease is gone, and all that stood on it. It is away until judged dead."""
        if reboot:
            self.copies[machine] = {}
        for kind, names in list(self.store):
            if kind is STATES and names[0] == machine:
                self.write(kind, names, None)
        self.write(MACHINES, (machine,), None)
        self.judge(self.away | {machine})

    def die(self, machine: str) -> None:
        """The machine is absent, and judged dead."""
        self.vanish(machine)
        self.judge(self.away - {machine})

    def come_back(self, machine: str, **metadata: str) -> None:
        """The machine registers anew: what is there is published first."""
        for name in self.copies[machine]:
            self.publish(machine, name)
        self.machine(machine, session=self._new_session(), **metadata)

    def settle(self, rounds: int = 60) -> None:
        """Leader and machines go on until nothing is left to do."""
        for _ in range(rounds):
            plan = self.plan()
            self.apply(plan)
            busy = [self.work(machine) for machine in list(self.snapshot.machines)]
            if not plan.writes and not any(busy):
                return
        raise AssertionError(f"never at rest; the last plan was {plan}")

    def work(self, machine: str, outcome: str = "active") -> bool:
        """The machine takes every unit one step on; whether there was anything to do. One that is parked does not."""
        if self.snapshot.machines[machine].mode is MachineMode.PARKED:
            return False
        names = sorted(
            {*self.copies[machine], *(name for name, at in self.snapshot.placements.items() if machine in at)}
        )
        names += sorted(name for name, at in self.snapshot.states.items() if machine in at and name not in names)
        done = [self.carry_out(machine, name, outcome) for name in names]
        return any(done)

    # What tests ask.

    def homes(self) -> dict[str, str]:
        """Where each placed unit is ordered to be; a global one on several machines, joined by blanks."""
        return {
            name: " ".join(machine for machine, order in at.items() if order.is_active)
            for name, at in sorted(self.snapshot.placements.items())
            if any(order.is_active for order in at.values())
        }

    def orders(self, name: str) -> dict[str, str]:
        """What each machine is told of a unit, in a word: stay, go, or retire."""
        return {
            machine: "stay" if order.is_active else "retire" if order.superseded else "go"
            for machine, order in self.snapshot.placements.get(name, {}).items()
        }

    def reason(self, name: str) -> str:
        """The reason of a unit's decision, rendered."""
        return render(self.snapshot.decisions[name].reason)

    def rejections(self, name: str) -> dict[str, int]:
        """How many machines reject a unit, by rendered rejection."""
        return {render_rejection(each.rejection): each.machines for each in self.snapshot.decisions[name].rejections}

    def lead(self, overdue: frozenset[tuple[str, str]] = frozenset()) -> Plan:
        """Plan once and write it."""
        plan = self.plan(overdue)
        self.apply(plan)
        return plan


def conflict(one: Placement, other: Placement) -> bool:
    """Whether the two units may not share a machine, by what is ordered of them."""
    patterns = requirements_of(one.text, one.unit).conflicts
    others = requirements_of(other.text, other.unit).conflicts
    return any(matches_glob(p, other.unit) for p in patterns) or any(matches_glob(p, one.unit) for p in others)


def order(world: World, name: str, machine: str, text: str, word: str) -> None:
    """The store holds an order about a unit with this X-Fleet text: it stays, goes, or retires."""
    placement = Placement(machine, name, f"[X-Fleet]\n{text}\n", LAUNCHED, 1)
    changes = {"stays": {}, "goes": {"target": INACTIVE}, "retires": {"superseded": True}}[word]
    world.write(PLACEMENTS, (machine, name), msgspec.structs.replace(placement, **changes))


def cluster(*machines: str, **units: str) -> World:
    """Machines, and units (name without suffix → X-Fleet text), at rest."""
    world = World()
    for machine in machines or ("m1", "m2"):
        world.machine(machine)
    for name, text in units.items():
        world.unit(f"{name}.service", text)
    world.settle()
    return world


def after_a_cut(**changes: Any) -> World:
    """a.service ran on m1, which was cut off and taken for dead; it is placed on m2, and m1 is back with its copy."""
    world = cluster(a="")
    world.die("m1")
    world.lead()
    world.come_back("m1")
    world.state(A, "m2", **({"active": "activating"} | changes))
    world.lead()
    return world


def placed_cluster(**units: tuple[str, str]) -> World:
    """Machines m1 and m2; units by name without suffix: (X-Fleet text, machine or '')."""
    world = World()
    world.machine("m1")
    world.machine("m2")
    for name, (text, machine) in units.items():
        world.unit(f"{name}.service", text)
        if machine:
            world.runs(f"{name}.service", machine)
    return world
