"""Time spans as in systemd.time(7), and moments in UTC: text to numbers and back."""

import math
import re
from datetime import datetime, timedelta

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
_EPOCH = datetime(1970, 1, 1)
_LAST_S = (datetime.max - _EPOCH) // timedelta(seconds=1)
_PART = re.compile(r"[ \t]*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[ \t]*([A-Za-zµμ]*)[ \t]*")


def parse_time_span(text: str) -> float:
    """Return seconds for numbers with units, as in `1h 30min`; a number alone is seconds, `infinity` is math.inf.

    Raises ValueError, whose message shows a valid time span.
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
    """Return date and time of day of a Unix time, to the second, in UTC; the last of the calendar for any later one."""
    return f"{_EPOCH + timedelta(seconds=int(min(unix_s, _LAST_S))):%Y-%m-%d %H:%M:%S} UTC"
