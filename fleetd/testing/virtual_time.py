"""Hours in milliseconds: an event loop whose clock jumps to the next timer whenever nothing else is left to do.

Code that takes time from the loop (asyncio.sleep, asyncio.timeout, loop.time) runs unchanged. Do not use real sockets
or threads in it: the virtual clock would run on while they take real time.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

START_S = 1000.0  # a clock that starts at zero hides mistakes


class Stuck(Exception):
    """Every task waits, and no timer is left to wake one."""


class _Selector(selectors.SelectSelector):
    """Advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S
        self.before_time_passes: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0) if timeout is None else []  # no thread and no socket can wake the loop
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

    def before_time_passes(self, act: Callable[[], None]) -> None:
        """Have this called whenever all work of a moment is done."""
        self._virtual.before_time_passes = act


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a new virtual clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def offload_inline(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Run long work at once: there are no threads on a virtual clock."""
    return function(*args, **kwargs)
