"""Spans and moments of time as people write and read them: spans as in systemd.time(7), moments in UTC.

Text ↔ numbers, nothing else: what time it is, nobody here knows.
"""

import math
import re

LONGEST_S = 10 * 365 * 24 * 3600.0
_UNITS = (
    (1e-9, "ns", "nsec"),
    (1e-6, "us", "usec", "µs", "μs"),
    (1e-3, "ms", "msec"),
    (1.0, "s", "sec", "second", "seconds"),
    (60.0, "m", "min", "minute", "minutes"),
    (3600.0, "h", "hr", "hour", "hours"),
    (86400.0, "d", "day", "days"),
    (7 * 86400.0, "w", "week", "weeks"),
    (30.44 * 86400.0, "M", "month", "months"),
    (365.25 * 86400.0, "y", "year", "years"),
)
_SECONDS = {word: seconds for seconds, *words in _UNITS for word in words} | {"": 1.0}
_PART = re.compile(r"[ \t]*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[ \t]*([A-Za-zµμ]*)[ \t]*")


def parse_time_span(text: str) -> float:
    """Seconds: numbers with units, as in `1h 30min`; a number alone is seconds; math.inf for `infinity`.

    Raises ValueError, which says what would do.
    """
    if text == "infinity":
        return math.inf
    seconds, end = 0.0, 0
    while part := _PART.match(text, end):
        if part[2] not in _SECONDS:
            raise ValueError(f"{text!r} is no time span: there is no unit {part[2]!r}; write us, ms, s, min, h, d or w")
        seconds += float(part[1]) * _SECONDS[part[2]]
        end = part.end()
    if end == 0 or end != len(text):
        raise ValueError(f"{text!r} is no time span; write one like 90s, 5min or 1h 30min")
    if seconds > LONGEST_S:
        raise ValueError(f"{text!r} is too long: at most ten years")
    return seconds


def render_moment(unix_s: float) -> str:
    """The date and time of day, to the second, of a moment in Unix time."""
    days, seconds = divmod(int(unix_s), 86400)
    # Years are counted from March, so that the day which not every year has is the last of one; and in the 400 years
    # after which the calendar repeats itself.
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    year += 400 * era + (month >= 10)
    month += 3 if month < 10 else -9
    clock = f"{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
    return f"{year:04}-{month:02}-{day + 1:02} {clock} UTC"
