"""plan_cluster: where units go, in which order it is written, and what is said of it."""

import random

import msgspec
import pytest

from fleetd.model.machine import Machine, MachineMode
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import BEST
from fleetd.registry.records import MACHINES, UNITS
from fleetd.scheduler.impact import Affected
from fleetd.scheduler.planner import CONTROLLERS, plan_cluster
from fleetd.scheduler.proposal import SessionPlan
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, Cluster, settled_cluster

# What a plan is.


@pytest.mark.covers("8.13")
def test_a_unit_is_placed_with_all_that_its_machine_needs_to_know_guarded_by_its_decision():
    cluster = settled_cluster("m1", "m2")
    cluster.unit("a.service")
    unit = cluster.snapshot.units["a.service"]
    (plan,) = cluster.plan().units
    assert plan.placements == (Placement("m1", "a.service", unit.text, LAUNCHED, unit.generation),)
    assert (plan.unit, plan.revision, plan.deletes) == ("a.service", 0, ())
    assert plan.decision == Decision("a.service", unit.generation, "m1", since=float(cluster.revision), reason=BEST)


def test_an_order_tells_what_is_to_be_started_anew_and_that_is_one_where_nothing_else_changes():
    cluster = settled_cluster("m1", a="")
    cluster.unit("a.service")
    cluster.settle()
    unit = cluster.snapshot.units["a.service"]
    cluster.write(UNITS, ("a.service",), msgspec.structs.replace(unit, restart_of=unit.generation))
    (plan,) = cluster.plan().units
    (order,) = plan.placements
    assert (order.restart_of, order.generation) == (unit.generation, cluster.snapshot.units["a.service"].generation)


def test_a_later_plan_is_guarded_by_the_revision_of_the_decision_that_it_was_made_from():
    cluster = settled_cluster("m1", a="")
    cluster.unit("a.service", target=INACTIVE)
    (plan,) = cluster.plan().units
    assert plan.revision == cluster.snapshot.decisions["a.service"].revision > 0


def test_the_orders_of_each_machine_stand_together_those_of_peers_in_their_turn():
    cluster = settled_cluster("m1", "m2", "m3")
    cluster.submit(**{f"u{number}": "" for number in range(6)}, a="MachineOf=z.service", z="", b="Conflicts=u*")
    plans = cluster.plan().units
    machines = [plan.placements[0].machine for plan in plans]
    assert len(plans) == 9
    assert machines == sorted(machines)
    names = [plan.unit for plan in plans]
    assert names.index("z.service") < names.index("a.service")  # which follows it


def test_since_when_a_unit_is_where_it_is_changes_only_when_it_moves():
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
def test_only_the_units_that_are_asked_for_are_planned_for():
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


def test_sessions_are_acknowledged_with_the_plan_made_for_them_and_forgotten_with_their_machine():
    cluster = Cluster()
    cluster.machine("m2", session="s2")
    cluster.machine("m1", session="s1")
    cluster.write(MACHINES, ("m3",), Machine("m3"))  # of a fleetd that has no session yet
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


def test_what_is_taken_back_is_written_before_what_stays_and_that_before_what_comes():
    cluster = settled_cluster("m1", z="", y="")
    cluster.unit("a.service")
    cluster.unit("y.service", "Conflicts=x*")
    cluster.unit("z.service", target=INACTIVE)
    assert [plan.unit for plan in cluster.plan().units] == ["z.service", "y.service", "a.service"]


def test_peers_are_written_before_those_who_follow_them():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.submit(a="MachineOf=b.service", b="MachineOf=c.service", c="")
    assert [plan.unit for plan in cluster.plan().units] == ["c.service", "b.service", "a.service"]


@pytest.mark.covers("2.2.5", "10.5.1", "10.5.4", "P.14")
def test_the_same_plan_is_made_of_the_same_records_in_any_order():
    cluster = settled_cluster("m3", "m1", "m2", z="Conflicts=y*", y="", x="MachineOf=z.service", g="Global=true")
    cluster.submit(new="Conflicts=y* z*", other="", z="Conflicts=x*")
    cluster.expire_lease("m2")
    cluster.set_away(set())
    plan = cluster.plan_cold()
    assert plan.writes
    for seed in range(10):
        assert cluster.plan_cold(cluster.read_snapshot(random.Random(seed))) == plan


# Where units go.


@pytest.mark.covers("2.2.4", "2.2.5", "2.9.1")
def test_units_spread_over_machines_by_load_then_by_id():
    cluster = settled_cluster("m1", "m2", "m3", a="", b="", c="", d="")
    assert cluster.assigned_services() == {"a": "m1", "b": "m2", "c": "m3", "d": "m1"}


