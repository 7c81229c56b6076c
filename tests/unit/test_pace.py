"""What comes alone is dealt with at once, a crowd in a steady pace."""

import asyncio

from fleetd.pace import Pace
from tests.virtual_time import VirtualLoop


async def times(pace: Pace, *pauses_s: float) -> list[int]:
    """When the pace lets through, in ms from now on, each time after such a pause."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    found = []
    for pause_s in pauses_s:
        await asyncio.sleep(pause_s)
        await pace.wait()
        found.append(round(1000 * (loop.time() - began_s)))
    return found


def measure(pace: Pace, *pauses_s: float) -> list[int]:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(times(pace, *pauses_s))
    finally:
        loop.close()


def test_a_few_are_let_through_at_once_and_the_others_one_each_period() -> None:
    assert measure(Pace(3, 0.02), *[0.0] * 7) == [0, 0, 0, 20, 40, 60, 80]


def test_what_comes_at_the_pace_or_slower_never_waits() -> None:
    assert measure(Pace(1, 0.02), *[0.02] * 5) == [20, 40, 60, 80, 100]


def test_after_a_rest_a_few_are_let_through_at_once_again() -> None:
    assert measure(Pace(2, 0.02), 0, 0, 0, 1, 0, 0) == [0, 0, 20, 1020, 1020, 1040]
