"""Two holders of one lock never run at one moment, whatever happens to machines, networks and the store."""

import pytest

from tests.simulation.lock_clients import run_lock_seed


@pytest.mark.parametrize("seed", [0, 1, 2, 105])  # 105: a store that falls back while locks are waited for
def test_no_more_clients_run_with_a_lock_than_it_has_slots(seed: int) -> None:
    result, ran = run_lock_seed(seed)
    assert result.failure is None, "\n".join([*result.lines[-60:], str(result.failure)])
    assert ran > 5, "hardly anybody had a lock"


def test_equal_seeds_make_equal_runs() -> None:
    assert run_lock_seed(0)[0].digest == run_lock_seed(0)[0].digest
