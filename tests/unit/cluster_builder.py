"""A cluster in memory for tests of the leader's decisions: a store, the leader's snapshot of it, and simulated agents.

A test sets up a scenario in a few lines (`machine`, `unit`, `place`), runs the leader and the agents, and checks the
result. `Cluster` holds the records and updates the snapshot record by record, as the leader's watch does. `LocalUnit`
is what is actually on a machine, which the store may not know. All decisions are made by the code under test.
"""

import random
from typing import Any

import msgspec

from fleetd.model.content import DropIn
from fleetd.model.machine import Capability, Cordon, Machine, MachineMode, MachineSettings
from fleetd.model.move import Move
from fleetd.model.names import matches_glob
from fleetd.model.placement import Decision, Placement
from fleetd.model.quota import Usage
from fleetd.model.reason import BEST, render, render_rejection
from fleetd.model.reboot import Reboot, RebootRequest
from fleetd.model.requirements import requirements_of
from fleetd.model.rollout import Rollout
from fleetd.model.unit import TargetState, Unit, UnitState
from fleetd.registry.records import (
    DECISIONS,
    MACHINES,
    MOVES,
    PLACEMENTS,
    REBOOT_REQUESTS,
    REBOOTS,
    ROLLOUTS,
    SERVICES,
    SETTINGS,
    STATES,
    SYNCED,
    UNITS,
    USAGE,
    Kind,
    Record,
    Synced,
)
from fleetd.registry.snapshots import apply_record
from fleetd.scheduler.affected import Affected, set_away
from fleetd.scheduler.failover_delays import FailoverPolicy, Now
from fleetd.scheduler.planner import Plan, plan_cluster
from fleetd.scheduler.proposal import RebootPlan, RolloutPlan, SessionPlan
from fleetd.scheduler.reboot_policy import ONE_AT_A_TIME
from fleetd.scheduler.snapshot import MachineLoss, Snapshot
from fleetd.scheduler.unit_plan import UnitPlan

LAUNCHED, LOADED, INACTIVE = TargetState.LAUNCHED, TargetState.LOADED, TargetState.INACTIVE
A = "a.service"
NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC


class LocalUnit(msgspec.Struct):
    """A unit as it actually is on one machine: the generation and target carried out, and systemd's active state.

    `orphan`: the agent keeps it running since the store was restored.
    """

    generation: int
    target: TargetState
    active: str = "inactive"
    completed: bool = False
    orphan: bool = False

    @property
    def runs(self) -> bool:
        """True if the unit has processes."""
        return self.active in ("active", "activating", "deactivating")


