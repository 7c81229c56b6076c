"""What the loss of a machine means for its units: how long they wait for it, and what has finished there."""

import msgspec
import pytest

from fleetd.model.machine import MachineMode
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.snapshot import MachineLoss
from tests.unit.cluster_builder import INACTIVE, LOADED, A, Cluster, settled_cluster

B, C = "b.service", "c.service"
SHORT = "FailoverDelay=5min"


def after_machine_loss(**units: str) -> Cluster:
    """These units run on m1, which is dead; m2 and m3 are there."""
    cluster = settled_cluster("m1", **units)
    cluster.machine("m2")
    cluster.machine("m3")
    cluster.settle()
    cluster.die("m1")
    cluster.run_leader()
    return cluster


# Waiting.


def test_a_unit_with_a_delay_stays_where_it_is_and_says_for_whom_it_waits_and_until_when():
    cluster = after_machine_loss(a=SHORT)
    assert cluster.assigned() == {A: "m1"}
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"
    assert cluster.snapshot.decisions[A].lost > 0


def test_one_that_waits_without_an_end_says_so():
    cluster = after_machine_loss(a="FailoverDelay=infinity")
    assert cluster.reason(A) == "waits for machine m1 to come back, however long that takes"
    assert cluster.wakeups == {}
    cluster.wait(1e9)
    assert not cluster.run_leader().writes
    assert cluster.assigned() == {A: "m1"}


def test_nothing_is_planned_while_it_waits_whoever_looks():
    cluster = after_machine_loss(a=SHORT)
    assert not cluster.run_leader().writes
    assert cluster.plan_cold().units == ()
    cluster.wait(299)
    assert not cluster.run_leader().writes
    assert cluster.plan_cold().units == ()


def test_when_the_delay_is_over_it_goes_elsewhere():
    cluster = after_machine_loss(a=SHORT)
    cluster.wait(300)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert cluster.reason(A) == "fits"
    assert cluster.snapshot.decisions[A].lost == 0


def test_a_machine_that_comes_back_in_time_finds_its_order_untouched():
    cluster = after_machine_loss(a=SHORT)
    order, copy = cluster.snapshot.placements[A]["m1"], msgspec.structs.replace(cluster.local_units["m1"][A])
    cluster.wait(299)
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.snapshot.placements[A] == {"m1": order}
    assert cluster.local_units["m1"][A] == copy
    assert cluster.reason(A) == "machine m1 came back in time"
    cluster.wait(10)
    assert not cluster.run_leader().writes


def test_one_that_comes_back_too_late_is_an_allocation_that_outlived_a_cut():
    cluster = after_machine_loss(a=SHORT)
    cluster.wait(300)
    cluster.run_leader()
    cluster.come_back("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert A not in cluster.local_units["m1"]


def test_each_loss_of_a_machine_is_waited_for_anew():
    cluster = after_machine_loss(a=SHORT)
    cluster.wait(299)
    cluster.come_back("m1")
    cluster.settle()
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:09:59 UTC"
    cluster.wait(299)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.wait(1)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_a_machine_that_may_be_alive_after_all_is_waited_for_as_before():
    cluster = after_machine_loss(a=SHORT)
    cluster.set_away({"m1"})
    cluster.wait(300)
    assert not cluster.run_leader().writes
    cluster.set_away(set())
    cluster.snapshot.lost = {"m1": MachineLoss(0.0, 0.0)}
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_another_leader_counts_anew_and_says_so():
    cluster = after_machine_loss(a=SHORT)
    cluster.wait(200)
    cluster.elect()
    cluster.run_leader()
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:08:20 UTC"
    cluster.wait(299)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.wait(1)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_the_configuration_speaks_for_units_that_say_nothing_themselves():
    cluster = settled_cluster(a="", b="FailoverDelay=0")
    cluster.policy = FailoverPolicy(delay_s=60)
    cluster.die("m1")
    cluster.die("m2")
    cluster.machine("m3")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1", B: "m3"}
    cluster.wait(60)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m3", B: "m3"}


# What people do meanwhile.


def test_a_unit_destroyed_meanwhile_is_forgotten_at_once_and_stopped_when_the_machine_is_back():
    cluster = after_machine_loss(a=SHORT)
    cluster.destroy(A)
    cluster.run_leader()
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.decisions
    cluster.come_back("m1")
    cluster.settle()
    assert not cluster.local_units["m1"]


@pytest.mark.parametrize("target", [LOADED, INACTIVE])
def test_a_unit_that_is_stopped_meanwhile_waits_for_nobody(target):
    cluster = after_machine_loss(a=SHORT)
    cluster.unit(A, SHORT, target)
    cluster.run_leader()
    assert cluster.assigned() == ({A: "m2"} if target is LOADED else {})
    cluster.come_back("m1")
    cluster.settle()
    assert not cluster.local_units["m1"]


def test_one_that_is_started_again_goes_on_waiting_and_the_machine_learns_of_it():
    cluster = after_machine_loss(a=SHORT)
    cluster.unit(A, SHORT)
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].generation == cluster.snapshot.units[A].generation
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"


def test_one_whose_new_file_has_no_delay_goes_at_once():
    cluster = after_machine_loss(a=SHORT)
    cluster.unit(A, "")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_that_waits_hinders_nobody_that_lives():
    cluster = after_machine_loss(a=f"{SHORT}\nConflicts=b.service")
    cluster.unit(B, "")
    cluster.settle()
    assert cluster.assigned() == {A: "m1", B: "m2"}
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m1", B: "m2"}


