"""`make bench`, or `python -m contrib.bench`: boot machines, measure, print, and note it in the history.

Ends with 1 if a target is missed. `make bench` is three machines with 500 units, `make bench BENCH=large` twenty with
1,000. A run with --quick or --only is not noted.
"""

import argparse
import asyncio
import os
import sys
import time

from contrib import interrupt
from contrib.bench import history, insight, measures, rollout
from contrib.bench.figure import Figure, render_table
from contrib.bench.measures import Bench
from contrib.testbed import OWN_TIMEOUTS, Cluster, missing_requirements

MEASURES = measures.MEASURES | insight.MEASURES | rollout.MEASURES
LARGE = 20  # machines: fewer are not asked to restart a hundred instances one ten after the other


def main() -> int:
    arguments = _parse_arguments()
    if missing := missing_requirements():
        print(f"contrib.bench boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    machines, units, rounds = arguments.machines, arguments.units, arguments.rounds
    if arguments.quick:
        units, rounds = 50 * machines, 1
    try:
        with Cluster(machines=machines, etcd_arguments=OWN_TIMEOUTS) as cluster:
            figures = asyncio.run(_measure(Bench(cluster, rounds, units), arguments.only or choose(machines)))
    except KeyboardInterrupt:
        print("interrupted; everything is taken down", file=sys.stderr)
        return 130
    print(f"\n{render_table(figures)}")
    print(f"\nMedians of {rounds}, {machines} machines on {os.cpu_count()} cores.")
    if not (arguments.quick or arguments.only):
        history.note(figures, machines, units)
    return 0 if all(figure.holds for figure in figures) else 1


def choose(machines: int) -> list[str]:
    """What is measured of so many machines."""
    return [name for name in MEASURES if name != rollout.RESTART or machines >= LARGE]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m contrib.bench", description="Measure the figures of docs/performance.md."
    )
    parser.add_argument("--machines", type=int, default=3, help="how many machines (default 3)")
    parser.add_argument("--units", type=int, default=500, help="how many units (default 500)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round, 50 units a machine: to see that it works")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="only this measure; may be repeated")
    return parser.parse_args()


async def _measure(bench: Bench, names: list[str]) -> list[Figure]:
    figures = []
    for name in names:
        began = time.monotonic()
        figures += await MEASURES[name](bench)
        print(f"{name}: took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return figures


if __name__ == "__main__":
    sys.exit(main())