class Cluster:
    """The records of the store, the leader's snapshot, and the units that are actually on the machines."""

    def __init__(self) -> None:
        self.store: dict[tuple[Kind[Record], tuple[str, ...]], Record] = {}
        self.revision = 1
        self.snapshot = Snapshot()
        self.changed: Affected | None = None  # None: all units, as at the start of a term
        self.local_units: dict[str, dict[str, LocalUnit]] = {}  # machine → unit → as it is there
        self.away: set[str] = set()
        self.wakeups: dict[str, float] = {}  # unit → leader's clock at which it is to be planned again
        self.policy = FailoverPolicy(handover_timeout_s=30.0)
        self.reboots = ONE_AT_A_TIME
        self.clock_s = 0.0  # leader's clock
        self.sessions = 0
        self.refusals: dict[str, dict[str, str]] = {}  # machine → unit → why it takes none of this name
        self.lacks = ""  # the missing unit that is the cause of these refusals

    # What operators and machines write.

    def write(self, kind: Kind[Record], names: tuple[str, ...], record: Record | None) -> None:
        """Write one record (None: delete it) to the store and to the leader's snapshot."""
        key = (kind, names)
        if record is None and key not in self.store:
            return
        self.revision += 1
        if isinstance(record, Unit):
            record = msgspec.structs.replace(record, generation=self.revision)
        elif isinstance(record, Decision | Move | Rollout | Reboot | RebootRequest):
            record = msgspec.structs.replace(record, revision=self.revision)
        if record is None:
            del self.store[key]
        else:
            self.store[key] = record
        self.mark_changed(apply_record(self.snapshot, kind, names, record))

    def mark_changed(self, affected: Affected) -> None:
        """Have the next plan cover these units."""
        if self.changed is not None:
            self.changed |= affected

    def unit(self, name: str, text: str = "", target: TargetState = LAUNCHED, *, dropin: str = "") -> None:
        """An operator submits or replaces a unit, or sets its target; `text` is its [X-Fleet] section, `dropin` the
        same section of its drop-in ('': it has none)."""
        dropins = (DropIn("a.conf", f"[X-Fleet]\n{dropin}\n"),) if dropin else ()
        self.write(UNITS, (name,), Unit(name, f"[X-Fleet]\n{text}\n", target, dropins=dropins))

    def submit(self, **units: str) -> None:
        """Submit units: name without `.service` → [X-Fleet] section."""
        for name, text in units.items():
            self.unit(f"{name}.service", text)

    def destroy(self, name: str) -> None:
        """An operator destroys a unit."""
        self.write(UNITS, (name,), None)

    def machine(
        self,
        name: str,
        mode: MachineMode = MachineMode.READY,
        session: str = "",
        *,
        shuts_down: bool = False,
        is_old: bool = False,
        boot_id: str = "",
        facts: dict[str, object] | None = None,
        **metadata: str,
    ) -> None:
        """A machine registers, or writes its record again. What is not given stays as it was. `is_old`: its fleetd has
        none of the capabilities. `facts` are further fields of its record."""
        former = self.snapshot.machines.get(name)
        session = session or (former.session if former else self._new_session())
        metadata = metadata or (former.metadata if former else {})
        self.local_units.setdefault(name, {})
        record = Machine(
            name,
            session,
            metadata=metadata,
            mode=mode,
            shuts_down=shuts_down,
            capabilities={} if is_old else dict.fromkeys(Capability, True),
            boot_id=boot_id or (former.boot_id if former else ""),
            **(facts or {}),
        )
        self.write(MACHINES, (name,), record)
        if name in self.away:
            self.set_away(self.away - {name})

    def settings(self, machine: str, **metadata: str) -> None:
        """An operator sets metadata of a machine."""
        self._change_settings(machine, metadata=metadata)

    def cordon(self, machine: str, why: str = "") -> None:
        """An operator cordons a machine."""
        self._change_settings(machine, cordon=Cordon(why))

    def uncordon(self, machine: str) -> None:
        """An operator uncordons a machine."""
        self._change_settings(machine, cordon=None)

    def _change_settings(self, machine: str, **changes: object) -> None:
        before = self.snapshot.settings.get(machine, MachineSettings())
        self.write(SETTINGS, (machine,), msgspec.structs.replace(before, **changes))

    def _new_session(self) -> str:
        self.sessions += 1
        return f"session-{self.sessions}"

    # What the leader does.

    def plan(self, overdue: frozenset[tuple[str, str]] = frozenset()) -> Plan:
        """Plan for what has changed since the last plan.

        `overdue`: the (machine, unit) of superseded allocations whose handover time is over.
        """
        changed, self.changed = self.changed, Affected()
        self._observe(self.snapshot, overdue)
        plan = plan_cluster(self.snapshot, changed, now=self._now(), policy=self.policy, reboots=self.reboots)
        self.wakeups |= plan.wakeups
        return plan

    def plan_cold(self, snapshot: Snapshot | None = None, overdue: frozenset[tuple[str, str]] = frozenset()) -> Plan:
        """Plan for all units, in this snapshot or in the leader's. Changes nothing."""
        snapshot = snapshot or self.snapshot
        self._observe(snapshot, overdue)
        return plan_cluster(snapshot, now=self._now(), policy=self.policy, reboots=self.reboots)

    def _now(self) -> Now:
        return Now(self.clock_s, float(self.revision))

    def _observe(self, snapshot: Snapshot, overdue: frozenset[tuple[str, str]]) -> None:
        """Set since when machines are lost and allocations superseded, as the leader observes it."""
        loss = MachineLoss(self.clock_s, NOON + self.clock_s, NOON + self.clock_s)
        dead = [machine for machine in snapshot.absent() if machine not in self.away]
        snapshot.lost = {machine: self.snapshot.lost.get(machine, loss) for machine in dead}
        long_ago_s = self.clock_s - self.policy.handover_timeout_s
        snapshot.superseded_since = {
            each: long_ago_s if each in overdue else self.clock_s for each in snapshot.superseded
        }

    def wait(self, for_s: float) -> None:
        """Advance the leader's clock. The next plan covers the units that are due."""
        self.clock_s += for_s
        self.mark_changed(Affected({name: None for name, at_s in self.wakeups.items() if at_s <= self.clock_s}))
        self.wakeups = {name: at_s for name, at_s in self.wakeups.items() if at_s > self.clock_s}

    def apply(self, plan: Plan) -> None:
        """Write the whole plan."""
        for write in plan.writes:
            if isinstance(write, RolloutPlan):
                self.apply_rollout(write)
            elif isinstance(write, RebootPlan):
                self.apply_reboot(write)
        for unit_plan in plan.units:
            self.apply_unit(unit_plan)
        self.acknowledge(plan)

    def apply_unit(self, plan: UnitPlan) -> None:
        """Write the plan for one unit, if its decision is still the one that the plan was made from."""
        decision = self.snapshot.decisions.get(plan.unit)
        assert plan.revision == (decision.revision if decision else 0), "the guard would refuse this"
        for machine in plan.deletes:
            self.write(PLACEMENTS, (machine, plan.unit), None)
        for placement in plan.placements:
            self.write(PLACEMENTS, (placement.machine, placement.unit), placement)
        self.write(DECISIONS, (plan.unit,), plan.decision)
        if plan.ended_move:
            assert self.snapshot.moves[plan.unit].revision == plan.ended_move, "the guard would refuse this"
            self.write(MOVES, (plan.unit,), None)

    def apply_rollout(self, plan: RolloutPlan) -> None:
        """Write the rollout, if it is still the one that the plan was made from."""
        before = self.snapshot.rollouts.get(plan.group)
        assert plan.rollout.revision == (before.revision if before else 0), "the guard would refuse this"
        self.write(ROLLOUTS, (plan.group,), plan.rollout)

    def apply_reboot(self, plan: RebootPlan) -> None:
        """Write the reboot, if it and its request are still those that the plan was made from."""
        before, request = self.snapshot.reboots.get(plan.machine), self.snapshot.reboot_requests.get(plan.machine)
        assert plan.revision == (before.revision if before else 0), "the guard would refuse this"
        assert plan.request_revision == (request.revision if request else 0), "the guard would refuse this"
        self.write(REBOOTS, (plan.machine,), plan.reboot)
        if plan.ends_request or plan.request:
            self.write(REBOOT_REQUESTS, (plan.machine,), plan.request)

    def acknowledge(self, plan: Plan) -> None:
        """Write the sessions that were planned for, and the usage."""
        for write in plan.writes:
            if isinstance(write, SessionPlan):
                if write.session is None:
                    for service, unit in self.snapshot.announced.get(write.machine, ()):
                        self.write(SERVICES, (service, write.machine, unit), None)
                self.write(SYNCED, (write.machine,), Synced(write.session) if write.session else None)
            elif isinstance(write, Usage):
                self.write(USAGE, (), write)

    def set_away(self, away: set[str]) -> None:
        """The leader judges these absent machines possibly alive, and all other absent ones dead."""
        self.away = set(away)
        self.mark_changed(set_away(self.snapshot, frozenset(away)))

    def elect(self, shuffle: random.Random | None = None) -> None:
        """Another leader is elected: it reads all records, shuffled if asked, and plans for all units."""
        self.snapshot = self.read_snapshot(shuffle)
        self.changed = None
        self.wakeups = {}

    def read_snapshot(self, shuffle: random.Random | None = None) -> Snapshot:
        """A snapshot of all records, read in the order of their keys, or shuffled."""
        snapshot = Snapshot()
        items = sorted(self.store.items(), key=lambda item: (item[0][0].name, item[0][1]))
        if shuffle:
            shuffle.shuffle(items)
        for (kind, names), record in items:
            apply_record(snapshot, kind, names, record)
        set_away(snapshot, frozenset(self.away))
        return snapshot

    # What agents do.

    def state(self, name: str, machine: str, active: str, **fields: object) -> None:
        """A machine reports this state, whether it is true or not."""
        unit = self.snapshot.units.get(name)
        fields = {"target": LAUNCHED, "generation": unit.generation if unit else 0} | fields
        self.write(STATES, (machine, name), UnitState("loaded", active, active, **fields))

    def place(self, name: str, machine: str, active: str = "active", **fields: object) -> None:
        """Place the unit on the machine without planning, and have the machine report it."""
        unit = self.snapshot.units[name]
        self.write(PLACEMENTS, (machine, name), Placement(machine, name, unit.text, unit.target, unit.generation))
        if name not in self.snapshot.decisions:
            self.write(DECISIONS, (name,), Decision(name, unit.generation, machine, reason=BEST))
        self.state(name, machine, active, **fields)

    def publish(self, machine: str, name: str) -> None:
        """The agent reports the unit as it is on the machine, as reconciler/reported_state.py does."""
        local = self.local_units[machine].get(name)
        placement = self.snapshot.placements.get(name, {}).get(machine)
        state = None
        if local is not None and local.active == "deactivating":
            state = UnitState("loaded", "deactivating", "stop", target=LOADED)
        elif local is not None:
            done = (local.target, local.generation, local.completed)
            state = UnitState("loaded", local.active, "", "", *done, orphan=local.orphan)
        elif placement is not None:
            refusal = self.refusals.get(machine, {}).get(name, "")
            generation = placement.generation if placement.is_withdrawn else 0
            refused = {"error": refusal, "refusal": refusal, "lacks": self.lacks if refusal else ""}
            state = UnitState("not-found", "inactive", "dead", generation=generation, **refused)
        if state != self.snapshot.states.get(name, {}).get(machine):
            self.write(STATES, (machine, name), state)

    def reconcile(self, machine: str, name: str, outcome: str = "active") -> bool:
        """The agent takes the next step for one unit; returns whether there was anything to do.

        A unit that is starting ends in the state `outcome`: "active", "failed" or "completed".
        """
        local_units = self.local_units[machine]
        local = local_units.get(name)
        placement = self.snapshot.placements.get(name, {}).get(machine)
        before = msgspec.structs.replace(local) if local else None
        synced = self.snapshot.synced.get(machine) == self.snapshot.machines[machine].session
        if (placement is None and synced) or (placement is not None and placement.is_withdrawn):
            self._stop_or_remove(machine, name)
        elif placement is not None and placement.is_active and name not in self.refusals.get(machine, {}):
            self._load_or_start(machine, placement, outcome)
        elif local is not None and placement is not None and placement.superseded:
            local.orphan = False
        revision = self.revision
        self.publish(machine, name)
        return before != local_units.get(name) or revision != self.revision

    def _stop_or_remove(self, machine: str, name: str) -> None:
        local = self.local_units[machine].get(name)
        if local is not None and local.orphan:
            return
        if local is not None and local.runs and local.active != "deactivating":
            local.active = "deactivating"
        elif local is not None:
            del self.local_units[machine][name]

    def _load_or_start(self, machine: str, placement: Placement, outcome: str) -> None:
        local = self.local_units[machine].get(placement.unit)
        if local is not None:
            local.orphan = False
        if local is not None and local.active == "activating":
            local.active, local.completed = ("inactive", True) if outcome == "completed" else (outcome, False)
        elif local is not None and local.active == "deactivating":
            local.active = "inactive"
        elif local is None or local.generation < placement.generation:
            running = local is not None and local.active == "active"
            active = ("active" if running else "activating") if placement.target is LAUNCHED else "inactive"
            self.local_units[machine][placement.unit] = LocalUnit(placement.generation, placement.target, active)

    def keep_running(self, machine: str, name: str) -> None:
        """The store was restored to a state without this unit on the machine; the agent keeps the unit running."""
        local = self.local_units[machine][name]
        local.orphan, local.generation = True, 0
        self.publish(machine, name)

    def expire_lease(self, machine: str, *, reboot: bool = False) -> None:
        """The machine's lease expires with the records on it. The machine is away until judged dead."""
        if reboot:
            self.local_units[machine] = {}
        for kind, names in list(self.store):
            if kind is STATES and names[0] == machine:
                self.write(kind, names, None)
        self.write(MACHINES, (machine,), None)
        self.set_away(self.away | {machine})

    def die(self, machine: str) -> None:
        """The machine's lease expires, and the leader judges the machine dead."""
        self.expire_lease(machine)
        self.set_away(self.away - {machine})

    def come_back(self, machine: str, **metadata: str) -> None:
        """The machine publishes the units that are on it and registers in a new session."""
        for name in self.local_units[machine]:
            self.publish(machine, name)
        self.machine(machine, session=self._new_session(), **metadata)

    def settle(self, rounds: int = 60) -> None:
        """Run leader and agents by turns until nothing is left to do."""
        for _ in range(rounds):
            plan = self.plan()
            self.apply(plan)
            busy = [self.run_agent(machine) for machine in list(self.snapshot.machines)]
            if not plan.writes and not any(busy):
                return
        raise AssertionError(f"never at rest; the last plan was {plan}")

    def run_agent(self, machine: str, outcome: str = "active") -> bool:
        """The agent, unless parked, takes the next step for each unit; returns whether there was anything to do."""
        if self.snapshot.machines[machine].mode is MachineMode.PARKED:
            return False
        placed = [name for name, at in self.snapshot.placements.items() if machine in at]
        names = sorted({*self.local_units[machine], *placed})
        names += sorted(name for name, at in self.snapshot.states.items() if machine in at and name not in names)
        done = [self.reconcile(machine, name, outcome) for name in names]
        return any(done)

    # What tests check.

    def assigned(self) -> dict[str, str]:
        """The assigned machine of each placed unit. Several, of a global unit, are joined by spaces."""
        return {
            name: " ".join(machine for machine, placement in at.items() if placement.is_active)
            for name, at in sorted(self.snapshot.placements.items())
            if any(placement.is_active for placement in at.values())
        }

    def assigned_services(self) -> dict[str, str]:
        """As assigned(), by name without `.service`."""
        return {name.removesuffix(".service"): machine for name, machine in self.assigned().items()}

    def placement_states(self, name: str) -> dict[str, str]:
        """The state of each placement of a unit, by machine: assigned, preparing, withdrawn or superseded."""
        return {
            machine: "assigned"
            if placement.is_active
            else "superseded"
            if placement.superseded
            else "preparing"
            if placement.prepares
            else "withdrawn"
            for machine, placement in self.snapshot.placements.get(name, {}).items()
        }

    def reason(self, name: str) -> str:
        """The reason of the decision about a unit, rendered."""
        return render(self.snapshot.decisions[name].reason)

    def rejections(self, name: str) -> dict[str, int]:
        """The number of machines that reject a unit, by rendered rejection."""
        return {render_rejection(each.rejection): each.machines for each in self.snapshot.decisions[name].rejections}

    def run_leader(self, overdue: frozenset[tuple[str, str]] = frozenset()) -> Plan:
        """Plan once and write the plan."""
        plan = self.plan(overdue)
        self.apply(plan)
        return plan


