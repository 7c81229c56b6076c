"""What operators have set for this machine, where something here depends on it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from fleetd.aio import Backoff, first_of
from fleetd.model.machine import MachineSettings
from fleetd.registry.records import SETTINGS, MalformedRecord
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Compacted, KeyValue, Unavailable

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 8.0


class OwnSettings:
    """Follows `settings/<machine>`. `current` is None if there is nothing set, or nothing was read yet; `on_change` is
    called when it is another."""

    def __init__(self, registry: Registry, machine_id: str, on_change: Callable[[], None]) -> None:
        self._registry = registry
        self._key = registry.key(SETTINGS, machine_id)
        self._on_change = on_change
        self._is_outdated = asyncio.Event()
        self.is_read = asyncio.Event()
        self.current: MachineSettings | None = None

    def read_again(self) -> None:
        """The store was restored."""
        self._is_outdated.set()

    async def run(self) -> None:
        """Read, then follow, until cancelled. Retries while the store is unavailable."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while True:
            self._is_outdated.clear()
            try:
                found = await self._registry.store.get_many([self._key])
                backoff.reset()
                self._take(found.items[0] if found.items else None)
                self.is_read.set()
                await first_of(self._watch(found.revision), self._is_outdated.wait())
            except Compacted as error:
                log.debug("reading the settings of this machine again: %s", error)
            except Unavailable as error:
                log.debug("cannot read the settings of this machine, retrying: %s", error)
                await asyncio.sleep(backoff.next_s())

    async def _watch(self, revision: int) -> None:
        async with aclosing(self._registry.store.watch(self._key, revision)) as batches:
            async for changes in batches:
                for event in changes.events:
                    if event.key == self._key:
                        self._take(event.item)

    def _take(self, item: KeyValue | None) -> None:
        try:
            settings = SETTINGS.decode(item) if item else None
        except MalformedRecord as error:
            log.warning("what was set for this machine cannot be read, and stays as it was: %s", error)
            return
        if settings != self.current:
            self.current = settings
            self._on_change()
