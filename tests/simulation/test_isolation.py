"""A unit with IsolationSec= never runs twice, and no more units run under a lock than it has slots, whatever happens to
machines, networks, clocks and the store."""

import pytest

from tests.simulation.isolation_actions import run_isolation_seed

SEEDS, QUICK_SEEDS = 60, 4


@pytest.mark.parametrize(
    "seed", [*range(QUICK_SEEDS), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(QUICK_SEEDS, SEEDS))]
)
def test_no_unit_that_must_not_run_twice_does(seed: int) -> None:
    result = run_isolation_seed(seed)
    assert result.failure is None, "\n".join([*result.lines[-60:], str(result.failure)])
    assert sum(".service process" in line and line.endswith("began") for line in result.lines) > 1, "hardly any ran"


def test_equal_seeds_make_equal_runs() -> None:
    assert run_isolation_seed(0).digest == run_isolation_seed(0).digest
