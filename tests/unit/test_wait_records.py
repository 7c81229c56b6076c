"""What a unit waits for, in data and in words: something that stops, a machine that is to be back, another unit."""

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
NEXT = "c@4.service"
APART = "Conflicts=c@*.service"


TO_M2 = Eviction("m1", Rejection(RejectionKind.MACHINE_ID, "m2"))


def wait(cluster: Cluster, name: str) -> Reason | None:
    """What the unit waits for according to its decision, or None."""
    reason = cluster.snapshot.decisions[name].reason
    return reason if is_waiting(reason) else None


def test_a_unit_waits_for_what_it_conflicts_with_and_is_on_its_way_out():
    cluster = settled_cluster("m1", "m2")
    for number in (1, 2):
        cluster.unit(f"c@{number}.service", APART)
    cluster.settle()
    cluster.unit(NEXT, APART)
    cluster.run_leader()
    assert wait(cluster, NEXT) is None
    assert cluster.reason(NEXT) == "no machine fits"
    cluster.destroy(RIVAL)
    cluster.run_leader()
    cluster.run_leader()
    assert wait(cluster, NEXT) == WaitingForRoom(RIVAL, "m1")
    assert cluster.reason(NEXT) == f"waits for {RIVAL} to stop on m1"
    assert cluster.rejections(NEXT) == {f"conflicts with {RIVAL}": 1, "conflicts with c@2.service": 1}
    cluster.settle()
    assert cluster.assigned()[NEXT] == "m1"
    assert wait(cluster, NEXT) is None


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("MachineMetadata=disk=ssd\nConflicts=c@*", ""),  # it suits no machine
        ("MachineOf=absent.service\nConflicts=c@*", ""),  # its peer is missing
        ("Conflicts=c@* stays.service", "stays.service"),  # another one stays
        ("Conflicts=nothing*", ""),  # it does not conflict at all: it fits
    ],
)
def test_a_unit_does_not_wait_for_what_would_not_help_it(text, other):
    cluster = settled_cluster("m1")
    cluster.unit(RIVAL)
    if other:
        cluster.unit(other)
    cluster.settle()
    cluster.destroy(RIVAL)
    cluster.run_leader()
    cluster.unit(NEXT, text)
    cluster.run_leader()
    assert wait(cluster, NEXT) is None


def test_a_machine_that_refuses_the_unit_is_not_waited_for():
    cluster = settled_cluster("m1")
    cluster.unit(RIVAL)
    cluster.settle()
    cluster.refusals["m1"] = {NEXT: "has its own"}
    cluster.unit(NEXT, "Conflicts=nothing*")
    cluster.settle()
    cluster.destroy(RIVAL)
    cluster.unit(NEXT, APART)
    cluster.run_leader()
    assert wait(cluster, NEXT) is None


def test_a_unit_that_is_being_stopped_and_one_that_follows_it_say_so():
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
def test_a_operation_for_a_unit_on_a_parked_machine_waits_for_that(target):
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


def test_a_unit_that_has_to_leave_a_machine_that_is_parked_meanwhile_says_so():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.unit(A, "MachineID=m2")
    cluster.run_leader()
    cluster.machine("m1", MachineMode.PARKED)
    cluster.settle()
    assert wait(cluster, A) == WaitingForStop("m1", TO_M2, Hold.PARKED)
    stopped = "waits until it is stopped on m1, which is parked: its fleetd was stopped"
    assert cluster.reason(A) == f"not machine m2 on m1; {stopped}"


def test_a_unit_whose_machine_was_to_be_left_and_is_parked_before_that_is_done_says_both():
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


def test_a_lost_machine_is_waited_for_in_data_until_it_is_back():
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