@pytest.mark.covers("2.9.2")
def test_a_new_machine_attracts_only_what_is_not_placed_yet():
    cluster = settled_cluster("m1", a="", b="")
    cluster.machine("m2")
    cluster.submit(c="")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1", "c": "m2"}


@pytest.mark.covers("2.9.2", "2.10.2")
def test_units_do_not_move_back_when_a_machine_returns():
    cluster = settled_cluster("m1", "m2", a="")
    cluster.expire_lease("m1", reboot=True)
    cluster.set_away(set())
    cluster.settle()
    cluster.come_back("m1")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2"}


@pytest.mark.covers("P.15")
def test_a_machine_that_comes_up_empty_does_not_get_all_instances_of_a_new_service():
    cluster = settled_cluster("m1", "m2", a="", b="", c="", d="")
    cluster.machine("m3")
    for instance in range(3):
        cluster.unit(f"web@{instance}.service")
    cluster.settle()
    assert sorted(machine for name, machine in cluster.assigned_services().items() if "web" in name) == [
        "m1",
        "m2",
        "m3",
    ]


def test_units_that_conflict_are_apart_and_one_too_many_is_explained():
    cluster = settled_cluster("m1", "m2", "m3")
    for instance in range(4):
        cluster.unit(f"web@{instance}.service", "Conflicts=web@*")
    cluster.settle()
    assert sorted(cluster.assigned().values()) == ["m1", "m2", "m3"]
    assert cluster.reason("web@3.service") == "no machine fits"
    assert cluster.rejections("web@3.service") == {f"conflicts with web@{i}.service": 1 for i in range(3)}


@pytest.mark.covers("2.2.4")
def test_a_unit_that_fits_nowhere_is_placed_as_soon_as_room_is_made():
    cluster = settled_cluster("m1", a="", b="Conflicts=a*")
    assert cluster.assigned_services() == {"a": "m1"}
    cluster.destroy("a.service")
    cluster.settle()
    assert cluster.assigned_services() == {"b": "m1"}


def test_a_unit_that_fits_nowhere_is_placed_as_soon_as_the_conflict_is_taken_back():
    cluster = settled_cluster("m1", a="Conflicts=b*", b="")
    cluster.unit("a.service", "")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


@pytest.mark.covers("P.5")
def test_refusals_are_counted_over_all_machines_and_kept_up_to_date():
    cluster = settled_cluster(
        "m1", "m2 disk=ssd", a="", b="MachineMetadata=disk=ssd\nConflicts=c*", c="MachineMetadata=disk=ssd"
    )
    assert cluster.rejections("c.service") == {"conflicts with b.service": 1, "metadata disk=ssd missing": 1}
    cluster.machine("m3", mode=MachineMode.LEAVING)
    cluster.settle()
    assert sum(cluster.rejections("c.service").values()) == 3
    cluster.submit(aa="MachineID=m2\nConflicts=c*")  # not valid together, but what is stored is stored
    cluster.settle()
    assert cluster.rejections("c.service")["conflicts with aa.service"] == 1


@pytest.mark.covers("10.5.4")
def test_of_two_units_in_conflict_where_one_changed_the_changed_one_moves():
    cluster = settled_cluster("m1", "m2", a="MachineID=m1", b="MachineID=m1")
    cluster.unit("a.service", "Conflicts=b*")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m1"}


@pytest.mark.covers("2.6.2")
def test_a_global_unit_does_not_push_out_a_unit_whose_text_changed_before_it_was_planned():
    cluster = settled_cluster("m1", "m2", w="")
    cluster.unit("g.service", "Global=true")
    cluster.unit("w.service", "Conflicts=g*")
    cluster.settle()
    assert cluster.assigned_services() == {"g": "m2", "w": "m1"}


def test_why_a_unit_is_where_it_is_says_whether_there_was_a_choice():
    cluster = settled_cluster("m1 role=web", "m2", a="", b="MachineMetadata=role=web", c="MachineOf=a.service")
    assert cluster.reason("a.service") == "fits, with a.service, c.service"
    assert cluster.reason("b.service") == "the only machine that fits"


# Replaces.


@pytest.mark.covers("2.8.1", "10.5.1", "10.5.2")
def test_a_unit_that_is_replaced_moves_away_after_it_has_stopped_and_the_replacing_one_stays():
    cluster = settled_cluster("m1", "m2", "m3", old="MachineMetadata=x=y\n", new="")
    cluster.settings("m1", x="y")
    cluster.settings("m2", x="y")
    cluster.settle()
    assert cluster.assigned_services()["old"] == "m2"
    cluster.unit("new.service", "MachineMetadata=x=y\nReplaces=old*")
    cluster.settle()
    cluster.unit("pusher.service", "MachineID=m2\nReplaces=old*")
    cluster.run_leader()
    assert cluster.placement_states("old.service") == {"m2": "assigned"}  # m1 holds a unit that replaces it as well
    cluster.destroy("new.service")
    cluster.settle()
    assert cluster.assigned_services() == {"old": "m1", "pusher": "m2"}


