"""A prober whose checks end as a test or a simulation says, without any connection or program."""

import asyncio
from collections.abc import Callable

from fleetd.model.announce_options import Check

ANSWER_S = 0.002


class ScriptedProber:
    """`find_failure` says why a check fails now, '' if it passes, None if it hangs. By default `failures` holds that by
    check, as it is written; any other passes. `asked` are the checks so far. `podman` says of a unit whose container is
    followed why it is not well, '' if it is; `tell` says it again."""

    def __init__(self, find_failure: Callable[[Check], str | None] | None = None) -> None:
        self.failures: dict[str, str | None] = {}
        self.asked: list[str] = []
        self._find = find_failure or (lambda check: self.failures.get(str(check), ""))
        self.podman: dict[str, str] = {}
        self.followed: dict[str, Callable[[str], None]] = {}
        self._timers: dict[asyncio.TimerHandle, None] = {}

    def begin(self, check: Check, address: str, timeout_s: float, done: Callable[[str], None]) -> None:
        """Begin a check (Prober)."""
        self.asked.append(str(check))
        del self.asked[:-1000]

        def end(failure: str) -> None:
            del self._timers[timer]
            done(failure)

        failure = self._find(check)
        delay_s = timeout_s if failure is None else min(ANSWER_S, timeout_s)
        words = f"no answer within {timeout_s:g} s" if failure is None else failure
        timer = asyncio.get_running_loop().call_later(delay_s, end, words)
        self._timers[timer] = None

    def follow(self, unit: str, on_result: Callable[[str], None]) -> None:
        """Follow a container (Prober)."""
        self.followed[unit] = on_result
        asyncio.get_running_loop().call_soon(self.tell, unit)

    def unfollow(self, unit: str) -> None:
        """Follow it not any more (Prober)."""
        self.followed.pop(unit, None)

    def tell(self, unit: str) -> None:
        """Have podman check the container of a unit, if it is followed."""
        if on_result := self.followed.get(unit):
            on_result(self.podman.get(unit, ""))

    def close(self) -> None:
        """End the checks that are under way (Prober)."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.followed.clear()
