"""A cluster, and what a plan does to it, in numbers."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.scheduler.stats import PlanStats, count_cluster, count_plan
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, World

GLOBAL = "Global=true"


def outcome(world: World) -> PlanStats:
    """What the leader does next, in numbers; then it is done."""
    snapshot = world.snapshot
    plan = world.plan()
    counted = count_plan(snapshot, plan.units)
    world.apply(plan)
    return counted


@pytest.fixture
def world() -> World:
    made = World()
    made.machine("m1")
    made.machine("m2")
    return made


def test_units_are_counted_by_what_is_wanted_and_what_they_have_come_to(world: World) -> None:
    for name in ("a.service", "b.service"):
        world.unit(name)
    world.settle()
    world.unit("new.service", target=LOADED)
    world.unit("web@.service", target=INACTIVE)
    assert count_cluster(world.snapshot).units == {
        ("launched", "launched"): 2,
        ("loaded", "inactive"): 1,
        ("inactive", "inactive"): 1,
    }


def test_a_unit_on_several_machines_has_come_as_far_as_its_last_allocation(world: World) -> None:
    world.unit("log.service", GLOBAL)
    world.lead()
    world.state("log.service", "m1", "active", target=LAUNCHED)
    assert count_cluster(world.snapshot).units == {("launched", "inactive"): 1}
    world.state("log.service", "m2", "inactive", target=LOADED)
    assert count_cluster(world.snapshot).units == {("launched", "loaded"): 1}
    world.state("log.service", "m2", "active", target=LAUNCHED)
    assert count_cluster(world.snapshot).units == {("launched", "launched"): 1}


def test_allocations_are_counted_by_what_systemd_says_and_machines_by_their_mode(world: World) -> None:
    world.machine("m3", MachineMode.PARKED)
    world.unit("a.service")
    world.unit("b.service")
    world.settle()
    world.state("b.service", world.homes()["b.service"], "failed")
    stats = count_cluster(world.snapshot)
    assert stats.allocations == {("active",): 1, ("failed",): 1}
    assert stats.machines == {("ready",): 2, ("parked",): 1}


@pytest.mark.covers("10.5.5")
def test_what_is_placed_is_counted_once_and_a_new_operation_is_no_new_place(world: World) -> None:
    world.unit("a.service")
    world.unit("log.service", GLOBAL)
    assert outcome(world) == PlanStats(placed=3)
    world.settle()
    world.unit("a.service", target=LOADED)
    assert outcome(world) == PlanStats()


def test_what_people_take_back_is_no_failure(world: World) -> None:
    world.unit("a.service")
    world.unit("b.service")
    world.settle()
    world.destroy("a.service")
    world.unit("b.service", target=INACTIVE)
    assert outcome(world) == PlanStats(taken_back=2)
    world.settle()
    assert outcome(world) == PlanStats(), "the order is only deleted"


@pytest.mark.covers("7.6")
def test_a_machine_that_dies_gives_its_units_to_others(world: World) -> None:
    world.unit("a.service")
    world.settle()
    world.die(world.homes()["a.service"])
    assert outcome(world) == PlanStats(placed=1, taken_back=1, machine_away=1)


def test_a_unit_that_may_not_stay_is_counted_as_unfit(world: World) -> None:
    world.unit("a.service")
    world.settle()
    other = {"m1": "m2", "m2": "m1"}[world.homes()["a.service"]]
    world.unit("a.service", f"MachineID={other}")
    assert outcome(world) == PlanStats(taken_back=1, unfit=1)


def test_a_unit_that_fits_nowhere_is_counted_when_that_is_decided(world: World) -> None:
    world.unit("a.service", "MachineID=elsewhere")
    world.unit("log.service", GLOBAL + "\nMachineMetadata=no=where")
    assert outcome(world) == PlanStats(unplaced=2)
    assert outcome(world) == PlanStats()


def test_without_machines_every_wanted_unit_is_unplaced() -> None:
    world = World()
    world.unit("a.service")
    world.unit("b.service", target=INACTIVE)
    assert outcome(world) == PlanStats(unplaced=1)
