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


# What a machine says of the units that it takes (accept= and confine= of its fleet.conf).

ROOT = "Global=false\n[Service]\nUser=root"


def test_a_unit_of_another_name_than_a_machine_accepts_goes_elsewhere_until_the_machine_accepts_it():
    cluster = settled_cluster("m1", "m2")
    cluster.machine("m1", facts={"accept": ("web-*",)})
    cluster.unit(A)
    cluster.unit("web-1.service", "MachineID=m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m2", "web-1.service": "m1"}
    assert cluster.placement_states(A) == {"m2": "assigned"}
    assert cluster.reason(A) == "the only machine that fits"


def test_a_unit_that_no_machine_accepts_says_so_and_is_placed_as_soon_as_one_does():
    cluster = settled_cluster("m1")
    cluster.machine("m1", facts={"accept": ("web-*", "db.service")})
    cluster.unit(A)
    cluster.settle()
    assert cluster.rejections(A) == {"machine accepts only web-*, db.service": 1}
    cluster.machine("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m1"}


def test_a_unit_that_its_machine_accepts_no_more_moves():
    cluster = settled_cluster("m1")
    cluster.unit(A)
    cluster.settle()
    cluster.machine("m2")
    cluster.machine("m1", facts={"accept": ("web-*",)})
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert cluster.placement_states(A) == {"m2": "assigned"}


def test_a_unit_that_could_become_root_avoids_a_machine_that_confines_its_units():
    cluster = settled_cluster("m1", "m2")
    cluster.machine("m1", facts={"confine": True})
    cluster.unit(A, ROOT)
    cluster.unit("b.service", "MachineID=m1\n[Service]\nExecStart=/bin/b")
    cluster.settle()
    assert cluster.assigned() == {A: "m2", "b.service": "m1"}
    cluster.unit("b.service", f"MachineID=m1\n{ROOT}")
    cluster.settle()
    assert "b.service" not in cluster.assigned()
    assert "machine confines its units: User= is not allowed in [Service]: the unit runs as a user of its own" in (
        cluster.rejections("b.service")
    )


def test_a_global_unit_is_where_machines_accept_it():
    cluster = settled_cluster("m1", "m2")
    cluster.machine("m1", facts={"accept": ("web-*",)})
    cluster.unit(A, "Global=true")
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    assert cluster.plan_cold().units == ()