def test_a_allocation_that_runs_elsewhere_is_the_unit_and_nothing_is_waited_for():
    cluster = settled_cluster(a=SHORT)
    cluster.die("m1")
    cluster.run_leader()
    cluster.wait(300)
    cluster.run_leader()
    cluster.come_back("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.die("m2")
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}
    assert cluster.reason(A) == "was still running there"


# Units bound together.


def test_units_that_are_bound_together_wait_together_as_long_as_any_of_them():
    cluster = after_machine_loss(a="", b="MachineOf=a.service", c=f"MachineOf=b.service\n{SHORT}")
    assert cluster.assigned() == {A: "m1", B: "m1", C: "m1"}
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"
    cluster.wait(300)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2", B: "m2", C: "m2"}


@pytest.mark.parametrize("target", [LOADED, None])
def test_the_others_go_when_the_one_that_they_waited_with_is_not_to_run_any_more(target):
    cluster = after_machine_loss(a="", b="MachineOf=a.service", c="MachineOf=b.service\nFailoverDelay=infinity")
    if target is None:
        cluster.destroy(C)
    else:
        cluster.unit(C, "MachineOf=b.service\nFailoverDelay=infinity", target)
    cluster.run_leader()
    assert dict.fromkeys((A, B), "m2").items() <= cluster.assigned().items()


# Machines that go in order.


def test_a_unit_with_a_delay_waits_for_a_machine_that_shuts_down():
    cluster = settled_cluster(a=SHORT)
    cluster.machine("m1", mode=MachineMode.LEAVING, shuts_down=True)
    assert not cluster.run_leader().writes
    cluster.expire_lease("m1", reboot=True)
    cluster.set_away(set())
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.local_units["m1"][A].active == "active"


@pytest.mark.parametrize(("text", "shuts_down"), [(SHORT, False), ("", True)])
def test_it_goes_at_once_where_the_machine_leaves_for_good_and_without_a_delay(text, shuts_down):
    cluster = settled_cluster(a=text)
    cluster.machine("m1", mode=MachineMode.LEAVING, shuts_down=shuts_down)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


# Global units, and parked machines.


def test_a_global_unit_waits_for_no_machine():
    cluster = settled_cluster(a="Global=true")
    cluster.policy = FailoverPolicy(delay_s=60)
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_the_delay_counts_from_the_end_of_a_parked_machines_lease():
    cluster = settled_cluster(a=SHORT)
    cluster.machine("m1", mode=MachineMode.PARKED)
    cluster.wait(3600)
    assert not cluster.run_leader().writes
    cluster.die("m1")
    cluster.wait(299)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.wait(300)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


# Oneshots that have finished.


def completed(text: str, *, by_default: bool = False) -> Cluster:
    """A oneshot that has run to its end on m1."""
    cluster = settled_cluster("m1")
    cluster.machine("m1", role="x")
    cluster.policy = FailoverPolicy(rerun=by_default)
    cluster.unit(A, text)
    for _ in range(3):
        cluster.run_leader()
        cluster.run_agent("m1", "completed")
    cluster.run_leader()
    cluster.machine("m2")
    cluster.settle()
    assert cluster.snapshot.decisions[A].completed == cluster.snapshot.units[A].generation
    return cluster


def lose(cluster: Cluster, *, leaving: bool) -> None:
    """m1 is lost, or leaves in order."""
    if leaving:
        cluster.machine("m1", mode=MachineMode.LEAVING)
    else:
        cluster.die("m1")


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("text", ["", "RerunAfterFailover=false"])
def test_what_has_finished_is_not_run_again(text, leaving):
    cluster = completed(text)
    lose(cluster, leaving=leaving)
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.reason(A) == "completed"


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize(("text", "by_default"), [("RerunAfterFailover=true", False), ("", True)])
def test_what_has_finished_is_run_again_elsewhere_where_it_is_to_be(text, by_default, leaving):
    cluster = completed(text, by_default=by_default)
    lose(cluster, leaving=leaving)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert not cluster.snapshot.placements[A]["m2"].completed
    assert cluster.local_units["m2"][A].active == "active"


def test_it_is_run_again_as_soon_as_there_is_a_machine():
    cluster = completed("RerunAfterFailover=true\nMachineMetadata=role=x")
    cluster.die("m1")
    cluster.settle()
    assert cluster.assigned() == {}
    cluster.machine("m3", role="x")
    cluster.settle()
    assert cluster.local_units["m3"][A].active == "active"


def test_what_has_finished_is_not_run_again_for_another_move():
    cluster = completed("RerunAfterFailover=true")
    cluster.unit(B, "Conflicts=a.service\nMachineID=m1")
    cluster.settle()
    cluster.settings("m1", role="x")
    cluster.settle()
    assert cluster.snapshot.decisions[A].completed == cluster.snapshot.units[A].generation
    assert "m2" not in cluster.assigned().get(A, "")


def test_with_a_delay_it_is_run_again_only_when_that_is_over():
    cluster = completed(f"RerunAfterFailover=true\n{SHORT}")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].completed
    cluster.wait(300)
    cluster.settle()
    assert cluster.local_units["m2"][A].active == "active"
