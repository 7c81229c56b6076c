"""Helpers for asyncio loops: first_of, Backoff, Pace (a rate limit for work that is done in batches), Offload, and
paused_collector."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")

AHEAD_S = 0.5  # Pace lets a burst through until it is this far ahead of its rate
REST = 2  # Pace rests this many times as long as the last batch took, for at most its `longest_rest_s`


class Offload(Protocol):
    """Runs a blocking function outside of the event loop (asyncio.to_thread), or inline in tests."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


async def first_of(*coroutines: Coroutine[object, object, object]) -> None:
    """Run the coroutines concurrently until the first one ends, then cancel the others and wait for them.

    Raises the exception of the one that ended; if several ended together, that of the first in the order given.
    """
    # Not a TaskGroup: one that fails while it is being cancelled forgets that it was cancelled.
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done() and not task.cancelled()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


class Backoff:
    """Delays between retries: `first_s`, then doubled after each failure up to `longest_s`."""

    __slots__ = ("_delay_s", "_first_s", "_longest_s")

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = self._delay_s = first_s
        self._longest_s = longest_s

    @property
    def is_first(self) -> bool:
        """True until the first failure since the last success, the one worth a log line."""
        return self._delay_s == self._first_s

    def next_s(self) -> float:
        """Return how long to wait now, and lengthen the next delay."""
        delay_s = self._delay_s
        self._delay_s = min(2 * delay_s, self._longest_s)
        return delay_s

    def reset(self) -> None:
        """Start again at the first delay: the last try succeeded."""
        self._delay_s = self._first_s


class Pace:
    """Rate limit for a loop that handles in one batch whatever has gathered since the last one.

    A batch costs a transaction, a look at systemd or a plan, however much it holds, so fewer batches finish a burst
    sooner. A single change is handled at once; in a burst, batches run every `period_s` once the loop is AHEAD_S ahead
    of that rate. After a slow batch the loop rests longer, which leaves the CPU to the producers of the changes.
    Needs a running event loop.
    """

    def __init__(self, period_s: float, longest_rest_s: float) -> None:
        self._period_s = period_s
        self._longest_rest_s = longest_rest_s
        self._paid_until_s = 0.0  # loop time up to which the batches so far have used up the rate
        self._began_s = 0.0

    async def wait(self) -> None:
        """Wait until the next batch may begin."""
        clock = asyncio.get_running_loop().time
        now_s = clock()
        wait_s = self._paid_until_s - AHEAD_S - now_s
        self._paid_until_s = max(self._paid_until_s, now_s) + self._period_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._began_s = clock()

    def done(self) -> None:
        """Call when the batch is finished: a slow one delays the next."""
        took_s = asyncio.get_running_loop().time() - self._began_s
        self._paid_until_s += max(0.0, took_s + min(REST * took_s, self._longest_rest_s) - self._period_s)


_pauses = 0  # of the collector, that have begun and not ended


@contextmanager
def paused_collector() -> Iterator[None]:
    """Have Python's collector of cyclic garbage rest meanwhile: it goes through all objects again and again while many
    are made, which takes a quarter of the time. To be used from the event loop, for seconds."""
    global _pauses
    _pauses += 1
    gc.disable()
    try:
        yield
    finally:
        _pauses -= 1
        if not _pauses:
            gc.enable()
