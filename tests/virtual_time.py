"""Hours in milliseconds: an event loop whose clock jumps to the next timer whenever nothing else is left to do.

Code that takes its time from the loop (asyncio.sleep, asyncio.timeout, loop.time) runs unchanged. Real sockets and
threads do not belong in it: their answers take real time, and the clock would run away from them.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

START_S = 1000.0  # a clock that starts at zero hides mistakes


class Stuck(Exception):
    """Everything waits for something that nothing will ever do."""


class _Selector(selectors.SelectSelector):
    """Instead of waiting for a time, lets it pass."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S
        self.before_time_passes: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0) if timeout is None else []  # no thread and no socket has anything to say
        if not ready:
            if timeout is None:
                raise Stuck("no timer is set and nothing is ready")
            if timeout > 0:
                self.before_time_passes()
                self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock, in seconds."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """The virtual clock."""
        return self._virtual.now_s


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, on a clock of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def offload_inline(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Where time is virtual there are no threads: long work is done at once."""
    return function(*args, **kwargs)
