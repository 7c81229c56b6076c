"""An event loop in a thread, for the servers of synchronous tests."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

BOUND_S = 120.0


class BackgroundLoop:
    """Runs until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop; returns its result. Must not be called from the loop's own thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND_S)

    def close(self) -> None:
        """Stop the loop and its worker threads."""
        self.do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
