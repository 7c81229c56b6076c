"""`make bench`, or `python -m contrib.bench [--quick] [--only NAME]`: boot, measure, print, and note it in the history.

Ends with 1 if a target is missed. It takes three minutes on two cores; --quick takes one, and is not noted.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from contrib import interrupt
from contrib.bench.figure import Figure, render_table
from contrib.bench.measures import MEASURES, Bench
from contrib.testbed import Cluster, missing_requirements

HISTORY = Path(__file__).with_name("history.jsonl")
MACHINES = 3


def main() -> int:
    arguments = _parse_arguments()
    if missing := missing_requirements():
        print(f"contrib.bench boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    rounds, units = (1, 150) if arguments.quick else (5, 500)
    try:
        with Cluster(machines=MACHINES) as cluster:
            figures = asyncio.run(_measure(Bench(cluster, rounds, units), arguments.only or list(MEASURES)))
    except KeyboardInterrupt:
        print("interrupted; everything is taken down", file=sys.stderr)
        return 130
    print(f"\n{render_table(figures)}")
    print(f"\nMedians of {rounds}, {MACHINES} machines on {os.cpu_count()} cores.")
    if not arguments.quick:
        with HISTORY.open("ab") as history:
            history.write(msgspec.json.encode(_record(figures)) + b"\n")
    return 0 if all(figure.holds for figure in figures) else 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench", description="Measure what the README promises.")
    parser.add_argument("--quick", action="store_true", help="one round, 150 units: to see that it works")
    parser.add_argument("--only", action="append", choices=list(MEASURES), help="only this measure; may be repeated")
    return parser.parse_args()


async def _measure(bench: Bench, names: list[str]) -> list[Figure]:
    figures = []
    for name in names:
        began = time.monotonic()
        figures += await MEASURES[name](bench)
        print(f"{name}: took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return figures


def _record(figures: list[Figure]) -> dict[str, object]:
    """One line of the history. Ratios compare between machines; seconds do not."""
    return {
        "commit": _git("describe", "--always", "--dirty", "--abbrev=12"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "figures": {
            figure.name: {"value": figure.value, "unit": figure.unit, "floor": figure.floor, "ratio": figure.ratio}
            for figure in figures
        },
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", HISTORY.parent, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
