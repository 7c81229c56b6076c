"""plan_cluster: what a plan contains, in which order it is written, and which units it covers."""

import random

import msgspec
import pytest

from fleetd.model.machine import Machine
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import BEST
from fleetd.registry.records import MACHINES, UNITS
from fleetd.scheduler.affected import Affected
from fleetd.scheduler.planner import CONTROLLERS, plan_cluster
from fleetd.scheduler.proposal import SessionPlan
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, Cluster, settled_cluster


@pytest.mark.covers("8.13")
def test_a_unit_is_placed_with_its_text_guarded_by_its_decision():
    cluster = settled_cluster("m1", "m2")
    cluster.unit("a.service")
    unit = cluster.snapshot.units["a.service"]
    (plan,) = cluster.plan().units
    assert plan.placements == (Placement("m1", "a.service", unit.text, LAUNCHED, unit.generation),)
    assert (plan.unit, plan.revision, plan.deletes) == ("a.service", 0, ())
    assert plan.decision == Decision("a.service", unit.generation, "m1", since=float(cluster.revision), reason=BEST)


def test_a_restart_alone_changes_the_placement():
    cluster = settled_cluster("m1", a="")
    cluster.unit("a.service")
    cluster.settle()
    unit = cluster.snapshot.units["a.service"]
    cluster.write(UNITS, ("a.service",), msgspec.structs.replace(unit, restart_of=unit.generation))
    (plan,) = cluster.plan().units
    (placement,) = plan.placements
    assert (placement.restart_of, placement.generation) == (
        unit.generation,
        cluster.snapshot.units["a.service"].generation,
    )


def test_a_plan_is_guarded_by_the_revision_of_the_decision_before():
    cluster = settled_cluster("m1", a="")
    cluster.unit("a.service", target=INACTIVE)
    (plan,) = cluster.plan().units
    assert plan.revision == cluster.snapshot.decisions["a.service"].revision > 0


def test_placements_are_written_by_machine_and_peers_before_followers():
    cluster = settled_cluster("m1", "m2", "m3")
    cluster.submit(**{f"u{number}": "" for number in range(6)}, a="MachineOf=z.service", z="", b="Conflicts=u*")
    plans = cluster.plan().units
    machines = [plan.placements[0].machine for plan in plans]
    assert len(plans) == 9
    assert machines == sorted(machines)
    names = [plan.unit for plan in plans]
    assert names.index("z.service") < names.index("a.service")


def test_since_in_a_decision_changes_only_when_the_unit_moves():
    cluster = settled_cluster("m1", "m2", a="")
    since = cluster.snapshot.decisions["a.service"].since
    cluster.unit("a.service", "Conflicts=x*")
    cluster.run_leader()
    assert cluster.snapshot.decisions["a.service"].since == since
    cluster.unit("a.service", "MachineID=m2")
    cluster.settle()
    assert cluster.snapshot.decisions["a.service"].since > since


def test_planning_again_changes_nothing():
    cluster = settled_cluster(
        "m1 role=a", "m2", a="", b="MachineOf=a.service", c="MachineMetadata=role=b", g="Global=true"
    )
    cluster.unit("d.service", "Conflicts=a*")
    cluster.unit("b.service", "MachineID=m2")
    for _ in range(3):
        cluster.run_leader()
        assert not cluster.plan_cold().writes
        for machine in cluster.snapshot.machines:
            cluster.run_agent(machine)


@pytest.mark.covers("2.2.2")
def test_only_affected_units_are_planned():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.submit(a="", b="")
    assert [
        plan.unit
        for plan in plan_cluster(cluster.snapshot, Affected({"b.service": None, "unknown.service": None})).units
    ] == ["b.service"]
    assert [plan.unit for plan in plan_cluster(cluster.snapshot, Affected()).units] == []
    assert [plan.unit for plan in plan_cluster(cluster.snapshot).units] == ["a.service", "b.service"]


@pytest.mark.covers("1.3.1", "2.1.1")
def test_templates_and_inactive_units_are_not_placed():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.unit("web@.service")
    cluster.unit("a.service", target=INACTIVE)
    assert cluster.plan().units == ()


def sessions(plan):
    return [(write.machine, write.session) for write in plan.writes if isinstance(write, SessionPlan)]


def test_sessions_are_written_once_planned_for_and_deleted_with_the_machine():
    cluster = Cluster()
    cluster.machine("m2", session="s2")
    cluster.machine("m1", session="s1")
    cluster.write(MACHINES, ("m3",), Machine("m3"))  # without a session
    plan = cluster.run_leader()
    assert sessions(plan) == [("m1", "s1"), ("m2", "s2")]
    assert sessions(cluster.plan()) == []
    cluster.machine("m1", session="s3")
    assert sessions(cluster.run_leader()) == [("m1", "s3")]
    cluster.expire_lease("m2")
    assert sessions(cluster.plan()) == []
    cluster.set_away(set())
    assert sessions(cluster.run_leader()) == [("m2", None)]
    assert list(cluster.snapshot.synced) == ["m1"]


def test_withdrawals_are_written_first_new_placements_last():
    cluster = settled_cluster("m1", z="", y="")
    cluster.unit("a.service")
    cluster.unit("y.service", "Conflicts=x*")
    cluster.unit("z.service", target=INACTIVE)
    assert [plan.unit for plan in cluster.plan().units] == ["z.service", "y.service", "a.service"]


def test_peers_are_written_before_their_followers():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.submit(a="MachineOf=b.service", b="MachineOf=c.service", c="")
    assert [plan.unit for plan in cluster.plan().units] == ["c.service", "b.service", "a.service"]


@pytest.mark.covers("2.2.5", "10.5.1", "10.5.4", "P.14")
def test_the_plan_does_not_depend_on_the_order_of_records():
    cluster = settled_cluster("m3", "m1", "m2", z="Conflicts=y*", y="", x="MachineOf=z.service", g="Global=true")
    cluster.submit(new="Conflicts=y* z*", other="", z="Conflicts=x*")
    cluster.expire_lease("m2")
    cluster.set_away(set())
    plan = cluster.plan_cold()
    assert plan.writes
    for seed in range(10):
        assert cluster.plan_cold(cluster.read_snapshot(random.Random(seed))) == plan


def test_planning_calls_the_checkpoint_for_each_unit():
    cluster = settled_cluster("m1", "m2", a="")
    for number in range(10):
        cluster.unit(f"u{number}.service", "Conflicts=u*")
    checks = 0

    def check():
        nonlocal checks
        checks += 1
        if checks > 3 * 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        plan_cluster(cluster.snapshot, checkpoint=check)


def test_a_controller_that_does_nothing_changes_nothing():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.unit("b.service")
    seen = []

    def do_nothing(proposal):
        seen.append(list(proposal.units))

    assert plan_cluster(cluster.snapshot, controllers=(*CONTROLLERS, do_nothing)) == plan_cluster(cluster.snapshot)
    assert seen == [["a.service", "b.service"]]


def test_the_next_pass_is_due_when_the_first_controller_asks_for_one():
    cluster = settled_cluster("m1", a="")
    controllers = (lambda proposal: 7.0, lambda proposal: None, lambda proposal: 5.0)
    assert plan_cluster(cluster.snapshot, controllers=controllers).wake_at_s == 5.0
