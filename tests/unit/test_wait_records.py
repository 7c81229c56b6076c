"""What a unit waits for, as data and rendered: a stop, a machine, or another unit."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.model.reason import (
    Absence,
    Eviction,
    Hold,
    Reason,
    Rejection,
    RejectionKind,
    WaitingForMachine,
    WaitingForPeer,
    WaitingForRoom,
    WaitingForStop,
    is_waiting,
)
from tests.unit.cluster_builder import INACTIVE, LOADED, A, Cluster, settled_cluster

RIVAL = "c@1.service"
WAITER = "c@4.service"
APART = "Conflicts=c@*.service"


TO_M2 = Eviction("m1", Rejection(RejectionKind.MACHINE_ID, "m2"))


def wait(cluster: Cluster, name: str) -> Reason | None:
    """What the unit waits for according to its decision, or None."""
    reason = cluster.snapshot.decisions[name].reason
    return reason if is_waiting(reason) else None


def test_a_unit_waits_for_a_conflicting_unit_that_is_stopping():
    cluster = settled_cluster("m1", "m2")
    for number in (1, 2):
        cluster.unit(f"c@{number}.service", APART)
    cluster.settle()
    cluster.unit(WAITER, APART)
    cluster.run_leader()
    assert wait(cluster, WAITER) is None
    assert cluster.reason(WAITER) == "no machine fits"
    cluster.destroy(RIVAL)
    cluster.run_leader()
    cluster.run_leader()
    assert wait(cluster, WAITER) == WaitingForRoom(RIVAL, "m1")
    assert cluster.reason(WAITER) == f"waits for {RIVAL} to stop on m1"
    assert cluster.rejections(WAITER) == {f"conflicts with {RIVAL}": 1, "conflicts with c@2.service": 1}
    cluster.settle()
    assert cluster.assigned()[WAITER] == "m1"
    assert wait(cluster, WAITER) is None


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("MachineMetadata=disk=ssd\nConflicts=c@*", ""),  # no machine has the metadata
        ("MachineOf=absent.service\nConflicts=c@*", ""),  # its peer is missing
        ("Conflicts=c@* stays.service", "stays.service"),  # another unit conflicts and stays
        ("Conflicts=nothing*", ""),  # it fits
    ],
)
def test_a_unit_does_not_wait_for_a_stop_after_which_it_does_not_fit_either(text, other):
    cluster = settled_cluster("m1")
    cluster.unit(RIVAL)
    if other:
        cluster.unit(other)
    cluster.settle()
    cluster.destroy(RIVAL)
    cluster.run_leader()
    cluster.unit(WAITER, text)
    cluster.run_leader()
    assert wait(cluster, WAITER) is None


def test_a_unit_does_not_wait_for_room_on_a_machine_that_refuses_it():
    cluster = settled_cluster("m1")
    cluster.unit(RIVAL)
    cluster.settle()
    cluster.refusals["m1"] = {WAITER: "has its own"}
    cluster.unit(WAITER, "Conflicts=nothing*")
    cluster.settle()
    cluster.destroy(RIVAL)
    cluster.unit(WAITER, APART)
    cluster.run_leader()
    assert wait(cluster, WAITER) is None


def test_a_moving_unit_and_its_follower_wait_for_their_stop():
    cluster = settled_cluster("m1", "m2", a="", b="MachineOf=a.service")
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    cluster.changed = None
    cluster.run_leader()
    assert wait(cluster, A) == WaitingForStop("m1", TO_M2)
    gone = Eviction("m1", Rejection(RejectionKind.NO_PEER, A))
    assert wait(cluster, "b.service") in (WaitingForStop("m1", gone), WaitingForPeer(A, WaitingForStop("m1")))
    cluster.settle()
    assert (wait(cluster, A), wait(cluster, "b.service")) == (None, None)


@pytest.mark.parametrize("target", [LOADED, INACTIVE, None])
def test_a_new_target_on_a_parked_machine_waits_for_that_machine(target):
    cluster = settled_cluster("m1", "m2", a="")
    cluster.machine("m1", MachineMode.PARKED)
    cluster.settle()
    assert (wait(cluster, A), cluster.reason(A)) == (None, "fits")
    if target is None:
        cluster.destroy(A)
    else:
        cluster.unit(A, target=target)
    cluster.settle()
    assert wait(cluster, A) == WaitingForMachine("m1", Absence.PARKED)
    assert cluster.reason(A) == "waits for machine m1, which is parked: its fleetd was stopped"
    cluster.machine("m1")
    cluster.settle()
    if target is LOADED:
        assert (wait(cluster, A), cluster.reason(A)) == (None, "machine m1 is back")
    else:
        assert A not in cluster.snapshot.decisions


def test_a_unit_moving_off_a_machine_that_is_then_parked_says_so():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    cluster.machine("m1", MachineMode.PARKED)
    cluster.settle()
    assert wait(cluster, A) == WaitingForStop("m1", TO_M2, Hold.PARKED)
    stopped = "waits until it is stopped on m1, which is parked: its fleetd was stopped"
    assert cluster.reason(A) == f"not machine m2 on m1; {stopped}"


def test_a_unit_on_a_leaving_machine_that_is_then_parked_says_both():
    cluster = settled_cluster("m1", a="")
    cluster.unit(A, target=LOADED)
    cluster.settle()
    cluster.machine("m1", MachineMode.LEAVING)
    cluster.run_leader()
    cluster.machine("m1", MachineMode.PARKED)
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    leaving = Eviction("m1", Rejection(RejectionKind.LEAVING))
    assert wait(cluster, A) == WaitingForStop("m1", leaving, Hold.PARKED)
    stopped = "waits until it is stopped on m1, which is parked: its fleetd was stopped"
    assert cluster.reason(A) == f"machine m1 is leaving; {stopped}"
    cluster.machine("m1", MachineMode.READY)
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}
    assert wait(cluster, A) is None


def test_a_unit_with_a_delay_waits_for_a_lost_machine_until_it_is_back():
    cluster = settled_cluster("m1", "m2", a="FailoverDelay=5min")
    cluster.die("m1")
    cluster.settle()
    lost = wait(cluster, A)
    assert isinstance(lost, WaitingForMachine)
    assert (lost.machine, lost.absence) == ("m1", Absence.LOST)
    cluster.set_away({"m1"})  # it may be alive after all
    cluster.settle()
    assert wait(cluster, A) == lost
    cluster.come_back("m1")
    cluster.settle()
    assert wait(cluster, A) is None
    assert cluster.reason(A) == "machine m1 came back in time"


def test_a_unit_that_a_machine_removed_before_it_was_parked_is_placed_elsewhere():
    cluster = Cluster()
    cluster.machine("m1", role="x")
    cluster.machine("m2", role="y")
    cluster.submit(a="MachineMetadata=role=x")
    cluster.settle()
    cluster.submit(a="MachineMetadata=role=y")
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.run_agent("m1")
    cluster.machine("m1", MachineMode.PARKED)  # its report of the removal stays until its fleetd is started again
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    cluster.machine("m1", MachineMode.READY)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert "m1" not in cluster.snapshot.states[A]


def test_a_unit_waiting_for_its_removal_is_placed_elsewhere_once_the_machine_parks():
    cluster = Cluster()
    cluster.machine("m1", role="x")
    cluster.machine("m2", role="y")
    cluster.submit(a="MachineMetadata=role=x")
    cluster.settle()
    cluster.submit(a="MachineMetadata=role=y")
    cluster.run_leader()
    cluster.run_agent("m1")
    cluster.run_agent("m1")
    cluster.run_leader()
    assert cluster.reason(A) == "waits until m1 has removed it"
    cluster.machine("m1", MachineMode.PARKED)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
