"""scheduler/cluster_events: what the writes of plans mean, and that the events say where everything is."""

import random

import pytest
from msgspec.structs import replace

from fleetd.model.event import ClusterEvent, EventKind, Step
from fleetd.model.machine import DrainRequest
from fleetd.model.placement import Placement
from fleetd.model.reason import Infeasible, NowhereElse
from fleetd.model.reboot import Reboot, RebootFailure, RebootPhase
from fleetd.model.rollout import Failure, Member, Pause, PauseCause, Phase, Rollout
from fleetd.model.rollout import Step as RolloutStep
from fleetd.scheduler.cluster_events import EventsOfPlan
from fleetd.scheduler.planner import Plan
from fleetd.scheduler.proposal import RebootPlan, RolloutPlan, SessionPlan
from fleetd.scheduler.snapshot import Snapshot
from fleetd.scheduler.unit_plan import UnitPlan
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, Cluster


class WatchedCluster(Cluster):
    """A cluster that notes the events of all that the leader writes."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[ClusterEvent] = []

    def apply(self, plan: Plan) -> None:
        found = EventsOfPlan(self.snapshot)
        self.told += [event for write in plan.writes for event in found.find(write)]
        super().apply(plan)

    def take(self) -> list[str]:
        """What was told since the last time, as `kind unit former>machine`."""
        told, self.told = self.told, []
        return [f"{event.kind} {event.unit} {event.former}>{event.machine} {event.step}".rstrip() for event in told]

    def told_places(self) -> set[tuple[str, str]]:
        """Where each unit is, (machine, unit), by what was told alone."""
        places: set[tuple[str, str]] = set()
        for event in self.told:
            if event.kind in (EventKind.MOVED, EventKind.UNPLACED) and event.former:
                places -= {(event.former, event.unit)}
            if event.kind in (EventKind.PLACED, EventKind.MOVED):
                assert (event.machine, event.unit) not in places, f"told twice: {event}"
                places.add((event.machine, event.unit))
        return places

    def places(self) -> set[tuple[str, str]]:
        """Where each unit is, as it is stored."""
        return {(machine, name) for name, at in self.assigned().items() for machine in at.split()}


@pytest.fixture
def cluster() -> WatchedCluster:
    found = WatchedCluster()
    found.machine("m1")
    found.machine("m2")
    found.settle()
    found.take()
    return found


def test_machines_join_come_back_and_are_lost() -> None:
    cluster = WatchedCluster()
    cluster.machine("m1")
    cluster.settle()
    assert cluster.take() == ["joined  >m1"]
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.take() == ["back  >m1"]
    cluster.die("m1")
    cluster.settle()
    assert cluster.take() == ["lost  >m1"]
    cluster.settle()
    assert cluster.take() == []


def test_a_unit_is_placed_and_taken_back(cluster: WatchedCluster) -> None:
    cluster.submit(a="MachineID=m1")
    cluster.settle()
    assert cluster.take() == ["placed a.service >m1"]
    cluster.unit("a.service", "MachineID=m1", INACTIVE)
    cluster.settle()
    assert cluster.take() == ["unplaced a.service m1>"]
    cluster.destroy("a.service")
    cluster.settle()
    assert cluster.take() == []


def test_a_unit_of_a_lost_machine_moves(cluster: WatchedCluster) -> None:
    cluster.submit(a="")
    cluster.settle()
    (place,) = cluster.places()
    cluster.take()
    cluster.die(place[0])
    cluster.settle()
    other = "m2" if place[0] == "m1" else "m1"
    assert cluster.take() == [f"lost  >{place[0]}", f"moved a.service {place[0]}>{other}"]
    assert cluster.places() == {(other, "a.service")}


def test_a_unit_that_has_to_stop_first_is_told_to_have_moved(cluster: WatchedCluster) -> None:
    cluster.submit(a="MachineID=m1")
    cluster.settle()
    cluster.take()
    cluster.unit("a.service", "MachineID=m2")
    cluster.settle()
    assert cluster.take() == ["unplaced a.service m1>", "moved a.service m1>m2"]


def test_a_unit_that_fits_nowhere_is_told_once(cluster: WatchedCluster) -> None:
    cluster.submit(a="MachineMetadata=disk=ssd")
    cluster.settle()
    (told,) = cluster.told
    assert (told.kind, told.unit, told.former) == (EventKind.UNPLACED, "a.service", "")
    assert isinstance(told.reason, Infeasible)
    assert sum(each.machines for each in told.rejections) == 2
    cluster.machine("m3")
    cluster.take()
    cluster.settle()
    assert cluster.take() == ["joined  >m3"]


def test_a_global_unit_is_placed_on_each_machine(cluster: WatchedCluster) -> None:
    cluster.submit(a="Global=true")
    cluster.settle()
    assert cluster.take() == ["placed a.service >m1", "placed a.service >m2"]
    cluster.machine("m3")
    cluster.settle()
    assert sorted(cluster.take()) == ["joined  >m3", "placed a.service >m3"]


def test_a_drain_is_over_when_the_last_unit_has_left(cluster: WatchedCluster) -> None:
    cluster.submit(a="MachineID=m1", b="MachineID=m1", g="Global=true")
    cluster.settle()
    cluster.cordon("m2")
    cluster._change_settings("m1", drain=DrainRequest())
    found = EventsOfPlan(cluster.snapshot)
    left = [found.find(UnitPlan(f"{name}.service", 0, (), ("m1",), None)) for name in "gab"]
    assert [[event.step for event in events if event.kind is EventKind.DRAIN] for events in left] == [
        [],
        [],
        [Step.DRAINED],
    ]


def test_a_drain_is_not_over_while_a_unit_that_came_meanwhile_is_there(cluster: WatchedCluster) -> None:
    cluster.submit(a="MachineID=m1")
    cluster.settle()
    cluster._change_settings("m1", drain=DrainRequest())
    found = EventsOfPlan(cluster.snapshot)
    came = tuple(Placement(machine, "late.service", "", LAUNCHED, 1) for machine in ("m1", "m2"))
    told = [
        found.find(UnitPlan("late.service", 0, came, (), None)),
        found.find(UnitPlan("a.service", 0, (), ("m1",), None)),
        found.find(UnitPlan("late.service", 0, (), ("m1",), None)),
    ]
    assert [[event.step for event in events if event.step] for events in told] == [[], [], [Step.DRAINED]]


def test_what_fits_nowhere_else_is_told_once_to_stay(cluster: WatchedCluster) -> None:
    cluster.submit(a="MachineID=m1")
    cluster.settle()
    stays = replace(cluster.snapshot.decisions["a.service"], reason=NowhereElse(()))
    told = EventsOfPlan(cluster.snapshot).find(UnitPlan("a.service", 0, (), (), stays))
    assert [(event.kind, event.unit, event.machine, event.step) for event in told] == [
        (EventKind.DRAIN, "a.service", "m1", Step.STAYS)
    ]
    cluster.snapshot.decisions["a.service"] = stays
    assert EventsOfPlan(cluster.snapshot).find(UnitPlan("a.service", 0, (), (), stays)) == ()


def test_a_dead_machine_is_not_lost_twice(cluster: WatchedCluster) -> None:
    assert EventsOfPlan(cluster.snapshot).find(SessionPlan("unknown", None)) == ()


@pytest.mark.parametrize("seed", range(8))
def test_events_say_where_each_unit_is_whatever_happens(seed: int) -> None:
    drawn, cluster = random.Random(seed), WatchedCluster()
    for machine in ("m1", "m2", "m3"):
        cluster.machine(machine)
    gone: list[str] = []
    for _ in range(12):
        match drawn.randrange(6):
            case 0 if len(gone) < 2:
                gone.append(drawn.choice([m for m in ("m1", "m2", "m3") if m not in gone]))
                cluster.die(gone[-1])
            case 1 if gone:
                cluster.come_back(gone.pop())
            case 2:
                cluster.unit(f"{drawn.choice('abc')}.service", "", drawn.choice([INACTIVE, LAUNCHED]))
            case 3:
                cluster.destroy(f"{drawn.choice('abc')}.service")
            case 4:
                cluster.unit("g.service", "Global=true")
            case _:
                cluster.unit(f"{drawn.choice('abc')}.service", f"Conflicts={drawn.choice('abc')}.service")
        cluster.settle()
        assert cluster.told_places() == cluster.places()


def rollout_events(before: Rollout | None, after: Rollout) -> list[ClusterEvent]:
    snapshot = Snapshot()
    if before is not None:
        snapshot.rollouts["web@.service"] = before
    return list(EventsOfPlan(snapshot).find(RolloutPlan("web@.service", after)))


def step_of(name: str) -> RolloutStep:
    return RolloutStep(Member(name), 5.0, "m1")


FAILURE = Failure("web@2.service", "m1", "exit code 1")
R = Rollout("r1", 7, started=3.0, by="ann")


@pytest.mark.parametrize(
    ("before", "changes", "steps"),
    [
        (None, {}, [Step.BEGAN]),
        (R, {"changed": 4.0}, []),
        (R, {"steps": (step_of("web@1.service"),)}, [Step.CHANGED]),
        (R, {"pause": Pause(PauseCause.OPERATOR, "bob")}, [Step.PAUSED]),
        (R, {"phase": Phase.REVERTING, "failure": FAILURE}, [Phase.REVERTING]),
        (R, {"phase": Phase.REVERTED, "reverted": (Member("web@1.service"),)}, [Step.RETURNED, Phase.REVERTED]),
        (R, {"phase": Phase.DONE, "steps": (step_of("web@1.service"),)}, [Step.CHANGED, Phase.DONE]),
        (R, {"started": 9.0}, [Step.BEGAN]),
    ],
)
def test_steps_of_a_rollout(before: Rollout | None, changes: dict[str, object], steps: list[str]) -> None:
    told = rollout_events(before, replace(R, **changes))
    assert [event.step for event in told] == steps
    assert {event.subject for event in told} <= {"web@.service"}


def test_a_resumed_rollout_is_told_and_an_inherited_pause_is_not() -> None:
    paused = replace(R, pause=Pause(PauseCause.BLOCKED, units=("web@1.service",)))
    assert [event.step for event in rollout_events(paused, R)] == [Step.RESUMED]
    assert [event.step for event in rollout_events(paused, replace(paused, started=9.0))] == [Step.BEGAN]


def test_a_pause_says_why() -> None:
    (told,) = rollout_events(R, replace(R, pause=Pause(PauseCause.FAILED, units=("web@2.service",)), failure=FAILURE))
    assert (told.pause, told.failure, told.units) == (PauseCause.FAILED, FAILURE, ("web@2.service",))


REBOOT = Reboot("q1", "b1", by="ann")


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        (None, REBOOT, [RebootPhase.DRAINING]),
        (REBOOT, Reboot("q1", "b1", waits=("a.service",)), []),
        (REBOOT, Reboot("q1", "b1", RebootPhase.ORDERED), [RebootPhase.ORDERED]),
        (REBOOT, Reboot("q1", "b1", RebootPhase.GAVE_UP, RebootFailure.DEADLINE), [RebootPhase.GAVE_UP]),
        (REBOOT, None, [Step.OVER]),
        (Reboot("q1", "b1", RebootPhase.GAVE_UP, RebootFailure.DEADLINE), None, []),
        (None, None, []),
    ],
)
def test_steps_of_a_reboot(before: Reboot | None, after: Reboot | None, steps: list[str]) -> None:
    snapshot = Snapshot()
    if before is not None:
        snapshot.reboots["m1"] = before
    told = EventsOfPlan(snapshot).find(RebootPlan("m1", 0, 0, after))
    assert [event.step for event in told] == steps
