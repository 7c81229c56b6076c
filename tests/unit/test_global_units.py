"""Global units: on which machines they are placed, and what happens to their allocations."""

import pytest

from fleetd.model.machine import MachineMode
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, A, Cluster, after_partition, settled_cluster

G = "g.service"


@pytest.mark.covers("2.7.1", "2.7.2", "6.1.2")
def test_a_global_unit_is_on_all_machines_it_fits_on_and_says_why_not_on_others():
    cluster = settled_cluster("m1", "m2", "m3", g="Global=true\nMachineMetadata=role=web")
    assert cluster.reason(G) == "no machine fits"
    cluster.settings("m1", role="web")
    cluster.settings("m3", role="web")
    cluster.settle()
    assert cluster.assigned() == {G: "m1 m3"}
    decision = cluster.snapshot.decisions[G]
    assert (decision.machine, decision.machines) == ("", 2)
    assert cluster.rejections(G) == {"metadata role=web missing": 1}
    assert cluster.reason(G) == "on every machine that it fits on"


@pytest.mark.covers("2.7.3")
@pytest.mark.parametrize("target", [LOADED, INACTIVE])
def test_the_target_of_a_global_unit_holds_on_every_machine(target):
    cluster = settled_cluster("m1", "m2", g="Global=true")
    cluster.unit(G, "Global=true", target)
    cluster.run_leader()
    assert {machine: placement.target for machine, placement in cluster.snapshot.placements[G].items()} == {
        "m1": target,
        "m2": target,
    }


def test_a_global_unit_in_a_cluster_without_machines_says_so():
    cluster = Cluster()
    cluster.unit(G, "Global=true")
    cluster.run_leader()
    assert cluster.reason(G) == "there is no machine"


@pytest.mark.covers("2.7.6", "2.10.4")
def test_a_global_unit_starts_on_a_new_machine_and_stops_where_it_no_longer_fits():
    cluster = settled_cluster("m1", g="Global=true\nMachineMetadata=role=web")
    cluster.settings("m1", role="web")
    cluster.machine("m2", role="web")
    cluster.settle()
    assert cluster.assigned() == {G: "m1 m2"}
    cluster.settings("m1", role="db")
    cluster.settle()
    assert cluster.assigned() == {G: "m2"}
    assert not cluster.local_units["m1"]


@pytest.mark.covers("10.7.7")
def test_a_global_unit_stops_on_a_leaving_machine_and_stays_on_a_parked_one():
    cluster = settled_cluster("m1", "m2", "m3", g="Global=true")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.machine("m2", mode=MachineMode.PARKED)
    cluster.machine("m4", mode=MachineMode.PARKED)
    cluster.settle()
    assert cluster.assigned() == {G: "m2 m3"}
    assert cluster.rejections(G) == {"machine is leaving": 1, "machine is parked (its fleetd was stopped)": 1}


@pytest.mark.covers("2.7.2", "10.4.10", "10.5.6", "P.14")
def test_a_global_unit_skips_a_machine_with_a_conflicting_unit():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.unit(G, "Global=true\nConflicts=a*")
    cluster.settle()
    assert cluster.assigned() == {A: "m1", G: "m2"}
    cluster.destroy(A)
    cluster.settle()
    assert cluster.assigned() == {G: "m1 m2"}


def test_a_global_unit_started_again_while_stopping_stays():
    cluster = settled_cluster("m1", g="Global=true")
    cluster.unit(G, "Global=true", INACTIVE)
    cluster.run_leader()
    cluster.unit(G, "Global=true", LAUNCHED)
    cluster.run_leader()
    assert cluster.placement_states(G) == {"m1": "assigned"}


def test_a_global_unit_is_placed_again_only_once_its_last_report_is_deleted():
    cluster = settled_cluster("m1", g="Global=true")
    cluster.settings("m1", hidden="x")
    cluster.unit(G, "Global=true\nMachineMetadata=role=web")
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.settings("m1", role="web")
    cluster.run_leader()
    assert cluster.placement_states(G) == {"m1": "withdrawn"}  # the same generation: it is stopped to its end
    cluster.run_agent("m1")
    cluster.run_leader()
    assert cluster.placement_states(G) == {}
    cluster.run_leader()
    assert cluster.placement_states(G) == {}
    cluster.settle()
    assert cluster.assigned() == {G: "m1"}


def test_a_unit_that_is_no_longer_global_keeps_one_allocation():
    cluster = settled_cluster("m1", "m2", "m3", g="Global=true")
    cluster.unit(G)
    cluster.run_leader()
    assert cluster.placement_states(G) == {"m1": "assigned", "m2": "withdrawn", "m3": "withdrawn"}
    cluster.settle()
    assert cluster.assigned() == {G: "m1"}
    assert [machine for machine, local_units in cluster.local_units.items() if local_units] == ["m1"]


def test_a_unit_that_becomes_global_stays_and_starts_on_other_machines():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.unit(A, "Global=true")
    cluster.settle()
    assert cluster.assigned() == {A: "m1 m2"}


def test_a_superseded_allocation_of_a_unit_that_becomes_global_starts_anew():
    cluster = after_partition()
    cluster.unit(A, "Global=true")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.settle()
    assert cluster.assigned() == {A: "m1 m2"}
