"""Bounds how many locks a cluster holds, and one user of it (model/lock.py).

They are counted at most once a second, and only when somebody takes a lock that nobody has; who has them is read only
when a user may have come to their share. What other machines' APIs give meanwhile is not seen: the limits hold roughly.
"""

from collections import Counter
from collections.abc import Callable

from fleetd.api.http import ApiError
from fleetd.api.lock_view import read_all
from fleetd.api.locking import Locking
from fleetd.model.lock import SHARE_OF_LOCKS, refuse_another_lock
from fleetd.registry.registry import Registry

FRESH_S = 1.0  # for how long a number is current
TOO_MANY = 429


class LockQuota:
    """Admits those who want a lock that nobody has. `now` is a clock in seconds."""

    def __init__(self, registry: Registry, locking: Locking, now: Callable[[], float]) -> None:
        self._registry = registry
        self._locking = locking
        self._now = now
        self._held = 0
        self._held_by: Counter[str] = Counter()
        self._fresh_until = 0.0

    async def admit(self, name: str, by: str) -> None:
        """Count this user's lock of this name, if nobody has it. Raises ApiError if there are too many already."""
        if self._now() >= self._fresh_until:
            await self._count()
        if why := refuse_another_lock(self._held, self._held_by[by]):
            if await self._registry.store.get(self._registry.lock_records_prefix + name) is None:
                raise ApiError(TOO_MANY, why)
            return
        self._held += 1
        self._held_by[by] += 1

    async def _count(self) -> None:
        store, prefix = self._registry.store, self._registry.lock_records_prefix
        self._held = (await store.digest(prefix)).count
        self._held_by.clear()
        self._fresh_until = self._now() + FRESH_S
        if self._held < SHARE_OF_LOCKS:
            return
        self._held = 0
        for name, lock in (await read_all(self._registry)).items():
            holders = (await self._locking.clear(name, lock)).holders
            self._held += bool(holders)
            self._held_by.update({holder.by for holder in holders})
