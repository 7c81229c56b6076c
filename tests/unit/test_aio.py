"""What comes alone is dealt with at once, a burst in a steady pace, which slows down where everything is slow."""

import asyncio

from fleetd.aio import AHEAD_S, LONGEST_REST_S, Pace
from tests.virtual_time import VirtualLoop

PERIOD_S = 0.1
FREE = round(AHEAD_S / PERIOD_S)  # times that are let through before the first one has to wait


def measure(*pauses_s: float, takes_s: float = 0.0) -> list[int]:
    """When the pace lets through, in ms from the beginning, each time after such a pause, what takes so long."""
    loop = VirtualLoop()

    async def times() -> list[int]:
        pace, began_s, found = Pace(PERIOD_S), loop.time(), []
        for pause_s in pauses_s:
            await asyncio.sleep(pause_s)
            await pace.wait()
            found.append(round(1000 * (loop.time() - began_s)))
            await asyncio.sleep(takes_s)
            pace.done()
        return found

    try:
        return loop.run_until_complete(times())
    finally:
        loop.close()


def test_some_are_let_through_at_once_and_the_others_one_each_period() -> None:
    assert measure(*[0.0] * (FREE + 4)) == [0] * (FREE + 1) + [100, 200, 300]


def test_what_comes_at_the_pace_or_slower_never_waits() -> None:
    assert measure(*[PERIOD_S] * (FREE + 4)) == [100 * (turn + 1) for turn in range(FREE + 4)]


def test_after_a_pause_some_are_let_through_at_once_again() -> None:
    assert measure(*[0.0] * (FREE + 2), 2.0, 0.0) == [0] * (FREE + 1) + [100, 2100, 2100]


def test_what_takes_long_is_done_less_often_once_it_has_been_done_a_few_times() -> None:
    assert measure(*[0.0] * 5, takes_s=0.1) == [0, 100, 200, 400, 700]


def test_the_longest_rest_is_bounded_however_long_it_took() -> None:
    first, second = measure(0.0, 0.0, takes_s=10.0)
    assert second - first == 1000 * (10 + LONGEST_REST_S - AHEAD_S)
