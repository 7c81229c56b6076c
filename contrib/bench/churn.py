"""`python -m contrib.bench.churn [--seconds N]`: units come and go, one a second, on real machines; nothing may grow.

It prints what it sees as it goes, and a verdict by slope; ends with 1 if anything grows. An hour by default. etcd keeps
ten minutes of history, which the leader has it forget: so its size is that after a compaction and a defragmentation,
before the first unit and after the last.
"""

import argparse
import asyncio
import sys
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from contrib import interrupt
from contrib.bench import process
from contrib.bench.api import Api
from contrib.bench.measures import OPTIONS, Bench, clear
from contrib.bench.trend import Trend
from contrib.testbed import OWN_TIMEOUTS, Cluster, EtcdServer, missing_requirements

MACHINES = 3
PERIOD_S = 1.0
LIFE = 10  # units that there are at a time
NAMES = 100  # then they come back: a name never seen takes 1 KiB of caches that hold some 16,000
SAMPLES = 40
SETTLE_S = 15.0
DATABASE_SLACK_MIB = 0.25

# What a cluster is looked at for: unit, and by how much it may seem to have grown in whatever time.
QUANTITIES = {
    "memory of a fleetd": ("MiB", 1.5),
    "descriptors of a fleetd": ("", 2.0),
    "memory of etcd": ("MiB", 30.0),
    "memory of a systemd": ("MiB", 1.0),
    "units that a systemd has loaded": ("", 3.0),
}
Sample = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.churn", description="Units come and go.")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for how long (default an hour)")
    arguments = parser.parse_args()
    if missing := missing_requirements():
        print(f"contrib.bench.churn boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    try:
        with Cluster(machines=MACHINES, etcd_arguments=OWN_TIMEOUTS) as cluster:
            return asyncio.run(_churn(cluster, arguments.seconds))
    except KeyboardInterrupt:
        return 130


async def _churn(cluster: Cluster, seconds: float) -> int:
    bench = Bench(cluster, rounds=1, units=LIFE)
    async with bench.api() as api:
        await _turn_over(api, range(NAMES), PERIOD_S / 10)  # what is done once is done before the first look
        await clear(api)
        database_before_mib = _shrink(cluster.etcd)
        samples = await _watch_churn(api, cluster, seconds)
        await clear(api)
        await asyncio.sleep(SETTLE_S)
        database_mib = _shrink(cluster.etcd)
    trends = _trends(samples)
    print("\n" + "\n".join(trend.describe() for trend in trends))
    grown_mib = database_mib - database_before_mib
    is_flat = grown_mib <= DATABASE_SLACK_MIB
    print(
        f"etcd's database, compacted and defragmented: {database_before_mib:.2f} → {database_mib:.2f} MiB, "
        f"with {_count_keys(cluster.etcd)} keys: {'flat' if is_flat else 'GROWS'}"
    )
    return 0 if is_flat and all(trend.is_flat for trend in trends) else 1


async def _watch_churn(api: Api, cluster: Cluster, seconds: float) -> list[tuple[float, Sample]]:
    """Have units come and go, and look at times."""
    began = time.monotonic()
    churning = asyncio.create_task(_turn_over(api, range(round(seconds / PERIOD_S)), PERIOD_S))
    samples: list[tuple[float, Sample]] = []
    while not churning.done():
        await asyncio.wait([churning], timeout=max(1.0, seconds / SAMPLES))
        sample = await asyncio.to_thread(_look, cluster)
        samples.append((time.monotonic() - began, sample))
        values = "  ".join(f"{name} {value:.1f}" for name, value in sample.items())
        print(f"{samples[-1][0]:6.0f} s  {values}", flush=True)
    await churning
    return samples


async def _turn_over(api: Api, numbers: range, period_s: float) -> None:
    """A unit each period, destroyed when LIFE others have come after it."""
    alive: deque[str] = deque()
    due = time.monotonic()
    for number in numbers:
        name = f"churn-{number % NAMES}.service"
        await api.start(name, OPTIONS)
        alive.append(name)
        if len(alive) > LIFE:
            await api.destroy(alive.popleft())
        due += period_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))


def _look(cluster: Cluster) -> Sample:
    """The largest of the machines, of each quantity."""
    machines = cluster.machines
    values = (
        max(process.resident_mib(machine) for machine in machines),
        max(process.descriptors(machine) for machine in machines),
        process.observe_etcd(cluster.etcd.client_url).resident_mib,
        max(process.resident_mib(machine, pid=1) for machine in machines),
        max(int(machine.run(["systemctl", "show", "--value", "--property=NNames"]).stdout) for machine in machines),
    )
    return dict(zip(QUANTITIES, values, strict=True))


def _trends(samples: Sequence[tuple[float, Sample]]) -> list[Trend]:
    return [
        Trend(name, unit, tuple((at_s, sample[name]) for at_s, sample in samples), slack)
        for name, (unit, slack) in QUANTITIES.items()
    ]


def _shrink(etcd: EtcdServer) -> float:
    """Have etcd forget all history and give back what is free; the MiB of its database then."""
    status = msgspec.json.decode(etcd.etcdctl("endpoint", "status", "--write-out=json"))
    etcd.etcdctl("compaction", "--physical", str(status[0]["Status"]["header"]["revision"]))
    etcd.etcdctl("defrag")
    return process.observe_etcd(etcd.client_url).database_mib


def _count_keys(etcd: EtcdServer) -> int:
    return len(etcd.etcdctl("get", "--prefix", "--keys-only", "/fleet/").split())


if __name__ == "__main__":
    sys.exit(main())
