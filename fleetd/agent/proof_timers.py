"""Timers for the units of which it is asked whether they are healthy: one each, for when time alone changes that."""

import asyncio
from collections.abc import Callable


class ProofTimers:
    """`on_due` is called with a unit's name at the time that was set for it. Needs a running event loop."""

    def __init__(self, on_due: Callable[[str], None]) -> None:
        self._on_due = on_due
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def set(self, name: str, at_s: float | None) -> None:
        """Set the time of the unit, on the loop's clock; None for none. It replaces the one that was set."""
        if timer := self._timers.pop(name, None):
            timer.cancel()
        if at_s is not None:
            self._timers[name] = asyncio.get_running_loop().call_at(at_s, self._come_due, name)

    def close(self) -> None:
        """Cancel all."""
        for name in list(self._timers):
            self.set(name, None)

    def _come_due(self, name: str) -> None:
        del self._timers[name]
        self._on_due(name)
