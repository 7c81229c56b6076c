"""How often the states of one unit are published: one that changes for ever must not keep the store busy."""

import asyncio
from collections.abc import Callable

from fleetd import metrics
from fleetd.model.unit import UnitState

BURST = 5  # changes of one unit that are published at once, before they are paced
PERIOD_S = 1.0  # one more each
_MANY = 128  # units that are remembered, before those are looked for that have been quiet since


class Pacing:
    """Decides for each change of a unit's state whether it is published now or later. `on_due` is called with the name
    of a unit whose newest state, whatever it is by then, is to be published. Needs a running event loop.

    Only what systemd does by itself is paced (a unit that restarts again and again): a change that carries out a wish,
    or ends a unit's stay here, is waited for by the leader.
    """

    def __init__(self, on_due: Callable[[str], None]) -> None:
        self._on_due = on_due
        self._paid_until_s: dict[str, float] = {}  # a unit may change at once while this is less than a burst ahead
        self._held: dict[str, asyncio.TimerHandle] = {}
        self._busy = 0  # how many were not quiet when that was looked at last

    def admits(self, name: str, before: UnitState | None, after: UnitState | None) -> bool:
        """Whether this change is to be published now; else it, or what it has become, is due later."""
        if before is None or after is None or _wish(before) != _wish(after):
            self.forget(name)
            return True
        if name in self._held:
            metrics.STATES_HELD_BACK.inc()
            return False
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if len(self._paid_until_s) > max(_MANY, 2 * self._busy):
            self._paid_until_s = {name: until_s for name, until_s in self._paid_until_s.items() if until_s > now_s}
            self._busy = len(self._paid_until_s)
        paid_until_s = max(self._paid_until_s.get(name, now_s), now_s) + PERIOD_S
        self._paid_until_s[name] = paid_until_s
        wait_s = paid_until_s - now_s - BURST * PERIOD_S
        if wait_s <= 0:
            return True
        metrics.STATES_HELD_BACK.inc()
        self._held[name] = loop.call_later(wait_s, self._come_due, name)
        return False

    def forget(self, name: str) -> None:
        """What the unit's state is now is published anyway: nothing is held back, and nothing counts against it."""
        self._paid_until_s.pop(name, None)
        if timer := self._held.pop(name, None):
            timer.cancel()

    def close(self) -> None:
        """Hold nothing back any more, and publish none of it."""
        for name in list(self._paid_until_s):
            self.forget(name)

    def _come_due(self, name: str) -> None:
        del self._held[name]
        self._on_due(name)


def _wish(state: UnitState) -> tuple[object, ...]:
    """What of a state says which wish was carried out, and with what end."""
    return state.generation, state.target, state.hash, state.completed, state.orphan
