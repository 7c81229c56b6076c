"""While a unit of Handover=start-first runs on both machines: losses, other requests, and rollouts."""

import pytest
from msgspec.structs import replace

from fleetd.model.machine import MachineMode
from fleetd.model.rollout import Phase
from fleetd.registry.records import PLACEMENTS, STATES, UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from tests.unit.cluster_builder import INACTIVE, LOADED
from tests.unit.rolling_cluster import BAD, RollingCluster
from tests.unit.start_first_cluster import START_FIRST, A, cluster_with, drain, handing_over, move, step, where


@pytest.mark.parametrize("machine", ["m1", "m2"])
def test_one_remains_if_a_machine_is_lost(machine: str) -> None:
    cluster = handing_over()
    cluster.die(machine)
    cluster.running.pop((machine, A))
    cluster.come_to_rest()
    other = "m2" if machine == "m1" else "m1"
    assert where(cluster) == [other]
    assert cluster.placement_states(A) == {other: "assigned"}
    assert A not in cluster.snapshot.moves
    if machine == "m2":
        assert cluster.started == [A, A]
        assert cluster.reason(A).startswith("stays on the drained machine")


def test_another_machine_is_tried_if_the_first_is_lost() -> None:
    cluster = handing_over(machines=3)
    cluster.die("m2")
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_a_moved_unit_stays_if_the_other_machine_is_lost() -> None:
    cluster = cluster_with()
    move(cluster, "m2")
    step(cluster)
    cluster.die("m2")
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.snapshot.moves == {}
    assert cluster.reason(A) == "was not moved to m2: machine is absent"


def test_both_machines_are_lost() -> None:
    cluster = handing_over(machines=3)
    for machine in ("m1", "m2"):
        cluster.die(machine)
        cluster.running.pop((machine, A))
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_the_unit_is_taken_back_from_a_machine_that_parks() -> None:
    cluster = handing_over()
    cluster.machine("m2", MachineMode.PARKED)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "was not moved to m2: machine is parked (its fleetd was stopped)"


def test_the_unit_is_taken_back_from_a_machine_that_leaves() -> None:
    cluster = handing_over()
    cluster.machine("m2", MachineMode.LEAVING)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "was not moved to m2: machine is leaving"


def test_it_need_not_stay_on_a_machine_that_leaves() -> None:
    cluster = handing_over()
    cluster.machine("m1", MachineMode.LEAVING)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert DisruptionBudget(cluster.snapshot, {}).unavailability(A, "m2") is not None
    cluster.broken = True
    cluster.running.pop(("m2", A))  # it is started again, and crashes
    step(cluster, 2)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_copy_that_may_not_stay_runs_as_long_as_no_other_does() -> None:
    cluster = cluster_with("MachineMetadata=x=y")
    cluster.machine("m1", x="y")
    cluster.machine("m2", x="y")
    cluster.come_to_rest()
    cluster.broken = True
    drain(cluster, "m1")
    step(cluster)
    cluster.machine("m1", x="z")
    step(cluster, 3)
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert where(cluster) == ["m1", "m2"]
    cluster.broken = False
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_one_that_stops_where_it_was_is_not_started_there() -> None:
    cluster = handing_over()
    cluster.write(STATES, ("m1", A), replace(cluster.snapshot.states[A]["m1"], active="failed"))
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


@pytest.mark.parametrize("field", ["outdated", "orphan"])
def test_nothing_is_decided_by_a_report_that_does_not_count(field: str) -> None:
    cluster = handing_over()
    cluster.run_agents()
    cluster.write(STATES, ("m1", A), replace(cluster.snapshot.states[A]["m1"], **{field: True}))
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}


