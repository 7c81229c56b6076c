"""Why units failed, asked of systemd once a failure and beside the agent's passes: journals can be slow."""

import asyncio
import logging
from collections.abc import Callable

from fleetd.systemd.protocol import ServiceManager, ServiceManagerError

AT_ONCE = 4  # each may be a process that reads the journal
PATIENCE_S = 1.0  # how long a report may wait for its explanation
NO_REASON = "systemd gives no reason"


class Explanations:
    """Explanations by unit. `on_known` is called with a unit's name when its explanation is there, or late."""

    def __init__(self, systemd: ServiceManager, on_known: Callable[[str], None], logger: logging.Logger) -> None:
        self._systemd = systemd
        self._on_known = on_known
        self._log = logger
        self._texts: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._patience: dict[str, asyncio.TimerHandle] = {}
        self._turn = asyncio.Semaphore(AT_ONCE)

    def text(self, name: str) -> str:
        """Why the unit failed, '' while that is not known or if it did not."""
        return self._texts.get(name, "")

    def is_awaited(self, name: str) -> bool:
        """Whether the unit's explanation was asked for, and should be there at any moment."""
        return name in self._patience

    def look_at(self, name: str, *, has_failed: bool) -> None:
        """Ask why the unit failed, unless that was done; if it has not failed, forget why it once did."""
        if not has_failed:
            self.forget(name)
        elif name not in self._texts and name not in self._asking:
            self._asking[name] = asyncio.create_task(self._ask(name))
            late = asyncio.get_running_loop().call_later(PATIENCE_S, self._lose_patience, name)
            self._patience[name] = late

    def forget(self, name: str) -> None:
        """The unit is started anew, or gone: its next failure is another one."""
        self._texts.pop(name, None)
        if timer := self._patience.pop(name, None):
            timer.cancel()
        if task := self._asking.pop(name, None):
            task.cancel()

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._asking.values())
        for name in list(self._asking):
            self.forget(name)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str) -> None:
        async with self._turn:
            try:
                text = await self._systemd.explain(name)
            except (ServiceManagerError, OSError) as error:
                self._log.warning("%s failed, and systemd does not say why: %s", name, error)
                text = ""
        del self._asking[name]
        if timer := self._patience.pop(name, None):
            timer.cancel()
        self._texts[name] = text or NO_REASON
        self._on_known(name)

    def _lose_patience(self, name: str) -> None:
        del self._patience[name]
        self._on_known(name)
