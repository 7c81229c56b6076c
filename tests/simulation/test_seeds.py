"""A number of runs with random faults, the same each time; and a seed repeats its run to the byte."""

import os
import subprocess
import sys

import pytest

from tests.simulation.faults import draw_actions
from tests.simulation.run import run_actions, run_seed
from tests.simulation.shrink import shrink

SEEDS, QUICK_SEEDS = 60, 5
REPEATED = 1_000_003


@pytest.mark.covers("C.1", "C.2", "C.3", "C.7", "C.9", "P.17", "P.9", "R.1", "R.2", "R.3", "R.8", "S.20")
@pytest.mark.parametrize(
    "seed", [*range(QUICK_SEEDS), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(QUICK_SEEDS, SEEDS))]
)
def test_a_cluster_survives_random_faults(seed: int) -> None:
    result = run_seed(seed)
    assert result.failure is None, f"{result.failure}\nagain: python -m tests.simulation seed {seed}"


def digest_of(seed: int, hash_seed: str) -> str:
    program = f"from tests.simulation.run import run_seed; print(run_seed({seed}).digest)"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.long
def test_a_seed_repeats_its_run_to_the_byte_with_any_hash_seed() -> None:
    digests = {digest_of(REPEATED, hash_seed) for hash_seed in ("1", "2")} | {run_seed(REPEATED).digest}
    assert len(digests) == 1


def test_another_seed_is_another_run() -> None:
    assert draw_actions(1) != draw_actions(2)
    quiet = draw_actions(1)[:3]
    assert run_actions(quiet, seed=1).digest != run_actions(quiet, seed=2).digest


def test_a_failing_run_is_shrunk_to_its_cause() -> None:
    actions = draw_actions(3)
    culprits = [actions[4], actions[-2]]
    assert list(shrink(actions, lambda fewer: all(culprit in fewer for culprit in culprits))) == culprits
