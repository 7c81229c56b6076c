"""How often something is done that deals with all that has gathered: several times at once, then in a steady pace.

What comes alone is dealt with at once. In a burst, each time costs a transaction, a look at systemd or a plan, whatever
it deals with: to wait a little makes them fewer, and all of it sooner done. The longer one takes, because the machine
is busy, the longer the wait after it, which leaves the processor to those who bring what is to be dealt with.
"""

import asyncio

AHEAD_S = 0.5  # of periods and rests that are still owed while nothing has to wait
REST = 2  # times as long as something took, before it is done again
LONGEST_REST_S = 0.5


class Pace:
    """Lets through once each `period_s`, later where what is done takes long (`done` says when it ends), and sooner for
    as long as no more than AHEAD_S is owed. Needs a running event loop."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._owed_until_s = 0.0
        self._began_s = 0.0

    async def wait(self) -> None:
        """Until it may be done once more."""
        clock = asyncio.get_running_loop().time
        now_s = clock()
        wait_s = self._owed_until_s - AHEAD_S - now_s
        self._owed_until_s = max(self._owed_until_s, now_s) + self._period_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._began_s = clock()

    def done(self) -> None:
        """What was let through last has been done."""
        took_s = asyncio.get_running_loop().time() - self._began_s
        self._owed_until_s += max(0.0, took_s + min(REST * took_s, LONGEST_REST_S) - self._period_s)
