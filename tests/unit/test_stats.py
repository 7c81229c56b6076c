"""The statistics of a cluster and of a plan."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.scheduler.stats import PlanStats, count_cluster, count_plan
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, Cluster

GLOBAL = "Global=true"


def plan_and_count(cluster: Cluster) -> PlanStats:
    """The statistics of the next plan, which is then written."""
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


def test_units_are_counted_by_target_and_current_state(cluster: Cluster) -> None:
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


def test_a_global_unit_counts_by_its_least_advanced_allocation(cluster: Cluster) -> None:
    cluster.unit("log.service", GLOBAL)
    cluster.run_leader()
    cluster.state("log.service", "m1", "active", target=LAUNCHED)
    assert count_cluster(cluster.snapshot).units == {("launched", "inactive"): 1}
    cluster.state("log.service", "m2", "inactive", target=LOADED)
    assert count_cluster(cluster.snapshot).units == {("launched", "loaded"): 1}
    cluster.state("log.service", "m2", "active", target=LAUNCHED)
    assert count_cluster(cluster.snapshot).units == {("launched", "launched"): 1}


def test_allocations_are_counted_by_active_state_and_machines_by_mode(cluster: Cluster) -> None:
    cluster.machine("m3", MachineMode.PARKED)
    cluster.machine("m4")
    cluster.cordon("m3")
    cluster.cordon("m4")
    cluster.unit("a.service")
    cluster.unit("b.service")
    cluster.settle()
    cluster.state("b.service", cluster.assigned()["b.service"], "failed")
    stats = count_cluster(cluster.snapshot)
    assert stats.allocations == {("active",): 1, ("failed",): 1}
    assert stats.machines == {("ready",): 2, ("parked",): 1, ("cordoned",): 1}


@pytest.mark.covers("10.5.5")
def test_a_placement_is_counted_once_and_not_again_for_a_new_target(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.unit("log.service", GLOBAL)
    assert plan_and_count(cluster) == PlanStats(placed=3)
    cluster.settle()
    cluster.unit("a.service", target=LOADED)
    assert plan_and_count(cluster) == PlanStats()


def test_units_stopped_by_operators_are_not_counted_as_unfit(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.unit("b.service")
    cluster.settle()
    cluster.destroy("a.service")
    cluster.unit("b.service", target=INACTIVE)
    assert plan_and_count(cluster) == PlanStats(taken_back=2)
    cluster.settle()
    assert plan_and_count(cluster) == PlanStats(), "deleting the withdrawn placements is not counted"


@pytest.mark.covers("7.6")
def test_a_failover_counts_as_taken_back_and_placed(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.settle()
    cluster.die(cluster.assigned()["a.service"])
    assert plan_and_count(cluster) == PlanStats(placed=1, taken_back=1, machine_away=1)


def test_an_evicted_unit_counts_as_unfit(cluster: Cluster) -> None:
    cluster.unit("a.service")
    cluster.settle()
    other = {"m1": "m2", "m2": "m1"}[cluster.assigned()["a.service"]]
    cluster.unit("a.service", f"MachineID={other}")
    assert plan_and_count(cluster) == PlanStats(taken_back=1, unfit=1)


def test_an_unplaced_unit_is_counted_when_it_is_decided(cluster: Cluster) -> None:
    cluster.unit("a.service", "MachineID=elsewhere")
    cluster.unit("log.service", GLOBAL + "\nMachineMetadata=no=where")
    assert plan_and_count(cluster) == PlanStats(unplaced=2)
    assert plan_and_count(cluster) == PlanStats()


def test_without_machines_every_wanted_unit_counts_as_unplaced() -> None:
    cluster = Cluster()
    cluster.unit("a.service")
    cluster.unit("b.service", target=INACTIVE)
    assert plan_and_count(cluster) == PlanStats(unplaced=1)
