"""`python -m contrib.bench.scale [--machines N] [--units N]`: all phases of a run in one report, on standard output.

A thousand machines with 20,000 units take some ten minutes and 6 GiB on two cores; a hundred with 2,000, two minutes.
It needs etcd, and no root.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from contrib import interrupt
from contrib.bench import history
from contrib.bench.scale.phases import Size
from contrib.bench.scale.report import figures_of, render_report
from contrib.bench.scale.run import run_scale
from contrib.testbed.etcd import etcd_is_installed

REPORT = Path(__file__).parents[1] / "scale.md"
MEMORY = Path("/dev/shm")  # as /run is, where machines keep their ledgers


def main() -> int:
    size, is_noted = _parse_arguments()
    if not etcd_is_installed():
        print("contrib.bench.scale needs etcd: apt install etcd-server", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    _allow_files()
    try:
        with tempfile.TemporaryDirectory(prefix="fleet-scale-", dir=MEMORY if MEMORY.is_dir() else None) as directory:
            findings = run_scale(size, Path(directory), _say)
    except KeyboardInterrupt:
        return 130
    report = render_report(findings)
    print(report, end="")
    if is_noted:
        history.note(figures_of(findings), size.machines, size.units, bench="scale")
        REPORT.write_text(report)
    return 0


def _parse_arguments() -> tuple[Size, bool]:
    parser = argparse.ArgumentParser(prog="python -m contrib.bench.scale", description="A cluster without machines.")
    parser.add_argument("--machines", type=int, default=1000, help="how many agents (at least 4)")
    parser.add_argument("--units", type=int, default=20_000, help="how many units")
    parser.add_argument("--ttl", type=float, default=10.0, help="agent_ttl in seconds")
    parser.add_argument("--rest", type=float, default=20.0, help="for how many seconds it is watched at rest")
    parser.add_argument("--processes", type=int, default=4, help="how many processes the agents share")
    parser.add_argument("--note", action="store_true", help="keep figures and report: history.jsonl and scale.md")
    parser.add_argument(
        "--servers", type=int, default=0, help="so many servers, the others are workers (0: no workers)"
    )
    given = parser.parse_args()
    if given.machines < 4 or given.units < given.machines:
        parser.error("at least 4 machines, and no fewer units than machines")
    if given.servers and not 2 <= given.servers <= given.machines - 2:
        parser.error("at least 2 servers, and 2 workers")
    if given.servers and given.note:
        parser.error("--note is for runs without workers: the figures of others do not compare")
    return Size(given.machines, given.units, given.ttl, given.rest, given.processes, given.servers), given.note


def _allow_files() -> None:
    """Each agent holds some connections, and etcd all of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