def test_a_unit_makes_way_for_nobody_whose_new_text_does_not_ask_for_it_any_more():
    cluster = settled_cluster("m1", a="", pusher="Replaces=a*")
    cluster.machine("m2")
    cluster.unit("pusher.service", "")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "pusher": "m1"}


def test_why_a_unit_makes_way_is_said_while_it_is_being_stopped():
    cluster = settled_cluster("m1", "m2", old="MachineID=m1")
    cluster.unit("old.service")
    cluster.settle()
    cluster.unit("new.service", "MachineMetadata=only=m1\nReplaces=old*")
    cluster.settings("m1", only="m1")
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.placement_states("old.service") == {"m1": "withdrawn"}
    assert cluster.reason("old.service") == "replaced by new.service on m1; waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned_services() == {"new": "m1", "old": "m2"}


@pytest.mark.covers("2.8.3")
def test_a_unit_that_is_replaced_stays_while_there_is_no_other_machine_and_goes_when_there_is_one():
    cluster = settled_cluster("m1", old="", new="Replaces=old*")
    assert cluster.assigned_services() == {"new": "m1", "old": "m1"}
    cluster.machine("m2")
    cluster.settle()
    assert cluster.assigned_services() == {"new": "m1", "old": "m2"}


@pytest.mark.covers("2.8.2")
def test_two_units_that_replace_each_other_leave_each_other_alone():
    cluster = settled_cluster("m1", a="Replaces=b*", b="Replaces=a*")
    cluster.machine("m2")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


def test_a_unit_on_a_parked_machine_makes_way_for_nobody():
    cluster = settled_cluster("m1", old="", new="Replaces=old*")
    cluster.machine("m1", mode=MachineMode.PARKED)
    cluster.machine("m2")
    cluster.settle()
    assert cluster.assigned_services() == {"new": "m1", "old": "m1"}


# MachineOf.


def test_units_bound_by_machine_of_are_placed_together_where_all_of_them_fit():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.machine("m2", disk="ssd")
    cluster.submit(a="", b="MachineOf=a.service\nMachineMetadata=disk=ssd", c="MachineOf=b.service")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2", "c": "m2"}


def test_a_unit_that_is_placed_stays_where_a_new_follower_cannot_come():
    cluster = settled_cluster("m1", "m2 disk=ssd", a="")
    cluster.submit(b="MachineOf=a.service\nMachineMetadata=disk=ssd")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1"}


@pytest.mark.covers("2.5.5")
def test_units_that_name_each_other_are_placed_together():
    cluster = settled_cluster("m1", "m2", a="MachineOf=b.service", b="MachineOf=a.service")
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


@pytest.mark.covers("2.5.5")
def test_a_ring_of_units_is_placed_as_soon_as_the_last_of_them_fits():
    cluster = settled_cluster(
        "m1", a="MachineOf=c.service", b="MachineOf=a.service", c="MachineOf=b.service\nMachineID=m9"
    )
    assert cluster.assigned_services() == {}
    cluster.unit("c.service", "MachineOf=b.service")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1", "c": "m1"}


@pytest.mark.covers("2.5.2")
def test_a_follower_waits_for_a_peer_that_is_unknown():
    cluster = settled_cluster("m1", b="MachineOf=a.service")
    assert cluster.rejections("b.service") == {"a.service is not there": 1}
    cluster.submit(a="")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}


@pytest.mark.covers("2.5.1")
def test_a_follower_goes_where_a_global_peer_is():
    cluster = settled_cluster("m1", "m2 role=web", g="Global=true\nMachineMetadata=role=web", b="MachineOf=g.service")
    assert cluster.assigned_services() == {"b": "m2", "g": "m2"}


def test_a_follower_that_fits_nowhere_does_not_hold_up_the_others():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.machine("m2", disk="ssd")
    cluster.submit(a="", b="MachineOf=a.service\nMachineMetadata=disk=ssd", c="MachineOf=a.service\nMachineID=m9")
    cluster.unit("d.service", "MachineOf=c.service")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2"}
    assert cluster.rejections("c.service") == {"not machine m9": 2}
    assert cluster.rejections("d.service") == {"c.service is not there": 2}


