"""`make demo`, or `python -m contrib.demo [ACT]`: boot three machines, play an act, leave the cluster to play with.

At a terminal it stays until Ctrl-C; in a pipe it ends after the last step. The exit status is 1 if a step failed.
Everything is removed at the end.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from contrib import interrupt
from contrib.demo import stage
from contrib.demo.act import Act, StepFailed
from contrib.demo.change import Change
from contrib.demo.reboot import Reboot
from contrib.demo.services import Services
from contrib.demo.tour import Tour
from contrib.testbed import Cluster, missing_requirements

MACHINES = 3
# By name; the first is the default.
ACTS: dict[str, type[Act]] = {"tour": Tour, "change": Change, "reboot": Reboot, "services": Services}

# A failed step, and the testbed's errors when a machine or a command fails.
FAILURES = (StepFailed, AssertionError, TimeoutError, subprocess.SubprocessError)


def main(arguments: Sequence[str]) -> int:
    """Play the act that the arguments name. Returns the exit status."""
    name = " ".join(arguments) or next(iter(ACTS))
    if name not in ACTS:
        print(f"contrib.demo: there is no act {name!r}. The acts are {', '.join(ACTS)}.", file=sys.stderr)
        return 2
    if missing := missing_requirements():
        print(f"contrib.demo boots machines: {'; '.join(missing)}", file=sys.stderr)
        return 2
    if absent := [program for program in ACTS[name].programs if shutil.which(program) is None]:
        print(f"contrib.demo: the act {name} needs {', '.join(absent)} (contrib/setup)", file=sys.stderr)
        return 2
    interrupt.end_on_first()
    stage.explain(f"{MACHINES} machines boot with an etcd on a network of their own. This etcd needs no password.")
    try:
        with Cluster(machines=MACHINES, config=dict(ACTS[name].config)) as cluster:
            ACTS[name](cluster).play()
            if stage.is_terminal():
                _stay(cluster)
    except FAILURES as failure:
        print(f"\nThe demo failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        stage.explain("The cluster is removed.")
        return 130
    return 0


def _stay(cluster: Cluster) -> None:
    """Show how to reach the cluster, and wait for Ctrl-C."""
    stage.explain("The cluster is yours until Ctrl-C. In another terminal, in this folder:")
    stage.show(f"  .venv/bin/fleetctl --endpoint={cluster.endpoint()} list-units")
    stage.show("\n  a shell in a machine                       cut its power")
    for machine in cluster.machines:
        shell = f"nsenter --target={machine.pid1} --all bash"
        stage.show(f"  {shell:<40}   kill -KILL {machine.pid1}    # {machine.name}, {machine.address}")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
