"""Machines that refuse units of a name: another one is chosen, and the refusal counts as a rejection until it ends."""

import pytest

from fleetd.model.machine import MachineMode
from tests.unit.cluster_builder import INACTIVE, A, Cluster, settled_cluster

OWN = f"has its own /etc/systemd/system/{A}"


def refused(*machines: str, text: str = "", among: tuple[str, ...] = ("m1", "m2")) -> Cluster:
    """A cluster at rest with a.service (of this [X-Fleet] text), which these machines refuse."""
    cluster = settled_cluster(*among)
    for machine in machines:
        cluster.refusals[machine] = {A: OWN}
    cluster.unit(A, text)
    cluster.settle()
    return cluster


def test_a_refused_unit_is_placed_elsewhere_and_the_placement_is_kept_declined():
    cluster = refused("m1")
    assert cluster.assigned() == {A: "m2"}
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    assert cluster.snapshot.placements[A]["m1"].declined
    assert cluster.reason(A) == "the only machine that fits"
    assert cluster.plan_cold().units == ()


def test_a_refused_unit_says_why_until_it_is_placed_elsewhere():
    cluster = settled_cluster()
    cluster.refusals["m1"] = {A: OWN}
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.run_agent("m1")
    cluster.run_leader()
    assert cluster.reason(A) == f"machine m1 {OWN}; waits until m1 has stopped it"


def test_a_unit_refused_by_all_says_so_and_runs_where_the_refusal_ends():
    cluster = refused("m1", "m2")
    assert cluster.assigned() == {}
    assert cluster.rejections(A) == {f"machine {OWN}": 2}
    assert cluster.reason(A) == "no machine fits"
    del cluster.refusals["m2"][A]
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_global_unit_skips_the_machine_until_the_refusal_ends():
    cluster = refused("m1", text="Global=true")
    assert cluster.assigned() == {A: "m2"}
    assert cluster.rejections(A) == {f"machine {OWN}": 1}
    cluster.elect()
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    del cluster.refusals["m1"][A]
    cluster.settle()
    assert cluster.assigned() == {A: "m1 m2"}
    assert cluster.rejections(A) == {}


def test_a_refused_unit_does_not_conflict_on_that_machine():
    cluster = refused("m1", "m2")
    cluster.unit("rival.service", "Conflicts=a*")
    cluster.settle()
    assert cluster.assigned() == {"rival.service": "m1"}


@pytest.mark.parametrize("destroyed", [False, True])
def test_no_record_of_a_refusal_is_left_when_the_unit_is_unwanted(destroyed):
    cluster = refused("m1", "m2")
    if destroyed:
        cluster.destroy(A)
    else:
        cluster.unit(A, target=INACTIVE)
    cluster.settle()
    assert A not in cluster.snapshot.placements
    assert A not in cluster.snapshot.states
    assert A not in cluster.snapshot.decisions


def test_a_refusal_is_forgotten_when_its_machine_dies():
    cluster = refused("m1")
    cluster.die("m1")
    cluster.settle()
    assert cluster.placement_states(A) == {"m2": "assigned"}


def test_a_refusal_lasts_while_the_machine_is_away_or_has_not_reported_yet():
    cluster = refused("m1")
    cluster.expire_lease("m1")
    cluster.settle()
    cluster.come_back("m1")
    cluster.machine("m2", MachineMode.LEAVING)
    for _ in range(4):
        cluster.run_leader()
        cluster.run_agent("m2")
    assert cluster.assigned() == {}
    assert cluster.rejections(A) == {"machine is leaving": 1, "machine takes no unit of this name": 1}
    cluster.settle()
    assert cluster.rejections(A) == {"machine is leaving": 1, f"machine {OWN}": 1}
