"""Time spans in systemd's syntax, and times as text."""

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.timespan import parse_time_span, render_moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("5min", 300.0),
        ("5m", 300.0),
        ("1h 30min", 5400.0),
        ("1h30m", 5400.0),
        ("1.5 hours", 5400.0),
        (".5s", 0.5),
        (" 2 days ", 172_800.0),
        ("500ms", 0.5),
        ("3µs", 3e-6),
        ("1w 1d", 691_200.0),
        ("1M", 2_630_016.0),
        ("infinity", math.inf),
    ],
)
def test_a_span_is_read_as_systemd_reads_it(text: str, seconds: float) -> None:
    assert parse_time_span(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", " ", "min", "-5s", "5min,", "5s%i", "1:30", "infinity 5s", "\N{ARABIC-INDIC DIGIT FIVE}s"]
)
def test_an_invalid_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is no time span; write one like 90s"):
        parse_time_span(text)


def test_an_unknown_unit_of_time_is_reported() -> None:
    with pytest.raises(ValueError, match="there is no unit 'MIN'; write us, ms, s, min, h, d or w"):
        parse_time_span("5 MIN")


@pytest.mark.parametrize("text", ["11y", "9" * 400 + "s"])
def test_a_span_beyond_ten_years_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is too long: at most ten years"):
        parse_time_span(text)


@given(st.integers(0, 4_000_000_000))
def test_a_time_is_written_as_in_the_gregorian_calendar(unix_s: int) -> None:
    assert render_moment(unix_s) == time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def test_a_time_beyond_the_calendar_is_its_last() -> None:
    assert render_moment(1e300) == render_moment(math.inf) == "9999-12-31 23:59:59 UTC"
