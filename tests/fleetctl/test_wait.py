"""Waiting for units: how often the API is asked, what is printed, when it ends. The clock advances only by sleeping."""

from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from types import SimpleNamespace
from typing import TypeVar, cast

import pytest

from fleetctl.client import Client
from fleetctl.rollouts import PACE, follow
from fleetctl.wait import CLOCK, FIRST_PAUSE_S, Clock, Wait, observe, wait_until_gone
from fleetctl.wait_outcome import ACTIVE_S, FAILED_S, check_launched
from fleetctl.wakeups import Wakeups, about_units
from fleetd.api.schema import AllocationReport, Cause, Rollout, UnitReport

M1 = "1" * 32
AT = "11111111..."
T = TypeVar("T")


class Timeline:
    """A client whose reports depend on the clock: each with the time from which it holds. `asked` records the times."""

    def __init__(self, timelines: dict[str, Sequence[tuple[float, UnitReport]]]) -> None:
        self.timelines = timelines
        self.now_s = 0.0
        self.asked: list[float] = []
        self.clock = Clock(lambda: self.now_s, self.sleep)

    def sleep(self, duration_s: float) -> None:
        assert duration_s > 0
        self.now_s += duration_s

    def reports(self, names: Iterable[str]) -> dict[str, UnitReport]:
        self.asked.append(self.now_s)
        return {name: [seen for since, seen in self.timelines[name] if since <= self.now_s][-1] for name in names}

    def run(self, work: Callable[[], T]) -> T:
        """Run this by the timeline's clock."""

        def run() -> T:
            CLOCK.set(self.clock)
            return work()

        return copy_context().run(run)

    def wait(self, bound_s: float = 300.0) -> Wait:
        wait = self.run(lambda: Wait(cast(Client, self), "launched", check_launched))
        self.run(lambda: wait.until(list(self.timelines), bound_s))
        return wait


def seen(name: str, active: str = "active", sub: str = "running", **fields: object) -> UnitReport:
    allocation = AllocationReport(M1, load="loaded", active=active, sub=sub, hash="abc", generation=5, **fields)  # type: ignore[arg-type]
    return UnitReport(name, "launched", 5, decided=5, machine=M1, allocations=(allocation,))


def unplaced(waits: str = "", reason: str = "") -> UnitReport:
    return UnitReport("a.service", "launched", 5, decided=5, reason=reason, cause=Cause("", waits=waits))


def test_a_service_that_dies_at_once_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    failed = seen("a.service", "failed", "failed", error="exit-code: main process exited with status 7")
    wait = Timeline({"a.service": [(0.0, seen("a.service")), (0.06, failed)]}).wait()
    assert list(wait.failed) == ["a.service"]
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.endswith("exit-code: main process exited with status 7\n")


def test_one_poll_confirms_all_units_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"web@{number}.service" for number in range(500)]
    timeline = Timeline({name: [(0.0, seen(name))] for name in names})
    timeline.wait()
    assert len(timeline.asked) <= 4
    assert timeline.now_s == pytest.approx(ACTIVE_S, abs=0.02)
    assert len(capsys.readouterr().out.splitlines()) == 500


def test_a_slow_api_is_asked_at_most_half_of_the_time() -> None:
    timeline = Timeline({})
    answers = timeline.run(lambda: list(observe(lambda: timeline.sleep(0.2), 1.0)))
    assert len(answers) == 3


@pytest.mark.parametrize("end_s", [0.1, 1.0, 3.0, 5.0, 60.0])
def test_the_end_of_a_rollout_is_seen_soon_after_it(end_s: float) -> None:
    timeline = Timeline({})

    def report(groups: Sequence[str]) -> dict[str, Rollout]:
        phase = "done" if timeline.now_s >= end_s else "running"
        return {group: Rollout(group, "id", phase) for group in groups}

    client = cast(Client, SimpleNamespace(rollouts=report))
    assert timeline.run(lambda: follow(client, ["web@.service"])) == 0
    assert timeline.now_s - end_s <= min(PACE.longest_s, FIRST_PAUSE_S + end_s / 5)


def test_a_socket_counts_as_active_at_once() -> None:
    timeline = Timeline({"front.socket": [(0.0, seen("front.socket", sub="listening"))]})
    timeline.wait()
    assert timeline.asked == [0.0]


def test_a_service_that_is_active_at_the_timeout_is_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    starting = seen("a.service", "activating", "start")
    wait = Timeline({"a.service": [(0.0, starting), (1.95, seen("a.service"))]}).wait(2.0)
    assert (wait.late, wait.failed) == ({}, {})
    assert capsys.readouterr().out == f"Unit a.service launched on {AT}\n"


def test_a_service_that_restarts_again_and_again_is_a_failure() -> None:
    looping = [
        (turn * 0.4 + shift, seen("a.service", *state))
        for turn in range(100)
        for shift, state in ((0.0, ("active", "running")), (0.05, ("activating", "auto-restart")))
    ]
    timeline = Timeline({"a.service": looping})
    wait = timeline.wait()
    assert "systemd restarts it as its Restart= says" in wait.failed["a.service"]
    assert timeline.now_s < 10


