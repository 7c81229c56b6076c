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
from tests.unit.cluster_builder import INACTIVE, LOADED, A, World, cluster

RIVAL = "c@1.service"
NEXT = "c@4.service"
APART = "Conflicts=c@*.service"


TO_M2 = Eviction("m1", Rejection(RejectionKind.MACHINE_ID, "m2"))


def wait(world: World, name: str) -> Reason | None:
    """What the unit waits for according to its decision, or None."""
    reason = world.snapshot.decisions[name].reason
    return reason if is_waiting(reason) else None


def test_a_unit_waits_for_what_it_conflicts_with_and_is_on_its_way_out():
    world = cluster("m1", "m2")
    for number in (1, 2):
        world.unit(f"c@{number}.service", APART)
    world.settle()
    world.unit(NEXT, APART)
    world.lead()
    assert wait(world, NEXT) is None
    assert world.reason(NEXT) == "no machine fits"
    world.destroy(RIVAL)
    world.lead()
    world.lead()
    assert wait(world, NEXT) == WaitingForRoom(RIVAL, "m1")
    assert world.reason(NEXT) == f"waits for {RIVAL} to stop on m1"
    assert world.rejections(NEXT) == {f"conflicts with {RIVAL}": 1, "conflicts with c@2.service": 1}
    world.settle()
    assert world.homes()[NEXT] == "m1"
    assert wait(world, NEXT) is None


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
    world = cluster("m1")
    world.unit(RIVAL)
    if other:
        world.unit(other)
    world.settle()
    world.destroy(RIVAL)
    world.lead()
    world.unit(NEXT, text)
    world.lead()
    assert wait(world, NEXT) is None


def test_a_machine_that_refuses_the_unit_is_not_waited_for():
    world = cluster("m1")
    world.unit(RIVAL)
    world.settle()
    world.refuses["m1"] = {NEXT: "has its own"}
    world.unit(NEXT, "Conflicts=nothing*")
    world.settle()
    world.destroy(RIVAL)
    world.unit(NEXT, APART)
    world.lead()
    assert wait(world, NEXT) is None


def test_a_unit_that_is_being_stopped_and_one_that_follows_it_say_so():
    world = cluster("m1", "m2", a="", b="MachineOf=a.service")
    world.unit(A, "MachineID=m2")
    world.lead()
    world.changed = None
    world.lead()
    assert wait(world, A) == WaitingForStop("m1", TO_M2)
    gone = Eviction("m1", Rejection(RejectionKind.NO_PEER, A))
    assert wait(world, "b.service") in (WaitingForStop("m1", gone), WaitingForPeer(A, WaitingForStop("m1")))
    world.settle()
    assert (wait(world, A), wait(world, "b.service")) == (None, None)


@pytest.mark.parametrize("target", [LOADED, INACTIVE, None])
def test_a_operation_for_a_unit_on_a_parked_machine_waits_for_that(target):
    world = cluster("m1", "m2", a="")
    world.machine("m1", MachineMode.PARKED)
    world.settle()
    assert (wait(world, A), world.reason(A)) == (None, "fits")
    if target is None:
        world.destroy(A)
    else:
        world.unit(A, target=target)
    world.settle()
    assert wait(world, A) == WaitingForMachine("m1", Absence.PARKED)
    assert world.reason(A) == "waits for machine m1, which is parked: its fleetd was stopped"
    world.machine("m1")
    world.settle()
    if target is LOADED:
        assert (wait(world, A), world.reason(A)) == (None, "machine m1 is back")
    else:
        assert A not in world.snapshot.decisions


def test_a_unit_that_has_to_leave_a_machine_that_is_parked_meanwhile_says_so():
    world = cluster("m1", "m2", a="")
    world.unit(A, "MachineID=m2")
    world.lead()
    world.machine("m1", MachineMode.PARKED)
    world.settle()
    assert wait(world, A) == WaitingForStop("m1", TO_M2, Hold.PARKED)
    stopped = "waits until it is stopped on m1, which is parked: its fleetd was stopped"
    assert world.reason(A) == f"not machine m2 on m1; {stopped}"


def test_a_unit_whose_machine_was_to_be_left_and_is_parked_before_that_is_done_says_both():
    world = cluster("m1", a="")
    world.unit(A, target=LOADED)
    world.settle()
    world.machine("m1", MachineMode.LEAVING)
    world.lead()
    world.machine("m1", MachineMode.PARKED)
    world.settle()
    assert world.orders(A) == {"m1": "go"}
    leaving = Eviction("m1", Rejection(RejectionKind.LEAVING))
    assert wait(world, A) == WaitingForStop("m1", leaving, Hold.PARKED)
    stopped = "waits until it is stopped on m1, which is parked: its fleetd was stopped"
    assert world.reason(A) == f"machine m1 is leaving; {stopped}"
    world.machine("m1", MachineMode.READY)
    world.settle()
    assert world.homes() == {A: "m1"}
    assert wait(world, A) is None


def test_a_lost_machine_is_waited_for_in_data_until_it_is_back():
    world = cluster("m1", "m2", a="FailoverDelay=5min")
    world.die("m1")
    world.settle()
    lost = wait(world, A)
    assert isinstance(lost, WaitingForMachine)
    assert (lost.machine, lost.absence) == ("m1", Absence.LOST)
    world.judge({"m1"})  # it may be alive after all
    world.settle()
    assert wait(world, A) == lost
    world.come_back("m1")
    world.settle()
    assert wait(world, A) is None
    assert world.reason(A) == "machine m1 came back in time"
