"""Where units are placed: by load, conflicts and Replaces=, and when a conflict ends."""

import pytest

from fleetd.model.machine import MachineMode
from tests.unit.cluster_builder import settled_cluster


@pytest.mark.covers("2.2.4", "2.2.5", "2.9.1")
def test_units_spread_over_machines_by_load_then_by_id():
    cluster = settled_cluster("m1", "m2", "m3", a="", b="", c="", d="")
    assert cluster.assigned_services() == {"a": "m1", "b": "m2", "c": "m3", "d": "m1"}


@pytest.mark.covers("2.9.2")
def test_a_new_machine_gets_only_units_that_are_not_placed_yet():
    cluster = settled_cluster("m1", a="", b="")
    cluster.machine("m2")
    cluster.submit(c="")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1", "c": "m2"}


@pytest.mark.covers("2.9.2", "2.10.2")
def test_units_do_not_move_back_when_a_machine_returns():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.expire_lease("m1", reboot=True)
    cluster.set_away(set())
    cluster.settle()
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2"}


@pytest.mark.covers("P.15")
def test_a_new_machine_does_not_get_all_instances_of_a_new_template():
    cluster = settled_cluster("m1", "m2", a="", b="", c="", d="")
    cluster.machine("m3")
    for instance in range(3):
        cluster.unit(f"web@{instance}.service")
    cluster.settle()
    assert sorted(machine for name, machine in cluster.assigned_services().items() if "web" in name) == [
        "m1",
        "m2",
        "m3",
    ]


def test_conflicting_units_are_apart_and_one_too_many_says_why_it_is_unplaced():
    cluster = settled_cluster("m1", "m2", "m3")
    for instance in range(4):
        cluster.unit(f"web@{instance}.service", "Conflicts=web@*")
    cluster.settle()
    assert sorted(cluster.assigned().values()) == ["m1", "m2", "m3"]
    assert cluster.reason("web@3.service") == "no machine fits"
    assert cluster.rejections("web@3.service") == {f"conflicts with web@{i}.service": 1 for i in range(3)}


@pytest.mark.covers("2.2.4")
def test_an_unplaced_unit_is_placed_when_the_conflicting_unit_is_destroyed():
    cluster = settled_cluster("m1", a="", b="Conflicts=a*")
    assert cluster.assigned_services() == {"a": "m1"}
    cluster.destroy("a.service")
    cluster.settle()
    assert cluster.assigned_services() == {"b": "m1"}


def test_an_unplaced_unit_is_placed_when_the_other_drops_its_conflict():
    cluster = settled_cluster("m1", a="Conflicts=b*", b="")
    cluster.unit("a.service", "")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


@pytest.mark.covers("P.5")
def test_rejections_are_counted_over_all_machines_and_kept_up_to_date():
    cluster = settled_cluster(
        "m1", "m2 disk=ssd", a="", b="MachineMetadata=disk=ssd\nConflicts=c*", c="MachineMetadata=disk=ssd"
    )
    assert cluster.rejections("c.service") == {"conflicts with b.service": 1, "metadata disk=ssd missing": 1}
    cluster.machine("m3", mode=MachineMode.LEAVING)
    cluster.settle()
    assert sum(cluster.rejections("c.service").values()) == 3
    cluster.submit(aa="MachineID=m2\nConflicts=c*")  # the API refuses both together, but a store may hold them
    cluster.settle()
    assert cluster.rejections("c.service")["conflicts with aa.service"] == 1


@pytest.mark.covers("10.5.4")
def test_of_two_conflicting_units_the_one_changed_later_moves():
    cluster = settled_cluster("m1", "m2", a="MachineID=m1", b="MachineID=m1")
    cluster.unit("a.service", "Conflicts=b*")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m1"}


@pytest.mark.covers("2.6.2")
def test_a_new_global_unit_does_not_evict_a_unit_that_changed_at_the_same_time():
    cluster = settled_cluster("m1", "m2", w="")
    cluster.unit("g.service", "Global=true")
    cluster.unit("w.service", "Conflicts=g*")
    cluster.settle()
    assert cluster.assigned_services() == {"g": "m2", "w": "m1"}


def test_the_reason_of_a_placement_says_whether_there_was_a_choice():
    cluster = settled_cluster("m1 role=web", "m2", a="", b="MachineMetadata=role=web", c="MachineOf=a.service")
    assert cluster.reason("a.service") == "fits, with a.service, c.service"
    assert cluster.reason("b.service") == "the only machine that fits"


# Replaces.


@pytest.mark.covers("2.8.1", "10.5.1", "10.5.2")
def test_a_replaced_unit_stops_and_moves_and_its_replacer_stays():
    cluster = settled_cluster("m1", "m2", "m3", old="MachineMetadata=x=y\n", new="")
    cluster.settings("m1", x="y")
    cluster.settings("m2", x="y")
    cluster.settle()
    assert cluster.assigned_services()["old"] == "m2"
    cluster.unit("new.service", "MachineMetadata=x=y\nReplaces=old*")
    cluster.settle()
    cluster.unit("replacer.service", "MachineID=m2\nReplaces=old*")
    cluster.run_leader()
    assert cluster.placement_states("old.service") == {"m2": "assigned"}  # m1 holds a unit that replaces it as well
    cluster.destroy("new.service")
    cluster.settle()
    assert cluster.assigned_services() == {"old": "m1", "replacer": "m2"}


def test_a_unit_is_not_replaced_once_the_other_drops_replaces():
    cluster = settled_cluster("m1", a="", replacer="Replaces=a*")
    cluster.machine("m2")
    cluster.unit("replacer.service", "")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "replacer": "m1"}


def test_a_replaced_unit_says_why_while_it_is_being_stopped():
    cluster = settled_cluster("m1", "m2", old="MachineID=m1")
    cluster.unit("old.service")
    cluster.settle()
    cluster.unit("new.service", "MachineMetadata=only=m1\nReplaces=old*")
    cluster.settings("m1", only="m1")
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.placement_states("old.service") == {"m1": "withdrawn"}
    assert cluster.reason("old.service") == "replaced by new.service on m1; waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned_services() == {"new": "m1", "old": "m2"}


@pytest.mark.covers("2.8.3")
def test_a_replaced_unit_stays_until_there_is_another_machine():
    cluster = settled_cluster("m1", old="", new="Replaces=old*")
    assert cluster.assigned_services() == {"new": "m1", "old": "m1"}
    cluster.machine("m2")
    cluster.settle()
    assert cluster.assigned_services() == {"new": "m1", "old": "m2"}


@pytest.mark.covers("2.8.2")
def test_two_units_that_replace_each_other_both_stay():
    cluster = settled_cluster("m1", a="Replaces=b*", b="Replaces=a*")
    cluster.machine("m2")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


def test_a_unit_on_a_parked_machine_is_not_replaced():
    cluster = settled_cluster("m1", old="", new="Replaces=old*")
    cluster.machine("m1", mode=MachineMode.PARKED)
    cluster.machine("m2")
    cluster.settle()
    assert cluster.assigned_services() == {"new": "m1", "old": "m1"}
