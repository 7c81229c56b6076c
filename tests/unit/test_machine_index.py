"""MachineIndex: sets of machines by id, metadata and mode, and those that meet the requirements of a unit."""

from fleetd.model.constraints import Requirements
from fleetd.model.reason import render_rejection
from fleetd.scheduler.effective_machine import PARKED, EffectiveMachine
from fleetd.scheduler.machine_index import MAX_KEPT, MachineIndex

IDS = ("0123456789a", "0123456789b", "1", "2")


def four_machines():
    machines = {name: EffectiveMachine({"role": "web" if len(name) > 1 else "db"}) for name in IDS}
    return MachineIndex(machines | {"2": EffectiveMachine({"role": "db"}, PARKED)})


def test_a_mask_of_machines_lists_ids_in_order_without_unknown_ones():
    machine_index = four_machines()
    assert list(machine_index.ids(machine_index.mask(["2", "gone", "0123456789b"]))) == ["0123456789b", "2"]
    assert machine_index.rejecting == {PARKED: machine_index.mask(["2"])}
    assert machine_index.accepting == machine_index.mask(IDS[:-1])
    assert machine_index.mask([]) == 0


def test_a_short_id_shared_by_two_machines_matches_both():
    machine_index = four_machines()
    assert list(machine_index.ids(machine_index.matching(Requirements(machine_id="01234567")))) == [
        "0123456789a",
        "0123456789b",
    ]


def test_a_machine_rejects_for_the_first_reason_only():
    machine_index = four_machines()
    required = Requirements(metadata=(("role", ("web", "cache")), ("disk", ("ssd",))))
    rejections = {
        render_rejection(rejection): list(machine_index.ids(machines))
        for rejection, machines in machine_index.rejections(required)
    }
    assert rejections == {
        "metadata role=web|cache missing": ["1", "2"],
        "metadata disk=ssd missing": ["0123456789a", "0123456789b"],
    }
    assert machine_index.matching(required) == 0


def test_results_are_right_when_the_cache_is_full():
    machine_index = four_machines()
    for index in range(MAX_KEPT + 2):
        machine_index.rejections(Requirements(machine_id=f"other-{index}"))
    assert list(machine_index.ids(machine_index.matching(Requirements(machine_id="1")))) == ["1"]
