"""`python -m tests.simulation`: run seeds until it is stopped, one seed, or a scenario.

soak [FIRST]     run seed after seed; print one that fails, shrunk, with the command that repeats it
seed SEED        run one seed, and print its log
scenario FILE    run a scenario, and print its log
"""

import itertools
import logging
import sys
import time
from pathlib import Path
from typing import Any

from tests.simulation.faults import draw_actions, draw_config, draw_life, draw_machines
from tests.simulation.run import RunResult, run_actions, run_scenario, run_seed
from tests.simulation.scenario import parse_scenario, render_scenario
from tests.simulation.shrink import shrink

_REPORT_EVERY_S = 30.0


def soak(first: int) -> int:
    """Run seed after seed from this one on."""
    began_s = reported_s = time.monotonic()
    virtual_s = 0.0
    for seed in itertools.count(first):
        result = run_seed(seed)
        virtual_s += result.length_s
        if result.failure:
            _report(seed, result)
            return 1
        now_s = time.monotonic()
        if now_s - reported_s >= _REPORT_EVERY_S:
            reported_s = now_s
            count = f"{seed - first + 1} seeds ({first} to {seed}), {virtual_s / 3600:.1f} cluster hours"
            print(f"{count} in {now_s - began_s:.0f} s, no failure", flush=True)
    return 0


def _report(seed: int, result: RunResult) -> None:
    assert result.failure
    print(f"seed {seed} fails: {result.failure}\nshrinking it ...")
    rule, config, machines, life_s = result.failure.rule, draw_config(seed), draw_machines(seed), draw_life(seed)

    def fails(actions: object) -> bool:
        given: Any = actions
        failure = run_actions(given, seed=seed, machines=machines, config=config, life_s=life_s).failure
        return failure is not None and failure.rule == rule

    shortest = shrink(draw_actions(seed), fails)
    failure = run_actions(shortest, seed=seed, machines=machines, config=config, life_s=life_s).failure
    print(f"\n# {failure}\n# seed {seed}")
    print(render_scenario(machines, shortest, config, life_s))
    print(f"the whole run again: python -m tests.simulation seed {seed}")


def _show(result: RunResult) -> int:
    print("\n".join(result.lines))
    print(f"{result.length_s:.0f} s of cluster time, digest {result.digest}: {result.failure or 'no failure'}")
    return 1 if result.failure else 0


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name. Return the exit status."""
    logging.getLogger("fleetd").setLevel(logging.CRITICAL + 1)
    match arguments:
        case ["soak"]:
            return soak(0)
        case ["soak", first] if first.isdecimal():
            return soak(int(first))
        case ["seed", seed] if seed.isdecimal():
            return _show(run_seed(int(seed)))
        case ["scenario", file]:
            scenario = parse_scenario(Path(file).read_text())
            return _show(run_scenario(scenario))
    print(__doc__)
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
