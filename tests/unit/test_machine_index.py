"""Machines as sets: who they are, what they offer, and which are what a unit asks for."""

from fleetd.model.constraints import Requirements
from fleetd.model.reason import render_rejection
from fleetd.scheduler.effective_machine import PARKED, EffectiveMachine
from fleetd.scheduler.machine_index import MAX_KEPT, MachineIndex

IDS = ("0123456789a", "0123456789b", "1", "2")


def four_sites():
    machines = {name: EffectiveMachine({"role": "web" if len(name) > 1 else "db"}) for name in IDS}
    return MachineIndex(machines | {"2": EffectiveMachine({"role": "db"}, PARKED)})


def test_a_set_of_machines_is_listed_in_order_and_leaves_out_who_is_not_there():
    machine_index = four_sites()
    assert list(machine_index.ids(machine_index.mask(["2", "gone", "0123456789b"]))) == ["0123456789b", "2"]
    assert machine_index.rejecting == {PARKED: machine_index.mask(["2"])}
    assert machine_index.accepting == machine_index.mask(IDS[:-1])
    assert machine_index.mask([]) == 0


def test_a_short_id_that_two_machines_share_names_both():
    machine_index = four_sites()
    assert list(machine_index.ids(machine_index.matching(Requirements(machine_id="01234567")))) == [
        "0123456789a",
        "0123456789b",
    ]


def test_a_machine_refuses_for_one_reason_the_first():
    machine_index = four_sites()
    wanted = Requirements(metadata=(("role", ("web", "cache")), ("disk", ("ssd",))))
    refusals = {
        render_rejection(rejection): list(machine_index.ids(machines))
        for rejection, machines in machine_index.rejections(wanted)
    }
    assert refusals == {
        "metadata role=web|cache missing": ["1", "2"],
        "metadata disk=ssd missing": ["0123456789a", "0123456789b"],
    }
    assert machine_index.matching(wanted) == 0


def test_answers_are_right_however_many_were_asked_for():
    machine_index = four_sites()
    for index in range(MAX_KEPT + 2):
        machine_index.rejections(Requirements(machine_id=f"other-{index}"))
    assert list(machine_index.ids(machine_index.matching(Requirements(machine_id="1")))) == ["1"]
