"""Units whose last action failed: why, and when it may be tried again."""

import asyncio
from collections.abc import Callable, Collection

import msgspec

from fleetd.aio import Backoff

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class _Failure(msgspec.Struct):
    error: str
    job_result: str
    backoff: Backoff
    timer: asyncio.TimerHandle | None


class UnitRetries:
    """The last failure of each unit. `on_due` is called with a unit's name when its action may be tried again: after
    1 s, then after twice as long each time, up to 60 s. Needs a running event loop."""

    def __init__(self, on_due: Callable[[str], None]) -> None:
        self._on_due = on_due
        self._failures: dict[str, _Failure] = {}

    def record(self, name: str, error: str, job_result: str = "") -> None:
        """An action for this unit failed; `job_result` is systemd's result of its job, if there was one."""
        before = self._failures.get(name)
        backoff = before.backoff if before else Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self.forget(name)
        timer = asyncio.get_running_loop().call_later(backoff.next_s(), self._come_due, name)
        self._failures[name] = _Failure(error, job_result, backoff, timer)

    def is_waiting(self, name: str) -> bool:
        """True while it is too early to try again."""
        failure = self._failures.get(name)
        return failure is not None and failure.timer is not None

    def error(self, name: str) -> str:
        """Return why the unit's last action failed, or ''."""
        failure = self._failures.get(name)
        return failure.error if failure else ""

    def job_result(self, name: str) -> str:
        """Return the result of the unit's last job if that failed before the unit began to start, or ''."""
        failure = self._failures.get(name)
        return failure.job_result if failure else ""

    def retry_failed_jobs(self, except_for: Collection[str]) -> None:
        """Retry failed jobs at once, except for these units: new unit files may be what they lacked."""
        for name, failure in list(self._failures.items()):
            if failure.job_result and failure.timer and name not in except_for:
                failure.timer.cancel()
                self._come_due(name)

    def forget(self, name: str) -> None:
        """Clear the unit's failure."""
        failure = self._failures.pop(name, None)
        if failure and failure.timer:
            failure.timer.cancel()

    def close(self) -> None:
        """Cancel all retries."""
        for name in list(self._failures):
            self.forget(name)

    def _come_due(self, name: str) -> None:
        self._failures[name].timer = None
        self._on_due(name)
