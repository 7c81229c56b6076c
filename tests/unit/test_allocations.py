"""What becomes of a unit's copies: moving, stopping, finishing. What is left behind: test_left_behind.py."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.model.placement import Placement
from fleetd.registry.records import STATES
from tests.unit.cluster_builder import INACTIVE, LOADED, A, settled_cluster

# Operations.


def test_a_new_operation_goes_to_the_machine_where_the_unit_is():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=LOADED)
    cluster.run_leader()
    order = cluster.snapshot.placements[A]["m1"]
    assert (order.target, order.generation) == (LOADED, cluster.snapshot.units[A].generation)
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "fits"


@pytest.mark.covers("2.10.5", "3.6.9")
def test_a_replaced_text_stays_on_its_machine_where_it_still_fits():
    cluster = settled_cluster(a="")
    cluster.unit(A, "Conflicts=other*")
    cluster.run_leader()
    assert cluster.snapshot.placements[A] == {"m1": Placement("m1", A, *_wish(cluster, A))}


def _wish(cluster, name):
    unit = cluster.snapshot.units[name]
    return unit.text, unit.target, unit.generation


@pytest.mark.covers("2.2.3", "2.10.6")
@pytest.mark.parametrize("destroyed", [False, True])
def test_a_unit_that_is_not_wanted_is_withdrawn_and_forgotten_when_its_machine_has_let_go(destroyed):
    cluster = settled_cluster(a="")
    generation = cluster.snapshot.units[A].generation
    if destroyed:
        cluster.destroy(A)
    else:
        cluster.unit(A, target=INACTIVE)
        generation = cluster.snapshot.units[A].generation
    cluster.run_leader()
    order = cluster.snapshot.placements[A]["m1"]
    assert order.is_withdrawn
    assert order.generation == generation
    assert cluster.reason(A) == "being stopped on m1"
    cluster.run_agent("m1")
    assert not cluster.run_leader().writes  # it is deactivating
    cluster.settle()
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.decisions
    assert not cluster.local_units["m1"]


def test_an_order_that_the_dead_had_is_deleted():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.die("m1")
    cluster.run_leader()
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.decisions


def test_an_old_report_is_not_taken_for_an_answer_to_a_later_withdrawal():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.state(A, "m1", "inactive", target=INACTIVE, generation=cluster.snapshot.units[A].generation - 1)
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_a_unit_wanted_again_while_it_is_being_stopped_stays_where_it_was():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "wanted again while it was being stopped there"


def test_a_unit_wanted_again_waits_where_it_does_not_fit_any_more():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    assert cluster.reason(A) == "waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_wanted_again_waits_for_a_machine_that_is_away():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.expire_lease("m1")
    cluster.unit(A)
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    cluster.set_away(set())
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_is_placed_anew_only_when_its_last_report_is_taken_back():
    cluster = settled_cluster("m1", a="")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.run_agent("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {}
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.placement_states(A) == {}
    assert cluster.reason(A) == "waits until m1 has removed it"
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}


def test_a_unit_that_runs_on_a_machine_about_to_register_again_is_placed_nowhere_else():
    cluster = settled_cluster("m1", a="")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {}
    cluster.state(A, "m1", "active")
    cluster.machine("m2")
    cluster.run_leader()
    assert cluster.assigned() == {}
    assert cluster.reason(A) == "waits for m1, which is coming back with it"
    cluster.machine("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}


def test_a_unit_is_placed_when_the_machine_that_was_about_to_register_has_not():
    cluster = settled_cluster("m1", a="")
    cluster.die("m1")
    cluster.state(A, "m1", "active")
    cluster.machine("m2")
    cluster.run_leader()
    cluster.write(STATES, ("m1", A), None)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_the_last_report_of_a_machine_that_is_gone_is_not_waited_for():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.run_agent("m1")
    cluster.run_leader()
    cluster.unit(A)
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


# Moving: stop first.


@pytest.mark.covers("2.2.3", "2.10.4")
def test_a_unit_that_does_not_fit_any_more_is_stopped_first_and_then_placed_elsewhere():
    cluster = settled_cluster(a="")
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    assert cluster.reason(A) == "not machine m2 on m1; waits until m1 has stopped it"
    cluster.run_leader()
    assert cluster.reason(A) == "not machine m2 on m1; waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_that_is_moved_off_a_machine_that_dies_meanwhile_is_placed_at_once():
    cluster = settled_cluster(a="")
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


@pytest.mark.covers("2.10.3")
def test_a_unit_leaves_a_machine_that_leaves():
    cluster = settled_cluster(a="")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    assert cluster.reason(A) == "machine m1 is leaving; waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_leaves_a_machine_that_leaves_even_if_no_other_takes_it():
    cluster = settled_cluster("m1", a="")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.rejections(A) == {"machine is leaving": 1}


def test_a_parked_machine_keeps_its_units_and_learns_what_is_wanted_of_them_now():
    cluster = settled_cluster(a="")
    cluster.machine("m1", mode=MachineMode.PARKED)
    cluster.unit(A, "MachineID=m2", LOADED)
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.snapshot.placements[A]["m1"].target is LOADED
    cluster.machine("m1", mode=MachineMode.READY)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_machine_that_is_away_keeps_its_units():
    cluster = settled_cluster(a="")
    cluster.expire_lease("m1")
    assert not cluster.run_leader().writes
    assert cluster.assigned() == {A: "m1"}


@pytest.mark.covers("2.2.3", "2.2.4", "2.10.1")
def test_the_units_of_a_dead_machine_are_placed_elsewhere_at_once():
    cluster = settled_cluster(a="", b="")
    assert cluster.assigned() == {A: "m1", "b.service": "m2"}
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2", "b.service": "m2"}


# What has done its work.


@pytest.mark.covers("P.10")
def test_a_completed_oneshot_is_not_run_again_elsewhere_when_its_machine_dies():
    cluster = settled_cluster()
    cluster.unit(A)
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.run_agent("m1", outcome="completed")
    cluster.run_leader()
    assert cluster.snapshot.decisions[A].completed == cluster.snapshot.units[A].generation
    cluster.die("m1")
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.reason(A) == "completed"


def test_a_completed_oneshot_is_run_again_when_a_user_asks_for_it():
    cluster = settled_cluster()
    cluster.unit(A)
    cluster.place(A, "m1", "inactive", completed=True)
    cluster.run_leader()
    cluster.die("m1")
    cluster.settle()
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_what_completed_for_an_earlier_operation_has_not_completed_for_this_one():
    cluster = settled_cluster()
    cluster.unit(A)
    earlier = cluster.snapshot.units[A].generation
    cluster.unit(A)
    cluster.place(A, "m1", "inactive", completed=True, generation=earlier)
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}
