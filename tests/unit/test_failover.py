"""What the loss of a machine means for its units: how long they wait for it, and what has finished there."""

import msgspec
import pytest

from fleetd.model.machine import MachineMode
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.snapshot import MachineLoss
from tests.unit.cluster_builder import INACTIVE, LOADED, A, World, cluster

B, C = "b.service", "c.service"
SHORT = "FailoverDelay=5min"


def after_a_loss(**units: str) -> World:
    """These units run on m1, which is dead; m2 and m3 are there."""
    world = cluster("m1", **units)
    world.machine("m2")
    world.machine("m3")
    world.settle()
    world.die("m1")
    world.lead()
    return world


# Waiting.


def test_a_unit_with_a_delay_stays_where_it_is_and_says_for_whom_it_waits_and_until_when():
    world = after_a_loss(a=SHORT)
    assert world.homes() == {A: "m1"}
    assert world.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"
    assert world.snapshot.decisions[A].lost > 0


def test_one_that_waits_without_an_end_says_so():
    world = after_a_loss(a="FailoverDelay=infinity")
    assert world.reason(A) == "waits for machine m1 to come back, however long that takes"
    assert world.wakeups == {}
    world.wait(1e9)
    assert not world.lead().writes
    assert world.homes() == {A: "m1"}


def test_nothing_is_planned_while_it_waits_whoever_looks():
    world = after_a_loss(a=SHORT)
    assert not world.lead().writes
    assert world.plan_cold().units == ()
    world.wait(299)
    assert not world.lead().writes
    assert world.plan_cold().units == ()


def test_when_the_delay_is_over_it_goes_elsewhere():
    world = after_a_loss(a=SHORT)
    world.wait(300)
    world.settle()
    assert world.homes() == {A: "m2"}
    assert world.reason(A) == "fits"
    assert world.snapshot.decisions[A].lost == 0


def test_a_machine_that_comes_back_in_time_finds_its_order_untouched():
    world = after_a_loss(a=SHORT)
    order, copy = world.snapshot.placements[A]["m1"], msgspec.structs.replace(world.copies["m1"][A])
    world.wait(299)
    world.come_back("m1")
    world.settle()
    assert world.snapshot.placements[A] == {"m1": order}
    assert world.copies["m1"][A] == copy
    assert world.reason(A) == "machine m1 came back in time"
    world.wait(10)
    assert not world.lead().writes


def test_one_that_comes_back_too_late_is_an_allocation_that_outlived_a_cut():
    world = after_a_loss(a=SHORT)
    world.wait(300)
    world.lead()
    world.come_back("m1")
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.settle()
    assert world.homes() == {A: "m2"}
    assert A not in world.copies["m1"]


def test_each_loss_of_a_machine_is_waited_for_anew():
    world = after_a_loss(a=SHORT)
    world.wait(299)
    world.come_back("m1")
    world.settle()
    world.die("m1")
    world.lead()
    assert world.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:09:59 UTC"
    world.wait(299)
    world.lead()
    assert world.homes() == {A: "m1"}
    world.wait(1)
    world.lead()
    assert world.homes() == {A: "m2"}


def test_a_machine_that_may_be_alive_after_all_is_waited_for_as_before():
    world = after_a_loss(a=SHORT)
    world.judge({"m1"})
    world.wait(300)
    assert not world.lead().writes
    world.judge(set())
    world.snapshot.lost = {"m1": MachineLoss(0.0, 0.0)}
    world.lead()
    assert world.homes() == {A: "m2"}


def test_another_leader_counts_anew_and_says_so():
    world = after_a_loss(a=SHORT)
    world.wait(200)
    world.elect()
    world.lead()
    assert world.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:08:20 UTC"
    world.wait(299)
    world.lead()
    assert world.homes() == {A: "m1"}
    world.wait(1)
    world.lead()
    assert world.homes() == {A: "m2"}


def test_the_configuration_speaks_for_units_that_say_nothing_themselves():
    world = cluster(a="", b="FailoverDelay=0")
    world.policy = FailoverPolicy(delay_s=60)
    world.die("m1")
    world.die("m2")
    world.machine("m3")
    world.lead()
    assert world.homes() == {A: "m1", B: "m3"}
    world.wait(60)
    world.lead()
    assert world.homes() == {A: "m3", B: "m3"}


# What people do meanwhile.


def test_a_unit_destroyed_meanwhile_is_forgotten_at_once_and_stopped_when_the_machine_is_back():
    world = after_a_loss(a=SHORT)
    world.destroy(A)
    world.lead()
    assert A not in world.snapshot.placements
    assert A not in world.snapshot.decisions
    world.come_back("m1")
    world.settle()
    assert not world.copies["m1"]


@pytest.mark.parametrize("target", [LOADED, INACTIVE])
def test_a_unit_that_is_stopped_meanwhile_waits_for_nobody(target):
    world = after_a_loss(a=SHORT)
    world.unit(A, SHORT, target)
    world.lead()
    assert world.homes() == ({A: "m2"} if target is LOADED else {})
    world.come_back("m1")
    world.settle()
    assert not world.copies["m1"]


def test_one_that_is_started_again_goes_on_waiting_and_the_machine_learns_of_it():
    world = after_a_loss(a=SHORT)
    world.unit(A, SHORT)
    world.lead()
    assert world.snapshot.placements[A]["m1"].generation == world.snapshot.units[A].generation
    assert world.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"


def test_one_whose_new_file_has_no_delay_goes_at_once():
    world = after_a_loss(a=SHORT)
    world.unit(A, "")
    world.lead()
    assert world.homes() == {A: "m2"}


