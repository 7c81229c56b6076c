"""How often something is done that deals with all that has gathered since: a few times at once, then in a steady pace.

What comes alone is dealt with at once. In a crowd, each time costs a transaction, a look at systemd or a plan, whatever
it deals with: to wait a little makes them fewer, and all of it sooner done.
"""

import asyncio


class Pace:
    """Lets through `burst` times at once, and once more each `period_s`. Needs a running event loop."""

    def __init__(self, burst: int, period_s: float) -> None:
        self._ahead_s = burst * period_s
        self._period_s = period_s
        self._paid_until_s = 0.0

    async def wait(self) -> None:
        """Until it may be done once more."""
        now_s = asyncio.get_running_loop().time()
        self._paid_until_s = max(self._paid_until_s, now_s) + self._period_s
        wait_s = self._paid_until_s - self._ahead_s - now_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)
