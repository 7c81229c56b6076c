"""`python -m contrib.bench.leader [--quick] [--seed N]`: what planning costs the leader of a cluster that is on paper.

Processor time beside wall time, for other work may share the machine, and beside a floor: filling and sorting a mapping
of as many records in the same run. Of what can be repeated, the least of three: a neighbour can only add to it. Then a
leader in full on the embedded store, to see for how long at most its loop was held up, on which its beats depend, while
it read and planned everything and began to write it.
"""

import argparse
import asyncio
import math
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from contrib.bench import history
from contrib.bench.figure import Figure
from contrib.bench.workload import draw_machines, draw_units
from fleetd.leader.election import Election
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.group import group_of
from fleetd.model.machine import Machine
from fleetd.model.rollout import Apply
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.registry import Registry
from fleetd.scheduler.affected import (
    Affected,
    set_decision,
    set_machine,
    set_placement,
    set_rollout,
    set_state,
    set_unit,
)
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.machine_loss import HeartbeatHistory
from fleetd.scheduler.planner import Plan, plan_cluster
from fleetd.scheduler.proposal import RolloutPlan, SessionPlan
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.embedded import EmbeddedStore

LARGE = (5_000, 150_000)  # machines, units
SMALL = (1_000, 20_000)
QUICK = (100, 2_000)
TTL_S = 10.0
TICK_S = 0.005
ROUNDS = 3
WRITING_S = 5.0  # how long the leader is watched while it writes


class Cost(msgspec.Struct, frozen=True):
    """What something took: of the processor, by the clock, and of the processor for its floor. `key` names it in the
    history, `limit_s` is what is promised of the processor."""

    key: str
    name: str
    cpu_s: float
    wall_s: float
    floor_s: float
    limit_s: float

    @property
    def figure(self) -> Figure:
        """For the history: processor time."""
        return Figure(self.key, self.name, "s", (self.cpu_s,), (self.floor_s,), self.limit_s)


