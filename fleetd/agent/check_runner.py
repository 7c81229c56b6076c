"""When which check is due: each unit's own, at its interval, from one timer for all of them. Containers are followed
instead."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from functools import partial

from fleetd.agent.prober import Prober
from fleetd.model.announce_options import CONTAINER, AnnounceOptions

GRID_S = 0.1  # checks that are due within this time of each other begin together: fewer wake-ups
FIRST_INTERVAL_S = 1.0  # at most, until a check passes for the first time: somebody waits for that


class _Series:
    """The checks of one unit. `is_first` until one has passed."""

    __slots__ = ("is_first", "is_running", "options")

    def __init__(self, options: AnnounceOptions) -> None:
        self.options = options
        self.is_first = True
        self.is_running = False


class CheckRunner:
    """Has the checks of units made. `on_result` is called with a unit and why its check failed, '' if it passed;
    `address` returns where this machine is reached. Needs a running event loop."""

    def __init__(self, prober: Prober, address: Callable[[], str], on_result: Callable[[str, str], None]) -> None:
        self._prober = prober
        self._address = address
        self._on_result = on_result
        self._series: dict[str, _Series] = {}
        self._followed: dict[str, None] = {}
        self._due: list[tuple[float, int, str, _Series]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    def set(self, unit: str, options: AnnounceOptions | None) -> None:
        """Check this unit as these options say, the first time at once; None: not any more."""
        self._follow(unit, options is not None and options.check is not None and options.check.kind == CONTAINER)
        series = self._series.get(unit)
        if unit in self._followed or options is None or options.check is None:
            self._series.pop(unit, None)
        elif series is None:
            self._series[unit] = series = _Series(options)
            self._plan(unit, series, asyncio.get_running_loop().time())
        else:
            series.options = options

    def _follow(self, unit: str, is_wanted: bool) -> None:
        if is_wanted and unit not in self._followed:
            self._followed[unit] = None
            self._prober.follow(unit, partial(self._on_result, unit))
        elif not is_wanted and unit in self._followed:
            del self._followed[unit]
            self._prober.unfollow(unit)

    def close(self) -> None:
        """Check nothing any more."""
        self._followed.clear()
        self._series.clear()
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._prober.close()

    def _plan(self, unit: str, series: _Series, due_s: float) -> None:
        heapq.heappush(self._due, (due_s, next(self._order), unit, series))
        if self._timer is None or due_s < self._timer_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_s = due_s
            self._timer = asyncio.get_running_loop().call_at(due_s, self._begin_due)

    def _begin_due(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        due: list[tuple[str, _Series]] = []
        while self._due and self._due[0][0] <= now_s + GRID_S:
            _, _, unit, series = heapq.heappop(self._due)
            if self._series.get(unit) is series:
                due.append((unit, series))
        for unit, series in due:
            interval_s = series.options.interval_s
            if series.is_first:
                interval_s = min(interval_s, FIRST_INTERVAL_S)
            self._plan(unit, series, now_s + interval_s)
            if not series.is_running:
                self._begin(unit, series)
        if self._timer is None and self._due:
            self._timer_s = self._due[0][0]
            self._timer = asyncio.get_running_loop().call_at(self._timer_s, self._begin_due)

    def _begin(self, unit: str, series: _Series) -> None:
        def end(failure: str) -> None:
            series.is_running = False
            if self._series.get(unit) is series:
                series.is_first = series.is_first and failure != ""
                self._on_result(unit, failure)

        series.is_running = True
        check = series.options.check
        assert check is not None
        self._prober.begin(check, self._address(), series.options.timeout_s, end)
