"""Moves, drains, rollouts and reboots are followed by events: the API is asked when something happens, else rarely."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from itertools import pairwise
from typing import Any, cast

import msgspec
import pytest

from fleetctl.client import Client
from fleetctl.drains import follow_drains
from fleetctl.errors import ApiError, ClientError, Unreachable
from fleetctl.moves import follow_move
from fleetctl.reboots import follow_reboots
from fleetctl.rollouts import follow
from fleetctl.unit_locations import Location
from fleetctl.wait import CLOCK, PATIENT, Clock
from fleetctl.wakeups import Query
from fleetd.api import schema

END_S = 60.0
RAMP_S = 10.0  # until then the pauses grow
M1, M2 = "1" * 32, "2" * 32


class Stream:
    """Lines that come at these times, by the clock of the API; the stream is lost at `lost_s`."""

    def __init__(self, api: "Api", at: Sequence[float], lost_s: float) -> None:
        self._api, self._at, self._lost_s = api, at, lost_s
        self.is_over = False

    def skip(self, within_s: float) -> bool:
        now_s = self._api.now_s
        next_s = min((at for at in (*self._at, self._lost_s) if at > now_s), default=1e9)
        self._api.sleep(min(within_s, next_s - now_s))
        self.is_over = next_s == self._lost_s <= now_s + within_s
        return next_s <= now_s + within_s


class Api:
    """A client by a clock of its own. Everything ends at END_S. `at` are the times at which something happens, a stream
    is lost at `lost_s`; `refusal` answers who wants one."""

    def __init__(self, at: Sequence[float] = (END_S,), lost_s: float = 1e9, refusal: ClientError | None = None) -> None:
        self.now_s = 0.0
        self.asked: list[float] = []
        self.opened: list[tuple[float, Query]] = []
        self._at, self._lost_s, self._refusal = at, lost_s, refusal

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    def run(self, work: Callable[[Client], Any]) -> Any:
        def run() -> Any:
            CLOCK.set(Clock(lambda: self.now_s, self.sleep, is_real=True))
            return work(cast(Client, self))

        return copy_context().run(run)

    def pauses(self, start_s: float, end_s: float) -> list[float]:
        """How long it was not asked, between these times."""
        asked = [at for at in sorted(set(self.asked)) if start_s <= at <= end_s]
        return [second - first for first, second in pairwise(asked)]

    @contextmanager
    def open_events(self, query: Query) -> Iterator[Stream]:
        self.opened.append((self.now_s, query))
        if self._refusal is not None:
            raise self._refusal
        yield Stream(self, self._at, self._lost_s)

    def _ask(self) -> bool:
        self.asked.append(self.now_s)
        return self.now_s >= END_S

    def move_report(self, name: str) -> schema.MoveReport:
        return schema.MoveReport(name, "placed" if self._ask() else "starting", M2)

    def drain_report(self, machine: str, also: Sequence[str] = ()) -> schema.DrainReport:
        is_over = self._ask()
        state = "proven" if is_over else "starting"
        unit = schema.DrainedUnit("web.service", state, M2)
        return schema.DrainReport(machine, drain=schema.Drain("", 0.0), drained=is_over, units=(unit,))

    def rollouts(self, groups: Sequence[str]) -> dict[str, schema.Rollout]:
        is_over = self._ask()
        return {group: schema.Rollout(group, "id", "done" if is_over else "running") for group in groups}

    def reboots(self, machines: Sequence[str]) -> dict[str, schema.RebootReport]:
        is_over = self._ask()
        phase, boot, id_ = ("", "second", "") if is_over else ("returning", "first", "id")
        return {each: schema.RebootReport(each, phase=phase, boot=boot, id=id_, ends="first") for each in machines}


def move(client: Client) -> object:
    return follow_move(client, "web.service")


def drain(client: Client) -> object:
    return follow_drains(client, [Location(M1, "")])


def rollout(client: Client) -> object:
    return follow(client, ["web@.service", "db.service"])


def reboot(client: Client) -> object:
    report = schema.RebootReport(M1, phase="ordered", boot="first", id="id", ends="first")
    return follow_reboots(client, {Location(M1, ""): report})


each_follower = pytest.mark.parametrize("work", [move, drain, rollout, reboot])


@each_follower
def test_nobody_asks_often_while_nothing_happens_and_the_end_is_seen_at_once(work: Callable[[Client], object]) -> None:
    api = Api()
    api.run(work)
    assert min(api.pauses(RAMP_S, END_S - 1)) >= 1.99
    assert END_S <= api.asked[-1] < END_S + PATIENT.spacing_s
    assert len(api.opened) == 1


@each_follower
def test_however_much_happens_it_asks_once_a_second(work: Callable[[Client], object]) -> None:
    api = Api([number / 10 for number in range(700)])
    api.run(work)
    assert min(api.pauses(RAMP_S, END_S)) >= PATIENT.spacing_s - 0.001
    assert END_S <= api.asked[-1] <= END_S + PATIENT.spacing_s + 0.2


@each_follower
def test_without_a_stream_it_asks_each_second(work: Callable[[Client], object]) -> None:
    api = Api(refusal=ApiError(404, "no such resource"))
    api.run(work)
    assert all(pause == pytest.approx(1.0, abs=0.01) for pause in api.pauses(RAMP_S, END_S))
    assert len(api.opened) == 1


@each_follower
def test_a_stream_that_is_lost_is_replaced_by_asking_until_there_is_one_again(work: Callable[[Client], object]) -> None:
    api = Api(lost_s=20.0)
    api.run(work)
    assert min(api.pauses(20.0, 22.0)) < 0.1
    assert len(api.opened) == 2
    assert min(api.pauses(30.0, END_S - 1)) >= 1.99
    gone = Api(refusal=Unreachable("no answer"))
    gone.run(work)
    assert max(gone.pauses(RAMP_S, END_S)) <= 1.01
    assert len(gone.opened) > 10


@pytest.mark.parametrize(
    ("work", "query"),
    [
        (move, [("unit", "web.service")]),
        (drain, [("unit", "web.service")]),
        (rollout, [("unit", "web@*.service"), ("unit", "db.service")]),
        (reboot, [("kind", kind) for kind in ("reboot", "drain", "moved", "unplaced", "lost", "back", "joined")]),
    ],
)
def test_it_follows_what_it_waits_for(work: Callable[[Client], object], query: Query) -> None:
    api = Api()
    api.run(work)
    assert api.opened[0][1] == query


def test_many_units_of_a_drained_machine_are_asked_for_each_second() -> None:
    """More than a request can name."""
    api = Api()
    units = tuple(schema.DrainedUnit(f"web-{number:03}.service", "starting", M2) for number in range(300))
    report = partial(schema.DrainReport, M1, drain=schema.Drain("", 0.0))

    def drain_report(machine: str, also: Sequence[str] = ()) -> schema.DrainReport:
        proven = [schema.DrainedUnit(unit.unit, "proven", M2) for unit in units]
        return report(units=tuple(proven), drained=True) if api._ask() else report(units=units)

    api.drain_report = drain_report  # type: ignore[method-assign]
    api.run(drain)
    assert api.opened == []
    assert max(api.pauses(RAMP_S, END_S)) <= 1.01


class HalfSilentApi(Api):
    """The end of the first machine's drain or reboot is told once the clock says so, and at that look of all the
    second machine's drain report does not come."""

    def drain_report(self, machine: str, also: Sequence[str] = ()) -> schema.DrainReport:
        if machine == M2 and self.now_s >= END_S and self.is_first_failure:
            self.is_first_failure = False
            raise Unreachable("it is away")
        return super().drain_report(machine, also)

    is_first_failure = True

    def reboots(self, machines: Sequence[str]) -> dict[str, schema.RebootReport]:
        found = super().reboots(machines)
        if self.is_first_failure and M2 in found:
            found[M2] = schema.RebootReport(M2, phase="returning", boot="first", id="id", ends="first")
        return found


def reboot_both(client: Client) -> object:
    report = schema.RebootReport("", phase="ordered", boot="first", id="id", ends="first")
    asked = {Location(machine, ""): msgspec.structs.replace(report, machine=machine) for machine in (M1, M2)}
    return follow_reboots(client, asked)


def drain_both(client: Client) -> object:
    return follow_drains(client, [Location(M1, ""), Location(M2, "")])


@pytest.mark.parametrize(("work", "end"), [(reboot_both, "is back and serves"), (drain_both, "web.service")])
def test_what_one_machine_has_come_to_is_told_if_the_next_cannot_be_asked(
    work: Callable[[Client], object], end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    api = HalfSilentApi()
    api.run(work)
    assert not api.is_first_failure
    assert capsys.readouterr().out.count(end) == 2