def clock(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Processor and wall seconds that this takes, and what it returns."""
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - cpu_s, time.perf_counter() - wall_s, result


def clock_least(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """The same of work that leaves everything as it was: the cheapest of several rounds."""
    costs = [clock(work)[:2] for _ in range(ROUNDS - 1)]  # their results are let go of: memory is measured, too
    cpu_s, wall_s, result = clock(work)
    return *min(*costs, (cpu_s, wall_s)), result


def floor_of(names: Iterable[str]) -> float:
    """Processor seconds to fill a mapping with as many records, and to sort it."""
    known = list(names)
    return clock_least(lambda: sorted({name: {"name": name} for name in known}))[0]


class Paper:
    """A cluster on paper: its view, and machines that do at once as they are told."""

    def __init__(self, seed: int, machines: int, units: int) -> None:
        chance = random.Random(seed)
        self.machines = draw_machines(chance, machines)
        self.spare = draw_machines(chance, 1)[0]
        self.units = draw_units(chance, units)
        self.snapshot = Snapshot()
        self.revision = 1

    def load(self) -> None:
        """The leader reads machines and units."""
        for machine in self.machines:
            self.snapshot.set_machine(machine.id, machine)
        for unit in self.units:
            self.snapshot.set_unit(unit.name, unit)

    def carry_out(self, plan: Plan) -> Affected:
        """The plan is written and done; what that concerns."""
        snapshot, affected = self.snapshot, Affected()
        for unit in plan.units:
            self.revision += 1
            for machine in unit.deletes:
                affected |= set_placement(snapshot, machine, unit.unit, None)
            for order in unit.placements:
                affected |= set_placement(snapshot, order.machine, order.unit, order)
                state = UnitState("loaded", "active", "running", "", order.target, order.generation)
                affected |= set_state(snapshot, order.machine, order.unit, state if order.is_active else None)
            decision = unit.decision and msgspec.structs.replace(unit.decision, revision=self.revision)
            affected |= set_decision(snapshot, unit.unit, decision)
        for write in plan.writes:
            if isinstance(write, SessionPlan):
                snapshot.set_session(write.machine, write.session)
            elif isinstance(write, RolloutPlan):
                affected |= set_rollout(snapshot, write.group, write.rollout)
        return affected

    def begin_rollouts(self, count: int) -> None:
        """So many groups are to get other content, one member after the other."""
        groups = {group_of(name): None for name in self.snapshot.units}
        for group in list(groups)[:: len(groups) // count][:count]:
            for name in self.snapshot.group_units(group):
                self.revision += 1
                unit = self.snapshot.units[name]
                text = unit.text + "\n[Service]\nEnvironment=CHANGED=1\n"
                changed = msgspec.structs.replace(unit, text=text, generation=self.revision, rollout="r1")
                self.snapshot.set_unit(name, changed)
        self.snapshot.applies["r1"] = Apply()

    def settle(self) -> None:
        """Go on until nothing is left to plan."""
        affected: Affected | None = None
        while affected is None or affected:
            affected = self.carry_out(plan_cluster(self.snapshot, affected))


def measure_large(paper: Paper, size: str, limit_s: float) -> list[Cost]:
    """Everything at once: read, planned from nothing, and looked at again by the next leader."""
    names = [unit.name for unit in paper.units]
    floor_s = floor_of(names)
    loading = clock(paper.load)
    placing = clock_least(lambda: plan_cluster(paper.snapshot))
    paper.carry_out(placing[2])
    looking = clock_least(lambda: plan_cluster(paper.snapshot))
    paper.begin_rollouts(len(names) // 150)
    paper.carry_out(plan_cluster(paper.snapshot))
    assert all(not rollout.is_over for rollout in paper.snapshot.rollouts.values())
    rolling = clock_least(lambda: plan_cluster(paper.snapshot))
    return [
        Cost("read", f"read {size}", *loading[:2], floor_s, math.inf),
        Cost("place", f"place {size}", *placing[:2], floor_s, limit_s),
        Cost("check", f"find {size} in order", *looking[:2], floor_s, math.inf),
        Cost("rollouts", f"the same with {len(names) // 150:,} rollouts", *rolling[:2], floor_s, 1.2 * looking[0]),
    ]


def measure_small(paper: Paper, size: str, rounds: int) -> list[Cost]:
    """One thing at a time, in a cluster at rest: the records taken in, planned, and looked at again once written."""
    return [
        median_cost("change", f"a changed unit of {size}", [change_unit(paper, turn) for turn in range(rounds)]),
        median_cost("loss", f"a lost machine of {size}", [lose_machine(paper, turn) for turn in range(rounds)]),
        median_cost("newcomer", f"a new machine of {size}", [add_machine(paper) for _ in range(rounds)]),
    ]


def median_cost(key: str, name: str, costs: Sequence[Cost]) -> Cost:
    cpu_s = statistics.median(cost.cpu_s for cost in costs)
    wall_s = statistics.median(cost.wall_s for cost in costs)
    return Cost(key, name, cpu_s, wall_s, statistics.median(cost.floor_s for cost in costs), 0.05)


def cost_of(paper: Paper, change: Callable[[], Affected]) -> Cost:
    cpu_s, wall_s, plan = clock(lambda: plan_cluster(paper.snapshot, change()))
    assert plan.units, "nothing was planned"
    affected = paper.carry_out(plan)
    again_cpu_s, again_wall_s, _ = clock(lambda: plan_cluster(paper.snapshot, affected))
    floor_s = floor_of(unit.unit for unit in plan.units)
    paper.settle()
    return Cost("", "", cpu_s + again_cpu_s, wall_s + again_wall_s, floor_s, math.inf)


def change_unit(paper: Paper, turn: int) -> Cost:
    """An operator restarts a unit."""
    name = paper.units[(turn + 1) * len(paper.units) // 100].name
    paper.revision += 1
    unit = msgspec.structs.replace(paper.snapshot.units[name], generation=paper.revision)
    return cost_of(paper, lambda: set_unit(paper.snapshot, name, unit))


def lose_machine(paper: Paper, turn: int) -> Cost:
    """A machine is dead, and comes back when its units are elsewhere."""
    machine = paper.machines[turn]
    names = list(paper.snapshot.occupancies[machine.id].units)
    lost = cost_of(paper, lambda: _forget(paper.snapshot, machine.id, names))
    paper.snapshot.set_machine(machine.id, machine)
    paper.settle()
    return lost


def _forget(snapshot: Snapshot, machine: str, names: Iterable[str]) -> Affected:
    affected = set_machine(snapshot, machine, None)
    for name in names:
        affected |= set_state(snapshot, machine, name, None)
    return affected


def add_machine(paper: Paper) -> Cost:
    """A machine is new, and gone for good afterwards."""
    spare = paper.spare
    added = cost_of(paper, lambda: set_machine(paper.snapshot, spare.id, spare))
    _forget(paper.snapshot, spare.id, list(paper.snapshot.occupancies[spare.id].units))
    paper.settle()
    return added


class HeartbeatSource(msgspec.Struct):
    """A machine whose own heartbeats are all answered."""

    beats: HeartbeatHistory
    disturbed_s: float | None = None
    heard_revision: int = 0


async def measure_gap(machines: Sequence[Machine], units: Sequence[Unit]) -> float:
    """For how many seconds at most the loop of a leader is held up, from taking office until it has written a while."""
    store = EmbeddedStore(":memory:")
    registry = Registry(store)
    puts = [registry.put(machine, machine.id) for machine in machines]
    puts += [registry.put(unit, unit.name) for unit in units]
    for first in range(0, len(puts), 100):
        await store.transact([], puts[first : first + 100])
    now = asyncio.get_running_loop().time
    planned = asyncio.Event()

    async def offload(work: Callable[[], Any]) -> Any:
        result = await asyncio.to_thread(work)
        planned.set()
        return result

    election = Election(
        machines[0].id,
        registry,
        HeartbeatSource(HeartbeatHistory.begin(now())),
        StoreEpoch(registry, machines[0].id),
        ttl_s=TTL_S,
        failover=FailoverPolicy(handover_timeout_s=30.0),
        compact=False,
        now=now,
        unix_now=time.time,
        new_id=lambda: "term",
        offload=offload,
    )
    gaps = [0.0]

    async def tick() -> None:
        last_s = now()
        while True:
            await asyncio.sleep(TICK_S)
            gaps.append(now() - last_s - TICK_S)
            last_s = now()

    tasks = [asyncio.create_task(election.run()), asyncio.create_task(tick())]
    await planned.wait()
    await asyncio.sleep(WRITING_S)
    assert election.term is not None, "the lead was lost"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await store.close()
    return max(gaps)


def render(costs: Sequence[Cost]) -> str:
    lines = [f"{'what':44} {'CPU s':>8} {'wall s':>8} {'floor s':>9} {'ratio':>7}  target (CPU s)"]
    for cost in costs:
        mark = "ok" if cost.cpu_s <= cost.limit_s else "MISSED"
        target = "" if math.isinf(cost.limit_s) else f"≤ {cost.limit_s:g} {mark}"
        numbers = f"{cost.cpu_s:8.3f} {cost.wall_s:8.3f} {cost.floor_s:9.6f} {cost.cpu_s / cost.floor_s:7.0f}"
        lines.append(f"{cost.name:44} {numbers}  {target}".rstrip())
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m contrib.bench.leader", description="Measure the leader's planning."
    )
    parser.add_argument("--quick", action="store_true", help="a small cluster: to see that it works; is not noted")
    parser.add_argument("--seed", type=int, default=1, help="of the units and machines that are drawn")
    arguments = parser.parse_args()
    large, small = (QUICK, QUICK) if arguments.quick else (LARGE, SMALL)
    paper = Paper(arguments.seed, *large)
    costs = measure_large(paper, f"{large[1]:,} units, {large[0]:,} machines", 6.0)
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gap_s = asyncio.run(measure_gap(paper.machines, paper.units))
    del paper
    paper = Paper(arguments.seed, *small)
    paper.load()
    paper.settle()
    costs += measure_small(paper, f"{small[1]:,} units", 5)
    print(render(costs))
    print(f"memory at most, plan and all: {memory_mib:.0f} MiB; the loop held up at most for {gap_s:.3f} s")
    if not arguments.quick:
        figures = [cost.figure for cost in costs]
        figures += [Figure("memory", "memory", "MiB", (memory_mib,)), Figure("gap", "loop held up", "s", (gap_s,))]
        history.note(figures, large[0], large[1], "leader")
    return 0 if all(cost.cpu_s <= cost.limit_s for cost in costs) else 1


if __name__ == "__main__":
    sys.exit(main())
