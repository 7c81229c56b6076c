"""`python -m contrib.bench.rollout [--machines N] [--instances N]`: what it takes to change a running cluster.

Instances are restarted by `fleetctl rollout restart`, a tenth of them at a time, beside systemctl that restarts them on
their machines in batches of as many. And a folder is applied of which nothing has changed: the store must not be
written to. `make bench` has the folder too, and `make bench BENCH=large` both. A run with --quick is not noted.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from contrib import interrupt
from contrib.bench import floor, history
from contrib.bench.api import Api, active_on, are_active
from contrib.bench.figure import Figure, render_table
from contrib.bench.measures import OPTIONS, PATIENCE_S, POLL_MANY_S, SETTLE_S, TEXT, Bench, clear, time_python
from contrib.testbed import OWN_TIMEOUTS, Cluster, Machine, missing_requirements
from fleetd.model.unit_option import UnitOption
from fleetd.store.etcd import EtcdStore

GROUP = "rolled@.service"
BATCHES = 10
GROUP_OPTIONS = (
    *OPTIONS,
    UnitOption("Unit", "StartLimitIntervalSec", "0"),  # they are started more often than a person would
    UnitOption("X-Fleet", "MaxUnavailable", f"{100 // BATCHES}%"),
    UnitOption("X-Fleet", "UpdateSettleSec", "0"),
)
FILES = 500
SET = "bench"
APPLY, RESTART = "apply", "restart"
QUICK = {"machines": 3, "instances": 20, "files": 60, "rounds": 1}


async def measure_restart(bench: Bench) -> list[Figure]:
    """A rolling restart of instances, from the command to its end."""
    samples, floor_samples = [], []
    names = [f"rolled@{number:03}.service" for number in range(bench.instances)]
    batches = list(floor.cut_into_batches(names, max(1, len(names) // BATCHES)))
    async with bench.api() as api:
        await clear(api)
        await api.start_all(names, GROUP_OPTIONS)
        await api.wait(partial(are_active, names=names), POLL_MANY_S)
        where = await _find_machines(bench, api, names)
        for _ in range(bench.rounds):
            await asyncio.sleep(SETTLE_S)
            floor_samples.append(await asyncio.to_thread(floor.restart_in_batches, batches, where))
            await asyncio.sleep(SETTLE_S)
            before = _main_pids(names, where)
            samples.append((await _fleetctl(bench, "rollout", "restart", GROUP))[0])
            after = _main_pids(names, where)
            if kept := [name for name in names if before[name] == after[name]]:
                raise RuntimeError(f"the rollout is over, and did not restart {kept}")
        await clear(api)
    name = f"rolling restart of {bench.instances} instances"
    figure = Figure(RESTART, name, "s", tuple(samples), tuple(floor_samples))
    return [figure.at_most(bench.targets.restart)]


async def _find_machines(bench: Bench, api: Api, names: list[str]) -> dict[str, Machine]:
    """Unit → where it runs."""
    reports = await api.reports()
    return {name: bench.cluster.machine(active_on(reports[name])) for name in names}


def _main_pids(names: list[str], where: Mapping[str, Machine]) -> dict[str, int]:
    found: dict[str, int] = {}
    for machine, share in floor.share_by_machine(names, where):
        found |= machine.main_pids(share)
    return found


async def measure_apply(bench: Bench) -> list[Figure]:
    """`fleetctl apply` of a folder whose units all are as it says, and how often that writes to the store."""
    samples, writes = [], []
    store = EtcdStore([bench.cluster.etcd.client_url], request_timeout_s=60.0)
    try:
        async with bench.api() as api:
            names = (await bench.fill(api))[:FILES]
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                Path(folder, name).write_text(TEXT)
            apply = partial(_fleetctl, bench, "apply", f"--set={SET}", folder)
            await apply()  # the units become members of the set
            await asyncio.sleep(SETTLE_S)
            for _ in range(bench.rounds):
                before = await _read_revision(store)
                took_s, said = await apply()
                writes.append(float(await _read_revision(store) - before))
                samples.append(took_s)
                check_unchanged(said, len(names))
    finally:
        await store.close()
    python = await time_python(bench.rounds)
    name = f"fleetctl apply, {len(names)} unchanged files"
    return [
        Figure(APPLY, name, "s", tuple(samples), python, bench.targets.apply_s),
        Figure("apply_writes", "  and what it writes", "revisions", (max(writes),), limit=0.0),
    ]


def check_unchanged(said: str, files: int) -> None:
    """Raise RuntimeError if an apply did not find all files unchanged."""
    if said.strip() != f"{SET}: nothing to do ({files} unchanged)":
        raise RuntimeError(f"something was applied, and nothing had changed:\n{said}")


async def _read_revision(store: EtcdStore) -> int:
    return (await store.range("/none")).revision


async def _fleetctl(bench: Bench, *arguments: str) -> tuple[float, str]:
    """How long a command took, in seconds, and what it printed. Raises AssertionError if it failed."""
    began = time.monotonic()
    result = await asyncio.to_thread(bench.cluster.fleetctl, *arguments, timeout_s=PATIENCE_S)
    return time.monotonic() - began, result.stdout


MEASURES: dict[str, Callable[[Bench], Awaitable[list[Figure]]]] = {APPLY: measure_apply, RESTART: measure_restart}


def main() -> int:
    arguments = _parse_arguments()
    if missing := missing_requirements():
        print(f"contrib.bench.rollout boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    machines, instances, files, rounds = arguments.machines, arguments.instances, FILES, arguments.rounds
    if arguments.quick:
        machines, instances, files, rounds = QUICK.values()
    try:
        with Cluster(machines=machines, etcd_arguments=OWN_TIMEOUTS) as cluster:
            figures = asyncio.run(_measure(Bench(cluster, rounds, files, instances)))
    except KeyboardInterrupt:
        print("interrupted; everything is taken down", file=sys.stderr)
        return 130
    print(f"{render_table(figures)}\n\nMedians of {rounds}, {machines} machines on {os.cpu_count()} cores.")
    if not arguments.quick:
        history.note(figures, machines, instances, "rollout")
    return 0 if all(figure.holds for figure in figures) else 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m contrib.bench.rollout", description="Measure what it takes to change a running cluster."
    )
    parser.add_argument("--machines", type=int, default=20, help="how many machines (default 20)")
    parser.add_argument("--instances", type=int, default=100, help="how many instances are restarted (default 100)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--quick", action="store_true", help="three machines, few units: to see that it works")
    return parser.parse_args()


async def _measure(bench: Bench) -> list[Figure]:
    return [figure for measure in MEASURES.values() for figure in await measure(bench)]


if __name__ == "__main__":
    sys.exit(main())
