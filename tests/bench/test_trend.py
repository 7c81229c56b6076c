"""When a series counts as flat."""

from contrib.bench.trend import Trend


def trend(*values: float, slack: float = 1.0) -> Trend:
    return Trend("memory", "MiB", tuple((float(at), value) for at, value in enumerate(values)), slack)


def test_a_constant_series_is_flat() -> None:
    assert trend(5, 5, 5, 5, 5).rise == 0
    assert trend(5, 5, 5, 5, 5).is_flat


def test_a_series_that_fills_once_is_flat_afterwards() -> None:
    assert trend(0, 30, 50, 50, 50, 50, 50, 50, 50, 50).is_flat


def test_a_series_that_moves_up_and_down_is_flat() -> None:
    assert trend(*[50, 51] * 20).is_flat


def test_slow_steady_growth_is_not_flat_and_has_its_rate() -> None:
    growing = trend(*(50 + at / 20 for at in range(100)))
    assert not growing.is_flat
    assert abs(growing.rise - 0.75 * 99 / 20) < 0.1
    assert growing.describe().endswith("(≤ 1): GROWS")


def test_a_falling_series_does_not_grow() -> None:
    assert trend(9, 8, 7, 6, 5, 4).is_flat
