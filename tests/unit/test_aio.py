"""Backoff, first_of, and Pace: no delay for a single change, a steady rate in a burst, slower when the work is slow."""

import asyncio

import pytest

from fleetd.aio import AHEAD_S, Backoff, Pace, first_of
from tests.virtual_time import VirtualLoop

PERIOD_S = 0.1
LONGEST_REST_S = 0.25
FREE = round(AHEAD_S / PERIOD_S)  # let through before the first delay


def measure(*pauses_s: float, takes_s: float = 0.0) -> list[int]:
    """When the pace lets work through that takes this long, in ms from the beginning, after each of the pauses."""
    loop = VirtualLoop()

    async def times() -> list[int]:
        pace, began_s, found = Pace(PERIOD_S, LONGEST_REST_S), loop.time(), []
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


def test_a_burst_is_let_through_at_once_and_then_one_each_period() -> None:
    assert measure(*[0.0] * (FREE + 4)) == [0] * (FREE + 1) + [100, 200, 300]


def test_work_at_the_pace_or_slower_never_waits() -> None:
    assert measure(*[PERIOD_S] * (FREE + 4)) == [100 * (turn + 1) for turn in range(FREE + 4)]


def test_after_a_pause_a_burst_is_let_through_again() -> None:
    assert measure(*[0.0] * (FREE + 2), 2.0, 0.0) == [0] * (FREE + 1) + [100, 2100, 2100]


def test_slow_work_is_done_less_often_after_a_few_times() -> None:
    assert measure(*[0.0] * 5, takes_s=0.1) == [0, 100, 200, 400, 700]


def test_the_longest_rest_is_bounded() -> None:
    times = measure(*[0.0] * 6, takes_s=10.0)
    assert times[-1] - times[-2] == 1000 * (10 + LONGEST_REST_S)


def test_backoff_doubles_up_to_its_longest_delay_until_it_is_reset() -> None:
    backoff = Backoff(1.0, 5.0)
    assert backoff.is_first
    assert [backoff.next_s() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert not backoff.is_first
    backoff.reset()
    assert backoff.is_first
    assert backoff.next_s() == 1.0


async def test_first_of_cancels_the_others_and_waits_for_them() -> None:
    ended: list[str] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    await first_of(wait_for_ever(), asyncio.sleep(0))
    assert ended == ["cleaned up"]


async def test_first_of_raises_the_first_error_in_argument_order() -> None:
    async def fail(error: Exception) -> None:
        raise error

    with pytest.raises(KeyError):
        await first_of(asyncio.Event().wait(), fail(KeyError()), fail(ValueError()))


async def test_first_of_cancelled_from_outside_cancels_all() -> None:
    waiting = asyncio.Event()

    async def fail_when_cancelled() -> None:
        try:
            await waiting.wait()
        except asyncio.CancelledError:
            raise ValueError from None

    task = asyncio.create_task(first_of(fail_when_cancelled(), waiting.wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
