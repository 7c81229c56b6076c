"""Waiting, by a clock that stands still unless somebody sleeps: how often is looked, what is told, and when it ends."""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from fleetctl.client import Client
from fleetctl.wait import Clock, Wait, wait_until_gone
from fleetctl.wait_outcome import ACTIVE_S, check_launched
from fleetd.api.schema import AllocationReport, Cause, UnitReport

M1 = "1" * 32
AT = "11111111..."


class Course:
    """A cluster whose units fare by the clock: of each, from when on it is reported so. Notes when it is asked."""

    def __init__(self, courses: dict[str, Sequence[tuple[float, UnitReport]]]) -> None:
        self.courses = courses
        self.now_s = 0.0
        self.asked: list[float] = []
        self.clock = Clock(lambda: self.now_s, self.sleep)

    def sleep(self, duration_s: float) -> None:
        assert duration_s > 0
        self.now_s += duration_s

    def reports(self, names: Iterable[str]) -> dict[str, UnitReport]:
        self.asked.append(self.now_s)
        return {name: [seen for since, seen in self.courses[name] if since <= self.now_s][-1] for name in names}

    def wait(self, bound_s: float = 300.0) -> Wait:
        wait = Wait(cast(Client, self), "launched", check_launched, self.clock)
        wait.until(list(self.courses), bound_s)
        return wait


def seen(name: str, active: str = "active", sub: str = "running", **fields: object) -> UnitReport:
    copy = AllocationReport(M1, load="loaded", active=active, sub=sub, hash="abc", generation=5, **fields)  # type: ignore[arg-type]
    return UnitReport(name, "launched", 5, decided=5, machine=M1, allocations=(copy,))


def nowhere(waits: str = "", reason: str = "") -> UnitReport:
    return UnitReport("a.service", "launched", 5, decided=5, reason=reason, cause=Cause("", waits=waits))


def test_a_service_that_dies_at_once_is_heard_of(capsys: pytest.CaptureFixture[str]) -> None:
    failed = seen("a.service", "failed", "failed", error="exit-code: main process exited with status 7")
    wait = Course({"a.service": [(0.0, seen("a.service")), (0.06, failed)]}).wait()
    assert list(wait.failed) == ["a.service"]
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.endswith("exit-code: main process exited with status 7\n")


def test_all_units_of_one_command_share_the_look_that_proves_them(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"web@{number}.service" for number in range(500)]
    course = Course({name: [(0.0, seen(name))] for name in names})
    course.wait()
    assert len(course.asked) <= 4
    assert course.now_s == pytest.approx(ACTIVE_S, abs=0.02)
    assert len(capsys.readouterr().out.splitlines()) == 500


def test_what_is_no_service_is_believed_at_once() -> None:
    course = Course({"front.socket": [(0.0, seen("front.socket", sub="listening"))]})
    course.wait()
    assert course.asked == [0.0]


def test_a_service_that_is_active_when_time_is_up_has_arrived(capsys: pytest.CaptureFixture[str]) -> None:
    starting = seen("a.service", "activating", "start")
    wait = Course({"a.service": [(0.0, starting), (1.95, seen("a.service"))]}).wait(2.0)
    assert (wait.late, wait.failed) == ({}, {})
    assert capsys.readouterr().out == f"Unit a.service launched on {AT}\n"


def test_a_service_that_is_restarted_again_and_again_is_a_failure_though_it_is_active_now_and_then() -> None:
    looping = [
        (turn * 0.4 + shift, seen("a.service", *state))
        for turn in range(100)
        for shift, state in ((0.0, ("active", "running")), (0.05, ("activating", "auto-restart")))
    ]
    course = Course({"a.service": looping})
    wait = course.wait()
    assert "systemd restarts it as its Restart= says" in wait.failed["a.service"]
    assert course.now_s < 10


def test_each_reason_to_wait_is_told_once_and_only_when_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    course = [
        (0.0, nowhere("waits for b.service to stop on m1")),
        (5.0, nowhere(reason="no machine fits")),
        (5.1, nowhere("waits for c.service to stop on m1")),
        (9.0, nowhere("waits for b.service to stop on m1")),
        (12.0, seen("a.service")),
    ]
    assert Course({"a.service": course}).wait().late == {}
    assert capsys.readouterr().err == (
        "Unit a.service waits for b.service to stop on m1.\nUnit a.service waits for c.service to stop on m1.\n"
    )


def test_what_a_destroyed_unit_waits_for_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    copy = AllocationReport(M1, active="active", sub="running", orphaned=True)
    reason = "waits for machine 11111111, which is parked: its fleetd was stopped"
    held = UnitReport(
        "a.service", "", 0, reason=reason, cause=Cause("waiting-for-machine", waits=reason), allocations=(copy,)
    )
    answers = iter([{"a.service": held}] * 5 + [{}])
    client = cast(Client, SimpleNamespace(remains=lambda names: next(answers)))
    assert list(wait_until_gone(client, ["a.service"], 60.0, Course({}).clock)) == ["a.service"]
    assert capsys.readouterr().err == f"Unit a.service {reason}.\n"


def test_what_is_over_in_a_moment_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    Course({"a.service": [(0.0, nowhere("waits for b.service to stop on m1")), (0.25, seen("a.service"))]}).wait()
    assert capsys.readouterr().err == ""
