"""The virtual clock of a simulated cluster: it repeats itself to the byte, and says when a moment is over.

Nothing here knows fleet. What asyncio leaves to chance (the order of the sets it keeps tasks in, when garbage is
collected) is fixed here.
"""

import asyncio
import gc
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.virtual_time import VirtualLoop

Result = TypeVar("Result")

TICK_S = 1e-6


class NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set depends on when it was made, not on where in memory."""

    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self._number = number  # first: the base class keeps its tasks in a set
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class ClusterLoop(VirtualLoop):
    """A virtual loop that calls `at_rest` whenever all that can happen at a moment has happened."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks_made = 0
        self.at_rest: Callable[[], None] = lambda: None
        self.set_task_factory(self._make_task)
        self._virtual.before_time_passes = lambda: self.at_rest()

    def call_at(self, when: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        """A timer. None comes early by a rounding error: who sleeps until a time would find that it is still to come,
        and this clock would never get there."""
        return super().call_at((math.floor(when / TICK_S) + 1) * TICK_S, callback, *args, **kwargs)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> NumberedTask:
        self._tasks_made += 1
        return NumberedTask(coro, loop=loop, number=self._tasks_made, **kwargs)


def run_cluster(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on a clock of its own. Garbage is left lying meanwhile: what it ends would end at any time."""
    gc.disable()
    gc.freeze()  # what was there before need not be looked through for garbage of this run
    try:
        with asyncio.Runner(loop_factory=ClusterLoop) as runner:
            return runner.run(main)
    finally:
        gc.enable()
        gc.collect()
        gc.unfreeze()
