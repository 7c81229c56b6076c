"""Machines that take no unit of a name: another is taken, the reason is counted, and it is tried again when it ends."""

import pytest

from fleetd.model.machine import MachineMode
from tests.unit.cluster_builder import INACTIVE, A, World, cluster

OWN = f"has its own /etc/systemd/system/{A}"


def refused(*machines: str, text: str = "", among: tuple[str, ...] = ("m1", "m2")) -> World:
    """A unit of this [X-Fleet] text that these machines refuse, at rest."""
    world = cluster(*among)
    for machine in machines:
        world.refuses[machine] = {A: OWN}
    world.unit(A, text)
    world.settle()
    return world


def test_another_machine_is_taken_and_the_refusal_is_kept_in_mind():
    world = refused("m1")
    assert world.homes() == {A: "m2"}
    assert world.orders(A) == {"m1": "go", "m2": "stay"}
    assert world.snapshot.placements[A]["m1"].declined
    assert world.reason(A) == "the only machine that fits"
    assert world.plan_cold().units == ()


def test_why_it_had_to_go_is_said_until_another_machine_has_it():
    world = cluster()
    world.refuses["m1"] = {A: OWN}
    world.unit(A)
    world.lead()
    assert world.homes() == {A: "m1"}
    world.work("m1")
    world.lead()
    assert world.reason(A) == f"machine m1 {OWN}; waits until m1 has stopped it"


def test_a_unit_that_all_refuse_says_so_and_runs_where_the_refusal_ends():
    world = refused("m1", "m2")
    assert world.homes() == {}
    assert world.rejections(A) == {f"machine {OWN}": 2}
    assert world.reason(A) == "no machine fits"
    del world.refuses["m2"][A]
    world.settle()
    assert world.homes() == {A: "m2"}
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


def test_a_global_unit_skips_the_machine_until_the_refusal_ends():
    world = refused("m1", text="Global=true")
    assert world.homes() == {A: "m2"}
    assert world.rejections(A) == {f"machine {OWN}": 1}
    world.elect()
    world.settle()
    assert world.homes() == {A: "m2"}
    del world.refuses["m1"][A]
    world.settle()
    assert world.homes() == {A: "m1 m2"}
    assert world.rejections(A) == {}


def test_a_unit_that_is_refused_hinders_nobody_there():
    world = refused("m1", "m2")
    world.unit("rival.service", "Conflicts=a*")
    world.settle()
    assert world.homes() == {"rival.service": "m1"}


@pytest.mark.parametrize("destroyed", [False, True])
def test_nothing_is_left_of_a_refusal_when_the_unit_is_not_wanted_any_more(destroyed):
    world = refused("m1", "m2")
    if destroyed:
        world.destroy(A)
    else:
        world.unit(A, target=INACTIVE)
    world.settle()
    assert A not in world.snapshot.placements
    assert A not in world.snapshot.states
    assert A not in world.snapshot.decisions


def test_a_refusal_goes_with_its_machine():
    world = refused("m1")
    world.die("m1")
    world.settle()
    assert world.orders(A) == {"m2": "stay"}


def test_a_machine_that_is_away_or_has_not_spoken_yet_refuses_still():
    world = refused("m1")
    world.vanish("m1")
    world.settle()
    world.come_back("m1")
    world.machine("m2", MachineMode.LEAVING)
    for _ in range(4):
        world.lead()
        world.work("m2")
    assert world.homes() == {}
    assert world.rejections(A) == {"machine is leaving": 1, "machine takes no unit of this name": 1}
    world.settle()
    assert world.rejections(A) == {"machine is leaving": 1, f"machine {OWN}": 1}
