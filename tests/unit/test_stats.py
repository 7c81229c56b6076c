"""A cluster, and what a plan does to it, in numbers."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.scheduler.stats import PlanStats, count_cluster, count_plan
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, Cluster

GLOBAL = "Global=true"


def outcome(cluster: Cluster) -> PlanStats:
    """What the leader does next, in numbers; then it is done."""
    snapshot = cluster.snapshot
    plan = cluster.plan()
    counted = count_plan(snapshot, plan.units)
    cluster.apply(plan)
    return counted


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.machine("m1")
    made.machine("m2")
    return made


def test_units_are_counted_by_what_is_wanted_and_what_they_have_come_to(cluster: Cluster) -> None:
    for name in ("a.service", "b.service"):
        cluster.unit(name)
    cluster.settle()
    cluster.unit("new.service", target=LOADED)
    cluster.unit("web@.service", target=INACTIVE)
    assert count_cluster(cluster.snapshot).units == {
        ("launched", "launched"): 2,
        ("loaded", "inactive"): 1,
        ("inactive", "inactive"): 1,
    }


def test_a_unit_on_several_machines_has_come_as_far_as_its_last_allocation(cluster: Cluster) -> None:
    cluster.unit("log.service", GLOBAL)
    cluster.run_leader()
    cluster.state("log.service", "m1", "active", target=LAUNCHED)
    assert count_cluster(cluster.snapshot).units == {("launched", "inactive"): 1}
    cluster.state("log.service", "m2", "inactive", target=LOADED)
    assert count_cluster(cluster.snapshot).units == {("launched", "loaded"): 1}
    cluster.state("log.service", "m2", "active", target=LAUNCHED)
    assert count_cluster(cluster.snapshot).units == {("launched", "launched"): 1}


def test_allocations_are_counted_by_what_systemd_says_and_machines_by_their_mode(cluster: Cluster) -> None:
    cluster.machine("m3", MachineMode.PARKED)
    cluster.unit("a.service")
    cluster.unit("b.service")
    cluster.settle()
    cluster.state("b.service", cluster.assigned()["b.service"], "failed")
    stats = count_cluster(cluster.snapshot)
    assert stats.allocations == {("active",): 1, ("failed",): 1}
    assert stats.machines == {("ready",): 2, ("parked",): 1}


@pytest.mark.covers("10.5.5")
def test_what_is_placed_is_counted_once_and_a_new_operation_is_no_new_place(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.unit("log.service", GLOBAL)
    assert outcome(cluster) == PlanStats(placed=3)
    cluster.settle()
    cluster.unit("a.service", target=LOADED)
    assert outcome(cluster) == PlanStats()


def test_what_people_take_back_is_no_failure(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.unit("b.service")
    cluster.settle()
    cluster.destroy("a.service")
    cluster.unit("b.service", target=INACTIVE)
    assert outcome(cluster) == PlanStats(taken_back=2)
    cluster.settle()
    assert outcome(cluster) == PlanStats(), "the order is only deleted"


@pytest.mark.covers("7.6")
def test_a_machine_that_dies_gives_its_units_to_others(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.settle()
    cluster.die(cluster.assigned()["a.service"])
    assert outcome(cluster) == PlanStats(placed=1, taken_back=1, machine_away=1)


def test_a_unit_that_may_not_stay_is_counted_as_unfit(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.settle()
    other = {"m1": "m2", "m2": "m1"}[cluster.assigned()["a.service"]]
    cluster.unit("a.service", f"MachineID={other}")
    assert outcome(cluster) == PlanStats(taken_back=1, unfit=1)


def test_a_unit_that_fits_nowhere_is_counted_when_that_is_decided(cluster: Cluster) -> None:
    cluster.unit("a.service", "MachineID=elsewhere")
    cluster.unit("log.service", GLOBAL + "\nMachineMetadata=no=where")
    assert outcome(cluster) == PlanStats(unplaced=2)
    assert outcome(cluster) == PlanStats()


def test_without_machines_every_wanted_unit_is_unplaced() -> None:
    cluster = Cluster()
    cluster.unit("a.service")
    cluster.unit("b.service", target=INACTIVE)
    assert outcome(cluster) == PlanStats(unplaced=1)
