"""What becomes of a unit's copies: moving, stopping, finishing. What is left behind: test_left_behind.py."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.model.placement import Placement
from fleetd.registry.records import STATES
from tests.unit.cluster_builder import INACTIVE, LOADED, A, cluster

# Operations.


def test_a_new_operation_goes_to_the_machine_where_the_unit_is():
    world = cluster(a="")
    world.unit(A, target=LOADED)
    world.lead()
    order = world.snapshot.placements[A]["m1"]
    assert (order.target, order.generation) == (LOADED, world.snapshot.units[A].generation)
    assert world.orders(A) == {"m1": "stay"}
    assert world.reason(A) == "fits"


@pytest.mark.covers("2.10.5", "3.6.9")
def test_a_replaced_text_stays_on_its_machine_where_it_still_fits():
    world = cluster(a="")
    world.unit(A, "Conflicts=other*")
    world.lead()
    assert world.snapshot.placements[A] == {"m1": Placement("m1", A, *_wish(world, A))}


def _wish(world, name):
    unit = world.snapshot.units[name]
    return unit.text, unit.target, unit.generation


@pytest.mark.covers("2.2.3", "2.10.6")
@pytest.mark.parametrize("destroyed", [False, True])
def test_a_unit_that_is_not_wanted_is_withdrawn_and_forgotten_when_its_machine_has_let_go(destroyed):
    world = cluster(a="")
    generation = world.snapshot.units[A].generation
    if destroyed:
        world.destroy(A)
    else:
        world.unit(A, target=INACTIVE)
        generation = world.snapshot.units[A].generation
    world.lead()
    order = world.snapshot.placements[A]["m1"]
    assert order.is_withdrawn
    assert order.generation == generation
    assert world.reason(A) == "being stopped on m1"
    world.work("m1")
    assert not world.lead().writes  # it is deactivating
    world.settle()
    assert A not in world.snapshot.placements
    assert A not in world.snapshot.decisions
    assert not world.copies["m1"]


def test_an_order_that_the_dead_had_is_deleted():
    world = cluster(a="")
    world.unit(A, target=INACTIVE)
    world.die("m1")
    world.lead()
    assert A not in world.snapshot.placements
    assert A not in world.snapshot.decisions


def test_an_old_report_is_not_taken_for_an_answer_to_a_later_withdrawal():
    world = cluster(a="")
    world.unit(A, target=INACTIVE)
    world.state(A, "m1", "inactive", target=INACTIVE, generation=world.snapshot.units[A].generation - 1)
    world.lead()
    world.lead()
    assert world.orders(A) == {"m1": "go"}


def test_a_unit_wanted_again_while_it_is_being_stopped_stays_where_it_was():
    world = cluster(a="")
    world.unit(A, target=INACTIVE)
    world.lead()
    world.work("m1")
    world.unit(A)
    world.lead()
    assert world.orders(A) == {"m1": "stay"}
    assert world.reason(A) == "wanted again while it was being stopped there"


def test_a_unit_wanted_again_waits_where_it_does_not_fit_any_more():
    world = cluster(a="")
    world.unit(A, target=INACTIVE)
    world.lead()
    world.unit(A, "MachineID=m2")
    world.lead()
    assert world.orders(A) == {"m1": "go"}
    assert world.reason(A) == "waits until m1 has stopped it"
    world.settle()
    assert world.homes() == {A: "m2"}


def test_a_unit_wanted_again_waits_for_a_machine_that_is_away():
    world = cluster(a="")
    world.unit(A, target=INACTIVE)
    world.lead()
    world.vanish("m1")
    world.unit(A)
    world.settle()
    assert world.orders(A) == {"m1": "go"}
    world.judge(set())
    world.settle()
    assert world.homes() == {A: "m2"}


def test_a_unit_is_placed_anew_only_when_its_last_report_is_taken_back():
    world = cluster("m1", a="")
    world.unit(A, target=INACTIVE)
    world.lead()
    world.work("m1")
    world.work("m1")
    world.lead()
    assert world.orders(A) == {}
    world.unit(A)
    world.lead()
    assert world.orders(A) == {}
    assert world.reason(A) == "waits until m1 has removed it"
    world.settle()
    assert world.homes() == {A: "m1"}


def test_a_unit_that_runs_on_a_machine_about_to_register_again_is_placed_nowhere_else():
    world = cluster("m1", a="")
    world.die("m1")
    world.lead()
    assert world.homes() == {}
    world.state(A, "m1", "active")
    world.machine("m2")
    world.lead()
    assert world.homes() == {}
    assert world.reason(A) == "waits for m1, which is coming back with it"
    world.machine("m1")
    world.settle()
    assert world.homes() == {A: "m1"}


def test_a_unit_is_placed_when_the_machine_that_was_about_to_register_has_not():
    world = cluster("m1", a="")
    world.die("m1")
    world.state(A, "m1", "active")
    world.machine("m2")
    world.lead()
    world.write(STATES, ("m1", A), None)
    world.settle()
    assert world.homes() == {A: "m2"}


def test_the_last_report_of_a_machine_that_is_gone_is_not_waited_for():
    world = cluster(a="")
    world.unit(A, target=INACTIVE)
    world.lead()
    world.work("m1")
    world.work("m1")
    world.lead()
    world.unit(A)
    world.die("m1")
    world.lead()
    assert world.homes() == {A: "m2"}


# Moving: stop first.


@pytest.mark.covers("2.2.3", "2.10.4")
def test_a_unit_that_does_not_fit_any_more_is_stopped_first_and_then_placed_elsewhere():
    world = cluster(a="")
    world.unit(A, "MachineID=m2")
    world.lead()
    assert world.orders(A) == {"m1": "go"}
    assert world.reason(A) == "not machine m2 on m1; waits until m1 has stopped it"
    world.lead()
    assert world.reason(A) == "not machine m2 on m1; waits until m1 has stopped it"
    world.settle()
    assert world.homes() == {A: "m2"}


def test_a_unit_that_is_moved_off_a_machine_that_dies_meanwhile_is_placed_at_once():
    world = cluster(a="")
    world.unit(A, "MachineID=m2")
    world.lead()
    world.die("m1")
    world.lead()
    assert world.homes() == {A: "m2"}


@pytest.mark.covers("2.10.3")
def test_a_unit_leaves_a_machine_that_leaves():
    world = cluster(a="")
    world.machine("m1", mode=MachineMode.LEAVING)
    world.lead()
    assert world.reason(A) == "machine m1 is leaving; waits until m1 has stopped it"
    world.settle()
    assert world.homes() == {A: "m2"}


def test_a_unit_leaves_a_machine_that_leaves_even_if_no_other_takes_it():
    world = cluster("m1", a="")
    world.machine("m1", mode=MachineMode.LEAVING)
    world.settle()
    assert world.homes() == {}
    assert world.rejections(A) == {"machine is leaving": 1}


def test_a_parked_machine_keeps_its_units_and_learns_what_is_wanted_of_them_now():
    world = cluster(a="")
    world.machine("m1", mode=MachineMode.PARKED)
    world.unit(A, "MachineID=m2", LOADED)
    world.settle()
    assert world.orders(A) == {"m1": "stay"}
    assert world.snapshot.placements[A]["m1"].target is LOADED
    world.machine("m1", mode=MachineMode.READY)
    world.settle()
    assert world.homes() == {A: "m2"}


def test_a_machine_that_is_away_keeps_its_units():
    world = cluster(a="")
    world.vanish("m1")
    assert not world.lead().writes
    assert world.homes() == {A: "m1"}


@pytest.mark.covers("2.2.3", "2.2.4", "2.10.1")
def test_the_units_of_a_dead_machine_are_placed_elsewhere_at_once():
    world = cluster(a="", b="")
    assert world.homes() == {A: "m1", "b.service": "m2"}
    world.die("m1")
    world.lead()
    assert world.homes() == {A: "m2", "b.service": "m2"}


# What has done its work.


@pytest.mark.covers("P.10")
def test_a_completed_oneshot_is_not_run_again_elsewhere_when_its_machine_dies():
    world = cluster()
    world.unit(A)
    world.lead()
    world.work("m1")
    world.work("m1", outcome="completed")
    world.lead()
    assert world.snapshot.decisions[A].completed == world.snapshot.units[A].generation
    world.die("m1")
    world.settle()
    assert world.homes() == {}
    assert world.reason(A) == "completed"


def test_a_completed_oneshot_is_run_again_when_a_user_asks_for_it():
    world = cluster()
    world.unit(A)
    world.runs(A, "m1", "inactive", completed=True)
    world.lead()
    world.die("m1")
    world.settle()
    world.unit(A)
    world.lead()
    assert world.homes() == {A: "m2"}


def test_what_completed_for_an_earlier_operation_has_not_completed_for_this_one():
    world = cluster()
    world.unit(A)
    earlier = world.snapshot.units[A].generation
    world.unit(A)
    world.runs(A, "m1", "inactive", completed=True, generation=earlier)
    world.die("m1")
    world.lead()
    assert world.homes() == {A: "m2"}
