"""Copies that were left behind: those that outlived a cut, and those that a restored store knows nothing of."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.registry.records import STATES
from fleetd.scheduler.impact import Affected
from tests.unit.cluster_builder import INACTIVE, LOADED, A, Cluster, after_partition, settled_cluster


@pytest.mark.covers("2.10.2", "5.5.3")
def test_a_allocation_that_outlived_a_cut_retires_until_its_replacement_runs():
    cluster = after_partition()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert not cluster.run_leader().writes
    cluster.state(A, "m2", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    assert cluster.snapshot.decisions[A].machine == "m2"


def test_a_allocation_that_outlived_a_cut_goes_when_its_replacement_has_completed():
    cluster = after_partition()
    cluster.state(A, "m2", "inactive", completed=True)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_allocation_that_outlived_a_cut_goes_when_the_unit_is_to_be_loaded_only():
    cluster = after_partition()
    cluster.unit(A, target=LOADED)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_allocation_that_outlived_a_cut_goes_when_it_has_ended_by_itself():
    cluster = after_partition()
    cluster.state(A, "m1", "failed")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_allocation_that_outlived_a_cut_goes_when_its_time_is_up():
    cluster = after_partition()
    cluster.changed = Affected({A: None})
    cluster.run_leader(overdue=frozenset({("m1", A)}))
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_allocation_that_outlived_a_cut_goes_when_something_conflicting_is_placed_there():
    cluster = after_partition()
    cluster.unit("rival.service", "MachineMetadata=only=m1\nConflicts=a*")
    cluster.settings("m1", only="m1")
    cluster.run_leader()
    assert cluster.assigned()["rival.service"] == "m1"
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


@pytest.mark.parametrize("overdue", [False, True])
@pytest.mark.parametrize("fields", [{"active": "failed"}, {"active": "inactive", "error": "no such file"}])
def test_a_allocation_that_outlived_a_cut_is_the_unit_again_when_its_replacement_has_failed(fields, overdue):
    cluster = after_partition()
    cluster.state(A, "m2", **fields)
    cluster.run_leader(overdue=frozenset({("m1", A)} if overdue else ()))
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "was still running there"


@pytest.mark.parametrize("replacement", ["failed", "inactive", "deactivating", "outdated", "none"])
def test_the_only_allocation_that_runs_runs_on_where_it_may_not_be_until_its_replacement_begins(replacement):
    cluster = after_partition()
    cluster.unit(A, "MachineID=m2")
    if replacement == "outdated":
        cluster.state(A, "m2", "activating", outdated=True)
    elif replacement != "none":
        cluster.state(A, "m2", replacement)
    else:
        cluster.write(STATES, ("m2", A), None)
    cluster.run_leader(overdue=frozenset({("m1", A)}))
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.state(A, "m2", "activating")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.changed = Affected({A: None})
    cluster.run_leader(overdue=frozenset({("m1", A)}))
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


@pytest.mark.parametrize(("mode", "order"), [(MachineMode.LEAVING, "withdrawn"), (MachineMode.PARKED, "superseded")])
def test_the_only_allocation_that_runs_is_given_up_in_time_where_its_machine_leaves(mode, order):
    cluster = after_partition()
    cluster.unit(A, "MachineID=m2")
    cluster.state(A, "m2", "failed")
    cluster.machine("m1", mode)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.changed = Affected({A: None})
    cluster.run_leader(overdue=frozenset({("m1", A)}))
    assert cluster.placement_states(A) == {"m1": order, "m2": "assigned"}


def test_a_allocation_that_outlived_a_cut_is_the_unit_again_when_the_replacement_dies_too():
    cluster = after_partition()
    cluster.die("m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned"}


def test_of_two_allocations_that_outlived_cuts_one_is_the_unit_again():
    cluster = settled_cluster("m1", "m2", "m3", a="")
    for machine in ("m1", "m2"):
        cluster.die(machine)
        cluster.run_leader()
        for other in cluster.snapshot.machines:
            cluster.run_agent(other)
    cluster.run_agent("m3", outcome="failed")
    cluster.come_back("m1")
    cluster.come_back("m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn", "m3": "withdrawn"}


def test_a_retiring_allocation_on_a_machine_that_is_away_is_left_alone():
    cluster = after_partition()
    cluster.expire_lease("m1")
    cluster.state(A, "m2", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.set_away(set())
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m2": "assigned"}


def test_a_retiring_allocation_is_stopped_when_the_unit_is_not_wanted_any_more():
    cluster = after_partition()
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "withdrawn"}
    assert cluster.reason(A) == "being stopped on m1, m2"


def test_a_machine_that_returns_with_a_unit_that_is_nowhere_gets_it_back():
    cluster = settled_cluster("m1", a="", b="MachineOf=a.service")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.reason(A) == "there is no machine"
    cluster.machine("m0")
    cluster.come_back("m1")
    cluster.unit("b.service", "MachineOf=a.service")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1", "b.service": "m1"}


def test_a_allocation_that_returns_where_it_may_not_be_retires_until_its_replacement_runs():
    cluster = settled_cluster("m1", a="")
    cluster.unit(A, "MachineID=m2")
    cluster.die("m1")
    cluster.run_leader()
    cluster.machine("m2")
    cluster.come_back("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.settle()
    assert cluster.placement_states(A) == {"m2": "assigned"}
    assert not cluster.local_units["m1"]


def test_while_two_allocations_are_being_stopped_neither_is_started_again():
    cluster = after_partition()
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    cluster.unit(A)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "withdrawn"}
    assert cluster.reason(A) == "waits until m1 has stopped it"
    cluster.settle()
    assert list(cluster.placement_states(A).values()) == ["assigned"]


def cluster_with_orphan(*machines: str) -> Cluster:
    """a.service was to go from m1 when the store was restored, and m1 only keeps it running."""
    cluster = settled_cluster(*machines, a="")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    cluster.keep_running("m1", A)
    cluster.run_leader()
    return cluster


def test_what_a_machine_keeps_running_stays_there_as_soon_as_it_may():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    kept = "waits until it is stopped on m1, where it is only kept running since the store was restored"
    assert cluster.reason(A) == f"machine m1 is leaving; {kept}"
    cluster.machine("m1")
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "was still running there"


def test_who_follows_what_a_machine_keeps_running_says_so():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.unit("b.service", "MachineOf=a.service")
    cluster.settle()
    kept = "waits until it is stopped on m1, where it is only kept running since the store was restored"
    assert cluster.reason("b.service") == f"waits for a.service, which {kept}"
    cluster.machine("m1")
    cluster.settle()
    assert set(cluster.assigned().values()) == {"m1"}


def test_of_an_allocation_that_is_kept_running_of_a_unit_that_nobody_wants_it_is_said():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.destroy(A)
    cluster.settle()
    assert cluster.reason(A) == "to be stopped on m1, where it is only kept running since the store was restored"


def test_a_unit_that_does_not_run_at_home_stays_where_it_is_kept_running():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.place(A, "m2", "inactive", target=LOADED, error="held as it was when the store was restored")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.machine("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}


def test_what_a_machine_said_before_a_restore_is_no_reason_to_stop_an_allocation():
    cluster = after_partition()
    cluster.state(A, "m2", "active", outdated=True)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.state(A, "m2", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_allocation_that_ran_before_a_restore_is_the_unit_again_when_its_machine_has_said_so_since():
    cluster = after_partition()
    cluster.state(A, "m1", "active", outdated=True)
    cluster.state(A, "m2", "failed")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.state(A, "m1", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}


@pytest.mark.parametrize("was_told", [False, True])
def test_a_allocation_kept_since_a_restore_is_told_that_it_retires_before_it_is_told_to_go(was_told):
    cluster = settled_cluster(a="")
    cluster.die("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    cluster.come_back("m1")
    if was_told:  # its machine saw only then that the store was restored
        cluster.run_leader()
        assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.keep_running("m1", A)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.changed = Affected({A: None})
    assert not cluster.run_leader(overdue=frozenset({("m1", A)})).writes
    cluster.run_agent("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.settle()
    assert not cluster.local_units["m1"]


def test_a_allocation_kept_since_a_restore_runs_on_where_the_unit_is_to_be_loaded_only():
    cluster = settled_cluster(a="")
    cluster.die("m1")
    cluster.unit(A, target=LOADED)
    cluster.settle()
    cluster.local_units["m1"][A].orphan = True
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.local_units["m1"][A].active == "active"
    assert cluster.placement_states(A) == {"m2": "assigned"}
    cluster.unit(A)
    cluster.settle()
    assert not cluster.local_units["m1"]
