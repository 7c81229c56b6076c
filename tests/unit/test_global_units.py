"""Global units: on which machines they are, and what becomes of their copies."""

import pytest

from fleetd.model.machine import MachineMode
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, A, World, after_a_cut, cluster

G = "g.service"


@pytest.mark.covers("2.7.1", "2.7.2", "6.1.2")
def test_a_global_unit_is_on_every_machine_that_it_fits_on_and_says_why_not_on_the_others():
    world = cluster("m1", "m2", "m3", g="Global=true\nMachineMetadata=role=web")
    assert world.reason(G) == "no machine fits"
    world.settings("m1", role="web")
    world.settings("m3", role="web")
    world.settle()
    assert world.homes() == {G: "m1 m3"}
    decision = world.snapshot.decisions[G]
    assert (decision.machine, decision.machines) == ("", 2)
    assert world.rejections(G) == {"metadata role=web missing": 1}
    assert world.reason(G) == "on every machine that it fits on"


@pytest.mark.covers("2.7.3")
@pytest.mark.parametrize("target", [LOADED, INACTIVE])
def test_what_is_wanted_of_a_global_unit_is_wanted_on_every_machine(target):
    world = cluster("m1", "m2", g="Global=true")
    world.unit(G, "Global=true", target)
    world.lead()
    assert {machine: order.target for machine, order in world.snapshot.placements[G].items()} == {
        "m1": target,
        "m2": target,
    }


def test_a_global_unit_with_no_machine_at_all_says_so():
    world = World()
    world.unit(G, "Global=true")
    world.lead()
    assert world.reason(G) == "there is no machine"


@pytest.mark.covers("2.7.6", "2.10.4")
def test_a_global_unit_comes_to_a_new_machine_and_leaves_one_that_stops_to_qualify():
    world = cluster("m1", g="Global=true\nMachineMetadata=role=web")
    world.settings("m1", role="web")
    world.machine("m2", role="web")
    world.settle()
    assert world.homes() == {G: "m1 m2"}
    world.settings("m1", role="db")
    world.settle()
    assert world.homes() == {G: "m2"}
    assert not world.copies["m1"]


@pytest.mark.covers("10.7.7")
def test_a_global_unit_leaves_a_machine_that_leaves_and_stays_on_one_that_is_parked():
    world = cluster("m1", "m2", "m3", g="Global=true")
    world.machine("m1", mode=MachineMode.LEAVING)
    world.machine("m2", mode=MachineMode.PARKED)
    world.machine("m4", mode=MachineMode.PARKED)
    world.settle()
    assert world.homes() == {G: "m2 m3"}
    assert world.rejections(G) == {"machine is leaving": 1, "machine is parked (its fleetd was stopped)": 1}


@pytest.mark.covers("2.7.2", "10.4.10", "10.5.6", "P.14")
def test_a_global_unit_that_conflicts_with_what_is_placed_skips_that_machine():
    world = cluster("m1", "m2", a="")
    world.unit(G, "Global=true\nConflicts=a*")
    world.settle()
    assert world.homes() == {A: "m1", G: "m2"}
    world.destroy(A)
    world.settle()
    assert world.homes() == {G: "m1 m2"}


def test_a_global_unit_wanted_again_while_it_is_being_stopped_stays():
    world = cluster("m1", g="Global=true")
    world.unit(G, "Global=true", INACTIVE)
    world.lead()
    world.unit(G, "Global=true", LAUNCHED)
    world.lead()
    assert world.orders(G) == {"m1": "stay"}


def test_a_global_unit_is_not_placed_anew_before_its_last_report_is_taken_back():
    world = cluster("m1", g="Global=true")
    world.settings("m1", hidden="x")
    world.unit(G, "Global=true\nMachineMetadata=role=web")
    world.lead()
    world.work("m1")
    world.settings("m1", role="web")
    world.lead()
    assert world.orders(G) == {"m1": "go"}  # the same generation: it is stopped to its end
    world.work("m1")
    world.lead()
    assert world.orders(G) == {}
    world.lead()
    assert world.orders(G) == {}
    world.settle()
    assert world.homes() == {G: "m1"}


def test_a_unit_that_was_global_keeps_one_allocation():
    world = cluster("m1", "m2", "m3", g="Global=true")
    world.unit(G)
    world.lead()
    assert world.orders(G) == {"m1": "stay", "m2": "go", "m3": "go"}
    world.settle()
    assert world.homes() == {G: "m1"}
    assert [machine for machine, copies in world.copies.items() if copies] == ["m1"]


def test_a_unit_that_becomes_global_spreads_from_where_it_is():
    world = cluster("m1", "m2", a="")
    world.unit(A, "Global=true")
    world.settle()
    assert world.homes() == {A: "m1 m2"}


def test_a_allocation_that_retired_before_its_unit_became_global_is_stopped_and_comes_anew():
    world = after_a_cut()
    world.unit(A, "Global=true")
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}
    world.settle()
    assert world.homes() == {A: "m1 m2"}
