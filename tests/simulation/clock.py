"""The virtual clock of a simulated cluster: runs are equal to the byte, and it tells when all work of a moment is done.

It knows nothing of fleet. What asyncio leaves open (the order in its sets of tasks, the time of garbage collection) is
fixed here.
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
    """A task whose place in a set depends on when it was made, not on its address in memory."""

    def __init__(self, *args: Any, number: int, **kwargs: Any) -> None:
        self._number = number  # first: the base class keeps its tasks in a set
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class ClusterLoop(VirtualLoop):
    """A virtual loop that calls `at_rest` whenever all work of a moment is done."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks_made = 0
        self.at_rest: Callable[[], None] = lambda: None
        self.set_task_factory(self._make_task)
        self._virtual.before_time_passes = lambda: self.at_rest()

    def call_at(self, when: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        """A timer that never fires early by a rounding error: a sleeper would find its time still ahead, and this clock
        would never reach it."""
        return super().call_at((math.floor(when / TICK_S) + 1) * TICK_S, callback, *args, **kwargs)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> NumberedTask:
        self._tasks_made += 1
        return NumberedTask(coro, loop=loop, number=self._tasks_made, **kwargs)


def run_cluster(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on a new clock, without garbage collection, which would end tasks at arbitrary moments."""
    gc.disable()
    gc.freeze()  # objects from before need not be searched for garbage of this run
    try:
        with asyncio.Runner(loop_factory=ClusterLoop) as runner:
            return runner.run(main)
    finally:
        gc.enable()
        gc.collect()
        gc.unfreeze()