def conflict(one: Placement, other: Placement) -> bool:
    """True if the units of these placements may not share a machine."""
    patterns = requirements_of(one.content, one.unit).conflicts
    others = requirements_of(other.content, other.unit).conflicts
    return any(matches_glob(p, other.unit) for p in patterns) or any(matches_glob(p, one.unit) for p in others)


def write_placement(cluster: Cluster, name: str, machine: str, text: str, state: str) -> None:
    """Write a placement of a unit with this X-Fleet text that is assigned, withdrawn or superseded."""
    placement = Placement(machine, name, f"[X-Fleet]\n{text}\n", LAUNCHED, 1)
    changes = {"assigned": {}, "withdrawn": {"target": INACTIVE}, "superseded": {"superseded": True}}[state]
    cluster.write(PLACEMENTS, (machine, name), msgspec.structs.replace(placement, **changes))


def settled_cluster(*machines: str, **units: str) -> Cluster:
    """A cluster at rest of these machines (`m1`, or `m1 role=web`; m1 and m2 if none is given), and units (name without
    `.service` → X-Fleet text)."""
    cluster = Cluster()
    for machine in machines or ("m1", "m2"):
        name, *metadata = machine.split()
        cluster.machine(name, **dict(item.split("=") for item in metadata))
    cluster.submit(**units)
    cluster.settle()
    return cluster


def after_partition(**changes: Any) -> Cluster:
    """a.service ran on m1, which was cut off and judged dead. The unit is placed on m2, and m1 is back, still running
    it. `changes`: fields of the state reported by m2."""
    cluster = settled_cluster(a="")
    cluster.die("m1")
    cluster.run_leader()
    cluster.come_back("m1")
    cluster.state(A, "m2", **({"active": "activating"} | changes))
    cluster.run_leader()
    return cluster


def placed_cluster(**units: tuple[str, str]) -> Cluster:
    """Machines m1 and m2, and units placed without planning: name without suffix → (X-Fleet text, machine or '')."""
    cluster = Cluster()
    cluster.machine("m1")
    cluster.machine("m2")
    for name, (text, machine) in units.items():
        cluster.unit(f"{name}.service", text)
        if machine:
            cluster.place(f"{name}.service", machine)
    return cluster
