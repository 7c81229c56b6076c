"""MachineOf=: units are placed, wait and move together with the units that they name."""

import pytest

from fleetd.model.machine import MachineMode
from tests.unit.cluster_builder import INACTIVE, Cluster, settled_cluster


def test_a_group_is_placed_where_all_of_it_fits():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.machine("m2", disk="ssd")
    cluster.submit(a="", b="MachineOf=a.service\nMachineMetadata=disk=ssd", c="MachineOf=b.service")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2", "c": "m2"}


def test_a_placed_unit_stays_if_its_new_follower_does_not_fit_there():
    cluster = settled_cluster("m1", "m2 disk=ssd", a="")
    cluster.submit(b="MachineOf=a.service\nMachineMetadata=disk=ssd")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1"}


@pytest.mark.covers("2.5.5")
def test_units_that_name_each_other_are_placed_together():
    cluster = settled_cluster("m1", "m2", a="MachineOf=b.service", b="MachineOf=a.service")
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


@pytest.mark.covers("2.5.5")
def test_a_cycle_of_units_is_placed_once_the_last_of_them_fits():
    cluster = settled_cluster(
        "m1", a="MachineOf=c.service", b="MachineOf=a.service", c="MachineOf=b.service\nMachineID=m9"
    )
    assert cluster.assigned_services() == {}
    cluster.unit("c.service", "MachineOf=b.service")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1", "c": "m1"}


@pytest.mark.covers("2.5.2")
def test_a_follower_waits_for_an_unknown_peer():
    cluster = settled_cluster("m1", b="MachineOf=a.service")
    assert cluster.rejections("b.service") == {"a.service is not there": 1}
    cluster.submit(a="")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


@pytest.mark.covers("2.5.1")
def test_a_follower_is_placed_where_its_global_peer_is():
    cluster = settled_cluster("m1", "m2 role=web", g="Global=true\nMachineMetadata=role=web", b="MachineOf=g.service")
    assert cluster.assigned_services() == {"b": "m2", "g": "m2"}


def test_a_follower_that_fits_nowhere_does_not_hold_up_the_others():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.machine("m2", disk="ssd")
    cluster.submit(a="", b="MachineOf=a.service\nMachineMetadata=disk=ssd", c="MachineOf=a.service\nMachineID=m9")
    cluster.unit("d.service", "MachineOf=c.service")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2"}
    assert cluster.rejections("c.service") == {"not machine m9": 2}
    assert cluster.rejections("d.service") == {"c.service is not there": 2}


def test_a_group_of_which_no_unit_fits_anywhere_says_why():
    cluster = settled_cluster("m1", a="MachineID=m9", b="MachineOf=a.service\nMachineID=m8")
    assert cluster.assigned_services() == {}
    assert cluster.rejections("a.service") == {"not machine m9": 1}
    assert cluster.rejections("b.service") == {"not machine m8": 1}


def test_a_group_that_fits_on_no_machine_as_a_whole_is_placed_unit_by_unit():
    cluster = Cluster()
    cluster.machine("m1", role="a")
    cluster.machine("m2", role="b")
    cluster.submit(a="MachineMetadata=role=a", b="MachineOf=a.service\nMachineMetadata=role=b")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1"}
    assert cluster.rejections("b.service") == {"a.service is not there": 1, "metadata role=b missing": 1}


def test_a_group_whose_units_conflict_is_placed_unit_by_unit():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.machine("m2")
    cluster.submit(a="", b="MachineOf=a.service\nConflicts=c*", c="MachineOf=a.service")
    cluster.run_leader()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}
    assert cluster.rejections("c.service") == {"a.service is not there": 1, "conflicts with b.service": 1}


@pytest.mark.covers("2.5.3")
def test_a_follower_moves_with_its_peer_and_both_stop_first():
    cluster = settled_cluster("m1", "m2", a="", b="MachineOf=a.service")
    cluster.unit("a.service", "MachineID=m2")
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.placement_states("a.service") == cluster.placement_states("b.service") == {"m1": "withdrawn"}
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2"}


@pytest.mark.parametrize("slow", ["a.service", "b.service"])
def test_no_unit_of_a_moving_group_is_placed_before_all_are_stopped(slow):
    cluster = settled_cluster("m1", "m2", "m3", a="", b="MachineOf=a.service")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    quick = "b.service" if slow == "a.service" else "a.service"
    cluster.reconcile("m1", quick)
    cluster.reconcile("m1", quick)
    cluster.run_leader()
    assert cluster.placement_states(quick) == {}
    cluster.reconcile("m1", quick)
    cluster.run_leader()
    assert cluster.reason(quick) == f"waits for {slow}, which waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2"}


def test_a_unit_does_not_wait_for_an_inactive_follower():
    cluster = settled_cluster("m1", "m2", a="", b="MachineOf=a.service")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    for _ in range(3):
        cluster.reconcile("m1", "a.service")
        cluster.run_leader()
    assert cluster.reason("a.service") == "waits for b.service, which waits until m1 has stopped it"
    cluster.unit("b.service", "MachineOf=a.service", INACTIVE)
    cluster.run_leader()
    assert cluster.assigned_services() == {"a": "m2"}


def test_a_unit_does_not_wait_for_a_completed_follower():
    cluster = settled_cluster("m1", "m2", a="", b="MachineOf=a.service")
    cluster.state("b.service", "m1", "inactive", completed=True)
    cluster.run_leader()
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    for _ in range(3):
        cluster.reconcile("m1", "a.service")
        cluster.run_leader()
    assert cluster.assigned_services() == {"a": "m2"}


@pytest.mark.covers("2.5.4")
def test_a_follower_of_a_destroyed_peer_is_stopped_and_waits():
    cluster = settled_cluster("m1", a="", b="MachineOf=a.service")
    cluster.destroy("a.service")
    cluster.settle()
    assert cluster.assigned_services() == {}
    assert cluster.rejections("b.service") == {"a.service is not there": 1}


def test_a_group_on_a_dead_machine_fails_over_together():
    cluster = settled_cluster("m1", "m2", "m3", a="", b="MachineOf=a.service", c="", d="")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned_services()["a"] == cluster.assigned_services()["b"] != "m1"


def test_a_group_is_ordered_peers_first_and_cycles_by_name():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.unit("a.service", "MachineOf=b.service\nMachineOf=c.service")
    cluster.unit("b.service", "MachineOf=c.service")
    cluster.unit("c.service")
    cluster.unit("d.service", "MachineOf=e.service\nMachineOf=a.service")
    cluster.unit("e.service", "MachineOf=d.service")
    cluster.run_leader()
    group = "c.service, b.service, a.service, d.service, e.service"
    assert cluster.reason("a.service") == f"the only machine that fits, with {group}"
