"""Whether the members of the store are healthy: asked only while a machine that hosts one of them is next to reboot."""

import asyncio
import logging
from collections.abc import Callable

from fleetd.scheduler.reboot_policy import StoreHealth
from fleetd.store.protocol import Store, StoreError

log = logging.getLogger(__name__)


class StoreHealthCheck:
    """Asks the store, once at a time. `latest` is the last answer; None: it was not asked, or did not answer."""

    def __init__(self, store: Store, now: Callable[[], float], done: Callable[[], None]) -> None:
        """`now` is the leader's clock; `done` is called when there is an answer."""
        self.latest: StoreHealth | None = None
        self._store = store
        self._now = now
        self._done = done
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Ask, unless that is being done. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._ask())

    def stop(self) -> None:
        """Wait for no answer any longer."""
        if self._task is not None:
            self._task.cancel()

    async def _ask(self) -> None:
        try:
            asked_s = self._now()
            members = [member for member in await self._store.members() if member.has_vote]
            healthy = await asyncio.gather(*map(self._store.is_healthy, members))
            unhealthy = [member for member, is_healthy in zip(members, healthy, strict=True) if not is_healthy]
            if unhealthy:
                names = ", ".join(member.name or member.id for member in unhealthy)
                log.info("the machines of the store's other members do not reboot: %s does not answer", names)
            self.latest = StoreHealth(asked_s, tuple(member.id for member in unhealthy))
            self._done()
        except StoreError as error:
            log.info("cannot ask for the members of the store: %s", error)
        finally:
            self._task = None
