"""Why units failed, asked of systemd once for each failure. Runs beside the agent's passes: journals can be slow."""

import asyncio
import logging
from collections.abc import Callable

from fleetd.systemd.protocol import ServiceManager, ServiceManagerError

log = logging.getLogger(__name__)

MAX_CONCURRENT = 4  # each may be a process that reads the journal
MAX_DELAY_S = 1.0  # how long a unit's report waits for its explanation
NO_REASON = "systemd gives no reason"


class Diagnostics:
    """Explanations by unit. `on_ready` is called with a unit's name when its explanation is there, or late."""

    def __init__(self, systemd: ServiceManager, on_ready: Callable[[str], None]) -> None:
        self._systemd = systemd
        self._on_ready = on_ready
        self._texts: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    def text(self, name: str) -> str:
        """Return why the unit failed; '' if it did not, or if that is not known yet."""
        return self._texts.get(name, "")

    def is_pending(self, name: str) -> bool:
        """True while the unit's report should wait for its explanation: at most MAX_DELAY_S after the failure."""
        return name in self._waiting

    def update(self, name: str, *, has_failed: bool) -> None:
        """Ask why the unit failed, once for each failure; forget the answer when it has not failed any more."""
        if not has_failed:
            self.forget(name)
        elif name not in self._texts and name not in self._asking:
            self._asking[name] = asyncio.create_task(self._ask(name))
            late = asyncio.get_running_loop().call_later(MAX_DELAY_S, self._stop_waiting, name)
            self._waiting[name] = late

    def forget(self, name: str) -> None:
        """The unit is started again, or gone: its next failure needs a new explanation."""
        self._texts.pop(name, None)
        if timer := self._waiting.pop(name, None):
            timer.cancel()
        if task := self._asking.pop(name, None):
            task.cancel()

    async def close(self) -> None:
        """Cancel all questions."""
        tasks = list(self._asking.values())
        for name in list(self._asking):
            self.forget(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str) -> None:
        async with self._slots:
            try:
                text = await self._systemd.explain(name)
            except (ServiceManagerError, OSError) as error:
                log.warning("%s failed; cannot find out why from systemd: %s", name, error)
                text = ""
        del self._asking[name]
        if timer := self._waiting.pop(name, None):
            timer.cancel()
        self._texts[name] = text or NO_REASON
        self._on_ready(name)

    def _stop_waiting(self, name: str) -> None:
        del self._waiting[name]
        self._on_ready(name)