def test_each_lasting_reason_to_wait_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    timeline = [
        (0.0, unplaced("waits for b.service to stop on m1")),
        (5.0, unplaced(reason="no machine fits")),
        (5.1, unplaced("waits for c.service to stop on m1")),
        (9.0, unplaced("waits for b.service to stop on m1")),
        (12.0, seen("a.service")),
    ]
    assert Timeline({"a.service": timeline}).wait().late == {}
    assert capsys.readouterr().err == (
        "Unit a.service waits for b.service to stop on m1.\nUnit a.service waits for c.service to stop on m1.\n"
    )


def test_what_a_destroyed_unit_waits_for_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    allocation = AllocationReport(M1, active="active", sub="running", orphaned=True)
    reason = "waits for machine 11111111, which is parked: its fleetd was stopped"
    held = UnitReport(
        "a.service", "", 0, reason=reason, cause=Cause("waiting-for-machine", waits=reason), allocations=(allocation,)
    )
    answers = iter([{"a.service": held}] * 5 + [{}])
    client = cast(Client, SimpleNamespace(remains=lambda names: next(answers)))
    assert Timeline({}).run(lambda: list(wait_until_gone(client, ["a.service"], 60.0))) == ["a.service"]
    assert capsys.readouterr().err == f"Unit a.service {reason}.\n"


def test_a_short_wait_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Timeline({"a.service": [(0.0, unplaced("waits for b.service to stop on m1")), (0.25, seen("a.service"))]}).wait()
    assert capsys.readouterr().err == ""


class Happenings:
    """Wakeups by the clock of a timeline: something happens `at` these times. They may be refused, or end at a time."""

    def __init__(
        self, timeline: Timeline, at: Sequence[float], *, is_refused: bool = False, end_s: float = 1e9
    ) -> None:
        self._timeline = timeline
        self._at = list(at)
        self._end_s = end_s
        self.is_refused = is_refused
        self.are_open = False
        self.opened: list[float] = []

    def open(self) -> None:
        self.opened.append(self._timeline.now_s)
        self.are_open = True

    def pause(self, longest_s: float) -> bool:
        now = self._timeline.now_s
        until = min([now + longest_s, self._end_s, *(at for at in self._at if at > now)])
        self._timeline.sleep(until - now)
        if until == self._end_s:
            self.are_open, self._end_s = False, 1e9
        return until < now + longest_s


def times(happenings: Callable[[Timeline], Happenings], bound_s: float = 10.0) -> tuple[list[float], list[float]]:
    """When the API was asked, and when the events were opened."""
    timeline = Timeline({})
    timeline.clock = Clock(timeline.clock.now, timeline.clock.sleep, is_real=True)
    asked: list[float] = []
    found = happenings(timeline)
    work = observe(lambda: asked.append(timeline.now_s), bound_s, wakeups=cast(Wakeups, found))
    timeline.run(lambda: list(work))
    return asked, found.opened


def test_a_wait_that_lasts_is_ended_by_what_happens_and_polls_rarely() -> None:
    asked, opened = times(lambda timeline: Happenings(timeline, [5.0]))
    assert [round(at, 1) for at in opened] == [0.5]
    assert any(5.0 < at < 5.1 for at in asked)
    assert len([at for at in asked if at > 2.0]) <= 6


def test_a_wait_whose_events_are_refused_polls_as_ever() -> None:
    asked, opened = times(lambda timeline: Happenings(timeline, [], is_refused=True))
    assert opened == []
    assert len([at for at in asked if at > 2.0]) >= 30


def test_a_wait_whose_stream_ends_opens_it_again() -> None:
    asked, opened = times(lambda timeline: Happenings(timeline, [], end_s=3.0))
    assert [round(at, 1) for at in opened] == [0.5, 3.5]
    assert any(3.0 < at < 3.1 for at in asked)


def test_a_short_wait_opens_no_stream() -> None:
    assert times(lambda timeline: Happenings(timeline, []), 0.4)[1] == []


def test_a_failure_counts_when_it_has_lasted_and_not_at_the_next_poll() -> None:
    """A poll comes when the failure counts, though events are rare."""
    failed = seen("a.service", "failed", "failed", error="exit-code")
    timeline = Timeline({"a.service": [(0.0, seen("a.service", "activating", "start")), (4.0, failed)]})
    wait = timeline.wait()
    assert list(wait.failed) == ["a.service"]
    assert timeline.now_s < 4.0 + 0.25 + FAILED_S + 0.1


def test_more_units_than_a_request_can_name_are_polled() -> None:
    wakeups = Wakeups(
        cast(Client, SimpleNamespace()), lambda: about_units(f"web@{number}.service" for number in range(500))
    )
    wakeups.open()
    assert (wakeups.is_refused, wakeups.are_open) == (True, False)
