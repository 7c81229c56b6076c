"""Failover: how long units wait for a lost machine, and which completed oneshots run again."""

import msgspec
import pytest

from fleetd.leader.writer import write_sets_of
from fleetd.model.announcement import ServiceRecord
from fleetd.model.machine import MachineMode
from fleetd.registry.records import SERVICES, KeySpace
from fleetd.scheduler.failover_delays import FailoverPolicy
from fleetd.scheduler.proposal import SessionPlan
from fleetd.scheduler.snapshot import MachineLoss
from fleetd.store.protocol import Delete, Unchanged
from tests.unit.cluster_builder import INACTIVE, LOADED, A, Cluster, settled_cluster
from tests.unit.lost_machine import after_machine_loss

B, C = "b.service", "c.service"
SHORT = "FailoverDelay=5min"


# Waiting.


def test_a_unit_with_a_delay_waits_and_says_for_which_machine_and_until_when():
    cluster = after_machine_loss(a=SHORT)
    assert cluster.assigned() == {A: "m1"}
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"
    assert cluster.snapshot.decisions[A].lost > 0


def test_a_unit_with_an_infinite_delay_waits_for_ever_and_says_so():
    cluster = after_machine_loss(a="FailoverDelay=infinity")
    assert cluster.reason(A) == "waits for machine m1 to come back, however long that takes"
    assert cluster.wakeups == {}
    cluster.wait(1e9)
    assert not cluster.run_leader().writes
    assert cluster.assigned() == {A: "m1"}


def test_nothing_is_planned_while_a_unit_waits():
    cluster = after_machine_loss(a=SHORT)
    assert not cluster.run_leader().writes
    assert cluster.plan_cold().units == ()
    cluster.wait(299)
    assert not cluster.run_leader().writes
    assert cluster.plan_cold().units == ()


def test_a_unit_fails_over_when_its_delay_is_over():
    cluster = after_machine_loss(a=SHORT)
    cluster.wait(300)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert cluster.reason(A) == "fits"
    assert cluster.snapshot.decisions[A].lost == 0


def test_what_fails_over_after_its_delay_is_written_only_if_its_machine_is_still_dead():
    cluster = after_machine_loss(a=SHORT)
    assert "m1" not in cluster.snapshot.synced
    cluster.wait(300)
    assert [write for write in cluster.plan().writes if isinstance(write, SessionPlan)] == [SessionPlan("m1", None)]


def test_what_a_dead_machine_announced_goes_with_the_judgement_whatever_its_units_wait_for():
    cluster = settled_cluster("m1", a="FailoverDelay=infinity")
    cluster.machine("m2")
    cluster.settle()
    for service in range(150):
        cluster.write(SERVICES, (f"s{service}", "m1", A), ServiceRecord())
    cluster.write(SERVICES, ("s0", "m2", A), ServiceRecord())
    cluster.die("m1")
    plan = cluster.plan()
    assert [write for write in plan.writes if isinstance(write, SessionPlan)] == [SessionPlan("m1", None)]
    found = list(write_sets_of(KeySpace(), plan, {"m1": Unchanged("k", 0)}, cluster.snapshot))
    deleted = [each.key for write_set in found for each in write_set.operations if isinstance(each, Delete)]
    assert deleted[0] == "/fleet/synced/m1"
    assert sorted(deleted[1:]) == sorted(f"/fleet/services/s{each}/m1/{A}" for each in range(150))
    assert all(Unchanged("k", 0) in each.comparisons for each in found if each.operations[0].key in deleted)
    cluster.run_leader()
    assert cluster.snapshot.announced == {"m2": {("s0", A): None}}
    assert not cluster.run_leader().writes


def test_what_a_machine_announced_that_has_nothing_else_goes_too():
    cluster = settled_cluster("m1", a="")
    cluster.write(SERVICES, ("web", "m9", A), ServiceRecord())
    assert cluster.snapshot.forgotten() == ["m9"]
    cluster.run_leader()
    assert cluster.snapshot.announced == {}


def test_a_machine_that_comes_back_in_time_keeps_its_placement_unchanged():
    cluster = after_machine_loss(a=SHORT)
    placement, local = cluster.snapshot.placements[A]["m1"], msgspec.structs.replace(cluster.local_units["m1"][A])
    cluster.wait(299)
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.snapshot.placements[A] == {"m1": placement}
    assert cluster.local_units["m1"][A] == local
    assert cluster.reason(A) == "machine m1 came back in time"
    cluster.wait(10)
    assert not cluster.run_leader().writes


