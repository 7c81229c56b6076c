"""The collector of cyclic garbage rests while it is paused, and no longer."""

import gc

import pytest

from fleetd.aio import paused_collector


def test_the_collector_rests_until_the_last_pause_is_over() -> None:
    with paused_collector():
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_failure_ends_the_pause() -> None:
    with pytest.raises(ValueError, match="x"), paused_collector():
        raise ValueError("x")
    assert gc.isenabled()
