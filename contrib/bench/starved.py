"""`python -m contrib.bench.starved [--seconds N]`: no machine is taken for dead while none is.

Real machines with the default `agent_ttl`, four busy loops a core beside them, and an etcd that stops answering for up
to eight seconds again and again. Not one unit may be moved or started anew, and no fleetd be killed. It ends with 1 if
that happened, and says where. An hour by default; it takes all cores that it may run on (`taskset`).
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from contrib import interrupt
from contrib.bench.measures import Bench
from contrib.testbed import OWN_TIMEOUTS, Cluster, EtcdServer, missing_requirements

MACHINES = 3
UNITS = 30
LOOPS_A_CORE = 4
STALL_S = (1.0, 8.0)
PAUSE_S = (2.0, 15.0)
SETTLE_S = 30.0  # after all of it: a machine that was suspected is judged dead within this time, or not at all
BUSY = "while :; do :; done"
DEAD, LOST = "machine is dead", "this machine's registration is gone"

Processes = dict[str, dict[str, int]]  # machine → unit → main process, 0 for none


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.starved", description="No machine counts as dead.")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for how long (default an hour)")
    parser.add_argument("--nice", type=int, default=0, help="how far the busy loops stand back (default: not at all)")
    parser.add_argument("--seed", type=int, default=0, help="what the stalls are drawn from")
    arguments = parser.parse_args()
    if missing := missing_requirements():
        print(f"contrib.bench.starved boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    try:
        with Cluster(machines=MACHINES, etcd_arguments=OWN_TIMEOUTS) as cluster:
            return _starve(cluster, arguments.seconds, arguments.nice, random.Random(arguments.seed))
    except KeyboardInterrupt:
        return 130


def _starve(cluster: Cluster, seconds: float, nice: int, draw: random.Random) -> int:
    before = asyncio.run(_start(cluster))
    with busy_loops(LOOPS_A_CORE * len(os.sched_getaffinity(0)), nice):
        stalls = _stall(cluster.etcd, seconds, draw)
    time.sleep(SETTLE_S)
    faults = list(find_changes(before, _processes(cluster, list(next(iter(before.values()))))))
    lost = 0
    for machine in cluster.machines:
        journal = machine.journal("fleet.service")
        lost += journal.count(LOST)
        faults += [f"{machine.name}: {line}" for line in journal.splitlines() if DEAD in line]
        if restarts := int(machine.show("fleet.service", "NRestarts")):
            faults.append(f"{machine.name}: fleetd was started again, {restarts} times")
    print(f"{seconds:.0f} s, {stalls} stalls of etcd, {lost} registrations lost and renewed, {len(faults)} faults")
    print("".join(f"  {fault}\n" for fault in faults), end="")
    return 1 if faults else 0


async def _start(cluster: Cluster) -> Processes:
    """Units everywhere, and what runs where."""
    bench = Bench(cluster, rounds=1, units=UNITS)
    async with bench.api() as api:
        names = await bench.fill(api)
    return _processes(cluster, names)


def _processes(cluster: Cluster, names: list[str]) -> Processes:
    return {machine.name: machine.main_pids(names) for machine in cluster.machines}


def find_changes(before: Mapping[str, Mapping[str, int]], after: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What runs elsewhere, no longer, or in another process."""
    for machine, units in before.items():
        for unit, pid in units.items():
            if after[machine][unit] != pid:
                yield f"{machine}: {unit} had process {pid}, and now has {after[machine][unit]}"


@contextmanager
def busy_loops(count: int, nice: int) -> Iterator[None]:
    """So many processes that do nothing but take time from others."""
    loops = [subprocess.Popen(["nice", "-n", str(nice), "sh", "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def _stall(etcd: EtcdServer, seconds: float, draw: random.Random) -> int:
    """Keep etcd from answering, now and then; how often."""
    end = time.monotonic() + seconds
    stalls = 0
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, draw.uniform(*PAUSE_S)))
        etcd.freeze()
        try:
            time.sleep(draw.uniform(*STALL_S))
        finally:
            with suppress(ProcessLookupError):
                etcd.thaw()
        stalls += 1
        print(
            f"\r{max(0.0, end - time.monotonic()):6.0f} s to go, {stalls} stalls", end="", file=sys.stderr, flush=True
        )
    print(file=sys.stderr)
    return stalls


if __name__ == "__main__":
    sys.exit(main())
