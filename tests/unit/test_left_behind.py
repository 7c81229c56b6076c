"""Copies that were left behind: those that outlived a cut, and those that a restored store knows nothing of."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.registry.records import STATES
from fleetd.scheduler.impact import Affected
from tests.unit.cluster_builder import INACTIVE, LOADED, A, World, after_a_cut, cluster


@pytest.mark.covers("2.10.2", "5.5.3")
def test_a_allocation_that_outlived_a_cut_retires_until_its_replacement_runs():
    world = after_a_cut()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    assert not world.lead().writes
    world.state(A, "m2", "active")
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}
    assert world.snapshot.decisions[A].machine == "m2"


def test_a_allocation_that_outlived_a_cut_goes_when_its_replacement_has_completed():
    world = after_a_cut()
    world.state(A, "m2", "inactive", completed=True)
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


def test_a_allocation_that_outlived_a_cut_goes_when_the_unit_is_to_be_loaded_only():
    world = after_a_cut()
    world.unit(A, target=LOADED)
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


def test_a_allocation_that_outlived_a_cut_goes_when_it_has_ended_by_itself():
    world = after_a_cut()
    world.state(A, "m1", "failed")
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


def test_a_allocation_that_outlived_a_cut_goes_when_its_time_is_up():
    world = after_a_cut()
    world.changed = Affected({A: None})
    world.lead(overdue=frozenset({("m1", A)}))
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


def test_a_allocation_that_outlived_a_cut_goes_when_something_conflicting_is_placed_there():
    world = after_a_cut()
    world.unit("rival.service", "MachineMetadata=only=m1\nConflicts=a*")
    world.settings("m1", only="m1")
    world.lead()
    assert world.homes()["rival.service"] == "m1"
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


@pytest.mark.parametrize("overdue", [False, True])
@pytest.mark.parametrize("fields", [{"active": "failed"}, {"active": "inactive", "error": "no such file"}])
def test_a_allocation_that_outlived_a_cut_is_the_unit_again_when_its_replacement_has_failed(fields, overdue):
    world = after_a_cut()
    world.state(A, "m2", **fields)
    world.lead(overdue=frozenset({("m1", A)} if overdue else ()))
    assert world.orders(A) == {"m1": "stay", "m2": "go"}
    assert world.reason(A) == "was still running there"


@pytest.mark.parametrize("replacement", ["failed", "inactive", "deactivating", "outdated", "none"])
def test_the_only_allocation_that_runs_runs_on_where_it_may_not_be_until_its_replacement_begins(replacement):
    world = after_a_cut()
    world.unit(A, "MachineID=m2")
    if replacement == "outdated":
        world.state(A, "m2", "activating", outdated=True)
    elif replacement != "none":
        world.state(A, "m2", replacement)
    else:
        world.write(STATES, ("m2", A), None)
    world.lead(overdue=frozenset({("m1", A)}))
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.state(A, "m2", "activating")
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.changed = Affected({A: None})
    world.lead(overdue=frozenset({("m1", A)}))
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


@pytest.mark.parametrize(("mode", "order"), [(MachineMode.LEAVING, "go"), (MachineMode.PARKED, "retire")])
def test_the_only_allocation_that_runs_is_given_up_in_time_where_its_machine_leaves(mode, order):
    world = after_a_cut()
    world.unit(A, "MachineID=m2")
    world.state(A, "m2", "failed")
    world.machine("m1", mode)
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.changed = Affected({A: None})
    world.lead(overdue=frozenset({("m1", A)}))
    assert world.orders(A) == {"m1": order, "m2": "stay"}


def test_a_allocation_that_outlived_a_cut_is_the_unit_again_when_the_replacement_dies_too():
    world = after_a_cut()
    world.die("m2")
    world.lead()
    assert world.orders(A) == {"m1": "stay"}


def test_of_two_allocations_that_outlived_cuts_one_is_the_unit_again():
    world = cluster("m1", "m2", "m3", a="")
    for machine in ("m1", "m2"):
        world.die(machine)
        world.lead()
        for other in world.snapshot.machines:
            world.work(other)
    world.work("m3", outcome="failed")
    world.come_back("m1")
    world.come_back("m2")
    world.lead()
    assert world.orders(A) == {"m1": "stay", "m2": "go", "m3": "go"}


def test_a_retiring_allocation_on_a_machine_that_is_away_is_left_alone():
    world = after_a_cut()
    world.vanish("m1")
    world.state(A, "m2", "active")
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.judge(set())
    world.lead()
    assert world.orders(A) == {"m2": "stay"}


def test_a_retiring_allocation_is_stopped_when_the_unit_is_not_wanted_any_more():
    world = after_a_cut()
    world.unit(A, target=INACTIVE)
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "go"}
    assert world.reason(A) == "being stopped on m1, m2"


def test_a_machine_that_returns_with_a_unit_that_is_nowhere_gets_it_back():
    world = cluster("m1", a="", b="MachineOf=a.service")
    world.die("m1")
    world.lead()
    assert world.reason(A) == "there is no machine"
    world.machine("m0")
    world.come_back("m1")
    world.unit("b.service", "MachineOf=a.service")
    world.lead()
    assert world.homes() == {A: "m1", "b.service": "m1"}


def test_a_allocation_that_returns_where_it_may_not_be_retires_until_its_replacement_runs():
    world = cluster("m1", a="")
    world.unit(A, "MachineID=m2")
    world.die("m1")
    world.lead()
    world.machine("m2")
    world.come_back("m1")
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.settle()
    assert world.orders(A) == {"m2": "stay"}
    assert not world.copies["m1"]


def test_while_two_allocations_are_being_stopped_neither_is_started_again():
    world = after_a_cut()
    world.unit(A, target=INACTIVE)
    world.lead()
    world.unit(A)
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "go"}
    assert world.reason(A) == "waits until m1 has stopped it"
    world.settle()
    assert list(world.orders(A).values()) == ["stay"]


def kept_running(*machines: str) -> World:
    """a.service was to go from m1 when the store was restored, and m1 only keeps it running."""
    world = cluster(*machines, a="")
    world.machine("m1", mode=MachineMode.LEAVING)
    world.lead()
    world.keep_running("m1", A)
    world.lead()
    return world


def test_what_a_machine_keeps_running_stays_there_as_soon_as_it_may():
    world = kept_running("m1", "m2")
    world.settle()
    assert world.orders(A) == {"m1": "go"}
    kept = "waits until it is stopped on m1, where it is only kept running since the store was restored"
    assert world.reason(A) == f"machine m1 is leaving; {kept}"
    world.machine("m1")
    world.settle()
    assert world.orders(A) == {"m1": "stay"}
    assert world.reason(A) == "was still running there"


def test_who_follows_what_a_machine_keeps_running_says_so():
    world = kept_running("m1", "m2")
    world.unit("b.service", "MachineOf=a.service")
    world.settle()
    kept = "waits until it is stopped on m1, where it is only kept running since the store was restored"
    assert world.reason("b.service") == f"waits for a.service, which {kept}"
    world.machine("m1")
    world.settle()
    assert set(world.homes().values()) == {"m1"}


def test_of_an_allocation_that_is_kept_running_of_a_unit_that_nobody_wants_it_is_said():
    world = kept_running("m1", "m2")
    world.destroy(A)
    world.settle()
    assert world.reason(A) == "to be stopped on m1, where it is only kept running since the store was restored"


def test_a_unit_that_does_not_run_at_home_stays_where_it_is_kept_running():
    world = kept_running("m1", "m2")
    world.runs(A, "m2", "inactive", target=LOADED, error="held as it was when the store was restored")
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}
    world.machine("m1")
    world.lead()
    assert world.orders(A) == {"m1": "stay", "m2": "go"}


def test_what_a_machine_said_before_a_restore_is_no_reason_to_stop_an_allocation():
    world = after_a_cut()
    world.state(A, "m2", "active", outdated=True)
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.state(A, "m2", "active")
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}


def test_a_allocation_that_ran_before_a_restore_is_the_unit_again_when_its_machine_has_said_so_since():
    world = after_a_cut()
    world.state(A, "m1", "active", outdated=True)
    world.state(A, "m2", "failed")
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.state(A, "m1", "active")
    world.lead()
    assert world.orders(A) == {"m1": "stay", "m2": "go"}


@pytest.mark.parametrize("was_told", [False, True])
def test_a_allocation_kept_since_a_restore_is_told_that_it_retires_before_it_is_told_to_go(was_told):
    world = cluster(a="")
    world.die("m1")
    world.settle()
    assert world.homes() == {A: "m2"}
    world.come_back("m1")
    if was_told:  # its machine saw only then that the store was restored
        world.lead()
        assert world.orders(A) == {"m1": "go", "m2": "stay"}
    world.keep_running("m1", A)
    world.lead()
    assert world.orders(A) == {"m1": "retire", "m2": "stay"}
    world.changed = Affected({A: None})
    assert not world.lead(overdue=frozenset({("m1", A)})).writes
    world.work("m1")
    world.lead()
    assert world.orders(A) == {"m1": "go", "m2": "stay"}
    world.settle()
    assert not world.copies["m1"]


def test_a_allocation_kept_since_a_restore_runs_on_where_the_unit_is_to_be_loaded_only():
    world = cluster(a="")
    world.die("m1")
    world.unit(A, target=LOADED)
    world.settle()
    world.copies["m1"][A].orphan = True
    world.come_back("m1")
    world.settle()
    assert world.copies["m1"][A].active == "active"
    assert world.orders(A) == {"m2": "stay"}
    world.unit(A)
    world.settle()
    assert not world.copies["m1"]
