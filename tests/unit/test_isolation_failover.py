"""A unit with IsolationSec= is started elsewhere only when its machine has stopped it for certain."""

import math

import pytest

from fleetd.model.machine import MachineMode
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.records import PLACEMENTS, STATES
from fleetd.scheduler.failover_delays import START, FailoverDelays, FailoverPolicy
from fleetd.scheduler.isolation import former_hold_s
from fleetd.scheduler.snapshot import MachineLoss
from tests.unit.cluster_builder import INACTIVE, LOADED, A, Cluster, settled_cluster
from tests.unit.lost_machine import after_machine_loss
from tests.unit.start_first_cluster import cluster_with, drain, where

B = "b.service"
SINGLE = "IsolationSec=30s"  # in all 45 s
WAITS = "waits until m1, which is cut off, has stopped it for certain, until 2027-01-15 12:00:45 UTC"


def pass_isolation(cluster: Cluster, machine: str = "m1") -> None:
    """The machine stops what it is cut off with, and the leader's time for that passes."""
    cluster.local_units[machine].clear()
    cluster.wait(45)
    cluster.settle()


def test_it_waits_for_the_sum_and_says_so():
    cluster = after_machine_loss(a=SINGLE)
    assert (cluster.assigned(), cluster.reason(A)) == ({A: "m1"}, WAITS)
    assert not cluster.run_leader().writes
    cluster.wait(44.9)
    assert not cluster.run_leader().writes
    assert cluster.plan_cold().units == ()
    cluster.wait(0.1)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_the_sum_counts_from_when_the_key_was_seen_to_be_missing():
    cluster = after_machine_loss(a=SINGLE)
    cluster.snapshot.lost = {"m1": MachineLoss(0.0, 0.0, absent_s=11.0)}
    delays = FailoverDelays(cluster.snapshot, FailoverPolicy(), START)
    assert (delays.isolation_end_s(A, "m1"), delays.end_s(A, "m1")) == (34.0, 34.0)


@pytest.mark.parametrize(
    ("options", "waits_s"),
    [
        (f"{SINGLE}\nFailoverDelay=10s", 45.0),
        (f"{SINGLE}\nFailoverDelay=5min", 300.0),
        (f"{SINGLE}\nIsolationStopSec=20s", 55.0),
        ("FailoverDelay=10s", 10.0),
    ],
)
def test_the_longer_of_delay_and_isolation_counts(options: str, waits_s: float) -> None:
    cluster = after_machine_loss(a=options)
    cluster.wait(waits_s - 0.1)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.wait(0.1)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_an_infinite_delay_stays_infinite():
    cluster = after_machine_loss(a=f"{SINGLE}\nFailoverDelay=infinity")
    assert cluster.reason(A) == "waits for machine m1 to come back, however long that takes"
    delays = FailoverDelays(cluster.snapshot, FailoverPolicy(), START)
    assert math.isinf(delays.end_s(A, "m1"))


def test_units_without_it_go_at_once_also_those_with_a_lock_alone():
    cluster = after_machine_loss(a="", b="Lock=db")
    cluster.settle()
    assert set(cluster.assigned().values()) == {"m2", "m3"}


def test_what_is_joined_to_it_goes_with_it():
    cluster = after_machine_loss(a=SINGLE, b="MachineOf=a.service")
    assert cluster.assigned() == {A: "m1", B: "m1"}
    pass_isolation(cluster)
    assert cluster.assigned() == {A: "m2", B: "m2"}


def test_a_machine_that_is_back_in_time_keeps_it():
    cluster = after_machine_loss(a=SINGLE)
    cluster.wait(20)
    cluster.come_back("m1")
    cluster.settle()
    assert (cluster.assigned(), cluster.reason(A)) == ({A: "m1"}, "machine m1 came back in time")