def test_a_group_of_which_nobody_fits_anywhere_is_explained():
    cluster = settled_cluster("m1", a="MachineID=m9", b="MachineOf=a.service\nMachineID=m8")
    assert cluster.assigned_services() == {}
    assert cluster.rejections("a.service") == {"not machine m9": 1}
    assert cluster.rejections("b.service") == {"not machine m8": 1}


def test_a_group_that_no_machine_takes_as_a_whole_is_placed_one_by_one():
    cluster = Cluster()
    cluster.machine("m1", role="a")
    cluster.machine("m2", role="b")
    cluster.submit(a="MachineMetadata=role=a", b="MachineOf=a.service\nMachineMetadata=role=b")
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m1"}
    assert cluster.rejections("b.service") == {"a.service is not there": 1, "metadata role=b missing": 1}


def test_a_group_whose_members_conflict_is_placed_one_by_one():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.machine("m2")
    cluster.submit(a="", b="MachineOf=a.service\nConflicts=c*", c="MachineOf=a.service")
    cluster.run_leader()
    assert cluster.assigned_services() == {"a": "m1", "b": "m1"}
    assert cluster.rejections("c.service") == {"a.service is not there": 1, "conflicts with b.service": 1}


@pytest.mark.covers("2.5.3")
def test_a_follower_moves_with_its_peer_each_stopped_first():
    cluster = settled_cluster("m1", "m2", a="", b="MachineOf=a.service")
    cluster.unit("a.service", "MachineID=m2")
    cluster.run_leader()
    cluster.run_leader()
    assert cluster.placement_states("a.service") == cluster.placement_states("b.service") == {"m1": "withdrawn"}
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2"}


@pytest.mark.parametrize("slow", ["a.service", "b.service"])
def test_of_a_group_that_moves_nobody_is_placed_before_all_are_stopped(slow):
    cluster = settled_cluster("m1", "m2", "m3", a="", b="MachineOf=a.service")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    quick = "b.service" if slow == "a.service" else "a.service"
    cluster.reconcile("m1", quick)
    cluster.reconcile("m1", quick)
    cluster.run_leader()
    assert cluster.placement_states(quick) == {}
    cluster.reconcile("m1", quick)
    cluster.run_leader()
    assert cluster.reason(quick) == f"waits for {slow}, which waits until m1 has stopped it"
    cluster.settle()
    assert cluster.assigned_services() == {"a": "m2", "b": "m2"}


def test_nobody_waits_for_a_follower_that_is_not_wanted_any_more():
    cluster = settled_cluster("m1", "m2", a="", b="MachineOf=a.service")
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    for _ in range(3):
        cluster.reconcile("m1", "a.service")
        cluster.run_leader()
    assert cluster.reason("a.service") == "waits for b.service, which waits until m1 has stopped it"
    cluster.unit("b.service", "MachineOf=a.service", INACTIVE)
    cluster.run_leader()
    assert cluster.assigned_services() == {"a": "m2"}


def test_nobody_waits_for_a_follower_that_has_completed():
    cluster = settled_cluster("m1", "m2", a="", b="MachineOf=a.service")
    cluster.state("b.service", "m1", "inactive", completed=True)
    cluster.run_leader()
    cluster.machine("m1", mode=MachineMode.LEAVING)
    cluster.run_leader()
    for _ in range(3):
        cluster.reconcile("m1", "a.service")
        cluster.run_leader()
    assert cluster.assigned_services() == {"a": "m2"}


@pytest.mark.covers("2.5.4")
def test_a_follower_whose_peer_is_destroyed_is_stopped_and_waits():
    cluster = settled_cluster("m1", a="", b="MachineOf=a.service")
    cluster.destroy("a.service")
    cluster.settle()
    assert cluster.assigned_services() == {}
    assert cluster.rejections("b.service") == {"a.service is not there": 1}


def test_the_units_of_a_dead_machine_that_belong_together_stay_together():
    cluster = settled_cluster("m1", "m2", "m3", a="", b="MachineOf=a.service", c="", d="")
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.assigned_services()["a"] == cluster.assigned_services()["b"] != "m1"


def test_a_unit_that_follows_two_comes_after_both_and_those_that_follow_each_other_by_name():
    cluster = Cluster()
    cluster.machine("m1")
    cluster.unit("a.service", "MachineOf=b.service\nMachineOf=c.service")
    cluster.unit("b.service", "MachineOf=c.service")
    cluster.unit("c.service")
    cluster.unit("d.service", "MachineOf=e.service\nMachineOf=a.service")
    cluster.unit("e.service", "MachineOf=d.service")
    cluster.run_leader()
    group = "c.service, b.service, a.service, d.service, e.service"
    assert cluster.reason("a.service") == f"the only machine that fits, with {group}"


def test_a_plan_can_be_abandoned_at_each_unit():
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
