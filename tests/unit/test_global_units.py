"""Global units: on which machines they are, and what becomes of their copies."""

import pytest

from fleetd.model.machine import MachineMode
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, A, Cluster, after_partition, settled_cluster

G = "g.service"


@pytest.mark.covers("2.7.1", "2.7.2", "6.1.2")
def test_a_global_unit_is_on_every_machine_that_it_fits_on_and_says_why_not_on_the_others():
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
def test_what_is_wanted_of_a_global_unit_is_wanted_on_every_machine(target):
    cluster = settled_cluster("m1", "m2", g="Global=true")
    cluster.unit(G, "Global=true", target)
    cluster.run_leader()
    assert {machine: order.target for machine, order in cluster.snapshot.placements[G].items()} == {
        "m1": target,
        "m2": target,
    }


def test_a_global_unit_with_no_machine_at_all_says_so():
    cluster = Cluster()
    cluster.unit(G, "Global=true")
    cluster.run_leader()
    assert cluster.reason(G) == "there is no machine"


@pytest.mark.covers("2.7.6", "2.10.4")
def test_a_global_unit_comes_to_a_new_machine_and_leaves_one_that_stops_to_qualify():
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
def test_a_global_unit_leaves_a_machine_that_leaves_and_stays_on_one_that_is_parked():
    cluster = settled_cluster("m1", "m2", "m3", g="Global=true")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.machine("m2", mode=MachineMode.PARKED)
    cluster.machine("m4", mode=MachineMode.PARKED)
    cluster.settle()
    assert cluster.assigned() == {G: "m2 m3"}
    assert cluster.rejections(G) == {"machine is leaving": 1, "machine is parked (its fleetd was stopped)": 1}


@pytest.mark.covers("2.7.2", "10.4.10", "10.5.6", "P.14")
def test_a_global_unit_that_conflicts_with_what_is_placed_skips_that_machine():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.unit(G, "Global=true\nConflicts=a*")
    cluster.settle()
    assert cluster.assigned() == {A: "m1", G: "m2"}
    cluster.destroy(A)
    cluster.settle()
    assert cluster.assigned() == {G: "m1 m2"}


def test_a_global_unit_wanted_again_while_it_is_being_stopped_stays():
    cluster = settled_cluster("m1", g="Global=true")
    cluster.unit(G, "Global=true", INACTIVE)
    cluster.run_leader()
    cluster.unit(G, "Global=true", LAUNCHED)
    cluster.run_leader()
    assert cluster.placement_states(G) == {"m1": "assigned"}


def test_a_global_unit_is_not_placed_anew_before_its_last_report_is_taken_back():
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


def test_a_unit_that_was_global_keeps_one_allocation():
    cluster = settled_cluster("m1", "m2", "m3", g="Global=true")
    cluster.unit(G)
    cluster.run_leader()
    assert cluster.placement_states(G) == {"m1": "assigned", "m2": "withdrawn", "m3": "withdrawn"}
    cluster.settle()
    assert cluster.assigned() == {G: "m1"}
    assert [machine for machine, copies in cluster.local_units.items() if copies] == ["m1"]


def test_a_unit_that_becomes_global_spreads_from_where_it_is():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.unit(A, "Global=true")
    cluster.settle()
    assert cluster.assigned() == {A: "m1 m2"}


def test_a_allocation_that_retired_before_its_unit_became_global_is_stopped_and_comes_anew():
    cluster = after_partition()
    cluster.unit(A, "Global=true")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.settle()
    assert cluster.assigned() == {A: "m1 m2"}
