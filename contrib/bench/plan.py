"""`python -m contrib.bench.plan [--quick] [--seed N]`: what `plan` and `explain` take in a large cluster.

The API is served over a store that holds a cluster at rest: no machine is booted, no leader decides. The member that is
asked reads everything and works in a thread, so what is promised is its processor time; what the client takes stands
beside it.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from contrib.bench.leader import Paper
from contrib.bench.many_units import Bench, CountingStore, render
from fleetd.api.routes import Api
from fleetd.api.server import Server
from fleetd.config.options import Address
from fleetd.registry.records import Synced
from fleetd.registry.registry import Registry
from fleetd.registry.snapshots import make_snapshot
from fleetd.scheduler.snapshot import Snapshot
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import MAX_OPERATIONS, Put, Store

LARGE = (1_000, 20_000)  # machines, units
QUICK = (100, 2_000)
EXPLAIN_S, LOSE_S, PLAN_S = 0.4, 3.0, 10.0


def records_of(snapshot: Snapshot, registry: Registry) -> Iterator[Put]:
    """The records of a cluster on paper."""
    for machine in snapshot.machines.values():
        yield registry.put(machine, machine.id)
    for id_, session in snapshot.synced.items():
        yield registry.put(Synced(session), id_)
    for name, unit in snapshot.units.items():
        yield registry.put(unit, name)
    for name, decision in snapshot.decisions.items():
        yield registry.put(decision, name)
    for name, placements in snapshot.placements.items():
        for where, placement in placements.items():
            yield registry.put(placement, where, name)
    for name, states in snapshot.states.items():
        for where, state in states.items():
            yield registry.put(state, where, name)


async def measure(paper: Paper, directory: Path) -> list[tuple[float, float]]:
    """Print the table. Returns what was promised and what it took, in processor seconds of the member."""
    store = CountingStore(EmbeddedStore(str(directory / "store.db")))
    bench = Bench(store, None, directory, units=0)
    await fill(store, bench.registry, paper)
    server = Server(Api(bench.registry))
    await server.start([Address(path=str(bench.socket))], insecure=False)
    limits = []
    try:
        for what, words, limit_s in questions(paper.snapshot):
            await bench.measure(what, bench.fleetctl("--request-timeout=600", *words))
            limits.append(limit_s)
    finally:
        await server.stop()
        await store.close()
    print(f"{len(paper.units):,} units on {len(paper.machines):,} machines:", *render(bench.rows), sep="\n", flush=True)
    return [(limit_s, row[3]) for limit_s, row in zip(limits, bench.rows, strict=True)]


async def fill(store: Store, registry: Registry, paper: Paper) -> None:
    """Have the store hold the cluster, at rest: the units come first, for their revisions are their generations."""
    paper.load()
    await _put_all(store, records_of(paper.snapshot, registry))
    found = await registry.everything()
    paper.snapshot, paper.revision = make_snapshot(registry, found.items), found.revision
    paper.settle()
    written = {item.key for item in found.items}
    await _put_all(store, (put for put in records_of(paper.snapshot, registry) if put.key not in written))


async def _put_all(store: Store, puts: Iterable[Put]) -> None:
    left = list(puts)
    for first in range(0, len(left), MAX_OPERATIONS):
        await store.transact([], left[first : first + MAX_OPERATIONS])


def questions(snapshot: Snapshot) -> Iterator[tuple[str, Sequence[str], float]]:
    """What is asked, the command, and what it may take."""
    machines = list(snapshot.machines)
    instance = next(name for name in snapshot.units if "@" in name)
    bound = next(name for name in snapshot.units if name.startswith("job-"))
    many = machines[: len(machines) // 10]
    yield "explain an instance", ("explain", instance), EXPLAIN_S
    yield "explain a unit with metadata", ("explain", bound), EXPLAIN_S
    yield "plan lose, one machine", ("plan", "lose", machines[0]), LOSE_S
    yield "plan drain, one machine", ("plan", "drain", machines[0]), LOSE_S
    yield "plan join, one machine", ("plan", "join", "region=north"), LOSE_S
    yield f"plan lose, {len(many):,} machines", ("plan", "lose", *many), PLAN_S
    yield f"plan drain, {len(many):,} machines", ("plan", "drain", *many), PLAN_S


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.plan", description="Measure plan and explain.")
    parser.add_argument("--quick", action="store_true", help="a small cluster: to see that it works")
    parser.add_argument("--seed", type=int, default=1, help="of the units and machines that are drawn")
    arguments = parser.parse_args()
    paper = Paper(arguments.seed, *(QUICK if arguments.quick else LARGE))
    with tempfile.TemporaryDirectory() as directory:
        taken = asyncio.run(measure(paper, Path(directory)))
    for limit_s, took_s in taken:
        if took_s > limit_s:
            print(f"MISSED: {took_s:.2f} s, and at most {limit_s:g} s are promised")
    return 0 if all(took_s <= limit_s for limit_s, took_s in taken) else 1


if __name__ == "__main__":
    sys.exit(main())
