"""Windows in which machines may begin to reboot."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetd.model.reboot_window import next_opening, parse_reboot_windows


def unix(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


# 2026-11-27 is a Friday.
@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        ("", "2026-11-27 12:00", "2026-11-27 12:00"),
        ("Sat,Sun 02:00 4h", "2026-11-27 12:00", "2026-11-28 02:00"),
        ("Sat,Sun 02:00 4h", "2026-11-28 02:00", "2026-11-28 02:00"),
        ("Sat,Sun 02:00 4h", "2026-11-28 05:59:59", "2026-11-28 05:59:59"),
        ("Sat,Sun 02:00 4h", "2026-11-28 06:00", "2026-11-29 02:00"),
        ("Sat,Sun 02:00 4h", "2026-11-29 06:00", "2026-12-05 02:00"),
        ("02:00 4h", "2026-11-27 01:59", "2026-11-27 02:00"),
        ("02:00 4h", "2026-11-27 06:00", "2026-11-28 02:00"),
        ("Sun 23:00 2h", "2026-11-30 00:30", "2026-11-30 00:30"),  # into Monday
        ("Sun 23:00 2h", "2026-11-30 01:00", "2026-12-06 23:00"),
        ("Mon..Fri 22:30 30min", "2026-11-27 23:00", "2026-11-30 22:30"),
        ("Mon-Fri 22:30 30min", "2026-11-27 22:00", "2026-11-27 22:30"),
        ("Fri..Mon 03:00 1h", "2026-11-27 04:00", "2026-11-28 03:00"),
        ("Fri..Mon 03:00 1h", "2026-11-30 04:00", "2026-12-04 03:00"),
        ("sat 2:00 1h 30min; Wed 12:00 1h", "2026-11-28 03:30", "2026-12-02 12:00"),
        ("00:00 7d", "2026-11-27 12:00", "2026-11-27 12:00"),
        ("Sat,Sun 02:00 4h;", "2026-12-31 12:00", "2027-01-02 02:00"),
    ],
)
def test_a_window_opens_on_its_days(windows, now, opens):
    assert next_opening(parse_reboot_windows(windows), unix(now)) == unix(opens)


@pytest.mark.covers("B.12")
@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ("Sat", "is no window: write one like Sat,Sun 02:00 4h"),
        ("02:00", "is no window: write one like"),
        ("Sat 02:00", "is no window: write one like"),
        ("Sat 02:00 4", "its duration needs a unit; write 4h for hours"),
        ("Sat 02:00 fortnight", "is no window: 'fortnight' is no time span"),
        ("Sat 24:00 1h", "never opens: there is no time of day 24:00"),
        ("Sat 02:60 1h", "never opens: there is no time of day 02:60"),
        ("Sat 02:00 0s", "never opens: its duration is zero"),
        ("Sat 02:00 8d", "is longer than a week"),
        ("Sat 02:00 infinity", "is longer than a week"),
        ("Sam 02:00 4h", "there is no day 'Sam'; write Mon, Tue"),
        ("Sat, Sun 02:00 4h", "is no window"),
        ("Sat,,Sun 02:00 4h", "there is no day ''"),
        ("Mon.. 02:00 4h", "there is no day ''"),
        ("Sat 02:00 4h; never", "'never' is no window"),
    ],
)
def test_a_window_that_never_opens_is_refused(windows, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_reboot_windows(windows)


@given(
    days=st.sets(st.integers(0, 6), min_size=1),
    minute=st.integers(0, 24 * 60 - 1),
    length=st.integers(1, 7 * 24 * 60),
    now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
)
def test_a_window_is_open_when_it_began_on_one_of_its_days(days, minute, length, now):
    names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    text = f"{','.join(names[day] for day in sorted(days))} {minute // 60:02}:{minute % 60:02} {length}min"
    now = now.replace(microsecond=0, tzinfo=UTC)
    opens = datetime.fromtimestamp(next_opening(parse_reboot_windows(text), now.timestamp()), UTC)

    def is_open(at):
        midnight = at.replace(hour=0, minute=0, second=0)
        starts = (midnight + timedelta(days=-back, minutes=minute) for back in range(8))
        return any(start.weekday() in days and start <= at < start + timedelta(minutes=length) for start in starts)

    assert opens >= now
    assert is_open(opens)
    assert opens == now or not is_open(now)
    assert opens == now or not is_open(opens - timedelta(seconds=1))
