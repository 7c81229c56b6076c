"""Whether the cluster may hold one unit more (model/quota.py), as far as one API can tell cheaply.

How many units there are, the store counts; how many bytes they have, the leader has written down whenever it changed.
Both are asked for at most once a second, and only while something is to grow; before something is refused, again. What
other APIs take in until the leader has counted it is not known here: the bounds are met roughly.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fleetd.api.http import ApiError
from fleetd.model.quota import Usage, measure_growth, refuse_growth, size_of_text
from fleetd.model.unit import Unit
from fleetd.registry.registry import Registry

FRESH_S = 1.0  # so long what was read of the usage is good enough
BOUNDLESS = Usage(2**63, 2**63)


class Quota:
    """What this API takes in, held against the bounds of the cluster. `now` is a clock in seconds."""

    def __init__(self, registry: Registry, allowed: Usage, now: Callable[[], float]) -> None:
        self._registry = registry
        self._allowed = allowed
        self._now = now
        self._used: Usage | None = None
        self._read_at_s = 0.0
        self._pending = Usage()  # what was found room for, and is not written yet
        self._counted_at = 0  # the revision at which the leader wrote down what it had counted
        self._uncounted_bytes = 0  # by which this API has changed that since

    @asynccontextmanager
    async def room_for(self, before: Unit | None, after: Unit | None) -> AsyncIterator[None]:
        """Within it, a unit is changed like this (None: there is none). Raises ApiError where there is no room."""
        growth = measure_growth(before.text if before else None, after.text if after else None)
        if self._allowed is not BOUNDLESS and growth != Usage():
            await self._find_room(growth)
        self._pending += growth
        try:
            yield
        finally:
            self._pending -= growth
        self._used = self._used + growth if self._used else None
        self._uncounted_bytes += size_of_text(after.text if after else None)
        self._uncounted_bytes -= size_of_text(before.text if before else None)

    async def _find_room(self, growth: Usage) -> None:
        used, is_fresh = self._used, self._now() - self._read_at_s <= FRESH_S
        if used is None or not is_fresh or refuse_growth(used + self._pending, growth, self._allowed):
            self._used = used = await self._read()
        if why := refuse_growth(used + self._pending, growth, self._allowed):
            raise ApiError(507, why)

    async def _read(self) -> Usage:
        units, counted, counted_at = await self._registry.usage()
        if counted_at != self._counted_at:
            self._counted_at, self._uncounted_bytes = counted_at, 0
        self._read_at_s = self._now()
        return Usage(units, max(0, counted.text_bytes + self._uncounted_bytes))
