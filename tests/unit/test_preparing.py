"""A unit that moves is stopped only when what it needs is on the machine where it goes."""

import pytest
from msgspec.structs import replace

from fleetd.model.machine import MachineMode, MachineSettings
from fleetd.model.reason import WaitingForDownload
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.records import MOVES, PLACEMENTS, SETTINGS, STATES, UNITS
from fleetd.scheduler.foresight import pretend
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED
from tests.unit.rolling_cluster import RollingCluster, text_of
from tests.unit.start_first_cluster import A, drain, move, step, where

B = "b.service"
ABSENT = UnitState("not-found", "inactive", "dead")
DIGEST = f"sha256:{'a' * 64}"
PREPARING = {"m1": "assigned", "m2": "preparing"}
WAITS = "waits until m2 has downloaded what a.service needs there"


def text(fleet: str = "", service: str = "") -> str:
    image = f"[X-Image]\nImage=registry:5000/a@{DIGEST}\n[X-Source a.container Container]\nImage=registry:5000/a:1\n"
    return text_of("old", fleet).replace("[X-Fleet]", f"{service}\n[X-Fleet]") + image


def cluster_with(fleet: str = "", *, machines: int = 2, service: str = "", target: object = LAUNCHED) -> RollingCluster:
    """a.service, which needs an image, on m1; the other machines do not have it yet."""
    cluster = RollingCluster(machines)
    cluster.write(UNITS, (A,), Unit(A, text(fleet, service), target))
    cluster.come_to_rest()
    assert cluster.assigned()[A] == "m1"
    cluster.downloads = {f"m{number}": "" for number in range(1, machines + 1)}
    return cluster


def leave(cluster: RollingCluster, way: str, **fields: object) -> None:
    if way == "move":
        move(cluster, "m2", **fields)
    else:
        drain(cluster, "m1", **fields)


@pytest.mark.parametrize("way", ["move", "drain"])
def test_a_unit_leaves_when_its_image_is_where_it_goes(way: str) -> None:
    cluster = cluster_with()
    leave(cluster, way)
    step(cluster, 3)
    assert cluster.placement_states(A) == PREPARING
    assert (cluster.reason(A), where(cluster)) == (WAITS, ["m1"])
    assert not cluster.run_leader().units
    assert not cluster.snapshot.occupancy("m2").units
    del cluster.downloads["m2"]
    step(cluster, 2)
    assert "m1" not in where(cluster)
    cluster.come_to_rest()
    assert (cluster.placement_states(A), where(cluster)) == ({"m2": "assigned"}, ["m2"])
    assert cluster.started == [A, A]


@pytest.mark.parametrize("way", ["move", "drain"])
def test_by_force_nothing_is_waited_for(way: str) -> None:
    cluster = cluster_with()
    leave(cluster, way, force=True)
    step(cluster)
    assert where(cluster) == []


def test_a_machine_that_cannot_have_it_is_passed_over() -> None:
    cluster = cluster_with(machines=3)
    drain(cluster, "m1")
    step(cluster)
    assert cluster.placement_states(A) == PREPARING
    cluster.downloads["m2"] = "cannot get the image"
    step(cluster, 2)
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn", "m3": "preparing"}
    cluster.downloads["m3"] = "cannot get the image"
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]
    assert cluster.reason(A) == "stays on the drained machine: it fits nowhere else: machine cannot get the image (2)"
    cluster.downloads["m3"] = ""  # it tries again
    step(cluster, 3)
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn", "m3": "preparing"}
    del cluster.downloads["m3"]
    cluster.come_to_rest()
    assert where(cluster) == ["m3"]
    cluster.downloads["m2"] = ""
    cluster.come_to_rest()
    assert cluster.placement_states(A) == {"m3": "assigned"}


def test_a_move_to_a_machine_that_cannot_have_it_is_given_up() -> None:
    cluster = cluster_with()
    move(cluster, "m2")
    step(cluster)
    cluster.downloads["m2"] = "cannot get the image"
    cluster.come_to_rest()
    assert cluster.reason(A) == "was not moved to m2: machine cannot get the image"
    assert where(cluster) == ["m1"]
    assert cluster.snapshot.moves == {}
    cluster.downloads["m2"] = ""  # it might have it now
    cluster.come_to_rest()
    assert cluster.placement_states(A) == {"m1": "assigned"}


