"""Allocations of a unit that stops, moves or completes. Superseded and orphaned ones: test_left_behind.py."""

import pytest

from fleetd.model.content import DropIn
from fleetd.model.machine import MachineMode
from fleetd.model.placement import Placement
from fleetd.registry.records import STATES
from tests.unit.cluster_builder import INACTIVE, LOADED, A, settled_cluster

DROPINS = (DropIn("a.conf", "[X-Fleet]\nConflicts=other*\n"),)

# New files and targets.


def test_a_new_target_is_written_to_the_assigned_machine():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=LOADED)
    cluster.run_leader()
    placement = cluster.snapshot.placements[A]["m1"]
    assert (placement.target, placement.generation) == (LOADED, cluster.snapshot.units[A].generation)
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "fits"


@pytest.mark.covers("2.10.5", "3.6.9")
def test_a_unit_with_a_new_file_stays_where_it_still_fits():
    cluster = settled_cluster(a="")
    cluster.unit(A, "Conflicts=other*")
    cluster.run_leader()
    assert cluster.snapshot.placements[A] == {"m1": Placement("m1", A, *_requested(cluster, A))}


def _requested(cluster, name):
    unit = cluster.snapshot.units[name]
    return unit.text, unit.target, unit.generation


def test_a_changed_drop_in_stays_on_its_machine_where_the_unit_still_fits():
    cluster = settled_cluster(a="")
    cluster.unit(A, dropin="Conflicts=other*")
    cluster.run_leader()
    assert cluster.snapshot.placements[A] == {"m1": Placement("m1", A, *_requested(cluster, A), dropins=DROPINS)}
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.snapshot.placements[A] == {"m1": Placement("m1", A, *_requested(cluster, A))}


def test_a_unit_with_drop_ins_is_not_placed_on_a_machine_that_would_pass_over_them():
    cluster = settled_cluster("m2")
    cluster.machine("m1", is_old=True)
    cluster.unit(A, dropin="X-Note=x")
    cluster.unit("b.service")
    cluster.settle()
    assert cluster.assigned() == {A: "m2", "b.service": "m1"}
    cluster.die("m2")
    cluster.settle()
    assert A not in cluster.assigned()
    assert cluster.rejections(A) == {"its fleetd is too old for drop-ins": 1}
    cluster.machine("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m1", "b.service": "m1"}


def test_a_unit_whose_drop_in_fits_on_its_machine_no_longer_moves_and_conflicts_until_it_has_stopped():
    cluster = settled_cluster("m1", a="")
    cluster.machine("m2", disk="ssd")
    cluster.unit(A, dropin="MachineMetadata=disk=ssd\nConflicts=other*")
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    cluster.unit(A, "MachineMetadata=disk=ssd", dropin="Conflicts=other*\nMachineMetadata=\nMachineID=m1")
    cluster.run_leader()
    leaving = cluster.snapshot.placements[A]["m2"]
    assert leaving.is_withdrawn
    assert leaving.dropins[0].text == "[X-Fleet]\nMachineMetadata=disk=ssd\nConflicts=other*\n"
    assert "other*" in cluster.snapshot.occupancy("m2").units[A].conflicts
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}


@pytest.mark.covers("2.2.3", "2.10.6")
@pytest.mark.parametrize("destroyed", [False, True])
def test_an_unwanted_unit_is_withdrawn_and_forgotten_once_removed(destroyed):
    cluster = settled_cluster(a="")
    generation = cluster.snapshot.units[A].generation
    if destroyed:
        cluster.destroy(A)
    else:
        cluster.unit(A, target=INACTIVE)
        generation = cluster.snapshot.units[A].generation
    cluster.run_leader()
    placement = cluster.snapshot.placements[A]["m1"]
    assert placement.is_withdrawn
    assert placement.generation == generation
    assert cluster.reason(A) == "being stopped on m1"
    cluster.run_agent("m1")
    assert not cluster.run_leader().writes  # it is deactivating
    cluster.settle()
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.decisions
    assert not cluster.local_units["m1"]


def test_a_withdrawn_placement_on_a_dead_machine_is_deleted():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.die("m1")
    cluster.run_leader()
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.decisions


def test_a_report_of_an_older_generation_does_not_confirm_a_withdrawal():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.state(A, "m1", "inactive", target=INACTIVE, generation=cluster.snapshot.units[A].generation - 1)
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_a_unit_started_again_while_stopping_stays_on_its_machine():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "wanted again while it was being stopped there"


def test_a_unit_started_again_waits_for_its_stop_where_it_no_longer_fits():
    cluster = settled_cluster(a="")
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    assert cluster.reason(A) == "waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_started_again_waits_for_its_stop_on_an_away_machine():
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


def test_a_unit_is_placed_again_once_its_last_report_is_deleted():
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


def test_a_unit_waits_for_a_returning_machine_that_reports_it_running():
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


def test_a_unit_is_placed_elsewhere_if_the_returning_machine_never_registers():
    cluster = settled_cluster("m1", a="")
    cluster.die("m1")
    cluster.state(A, "m1", "active")
    cluster.machine("m2")
    cluster.run_leader()
    cluster.write(STATES, ("m1", A), None)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_does_not_wait_for_a_dead_machine_to_delete_its_report():
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
def test_a_unit_that_no_longer_fits_is_stopped_before_it_is_placed_elsewhere():
    cluster = settled_cluster(a="")
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    assert cluster.reason(A) == "not machine m2 on m1; waits until m1 has stopped it"
    cluster.run_leader()
    assert cluster.reason(A) == "not machine m2 on m1; waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_moving_unit_is_placed_at_once_when_its_old_machine_dies():
    cluster = settled_cluster(a="")
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


@pytest.mark.covers("2.10.3")
def test_a_unit_moves_off_a_leaving_machine():
    cluster = settled_cluster(a="")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    assert cluster.reason(A) == "machine m1 is leaving; waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_stops_on_a_leaving_machine_even_if_it_fits_nowhere_else():
    cluster = settled_cluster("m1", a="")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.rejections(A) == {"machine is leaving": 1}


def test_a_parked_machine_keeps_its_units_and_gets_their_new_targets():
    cluster = settled_cluster(a="")
    cluster.machine("m1", mode=MachineMode.PARKED)
    cluster.unit(A, "MachineID=m2", LOADED)
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.snapshot.placements[A]["m1"].target is LOADED
    cluster.machine("m1", mode=MachineMode.READY)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_an_away_machine_keeps_its_units():
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


# Completed oneshots.


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


def test_a_completed_oneshot_is_run_again_when_it_is_started_again():
    cluster = settled_cluster()
    cluster.unit(A)
    cluster.place(A, "m1", "inactive", completed=True)
    cluster.run_leader()
    cluster.die("m1")
    cluster.settle()
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_a_oneshot_completed_for_an_older_generation_is_run_again():
    cluster = settled_cluster()
    cluster.unit(A)
    earlier = cluster.snapshot.units[A].generation
    cluster.unit(A)
    cluster.place(A, "m1", "inactive", completed=True, generation=earlier)
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}
