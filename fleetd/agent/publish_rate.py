"""Limits how often one unit's state is published: a unit that restarts for ever must not keep the store busy."""

import asyncio
from collections.abc import Callable

from fleetd import metrics
from fleetd.model.unit import UnitState

BURST = 5  # changes of one unit that are published at once
PERIOD_S = 1.0  # after a burst, one change each
_MANY = 128  # units remembered before quiet ones are dropped


class PublishRate:
    """A token bucket for each unit. `on_due` is called with a unit's name when a state that was held back is due; the
    newest one is then to be published. Needs a running event loop.

    Only what systemd does by itself is limited (Restart=). A change that reports an operation as done, or a unit as
    gone, passes at once: the leader waits for it.
    """

    def __init__(self, on_due: Callable[[str], None]) -> None:
        self._on_due = on_due
        self._paid_until_s: dict[str, float] = {}  # unit → loop time up to which it has used up its rate
        self._held: dict[str, asyncio.TimerHandle] = {}
        self._busy = 0  # units that were not quiet at the last clean-up

    def admits(self, name: str, before: UnitState | None, after: UnitState | None) -> bool:
        """True if this change may be published now; otherwise `on_due` follows."""
        if before is None or after is None or _progress(before) != _progress(after):
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
        """Reset the unit: hold nothing back, and let it use a whole burst again."""
        self._paid_until_s.pop(name, None)
        if timer := self._held.pop(name, None):
            timer.cancel()

    def close(self) -> None:
        """Drop all that is held back, unpublished."""
        for name in list(self._paid_until_s):
            self.forget(name)

    def _come_due(self, name: str) -> None:
        del self._held[name]
        self._on_due(name)


def _progress(state: UnitState) -> tuple[object, ...]:
    """The part of a state that says which operation was carried out, and how it ended."""
    return state.generation, state.target, state.hash, state.completed, state.orphan