def test_another_leader_counts_anew():
    cluster = after_machine_loss(a=SINGLE)
    cluster.wait(40)
    cluster.elect()
    cluster.snapshot.lost = {}
    cluster.run_leader()
    cluster.wait(44)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.wait(1)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_a_drained_machine_that_vanishes_before_it_has_stopped_it_is_waited_for():
    cluster = settled_cluster("m1", a=SINGLE)
    cluster.machine("m2")
    cluster.settle()
    cluster.machine("m1", MachineMode.LEAVING)
    cluster.run_leader()  # withdrawn, and the machine does not hear of it any more
    assert cluster.snapshot.placements[A]["m1"].is_withdrawn
    cluster.die("m1")
    cluster.run_leader()
    assert (cluster.assigned(), cluster.reason(A)) == ({}, WAITS)
    cluster.wait(44)
    assert not cluster.run_leader().writes
    assert cluster.plan_cold().units == ()
    pass_isolation(cluster)
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_that_is_stopped_and_started_meanwhile_still_waits():
    cluster = after_machine_loss(a=SINGLE)
    cluster.unit(A, SINGLE, INACTIVE)
    cluster.run_leader()
    cluster.wait(10)
    cluster.unit(A, SINGLE)
    cluster.run_leader()
    assert (cluster.assigned(), cluster.reason(A)) == ({}, WAITS)
    pass_isolation(cluster)
    assert cluster.assigned() == {A: "m2"}


def test_a_unit_that_is_destroyed_and_created_without_the_option_still_waits():
    cluster = after_machine_loss(a=SINGLE)
    cluster.destroy(A)
    cluster.run_leader()
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.assigned() == {}
    pass_isolation(cluster)
    assert cluster.assigned() == {A: "m2"}


def test_a_destroyed_unit_is_forgotten_with_its_machine_after_the_time():
    cluster = after_machine_loss(a=SINGLE)
    cluster.destroy(A)
    cluster.run_leader()
    assert "m1" in cluster.snapshot.placements[A]
    pass_isolation(cluster)
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.decisions


def test_one_that_only_a_timer_starts_waits_too():
    cluster = settled_cluster("m1")
    cluster.unit(A, SINGLE, LOADED)
    cluster.settle()
    cluster.machine("m2")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    pass_isolation(cluster)
    assert cluster.assigned() == {A: "m2"}


def test_a_machine_may_still_have_the_longer_time_of_former_content():
    cluster = settled_cluster("m1", a="IsolationSec=1min")
    cluster.unit(A, "IsolationSec=10s")
    cluster.machine("m2")
    cluster.run_leader()  # m1 does not hear of it
    assert cluster.snapshot.placements[A]["m1"].isolation_hold_s == 75.0
    cluster.unit(A, "IsolationSec=10s", INACTIVE)
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].isolation_hold_s == 75.0
    cluster.unit(A, "IsolationSec=10s")
    cluster.die("m1")
    cluster.run_leader()
    cluster.wait(74)
    cluster.run_leader()
    assert cluster.assigned() == {}
    cluster.local_units["m1"].clear()
    cluster.wait(1)
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}


def test_the_longer_time_ends_with_the_report_of_the_new_content():
    text, shorter = f"[X-Fleet]\n{SINGLE}\n", "[X-Fleet]\nIsolationSec=5s\n"
    former = Placement("m1", A, text, TargetState.LAUNCHED, 1)
    given = Placement("m1", A, shorter, TargetState.LAUNCHED, 2)
    assert former_hold_s(None, given.content, None) == 0.0
    assert former_hold_s(former, given.content, None) == 45.0
    assert former_hold_s(former, given.content, UnitState(hash=given.content.hash, outdated=True)) == 45.0
    assert former_hold_s(former, given.content, UnitState(hash=given.content.hash)) == 0.0
    assert former_hold_s(given, former.content, None) == 0.0
    assert former_hold_s(Placement("m1", A, "", TargetState.LAUNCHED, 1), given.content, None) == 0.0


