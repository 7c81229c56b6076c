"""Which units a step has failed for, why, and when it is to be tried again."""

import asyncio
from collections.abc import Callable, Collection

import msgspec

from fleetd.aio import Backoff

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class _Failure(msgspec.Struct):
    error: str
    result: str
    backoff: Backoff
    timer: asyncio.TimerHandle | None


class Retries:
    """Failures by unit. `on_due` is called with a unit's name when its step may be tried again: after 1 s, then after
    twice as long each time, up to 60 s. Needs a running event loop."""

    def __init__(self, on_due: Callable[[str], None]) -> None:
        self._on_due = on_due
        self._failures: dict[str, _Failure] = {}

    def note(self, name: str, error: str, result: str = "") -> None:
        """A step for this unit has failed; `result` is systemd's word for how its job ended, if one did."""
        before = self._failures.get(name)
        backoff = before.backoff if before else Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self.forget(name)
        timer = asyncio.get_running_loop().call_later(backoff.next_s(), self._come_due, name)
        self._failures[name] = _Failure(error, result, backoff, timer)

    def is_waiting(self, name: str) -> bool:
        """Whether it is too early to try again."""
        failure = self._failures.get(name)
        return failure is not None and failure.timer is not None

    def error(self, name: str) -> str:
        """Why the last step for this unit failed, or ''."""
        failure = self._failures.get(name)
        return failure.error if failure else ""

    def result(self, name: str) -> str:
        """How the last job for this unit ended that failed before it began, or ''."""
        failure = self._failures.get(name)
        return failure.result if failure else ""

    def hasten(self, besides: Collection[str]) -> None:
        """What may have failed for want of other units is tried again at once: there are new ones, `besides` the units
        of which this is known."""
        for name, failure in list(self._failures.items()):
            if failure.result and failure.timer and name not in besides:
                failure.timer.cancel()
                self._come_due(name)

    def forget(self, name: str) -> None:
        """The unit has no failed step any more."""
        failure = self._failures.pop(name, None)
        if failure and failure.timer:
            failure.timer.cancel()

    def close(self) -> None:
        """Try nothing again."""
        for name in list(self._failures):
            self.forget(name)

    def _come_due(self, name: str) -> None:
        self._failures[name].timer = None
        self._on_due(name)
