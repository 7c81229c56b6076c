"""`make demo`, or `python -m contrib.demo`: boot three machines, walk through the tour, leave the cluster to play with.

At a terminal it stays until Ctrl-C; in a pipe it ends after the last step. It ends with 1 if a step did not happen, and
always takes everything down.
"""

import subprocess
import sys
import time

from contrib import interrupt
from contrib.demo import stage
from contrib.demo.tour import StepFailed, Tour
from contrib.testbed import Cluster, missing_requirements

MACHINES = 3

# A step's own, and those by which the testbed says that a machine or a command did not do what it should.
FAILURES = (StepFailed, AssertionError, TimeoutError, subprocess.SubprocessError)


def main() -> int:
    if missing := missing_requirements():
        print(f"contrib.demo boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    stage.explain(f"{MACHINES} machines and an etcd are booted, on a network of their own, where etcd is left open.")
    try:
        with Cluster(machines=MACHINES) as cluster:
            Tour(cluster).walk()
            if stage.is_terminal():
                _stay(cluster)
    except FAILURES as failure:
        print(f"\nThe demo failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        stage.explain("Everything is taken down.")
        return 130
    return 0


def _stay(cluster: Cluster) -> None:
    """Tell how to reach the cluster, and wait for Ctrl-C."""
    stage.explain("The cluster is yours until Ctrl-C. In another terminal, in this folder:")
    endpoint = f"unix://{cluster.machines[0].path('/run/fleet.sock')}"
    stage.show(f"  .venv/bin/fleetctl --endpoint={endpoint} list-units")
    stage.show("\n  a shell in a machine                       cut its power")
    for machine in cluster.machines:
        shell = f"nsenter --target={machine.pid1} --all bash"
        stage.show(f"  {shell:<40}   kill -KILL {machine.pid1}    # {machine.name}, {machine.address}")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
