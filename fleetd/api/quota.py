"""Enforces max_units and max_units_bytes (model/quota.py) on what this API lets in.

The store counts the units, the leader records their bytes. Both are read at most once a second, only while something
grows, and again before a refusal. What other machines' APIs let in meanwhile is not seen: the limits hold roughly.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fleetd.api.http import ApiError
from fleetd.config.cluster_settings import allowed_usage
from fleetd.model.quota import Usage, measure_growth, refuse_growth, size_of
from fleetd.model.unit import Unit
from fleetd.registry.registry import Registry

FRESH_S = 1.0  # for how long a usage that was read is current
UNLIMITED = Usage(2**63, 2**63)


class Quota:
    """Admission of units by the cluster's limits: its settings, else `allowed`, which fleet.conf has. `now` is a clock
    in seconds."""

    def __init__(self, registry: Registry, allowed: Usage, now: Callable[[], float]) -> None:
        self._registry = registry
        self._configured = self._allowed = allowed
        self._now = now
        self._used: Usage | None = None
        self._read_at_s = 0.0
        self._pending = Usage()  # admitted and not written yet
        self._counted_at = 0  # revision of the leader's record
        self._uncounted_bytes = 0  # changed by this API since that record

    @asynccontextmanager
    async def admit(self, before: Unit | None, after: Unit | None) -> AsyncIterator[None]:
        """Holds room for this change of a unit (None: it does not exist) while it is written. Raises ApiError."""
        growth = measure_growth(before.content if before else None, after.content if after else None)
        if self._configured is not UNLIMITED and growth != Usage():
            await self._find_room(growth)
        self._pending += growth
        try:
            yield
        finally:
            self._pending -= growth
        self._used = self._used + growth if self._used else None
        self._uncounted_bytes += size_of(after.content if after else None)
        self._uncounted_bytes -= size_of(before.content if before else None)

    async def _find_room(self, growth: Usage) -> None:
        used, is_fresh = self._used, self._now() - self._read_at_s <= FRESH_S
        if used is None or not is_fresh or refuse_growth(used + self._pending, growth, self._allowed):
            self._used = used = await self._read()
        if why := refuse_growth(used + self._pending, growth, self._allowed):
            raise ApiError(507, why)

    async def _read(self) -> Usage:
        settings = await self._registry.cluster_settings()
        units, counted, counted_at = await self._registry.usage()
        self._allowed = allowed_usage(settings, self._configured)
        if counted_at != self._counted_at:
            self._counted_at, self._uncounted_bytes = counted_at, 0
        self._read_at_s = self._now()
        return Usage(units, max(0, counted.text_bytes + self._uncounted_bytes))
