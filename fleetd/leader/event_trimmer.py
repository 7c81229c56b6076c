"""Drops old cluster events: what is older than seven days, or more than 64 MiB."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from fleetd.model.event import StoredRecord, pick_outdated
from fleetd.registry.records import EVENTS
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Comparison, Delete, StoreError

log = logging.getLogger(__name__)

DELAY_S = 5.0  # what is being done comes first
PERIOD_S = 3600.0
BUSY_S = 1.0  # until the next pass if there may be more to drop
MOST = 100  # records a pass: one transaction


class EventTrimmer:
    """Trims during one term: after a write of the leader, but at most once in PERIOD_S, so at rest nothing is read.
    `guards` are the comparisons that hold while the term lasts."""

    def __init__(
        self,
        registry: Registry,
        guards: Sequence[Comparison],
        unix_now: Callable[[], float],
    ) -> None:
        self._store = registry.store
        self._prefix = registry.archive.key(EVENTS) + "/"
        self._guards = guards
        self._unix_now = unix_now
        self._written = asyncio.Event()

    def note_write(self) -> None:
        """Note that the leader has written something."""
        self._written.set()

    async def run(self) -> None:
        """Trim until this is cancelled."""
        while True:
            self._written.clear()
            await self._written.wait()
            await asyncio.sleep(DELAY_S)
            try:
                while await self.trim() == MOST:  # noqa: ASYNC110 (each pass is a transaction of its own)
                    await asyncio.sleep(BUSY_S)
            except StoreError as error:
                log.info("cannot drop old events; trying again later: %s", error)
            await asyncio.sleep(PERIOD_S)

    async def trim(self) -> int:
        """Drop up to MOST records; returns how many. Raises what the store raises."""
        found = (await self._store.range(self._prefix, limit=MOST)).items
        oldest = [StoredRecord(each.key.removeprefix(self._prefix), len(each.key) + len(each.value)) for each in found]
        total = sum(record.size for record in oldest)
        if len(oldest) == MOST:  # the size of all is estimated by that of the oldest
            total = total * (await self._store.digest(self._prefix)).count // MOST
        outdated = pick_outdated(oldest, total, self._unix_now())
        if outdated:
            await self._store.transact(self._guards, [Delete(self._prefix + name) for name in outdated])
            log.info("%d records of old events dropped", len(outdated))
        return len(outdated)
