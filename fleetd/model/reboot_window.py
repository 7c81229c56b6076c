"""When machines may begin to reboot: windows of the week, in UTC, as operators write them (reboot_window=)."""

import math
import re
from collections.abc import Iterable

import msgspec

from fleetd.model.timespan import parse_time_span

DAY_S = 86400.0
WEEK_S = 7 * DAY_S
_MONDAY_S = 4 * DAY_S  # Unix time begins on a Thursday: this is its first Monday
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WINDOW = re.compile(r"(?:([A-Za-z.,-]+)[ \t]+)?([0-9]{1,2}):([0-9]{2})[ \t]+(.+)", re.ASCII)
_EXAMPLE = "write one like Sat,Sun 02:00 4h (days, time in UTC, duration)"


class RebootWindow(msgspec.Struct, frozen=True):
    """A span of time that comes every week: it opens `opens_s` seconds after Monday 00:00 UTC, for `length_s`."""

    opens_s: float
    length_s: float


def parse_reboot_windows(text: str) -> tuple[RebootWindow, ...]:
    """Parse windows, separated by semicolons: days of the week (none: every day; `Mon..Fri` is a range), the time of
    day in UTC at which it opens, and for how long. None: always. Raises ValueError."""
    return tuple(window for part in text.split(";") if part.strip() for window in _parse_window(part.strip()))


def next_opening(windows: Iterable[RebootWindow], now_s: float) -> float:
    """The Unix time at which one of these windows is open: `now_s` if one is, or there is none at all."""
    return min((_next_opening(window, now_s) for window in windows), default=now_s)


def _next_opening(window: RebootWindow, now_s: float) -> float:
    since_s = (now_s - _MONDAY_S - window.opens_s) % WEEK_S  # it opened last
    return now_s if since_s < window.length_s else now_s - since_s + WEEK_S


def _parse_window(text: str) -> Iterable[RebootWindow]:
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no window: {_EXAMPLE}")
    hour, minute = int(found[2]), int(found[3])
    if hour > 23 or minute > 59:
        raise ValueError(f"{text!r} never opens: there is no time of day {found[2]}:{found[3]}")
    if re.fullmatch(r"[0-9.]+", found[4]):
        raise ValueError(f"{text!r} is no window: its duration needs a unit; write {found[4]}h for hours")
    try:
        length_s = parse_time_span(found[4])
    except ValueError as error:
        raise ValueError(f"{text!r} is no window: {error}") from None
    if length_s <= 0:
        raise ValueError(f"{text!r} never opens: its duration is zero")
    if length_s > WEEK_S or math.isinf(length_s):
        raise ValueError(f"{text!r} is longer than a week; leave the window empty for always")
    return [RebootWindow(day * DAY_S + hour * 3600.0 + minute * 60.0, length_s) for day in _parse_days(found[1])]


def _parse_days(text: str | None) -> list[int]:
    """The days of the week, Monday is 0, in order."""
    if text is None:
        return list(range(7))
    days = set()
    for part in text.split(","):
        first, *last = map(_parse_day, re.split(r"\.\.|-", part, maxsplit=1))
        days |= {(first + more) % 7 for more in range((last[0] - first) % 7 + 1 if last else 1)}
    return sorted(days)


def _parse_day(text: str) -> int:
    name = text.capitalize()
    if name not in _DAYS:
        raise ValueError(f"there is no day {text!r}; write {', '.join(_DAYS)}")
    return _DAYS.index(name)
