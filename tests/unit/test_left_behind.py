"""Allocations left behind: superseded ones after a partition, and orphans after a restore of the store."""

import pytest

from fleetd.model.machine import MachineMode
from fleetd.model.move import Move
from fleetd.registry.records import MOVES, STATES
from fleetd.scheduler.affected import Affected
from tests.unit.cluster_builder import INACTIVE, LOADED, A, Cluster, after_partition, settled_cluster


@pytest.mark.covers("2.10.2", "5.5.3")
def test_an_allocation_back_after_a_partition_is_superseded_until_replaced():
    cluster = after_partition()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert not cluster.run_leader().writes
    cluster.state(A, "m2", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    assert cluster.snapshot.decisions[A].machine == "m2"


def test_a_superseded_allocation_keeps_its_drop_ins():
    cluster = settled_cluster()
    cluster.unit(A, dropin="Conflicts=other*")
    cluster.settle()
    dropins = cluster.snapshot.units[A].dropins
    cluster.die("m1")
    cluster.run_leader()
    cluster.come_back("m1")
    cluster.state(A, "m2", active="activating")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    assert [placement.dropins for placement in cluster.snapshot.placements[A].values()] == [dropins, dropins]


def test_a_superseded_allocation_is_withdrawn_when_the_replacement_completed():
    cluster = after_partition()
    cluster.state(A, "m2", "inactive", completed=True)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_superseded_allocation_is_withdrawn_when_the_target_is_loaded():
    cluster = after_partition()
    cluster.unit(A, target=LOADED)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_superseded_allocation_is_withdrawn_when_it_has_failed():
    cluster = after_partition()
    cluster.state(A, "m1", "failed")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_superseded_allocation_is_withdrawn_after_the_handover_timeout():
    cluster = after_partition()
    cluster.changed = Affected({A: None})
    cluster.run_leader(overdue=frozenset({("m1", A)}))
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_superseded_allocation_is_withdrawn_for_a_conflicting_unit():
    cluster = after_partition()
    cluster.unit("rival.service", "MachineMetadata=only=m1\nConflicts=a*")
    cluster.settings("m1", only="m1")
    cluster.run_leader()
    assert cluster.assigned()["rival.service"] == "m1"
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_superseded_allocation_runs_on_while_a_conflicting_unit_only_has_its_place_kept_there():
    cluster = after_partition()
    cluster.machine("m3", only="m3")
    cluster.unit("rival.service", "MachineMetadata=only=m3\nConflicts=a*")
    cluster.run_leader()
    cluster.run_agent("m3")
    cluster.settings("m1", only="m3")
    cluster.write(MOVES, ("rival.service",), Move("m1", origin="m3", force=True))
    cluster.run_leader()
    assert cluster.snapshot.decisions["rival.service"].target == "m1"
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.changed = None
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    for _ in range(4):
        cluster.run_agent("m3")
        cluster.run_leader()
    assert cluster.placement_states("rival.service") == {"m1": "assigned"}
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


@pytest.mark.parametrize("overdue", [False, True])
@pytest.mark.parametrize("fields", [{"active": "failed"}, {"active": "inactive", "error": "no such file"}])
def test_a_superseded_allocation_is_adopted_when_its_replacement_failed(fields, overdue):
    cluster = after_partition()
    cluster.state(A, "m2", **fields)
    cluster.run_leader(overdue=frozenset({("m1", A)} if overdue else ()))
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}
    assert cluster.reason(A) == "was still running there"


@pytest.mark.parametrize("replacement", ["failed", "inactive", "deactivating", "outdated", "none"])
def test_the_only_running_allocation_runs_on_until_its_replacement_starts(replacement):
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


@pytest.mark.parametrize(("mode", "state"), [(MachineMode.LEAVING, "withdrawn"), (MachineMode.PARKED, "superseded")])
def test_the_only_running_allocation_is_withdrawn_in_time_if_its_machine_leaves(mode, state):
    cluster = after_partition()
    cluster.unit(A, "MachineID=m2")
    cluster.state(A, "m2", "failed")
    cluster.machine("m1", mode)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.changed = Affected({A: None})
    cluster.run_leader(overdue=frozenset({("m1", A)}))
    assert cluster.placement_states(A) == {"m1": state, "m2": "assigned"}