def test_an_allocation_that_comes_back_too_late_is_superseded():
    cluster = after_machine_loss(a=SHORT)
    cluster.wait(300)
    cluster.run_leader()
    cluster.come_back("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert A not in cluster.local_units["m1"]


def test_each_loss_of_a_machine_starts_a_new_delay():
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


def test_the_delay_goes_on_for_a_machine_that_may_be_alive_after_all():
    cluster = after_machine_loss(a=SHORT)
    cluster.set_away({"m1"})
    cluster.wait(300)
    assert not cluster.run_leader().writes
    cluster.set_away(set())
    cluster.snapshot.lost = {"m1": MachineLoss(0.0, 0.0)}
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_a_new_leader_restarts_the_delay_and_says_so():
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


def test_the_configured_delay_applies_to_units_without_their_own():
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


# What operators do meanwhile.


def test_a_unit_destroyed_while_waiting_is_forgotten_and_stopped_on_return():
    cluster = after_machine_loss(a=SHORT)
    cluster.destroy(A)
    cluster.run_leader()
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.decisions
    cluster.come_back("m1")
    cluster.settle()
    assert not cluster.local_units["m1"]


@pytest.mark.parametrize("target", [LOADED, INACTIVE])
def test_a_unit_stopped_while_waiting_does_not_wait_any_longer(target):
    cluster = after_machine_loss(a=SHORT)
    cluster.unit(A, SHORT, target)
    cluster.run_leader()
    assert cluster.assigned() == ({A: "m2"} if target is LOADED else {})
    cluster.come_back("m1")
    cluster.settle()
    assert not cluster.local_units["m1"]


def test_a_unit_started_again_while_waiting_waits_on_with_its_new_generation():
    cluster = after_machine_loss(a=SHORT)
    cluster.unit(A, SHORT)
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].generation == cluster.snapshot.units[A].generation
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"


def test_a_unit_whose_new_file_has_no_delay_fails_over_at_once():
    cluster = after_machine_loss(a=SHORT)
    cluster.unit(A, "")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_a_waiting_unit_does_not_keep_conflicting_units_off_live_machines():
    cluster = after_machine_loss(a=f"{SHORT}\nConflicts=b.service")
    cluster.unit(B, "")
    cluster.settle()
    assert cluster.assigned() == {A: "m1", B: "m2"}
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m1", B: "m2"}


def test_a_unit_that_still_runs_elsewhere_does_not_wait():
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


# MachineOf= groups.


def test_a_group_waits_together_as_long_as_any_of_its_units():
    cluster = after_machine_loss(a="", b="MachineOf=a.service", c=f"MachineOf=b.service\n{SHORT}")
    assert cluster.assigned() == {A: "m1", B: "m1", C: "m1"}
    assert cluster.reason(A) == "waits for machine m1 to come back, until 2027-01-15 12:05:00 UTC"
    cluster.wait(300)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2", B: "m2", C: "m2"}


@pytest.mark.parametrize("target", [LOADED, None])
def test_a_group_fails_over_when_the_unit_that_delays_it_is_not_to_run(target):
    cluster = after_machine_loss(a="", b="MachineOf=a.service", c="MachineOf=b.service\nFailoverDelay=infinity")
    if target is None:
        cluster.destroy(C)
    else:
        cluster.unit(C, "MachineOf=b.service\nFailoverDelay=infinity", target)
    cluster.run_leader()
    assert dict.fromkeys((A, B), "m2").items() <= cluster.assigned().items()


# Machines that shut down or leave.


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
def test_a_unit_moves_at_once_if_the_machine_leaves_for_good_or_it_has_no_delay(text, shuts_down):
    cluster = settled_cluster(a=text)
    cluster.machine("m1", mode=MachineMode.LEAVING, shuts_down=shuts_down)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


# Global units, and parked machines.


def test_a_global_unit_does_not_wait():
    cluster = settled_cluster(a="Global=true")
    cluster.policy = FailoverPolicy(delay_s=60)
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m2"}


def test_the_delay_starts_when_the_lease_of_a_parked_machine_expires():
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


# Completed oneshots.


def completed(text: str, *, by_default: bool = False) -> Cluster:
    """a.service is a oneshot that has completed on m1; m2 is ready."""
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
    """m1 dies, or leaves."""
    if leaving:
        cluster.machine("m1", mode=MachineMode.LEAVING)
    else:
        cluster.die("m1")


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("text", ["", "RerunAfterFailover=false"])
def test_a_completed_oneshot_is_not_run_again(text, leaving):
    cluster = completed(text)
    lose(cluster, leaving=leaving)
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.reason(A) == "completed"


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize(("text", "by_default"), [("RerunAfterFailover=true", False), ("", True)])
def test_a_completed_oneshot_with_rerun_is_run_again_elsewhere(text, by_default, leaving):
    cluster = completed(text, by_default=by_default)
    lose(cluster, leaving=leaving)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert not cluster.snapshot.placements[A]["m2"].completed
    assert cluster.local_units["m2"][A].active == "active"


def test_a_completed_oneshot_with_rerun_runs_as_soon_as_it_fits():
    cluster = completed("RerunAfterFailover=true\nMachineMetadata=role=x")
    cluster.die("m1")
    cluster.settle()
    assert cluster.assigned() == {}
    cluster.machine("m3", role="x")
    cluster.settle()
    assert cluster.local_units["m3"][A].active == "active"


def test_a_completed_oneshot_with_rerun_is_not_run_again_for_other_moves():
    cluster = completed("RerunAfterFailover=true")
    cluster.unit(B, "Conflicts=a.service\nMachineID=m1")
    cluster.settle()
    cluster.settings("m1", role="x")
    cluster.settle()
    assert cluster.snapshot.decisions[A].completed == cluster.snapshot.units[A].generation
    assert "m2" not in cluster.assigned().get(A, "")


def test_a_completed_oneshot_with_rerun_waits_for_its_delay():
    cluster = completed(f"RerunAfterFailover=true\n{SHORT}")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].completed
    cluster.wait(300)
    cluster.settle()
    assert cluster.local_units["m2"][A].active == "active"