def test_a_second_one_is_stopped_at_once_and_not_kept_until_the_other_one_runs():
    cluster = settled_cluster("m1", a=SINGLE)
    cluster.machine("m2")
    cluster.settle()
    cluster.state(A, "m2", "active")  # nobody placed it there
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].is_withdrawn
    assert cluster.assigned() == {A: "m1"}


def test_one_that_runs_where_none_is_assigned_stays_there():
    cluster = settled_cluster("m1")
    cluster.unit(A, SINGLE)
    cluster.state(A, "m1", "active")
    cluster.machine("m2")
    cluster.settle()
    assert (cluster.assigned(), cluster.reason(A)) == ({A: "m1"}, "was still running there")


def test_one_that_runs_where_it_does_not_fit_is_stopped_before_it_starts_elsewhere():
    cluster = settled_cluster("m1")
    cluster.unit(A, f"{SINGLE}\nMachineID=m2")
    cluster.machine("m2")
    cluster.state(A, "m1", "active")
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].is_withdrawn
    assert (cluster.assigned(), cluster.reason(A)) == ({}, "waits until m1 has stopped it")


def test_one_that_was_reported_before_a_restore_is_waited_for():
    cluster = settled_cluster("m1")
    cluster.machine("m2")
    cluster.settle()
    cluster.unit(A, SINGLE)
    unit = cluster.snapshot.units[A]
    cluster.write(PLACEMENTS, ("m1", A), Placement("m1", A, unit.text, unit.target, unit.generation, superseded=True))
    cluster.write(STATES, ("m1", A), UnitState("loaded", "active", "running", outdated=True))
    cluster.run_leader()
    assert (cluster.assigned(), cluster.reason(A)) == ({}, "waits until m1 has stopped it")


def test_one_that_an_agent_keeps_since_a_restore_is_superseded_and_then_stopped():
    cluster = settled_cluster("m1", a=SINGLE)
    cluster.machine("m2")
    cluster.settle()
    unit = cluster.snapshot.units[A]
    withdrawn = Placement("m2", A, unit.text, INACTIVE, unit.generation)
    cluster.write(PLACEMENTS, ("m2", A), withdrawn)
    cluster.state(A, "m2", "active", orphan=True)
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].superseded
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].is_withdrawn


def test_it_is_placed_only_where_it_would_be_stopped():
    cluster = settled_cluster()
    cluster.machine("m1", is_old=True)
    cluster.machine("m2", is_old=True)
    cluster.submit(a=SINGLE, b="Lock=db")
    cluster.settle()
    assert cluster.assigned() == {}
    assert cluster.rejections(A) == {"its fleetd is too old for IsolationSec= and Lock=": 2}


def test_a_global_unit_with_a_lock_waits_for_nobody():
    cluster = settled_cluster("m1", a=f"Global=true\nLock=db\n{SINGLE}")
    cluster.die("m1")
    cluster.machine("m2")
    cluster.settle()
    assert list(cluster.snapshot.placements[A]) == ["m2"]


@pytest.mark.parametrize("options", [SINGLE, "Lock=db"])
def test_a_group_that_was_told_to_start_first_all_the_same_stops_first(options: str) -> None:
    cluster = cluster_with(options)  # written past the API
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


@pytest.mark.parametrize(
    ("active", "fields", "states"),
    [
        ("active", {}, {"m1": "withdrawn", "m2": "assigned"}),
        ("deactivating", {}, {"m1": "withdrawn", "m2": "withdrawn"}),
        ("active", {"outdated": True}, {"m1": "withdrawn", "m2": "superseded"}),
    ],
)
def test_it_is_not_started_where_it_is_assigned_before_it_has_stopped_elsewhere(
    active: str, fields: dict[str, object], states: dict[str, str]
) -> None:
    cluster = settled_cluster("m1")
    cluster.machine("m2")
    cluster.unit(A, SINGLE)
    cluster.place(A, "m1", "inactive", generation=0)
    cluster.state(A, "m2", active, **fields)
    cluster.run_leader()
    assert cluster.placement_states(A) == states