def test_a_superseded_allocation_is_adopted_when_the_other_machine_dies():
    cluster = after_partition()
    cluster.die("m2")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned"}


def test_of_two_superseded_allocations_one_is_adopted():
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


def test_a_superseded_allocation_on_an_away_machine_is_left_alone():
    cluster = after_partition()
    cluster.expire_lease("m1")
    cluster.state(A, "m2", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.set_away(set())
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m2": "assigned"}


def test_a_superseded_allocation_is_withdrawn_when_the_unit_is_unwanted():
    cluster = after_partition()
    cluster.unit(A, target=INACTIVE)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "withdrawn"}
    assert cluster.reason(A) == "being stopped on m1, m2"


def test_a_machine_that_returns_running_an_unplaced_unit_gets_it_back():
    cluster = settled_cluster("m1", a="", b="MachineOf=a.service")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.reason(A) == "there is no machine"
    cluster.machine("m0")
    cluster.come_back("m1")
    cluster.unit("b.service", "MachineOf=a.service")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1", "b.service": "m1"}


def test_an_allocation_that_returns_where_it_does_not_fit_is_superseded():
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


def test_a_unit_that_is_stopping_on_two_machines_resumes_on_neither():
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
    """a.service is withdrawn from m1, which keeps it running since the store was restored."""
    cluster = settled_cluster(*machines, a="")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    cluster.keep_running("m1", A)
    cluster.run_leader()
    return cluster


def test_an_orphan_is_adopted_as_soon_as_it_fits_on_its_machine():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "withdrawn"}
    kept = "waits until it is stopped on m1, where it is only kept running since the store was restored"
    assert cluster.reason(A) == f"machine m1 is leaving; {kept}"
    cluster.machine("m1")
    cluster.settle()
    assert cluster.placement_states(A) == {"m1": "assigned"}
    assert cluster.reason(A) == "was still running there"


def test_a_follower_of_an_orphan_says_what_it_waits_for():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.unit("b.service", "MachineOf=a.service")
    cluster.settle()
    kept = "waits until it is stopped on m1, where it is only kept running since the store was restored"
    assert cluster.reason("b.service") == f"waits for a.service, which {kept}"
    cluster.machine("m1")
    cluster.settle()
    assert set(cluster.assigned().values()) == {"m1"}


def test_the_decision_on_a_destroyed_unit_names_its_orphan():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.destroy(A)
    cluster.settle()
    assert cluster.reason(A) == "to be stopped on m1, where it is only kept running since the store was restored"


def test_a_unit_that_does_not_run_on_its_machine_is_assigned_to_its_orphan():
    cluster = cluster_with_orphan("m1", "m2")
    cluster.place(A, "m2", "inactive", target=LOADED, error="held as it was when the store was restored")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}
    cluster.machine("m1")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}


def test_an_outdated_report_of_the_replacement_does_not_withdraw_an_allocation():
    cluster = after_partition()
    cluster.state(A, "m2", "active", outdated=True)
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.state(A, "m2", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "withdrawn", "m2": "assigned"}


def test_a_superseded_allocation_is_adopted_once_its_report_is_not_outdated():
    cluster = after_partition()
    cluster.state(A, "m1", "active", outdated=True)
    cluster.state(A, "m2", "failed")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "superseded", "m2": "assigned"}
    cluster.state(A, "m1", "active")
    cluster.run_leader()
    assert cluster.placement_states(A) == {"m1": "assigned", "m2": "withdrawn"}


@pytest.mark.parametrize("was_withdrawn", [False, True])
def test_a_replaced_orphan_is_superseded_before_it_is_withdrawn(was_withdrawn):
    cluster = settled_cluster(a="")
    cluster.die("m1")
    cluster.settle()
    assert cluster.assigned() == {A: "m2"}
    cluster.come_back("m1")
    if was_withdrawn:  # the agent noticed only after this that the store was restored
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


def test_an_orphan_runs_on_while_the_target_is_loaded():
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