@pytest.mark.parametrize("target", [INACTIVE, LOADED, None])
def test_a_unit_that_is_not_to_run_any_more_stops(target: object) -> None:
    cluster = handing_over()
    if target is None:
        cluster.destroy(A)
    else:
        cluster.write(UNITS, (A,), replace(cluster.snapshot.units[A], target=target))
    cluster.run_leader()
    states = cluster.placement_states(A)
    assert states == {"m1": "withdrawn", "m2": "assigned" if target is LOADED else "withdrawn"}
    cluster.come_to_rest()
    assert where(cluster) == (["m2"] if target is LOADED else [])


def test_a_restart_in_the_middle_is_proven_before_the_old_one_goes() -> None:
    cluster = handing_over()
    unit = cluster.snapshot.units[A]
    cluster.write(UNITS, (A,), replace(unit, restart_of=unit.generation))
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].restart_of == unit.generation
    assert cluster.snapshot.placements[A]["m2"].prove_after_s == 10.0
    cluster.run_agents()
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_rollout_waits_until_the_unit_has_moved(broken: bool) -> None:
    cluster = RollingCluster(2)
    cluster.request("old", A, fleet=START_FIRST)
    cluster.come_to_rest()
    cluster.broken = broken
    drain(cluster, "m1")
    step(cluster)
    cluster.request("new", A, fleet=START_FIRST)
    seen = {placement.content.text for placement in cluster.running.values()}
    while len(where(cluster)) > 1:
        step(cluster)
        seen |= {placement.content.text for placement in cluster.running.values()}
    assert len(seen) == 1
    cluster.broken = False
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.contents() == {"a": "new"}
    assert cluster.rollout(A).phase is Phase.DONE


def test_a_unit_whose_rollout_failed_runs_on_with_the_content_that_it_had() -> None:
    cluster = RollingCluster(2)
    cluster.request("old", A, fleet=START_FIRST)
    cluster.come_to_rest()
    cluster.request(BAD, A, fleet=START_FIRST)
    cluster.run_leader()
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert cluster.contents() == {"a": "old"}
    assert where(cluster) == ["m2"]


def test_a_unit_that_starts_elsewhere_is_not_moved_on() -> None:
    cluster = handing_over(machines=3)
    drain(cluster, "m2")
    move(cluster, "m3")
    step(cluster)
    assert where(cluster) == ["m1", "m2"]
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_a_move_to_where_it_runs_takes_the_handover_back() -> None:
    cluster = cluster_with()
    move(cluster, "m2")
    step(cluster)
    move(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "stays where it was"
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.started == [A, A]


def test_it_is_not_taken_back_to_where_it_does_not_fit_any_more() -> None:
    cluster = cluster_with("MachineMetadata=x=y")
    for machine in ("m1", "m2"):
        cluster.machine(machine, x="y")
    cluster.come_to_rest()
    move(cluster, "m2")
    step(cluster)
    cluster.machine("m1", x="z")
    move(cluster, "m1")
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.snapshot.moves == {}


def test_it_is_taken_back_when_its_machine_is_lost_at_the_same_time() -> None:
    cluster = cluster_with()
    move(cluster, "m2")
    step(cluster)
    move(cluster, "m1")
    cluster.die("m2")
    cluster.running.pop(("m2", A))
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.snapshot.moves == {}


@pytest.mark.parametrize("active", ["active", "failed"])
def test_a_machine_that_proves_nothing_any_more_is_judged_by_what_it_reports(active: str) -> None:
    cluster = handing_over()
    cluster.machine("m2", is_old=True)
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].prove_after_s is None
    cluster.write(STATES, ("m2", A), replace(cluster.snapshot.states[A]["m2"], active=active))
    cluster.run_leader()
    kept, gone = ("m2", "m1") if active == "active" else ("m1", "m2")
    assert cluster.placement_states(A) == {kept: "assigned", gone: "withdrawn"}


def test_a_restored_store_goes_on_from_where_it_was() -> None:
    cluster = handing_over()
    records = dict(cluster.store)
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    for (kind, names), record in records.items():
        if kind is PLACEMENTS:
            cluster.write(kind, names, record)
    cluster.elect()
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.placement_states(A) == {"m2": "assigned"}