def test_a_unit_that_waits_hinders_nobody_that_lives():
    world = after_a_loss(a=f"{SHORT}\nConflicts=b.service")
    world.unit(B, "")
    world.settle()
    assert world.homes() == {A: "m1", B: "m2"}
    world.come_back("m1")
    world.settle()
    assert world.homes() == {A: "m1", B: "m2"}


def test_a_allocation_that_runs_elsewhere_is_the_unit_and_nothing_is_waited_for():
    world = cluster(a=SHORT)
    world.die("m1")
    world.lead()
    world.wait(300)
    world.lead()
    world.come_back("m1")
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.die("m2")
    world.settle()
    assert world.homes() == {A: "m1"}
    assert world.reason(A) == "was still running there"


# Units bound together.


def test_units_that_are_bound_together_wait_together_as_long_as_any_of_them():
    world = after_a_loss(a="", b="MachineOf=a.service", c=f"MachineOf=b.service\n{SHORT}")
    assert world.homes() == {A: "m1", B: "m1", C: "m1"}
    assert world.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"
    world.wait(300)
    world.lead()
    assert world.homes() == {A: "m2", B: "m2", C: "m2"}


@pytest.mark.parametrize("target", [LOADED, None])
def test_the_others_go_when_the_one_that_they_waited_with_is_not_to_run_any_more(target):
    world = after_a_loss(a="", b="MachineOf=a.service", c="MachineOf=b.service\nFailoverDelay=infinity")
    if target is None:
        world.destroy(C)
    else:
        world.unit(C, "MachineOf=b.service\nFailoverDelay=infinity", target)
    world.lead()
    assert dict.fromkeys((A, B), "m2").items() <= world.homes().items()


# Machines that go in order.


def test_a_unit_with_a_delay_waits_for_a_machine_that_shuts_down():
    world = cluster(a=SHORT)
    world.machine("m1", mode=MachineMode.LEAVING, shuts_down=True)
    assert not world.lead().writes
    world.vanish("m1", reboot=True)
    world.judge(set())
    world.lead()
    assert world.homes() == {A: "m1"}
    world.come_back("m1")
    world.settle()
    assert world.copies["m1"][A].active == "active"


@pytest.mark.parametrize(("text", "shuts_down"), [(SHORT, False), ("", True)])
def test_it_goes_at_once_where_the_machine_leaves_for_good_and_without_a_delay(text, shuts_down):
    world = cluster(a=text)
    world.machine("m1", mode=MachineMode.LEAVING, shuts_down=shuts_down)
    world.settle()
    assert world.homes() == {A: "m2"}


# Global units, and parked machines.


def test_a_global_unit_waits_for_no_machine():
    world = cluster(a="Global=true")
    world.policy = FailoverPolicy(delay_s=60)
    world.die("m1")
    world.lead()
    assert world.homes() == {A: "m2"}


def test_the_delay_counts_from_the_end_of_a_parked_machines_lease():
    world = cluster(a=SHORT)
    world.machine("m1", mode=MachineMode.PARKED)
    world.wait(3600)
    assert not world.lead().writes
    world.die("m1")
    world.wait(299)
    world.lead()
    assert world.homes() == {A: "m1"}
    world.wait(300)
    world.lead()
    assert world.homes() == {A: "m2"}


# Oneshots that have finished.


def completed(text: str, *, by_default: bool = False) -> World:
    """A oneshot that has run to its end on m1."""
    world = cluster("m1")
    world.machine("m1", role="x")
    world.policy = FailoverPolicy(rerun=by_default)
    world.unit(A, text)
    for _ in range(3):
        world.lead()
        world.work("m1", "completed")
    world.lead()
    world.machine("m2")
    world.settle()
    assert world.snapshot.decisions[A].completed == world.snapshot.units[A].generation
    return world


def lose(world: World, *, leaving: bool) -> None:
    """m1 is lost, or leaves in order."""
    if leaving:
        world.machine("m1", mode=MachineMode.LEAVING)
    else:
        world.die("m1")


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("text", ["", "RerunAfterFailover=false"])
def test_what_has_finished_is_not_run_again(text, leaving):
    world = completed(text)
    lose(world, leaving=leaving)
    world.settle()
    assert world.homes() == {}
    assert world.reason(A) == "completed"


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize(("text", "by_default"), [("RerunAfterFailover=true", False), ("", True)])
def test_what_has_finished_is_run_again_elsewhere_where_it_is_to_be(text, by_default, leaving):
    world = completed(text, by_default=by_default)
    lose(world, leaving=leaving)
    world.settle()
    assert world.homes() == {A: "m2"}
    assert not world.snapshot.placements[A]["m2"].completed
    assert world.copies["m2"][A].active == "active"


def test_it_is_run_again_as_soon_as_there_is_a_machine():
    world = completed("RerunAfterFailover=true\nMachineMetadata=role=x")
    world.die("m1")
    world.settle()
    assert world.homes() == {}
    world.machine("m3", role="x")
    world.settle()
    assert world.copies["m3"][A].active == "active"


def test_what_has_finished_is_not_run_again_for_another_move():
    world = completed("RerunAfterFailover=true")
    world.unit(B, "Conflicts=a.service\nMachineID=m1")
    world.settle()
    world.settings("m1", role="x")
    world.settle()
    assert world.snapshot.decisions[A].completed == world.snapshot.units[A].generation
    assert "m2" not in world.homes().get(A, "")


def test_with_a_delay_it_is_run_again_only_when_that_is_over():
    world = completed(f"RerunAfterFailover=true\n{SHORT}")
    world.die("m1")
    world.lead()
    assert world.snapshot.placements[A]["m1"].completed
    world.wait(300)
    world.settle()
    assert world.copies["m2"][A].active == "active"