@pytest.mark.parametrize("way", ["uncordon", "stop", "destroy", "other"])
def test_what_is_not_to_come_any_more_is_not_prepared(way: str) -> None:
    cluster = cluster_with(machines=3)
    drain(cluster, "m1")
    step(cluster)
    assert cluster.placement_states(A) == PREPARING
    if way == "uncordon":
        cluster.write(SETTINGS, ("m1",), MachineSettings())
    elif way == "other":
        cluster.write(SETTINGS, ("m1",), MachineSettings())
        move(cluster, "m3")
        step(cluster)
        assert cluster.placement_states(A) == {"m1": "assigned", "m3": "preparing"}
        cluster.write(MOVES, (A,), None)
    else:
        cluster.write(UNITS, (A,), None if way == "destroy" else Unit(A, text(), INACTIVE))
    cluster.come_to_rest()
    assert "m2" not in cluster.placement_states(A)
    assert where(cluster) == (["m1"] if way in ("uncordon", "other") else [])


def test_a_machine_that_is_lost_meanwhile_is_forgotten() -> None:
    cluster = cluster_with(machines=3)
    drain(cluster, "m1")
    step(cluster)
    cluster.die("m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m3": "preparing"}
    cluster.machine("m3", MachineMode.LEAVING)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned"}


def test_the_machine_of_a_unit_is_lost_while_another_prepares_for_it() -> None:
    cluster = cluster_with()
    drain(cluster, "m1")
    step(cluster)
    cluster.die("m1")
    cluster.come_to_rest()
    assert (cluster.placement_states(A), cluster.assigned()[A]) == ({"m2": "assigned"}, "m2")


def test_units_that_go_together_wait_together() -> None:
    cluster = cluster_with()
    cluster.write(UNITS, (B,), Unit(B, text("MachineOf=a.service"), LAUNCHED))
    cluster.come_to_rest()
    assert cluster.assigned()[B] == "m1"
    drain(cluster, "m1")
    step(cluster)
    assert cluster.snapshot.decisions[A].reason == WaitingForDownload("m2", (A, B))
    del cluster.downloads["m2"]
    cluster.come_to_rest()
    assert where(cluster) == where(cluster, B) == ["m2"]


@pytest.mark.parametrize("why", ["failed", "loaded", "old fleetd"])
def test_nothing_is_prepared_where_nothing_is_gained(why: str) -> None:
    cluster = cluster_with(target=LOADED if why == "loaded" else LAUNCHED)
    if why == "failed":
        cluster.write(STATES, ("m1", A), replace(cluster.snapshot.states[A]["m1"], active="failed"))
    if why == "old fleetd":
        cluster.machine("m2", is_old=True)
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}


def test_a_unit_that_starts_first_is_not_waited_for_before() -> None:
    cluster = cluster_with("Handover=start-first")
    drain(cluster, "m1")
    step(cluster)
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}


def test_a_unit_that_becomes_start_first_while_it_waits() -> None:
    cluster = cluster_with()
    drain(cluster, "m1")
    step(cluster)
    cluster.write(UNITS, (A,), Unit(A, text("Handover=start-first"), LAUNCHED))
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_it_returns_where_it_still_stops() -> None:
    """There is nothing to be prepared: it has just been there."""
    cluster = cluster_with()
    del cluster.downloads["m2"]
    move(cluster, "m2")
    cluster.come_to_rest()
    move(cluster, "m1")
    cluster.downloads = {}
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]


def test_other_content_may_come_where_the_image_of_the_former_could_not_be_had() -> None:
    cluster = RollingCluster(1)
    cluster.write(UNITS, (A,), Unit(A, text(), LAUNCHED))
    cluster.refusals["m1"] = {A: "cannot get the image"}
    refused = {"refusal": "cannot get the image", "error": "cannot get the image"}
    cluster.run_leader()
    cluster.write(STATES, ("m1", A), replace(ABSENT, **refused))
    cluster.run_leader()
    generation = cluster.snapshot.placements[A]["m1"].generation
    cluster.write(STATES, ("m1", A), replace(ABSENT, generation=generation, **refused))
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].declined
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m1"].declined
    cluster.write(UNITS, (A,), Unit(A, text_of("new"), LAUNCHED))
    cluster.come_to_rest()
    assert where(cluster) == ["m1"]


def test_what_runs_where_it_goes_is_not_written_over() -> None:
    """A copy that outlived a cut has there what it needs."""
    cluster = cluster_with()
    copy = replace(cluster.snapshot.placements[A]["m1"], machine="m2", superseded=True)
    cluster.write(PLACEMENTS, ("m2", A), copy)
    cluster.write(STATES, ("m2", A), cluster.snapshot.states[A]["m1"])
    move(cluster, "m2")
    cluster.run_leader()
    assert "preparing" not in cluster.placement_states(A).values()
    cluster.come_to_rest()
    assert where(cluster) == ["m2"]


def test_a_plan_takes_for_granted_that_downloads_succeed() -> None:
    cluster = cluster_with()
    drain(cluster, "m1")
    cluster.run_leader()
    state = pretend(cluster.snapshot, "m2", A)
    assert state is not None
    assert state.prepared == cluster.snapshot.placements[A]["m2"].content.hash
