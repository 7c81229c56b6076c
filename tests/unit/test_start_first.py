"""Handover=start-first: a unit that moves starts on the other machine first, and stops where it was when it is proven
there; if it fails there, it stays."""

import pytest
from msgspec.structs import replace

from fleetd.model.unit import Unit
from fleetd.registry.records import SETTINGS, STATES, UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, NOON
from tests.unit.rolling_cluster import MEMBERS, RollingCluster, text_of
from tests.unit.start_first_cluster import START_FIRST, A, cluster_with, drain, move, step, submit, where


@pytest.mark.parametrize("way", ["move", "drain", "drain by force", "move by force"])
def test_a_unit_stops_when_it_is_proven_where_it_goes(way: str) -> None:
    cluster = cluster_with()
    if way.startswith("move"):
        move(cluster, "m2", force="force" in way)
    else:
        drain(cluster, "m1", force="force" in way)
    step(cluster)
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert cluster.snapshot.placements[A]["m2"].prove_after_s == 10.0
    assert cluster.reason(A) == "starts there first, and runs on m1 until it is proven"
    assert DisruptionBudget(cluster.snapshot, {}).unavailability(A, "m2") is None
    assert not cluster.run_leader().units
    cluster.run_agents()  # it is proven
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert cluster.placement_states(A) == {"m2": "assigned"}
    assert cluster.reason(A) == "moved there"
    assert cluster.snapshot.moves == {}
    assert cluster.started == [A, A]


def test_members_move_although_others_are_unavailable() -> None:
    cluster = RollingCluster(3)
    cluster.machine("m1", x="y")
    cluster.request("old", *MEMBERS, fleet=START_FIRST)
    cluster.come_to_rest()
    broken = cluster.assigned()[MEMBERS[2]]
    state = cluster.snapshot.states[MEMBERS[2]][broken]
    cluster.write(STATES, (broken, MEMBERS[2]), replace(state, active="failed"))
    first = cluster.assigned()[MEMBERS[0]]
    drain(cluster, first)
    step(cluster)
    assert len(where(cluster, MEMBERS[0])) == 2


def test_it_costs_a_unit_that_stops_first_nothing_while_it_runs_where_it_was() -> None:
    cluster = RollingCluster(2)
    cluster.machine("m1", x="y")
    cluster.request("old", *MEMBERS, fleet=f"{START_FIRST}\nMachineMetadata=x=y")
    cluster.come_to_rest()
    cluster.machine("m2", x="y")
    drain(cluster, "m1")
    step(cluster)
    assert [len(where(cluster, name)) for name in MEMBERS] == [2, 2, 2]
    cluster.come_to_rest()
    assert [where(cluster, name) for name in MEMBERS] == [["m2"]] * 3


@pytest.mark.parametrize("way", ["move", "drain"])
def test_a_unit_that_fails_there_stays_and_says_why(way: str) -> None:
    cluster = cluster_with(machines=3)
    cluster.broken = True
    if way == "move":
        move(cluster, "m2")
    else:
        drain(cluster, "m1")
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "was not moved to m2: failed there: it crashed"
    assert cluster.started == [A, A]  # no other machine is tried, and none again
    assert cluster.snapshot.moves == {}
    cluster.elect()
    cluster.come_to_rest()
    assert cluster.started == [A, A]


def test_a_drain_that_is_asked_for_again_tries_it_again() -> None:
    cluster = cluster_with()
    cluster.broken = True
    drain(cluster, "m1")
    cluster.come_to_rest()
    cluster.broken = False
    drain(cluster, "m1", at=NOON + 60)
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_other_content_is_tried_again() -> None:
    cluster = cluster_with()
    cluster.broken = True
    drain(cluster, "m1")
    cluster.come_to_rest()
    cluster.broken = False
    submit(cluster, A, service="Environment=X=1")
    assert where(cluster) == ["m2"]


@pytest.mark.parametrize("way", ["move", "drain"])
def test_what_has_failed_there_stops_first_by_force(way: str) -> None:
    cluster = cluster_with()
    cluster.broken = True
    if way == "move":
        move(cluster, "m2")
        cluster.come_to_rest()
        move(cluster, "m2", force=True)
    else:
        drain(cluster, "m1", force=True)
        for _ in range(6):
            step(cluster)
    step(cluster, 2)
    cluster.broken = False
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


@pytest.mark.parametrize(
    ("fleet", "service", "target"),
    [
        ("Handover=stop-first", "", LAUNCHED),
        ("", "Type=oneshot", LAUNCHED),  # as a drop-in of an instance may have it
        ("", "", LOADED),
    ],
)
def test_other_units_stop_first(fleet: str, service: str, target: object) -> None:
    cluster = cluster_with(fleet=fleet, service=service, target=target)
    move(cluster, "m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_a_unit_that_does_not_run_stops_first() -> None:
    cluster = cluster_with()
    cluster.write(STATES, ("m1", A), replace(cluster.snapshot.states[A]["m1"], active="failed"))
    move(cluster, "m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_units_that_machine_of_joins_stop_first() -> None:
    cluster = cluster_with()
    cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old", f"MachineOf={A}"), LAUNCHED))
    cluster.come_to_rest()
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    cluster.come_to_rest()
    assert where(cluster) == where(cluster, "b.service") == ["m2"]


def test_a_unit_stops_first_for_a_machine_that_proves_nothing() -> None:
    cluster = cluster_with()
    cluster.machine("m2", is_old=True)
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_own_name_in_conflicts_does_not_count() -> None:
    cluster = cluster_with("Conflicts=a*")
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_its_place_is_kept_where_it_runs() -> None:
    cluster = cluster_with("Conflicts=b*")
    move(cluster, "m2")
    step(cluster)
    cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old"), LAUNCHED))
    step(cluster)
    assert where(cluster, "b.service") == []
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]
    assert where(cluster, "b.service") == ["m1"]


def test_it_waits_until_it_is_gone_elsewhere() -> None:
    cluster = cluster_with(machines=3)
    cluster.broken = True
    move(cluster, "m2")
    step(cluster, 2)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    cluster.broken = False
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "waits until m2 has stopped it"
    move(cluster, "m3")
    cluster.run_leader()
    assert cluster.reason(A) == "waits until m2 has stopped it"
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]


def test_it_waits_for_the_report_of_its_removal() -> None:
    cluster = cluster_with()
    state = cluster.snapshot.states[A]["m1"]
    cluster.write(STATES, ("m2", A), replace(state, load="not-found", active="inactive", target=INACTIVE))
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.reason(A) == "waits until m2 has removed it"
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_a_wait_that_is_over_is_not_the_reason_any_more() -> None:
    cluster = cluster_with()
    state = cluster.snapshot.states[A]["m1"]
    cluster.write(STATES, ("m2", A), replace(state, load="not-found", active="inactive", target=INACTIVE))
    drain(cluster, "m1")
    cluster.run_leader()
    cluster.write(SETTINGS, ("m1",), None)
    cluster.come_to_rest()
    assert cluster.reason(A) == "stays where it was"
