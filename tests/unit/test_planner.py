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
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, World


def cluster(*machines, **units):
    """Machines (`m1`, or `m1 role=web`), and units (name without suffix → X-Fleet text), at rest."""
    world = World()
    for machine in machines or ("m1", "m2", "m3"):
        name, *metadata = machine.split()
        world.machine(name, **dict(item.split("=") for item in metadata))
    submit(world, **units)
    world.settle()
    return world


def submit(world, **units):
    for name, text in units.items():
        world.unit(f"{name}.service", text)


def homes(world):
    return {name.removesuffix(".service"): machine for name, machine in world.homes().items()}


# What a plan is.


@pytest.mark.covers("8.13")
def test_a_unit_is_placed_with_all_that_its_machine_needs_to_know_guarded_by_its_decision():
    world = cluster("m1", "m2")
    world.unit("a.service")
    unit = world.snapshot.units["a.service"]
    (plan,) = world.plan().units
    assert plan.placements == (Placement("m1", "a.service", unit.text, LAUNCHED, unit.generation),)
    assert (plan.unit, plan.revision, plan.deletes) == ("a.service", 0, ())
    assert plan.decision == Decision("a.service", unit.generation, "m1", since=float(world.revision), reason=BEST)


def test_an_order_tells_what_is_to_be_started_anew_and_that_is_one_where_nothing_else_changes():
    world = cluster("m1", a="")
    world.unit("a.service")
    world.settle()
    unit = world.snapshot.units["a.service"]
    world.write(UNITS, ("a.service",), msgspec.structs.replace(unit, restart_of=unit.generation))
    (plan,) = world.plan().units
    (order,) = plan.placements
    assert (order.restart_of, order.generation) == (unit.generation, world.snapshot.units["a.service"].generation)


def test_a_later_plan_is_guarded_by_the_revision_of_the_decision_that_it_was_made_from():
    world = cluster("m1", a="")
    world.unit("a.service", target=INACTIVE)
    (plan,) = world.plan().units
    assert plan.revision == world.snapshot.decisions["a.service"].revision > 0


def test_the_orders_of_each_machine_stand_together_those_of_peers_in_their_turn():
    world = cluster("m1", "m2", "m3")
    submit(world, **{f"u{number}": "" for number in range(6)}, a="MachineOf=z.service", z="", b="Conflicts=u*")
    plans = world.plan().units
    machines = [plan.placements[0].machine for plan in plans]
    assert len(plans) == 9
    assert machines == sorted(machines)
    names = [plan.unit for plan in plans]
    assert names.index("z.service") < names.index("a.service")  # which follows it


def test_since_when_a_unit_is_where_it_is_changes_only_when_it_moves():
    world = cluster("m1", "m2", a="")
    since = world.snapshot.decisions["a.service"].since
    world.unit("a.service", "Conflicts=x*")
    world.lead()
    assert world.snapshot.decisions["a.service"].since == since
    world.unit("a.service", "MachineID=m2")
    world.settle()
    assert world.snapshot.decisions["a.service"].since > since


def test_planning_again_changes_nothing():
    world = cluster("m1 role=a", "m2", a="", b="MachineOf=a.service", c="MachineMetadata=role=b", g="Global=true")
    world.unit("d.service", "Conflicts=a*")
    world.unit("b.service", "MachineID=m2")
    for _ in range(3):
        world.lead()
        assert not world.plan_cold().writes
        for machine in world.snapshot.machines:
            world.work(machine)


@pytest.mark.covers("2.2.2")
def test_only_the_units_that_are_asked_for_are_planned_for():
    world = World()
    world.machine("m1")
    submit(world, a="", b="")
    assert [
        plan.unit for plan in plan_cluster(world.snapshot, Affected({"b.service": None, "unknown.service": None})).units
    ] == ["b.service"]
    assert [plan.unit for plan in plan_cluster(world.snapshot, Affected()).units] == []
    assert [plan.unit for plan in plan_cluster(world.snapshot).units] == ["a.service", "b.service"]


@pytest.mark.covers("1.3.1", "2.1.1")
def test_templates_and_inactive_units_are_not_placed():
    world = World()
    world.machine("m1")
    world.unit("web@.service")
    world.unit("a.service", target=INACTIVE)
    assert world.plan().units == ()


def sessions(plan):
    return [(write.machine, write.session) for write in plan.writes if isinstance(write, SessionPlan)]


def test_sessions_are_acknowledged_with_the_plan_made_for_them_and_forgotten_with_their_machine():
    world = World()
    world.machine("m2", session="s2")
    world.machine("m1", session="s1")
    world.write(MACHINES, ("m3",), Machine("m3"))  # of a fleetd that has no session yet
    plan = world.lead()
    assert sessions(plan) == [("m1", "s1"), ("m2", "s2")]
    assert sessions(world.plan()) == []
    world.machine("m1", session="s3")
    assert sessions(world.lead()) == [("m1", "s3")]
    world.vanish("m2")
    assert sessions(world.plan()) == []
    world.judge(set())
    assert sessions(world.lead()) == [("m2", None)]
    assert list(world.snapshot.synced) == ["m1"]


def test_what_is_taken_back_is_written_before_what_stays_and_that_before_what_comes():
    world = cluster("m1", z="", y="")
    world.unit("a.service")
    world.unit("y.service", "Conflicts=x*")
    world.unit("z.service", target=INACTIVE)
    assert [plan.unit for plan in world.plan().units] == ["z.service", "y.service", "a.service"]


def test_peers_are_written_before_those_who_follow_them():
    world = World()
    world.machine("m1")
    submit(world, a="MachineOf=b.service", b="MachineOf=c.service", c="")
    assert [plan.unit for plan in world.plan().units] == ["c.service", "b.service", "a.service"]


@pytest.mark.covers("2.2.5", "10.5.1", "10.5.4", "P.14")
def test_the_same_plan_is_made_of_the_same_records_in_any_order():
    world = cluster("m3", "m1", "m2", z="Conflicts=y*", y="", x="MachineOf=z.service", g="Global=true")
    submit(world, new="Conflicts=y* z*", other="", z="Conflicts=x*")
    world.vanish("m2")
    world.judge(set())
    plan = world.plan_cold()
    assert plan.writes
    for seed in range(10):
        assert world.plan_cold(world.fresh_view(random.Random(seed))) == plan


# Where units go.


@pytest.mark.covers("2.2.4", "2.2.5", "2.9.1")
def test_units_spread_over_machines_by_load_then_by_id():
    world = cluster(a="", b="", c="", d="")
    assert homes(world) == {"a": "m1", "b": "m2", "c": "m3", "d": "m1"}


@pytest.mark.covers("2.9.2")
def test_a_new_machine_attracts_only_what_is_not_placed_yet():
    world = cluster("m1", a="", b="")
    world.machine("m2")
    submit(world, c="")
    world.settle()
    assert homes(world) == {"a": "m1", "b": "m1", "c": "m2"}


@pytest.mark.covers("2.9.2", "2.10.2")
def test_units_do_not_move_back_when_a_machine_returns():
    world = cluster("m1", "m2", a="")
    world.vanish("m1", reboot=True)
    world.judge(set())
    world.settle()
    world.come_back("m1")
    world.settle()
    assert homes(world) == {"a": "m2"}


@pytest.mark.covers("P.15")
def test_a_machine_that_comes_up_empty_does_not_get_all_instances_of_a_new_service():
    world = cluster("m1", "m2", a="", b="", c="", d="")
    world.machine("m3")
    for instance in range(3):
        world.unit(f"web@{instance}.service")
    world.settle()
    assert sorted(machine for name, machine in homes(world).items() if "web" in name) == ["m1", "m2", "m3"]


def test_units_that_conflict_are_apart_and_one_too_many_is_explained():
    world = cluster("m1", "m2", "m3")
    for instance in range(4):
        world.unit(f"web@{instance}.service", "Conflicts=web@*")
    world.settle()
    assert sorted(world.homes().values()) == ["m1", "m2", "m3"]
    assert world.reason("web@3.service") == "no machine fits"
    assert world.rejections("web@3.service") == {f"conflicts with web@{i}.service": 1 for i in range(3)}


@pytest.mark.covers("2.2.4")
def test_a_unit_that_fits_nowhere_is_placed_as_soon_as_room_is_made():
    world = cluster("m1", a="", b="Conflicts=a*")
    assert homes(world) == {"a": "m1"}
    world.destroy("a.service")
    world.settle()
    assert homes(world) == {"b": "m1"}


def test_a_unit_that_fits_nowhere_is_placed_as_soon_as_the_conflict_is_taken_back():
    world = cluster("m1", a="Conflicts=b*", b="")
    world.unit("a.service", "")
    world.settle()
    assert homes(world) == {"a": "m1", "b": "m1"}


@pytest.mark.covers("P.5")
def test_refusals_are_counted_over_all_machines_and_kept_up_to_date():
    world = cluster("m1", "m2 disk=ssd", a="", b="MachineMetadata=disk=ssd\nConflicts=c*", c="MachineMetadata=disk=ssd")
    assert world.rejections("c.service") == {"conflicts with b.service": 1, "metadata disk=ssd missing": 1}
    world.machine("m3", mode=MachineMode.LEAVING)
    world.settle()
    assert sum(world.rejections("c.service").values()) == 3
    submit(world, aa="MachineID=m2\nConflicts=c*")  # not valid together, but what is stored is stored
    world.settle()
    assert world.rejections("c.service")["conflicts with aa.service"] == 1


@pytest.mark.covers("10.5.4")
def test_of_two_units_in_conflict_where_one_changed_the_changed_one_moves():
    world = cluster("m1", "m2", a="MachineID=m1", b="MachineID=m1")
    world.unit("a.service", "Conflicts=b*")
    world.settle()
    assert homes(world) == {"a": "m2", "b": "m1"}


@pytest.mark.covers("2.6.2")
def test_a_global_unit_does_not_push_out_a_unit_whose_text_changed_before_it_was_planned():
    world = cluster("m1", "m2", w="")
    world.unit("g.service", "Global=true")
    world.unit("w.service", "Conflicts=g*")
    world.settle()
    assert homes(world) == {"g": "m2", "w": "m1"}


def test_why_a_unit_is_where_it_is_says_whether_there_was_a_choice():
    world = cluster("m1 role=web", "m2", a="", b="MachineMetadata=role=web", c="MachineOf=a.service")
    assert world.reason("a.service") == "fits, with a.service, c.service"
    assert world.reason("b.service") == "the only machine that fits"


# Replaces.


@pytest.mark.covers("2.8.1", "10.5.1", "10.5.2")
def test_a_unit_that_is_replaced_moves_away_after_it_has_stopped_and_the_replacing_one_stays():
    world = cluster("m1", "m2", "m3", old="MachineMetadata=x=y\n", new="")
    world.settings("m1", x="y")
    world.settings("m2", x="y")
    world.settle()
    assert homes(world)["old"] == "m2"
    world.unit("new.service", "MachineMetadata=x=y\nReplaces=old*")
    world.settle()
    world.unit("pusher.service", "MachineID=m2\nReplaces=old*")
    world.lead()
    assert world.orders("old.service") == {"m2": "stay"}  # m1 holds a unit that replaces it as well
    world.destroy("new.service")
    world.settle()
    assert homes(world) == {"old": "m1", "pusher": "m2"}


def test_a_unit_makes_way_for_nobody_whose_new_text_does_not_ask_for_it_any_more():
    world = cluster("m1", a="", pusher="Replaces=a*")
    world.machine("m2")
    world.unit("pusher.service", "")
    world.settle()
    assert homes(world) == {"a": "m1", "pusher": "m1"}


def test_why_a_unit_makes_way_is_said_while_it_is_being_stopped():
    world = cluster("m1", "m2", old="MachineID=m1")
    world.unit("old.service")
    world.settle()
    world.unit("new.service", "MachineMetadata=only=m1\nReplaces=old*")
    world.settings("m1", only="m1")
    world.lead()
    world.lead()
    assert world.orders("old.service") == {"m1": "go"}
    assert world.reason("old.service") == "replaced by new.service on m1; waits until m1 has stopped it"
    world.settle()
    assert homes(world) == {"new": "m1", "old": "m2"}


@pytest.mark.covers("2.8.3")
def test_a_unit_that_is_replaced_stays_while_there_is_no_other_machine_and_goes_when_there_is_one():
    world = cluster("m1", old="", new="Replaces=old*")
    assert homes(world) == {"new": "m1", "old": "m1"}
    world.machine("m2")
    world.settle()
    assert homes(world) == {"new": "m1", "old": "m2"}


@pytest.mark.covers("2.8.2")
def test_two_units_that_replace_each_other_leave_each_other_alone():
    world = cluster("m1", a="Replaces=b*", b="Replaces=a*")
    world.machine("m2")
    world.settle()
    assert homes(world) == {"a": "m1", "b": "m1"}


def test_a_unit_on_a_parked_machine_makes_way_for_nobody():
    world = cluster("m1", old="", new="Replaces=old*")
    world.machine("m1", mode=MachineMode.PARKED)
    world.machine("m2")
    world.settle()
    assert homes(world) == {"new": "m1", "old": "m1"}


# MachineOf.


def test_units_bound_by_machine_of_are_placed_together_where_all_of_them_fit():
    world = World()
    world.machine("m1")
    world.machine("m2", disk="ssd")
    submit(world, a="", b="MachineOf=a.service\nMachineMetadata=disk=ssd", c="MachineOf=b.service")
    world.settle()
    assert homes(world) == {"a": "m2", "b": "m2", "c": "m2"}


def test_a_unit_that_is_placed_stays_where_a_new_follower_cannot_come():
    world = cluster("m1", "m2 disk=ssd", a="")
    submit(world, b="MachineOf=a.service\nMachineMetadata=disk=ssd")
    world.settle()
    assert homes(world) == {"a": "m1"}


@pytest.mark.covers("2.5.5")
def test_units_that_name_each_other_are_placed_together():
    world = cluster("m1", "m2", a="MachineOf=b.service", b="MachineOf=a.service")
    assert homes(world) == {"a": "m1", "b": "m1"}


@pytest.mark.covers("2.5.5")
def test_a_ring_of_units_is_placed_as_soon_as_the_last_of_them_fits():
    world = cluster("m1", a="MachineOf=c.service", b="MachineOf=a.service", c="MachineOf=b.service\nMachineID=m9")
    assert homes(world) == {}
    world.unit("c.service", "MachineOf=b.service")
    world.settle()
    assert homes(world) == {"a": "m1", "b": "m1", "c": "m1"}


@pytest.mark.covers("2.5.2")
def test_a_follower_waits_for_a_peer_that_is_unknown():
    world = cluster("m1", b="MachineOf=a.service")
    assert world.rejections("b.service") == {"a.service is not there": 1}
    submit(world, a="")
    world.settle()
    assert homes(world) == {"a": "m1", "b": "m1"}


@pytest.mark.covers("2.5.1")
def test_a_follower_goes_where_a_global_peer_is():
    world = cluster("m1", "m2 role=web", g="Global=true\nMachineMetadata=role=web", b="MachineOf=g.service")
    assert homes(world) == {"b": "m2", "g": "m2"}


def test_a_follower_that_fits_nowhere_does_not_hold_up_the_others():
    world = World()
    world.machine("m1")
    world.machine("m2", disk="ssd")
    submit(world, a="", b="MachineOf=a.service\nMachineMetadata=disk=ssd", c="MachineOf=a.service\nMachineID=m9")
    world.unit("d.service", "MachineOf=c.service")
    world.settle()
    assert homes(world) == {"a": "m2", "b": "m2"}
    assert world.rejections("c.service") == {"not machine m9": 2}
    assert world.rejections("d.service") == {"c.service is not there": 2}


def test_a_group_of_which_nobody_fits_anywhere_is_explained():
    world = cluster("m1", a="MachineID=m9", b="MachineOf=a.service\nMachineID=m8")
    assert homes(world) == {}
    assert world.rejections("a.service") == {"not machine m9": 1}
    assert world.rejections("b.service") == {"not machine m8": 1}


def test_a_group_that_no_machine_takes_as_a_whole_is_placed_one_by_one():
    world = World()
    world.machine("m1", role="a")
    world.machine("m2", role="b")
    submit(world, a="MachineMetadata=role=a", b="MachineOf=a.service\nMachineMetadata=role=b")
    world.settle()
    assert homes(world) == {"a": "m1"}
    assert world.rejections("b.service") == {"a.service is not there": 1, "metadata role=b missing": 1}


def test_a_group_whose_members_conflict_is_placed_one_by_one():
    world = World()
    world.machine("m1")
    world.machine("m2")
    submit(world, a="", b="MachineOf=a.service\nConflicts=c*", c="MachineOf=a.service")
    world.lead()
    assert homes(world) == {"a": "m1", "b": "m1"}
    assert world.rejections("c.service") == {"a.service is not there": 1, "conflicts with b.service": 1}


@pytest.mark.covers("2.5.3")
def test_a_follower_moves_with_its_peer_each_stopped_first():
    world = cluster("m1", "m2", a="", b="MachineOf=a.service")
    world.unit("a.service", "MachineID=m2")
    world.lead()
    world.lead()
    assert world.orders("a.service") == world.orders("b.service") == {"m1": "go"}
    world.settle()
    assert homes(world) == {"a": "m2", "b": "m2"}


@pytest.mark.parametrize("slow", ["a.service", "b.service"])
def test_of_a_group_that_moves_nobody_is_placed_before_all_are_stopped(slow):
    world = cluster("m1", "m2", "m3", a="", b="MachineOf=a.service")
    world.machine("m1", mode=MachineMode.LEAVING)
    world.lead()
    quick = "b.service" if slow == "a.service" else "a.service"
    world.carry_out("m1", quick)
    world.carry_out("m1", quick)
    world.lead()
    assert world.orders(quick) == {}
    world.carry_out("m1", quick)
    world.lead()
    assert world.reason(quick) == f"waits for {slow}, which waits until m1 has stopped it"
    world.settle()
    assert homes(world) == {"a": "m2", "b": "m2"}


def test_nobody_waits_for_a_follower_that_is_not_wanted_any_more():
    world = cluster("m1", "m2", a="", b="MachineOf=a.service")
    world.machine("m1", mode=MachineMode.LEAVING)
    world.lead()
    for _ in range(3):
        world.carry_out("m1", "a.service")
        world.lead()
    assert world.reason("a.service") == "waits for b.service, which waits until m1 has stopped it"
    world.unit("b.service", "MachineOf=a.service", INACTIVE)
    world.lead()
    assert homes(world) == {"a": "m2"}


def test_nobody_waits_for_a_follower_that_has_completed():
    world = cluster("m1", "m2", a="", b="MachineOf=a.service")
    world.state("b.service", "m1", "inactive", completed=True)
    world.lead()
    world.machine("m1", mode=MachineMode.LEAVING)
    world.lead()
    for _ in range(3):
        world.carry_out("m1", "a.service")
        world.lead()
    assert homes(world) == {"a": "m2"}


@pytest.mark.covers("2.5.4")
def test_a_follower_whose_peer_is_destroyed_is_stopped_and_waits():
    world = cluster("m1", a="", b="MachineOf=a.service")
    world.destroy("a.service")
    world.settle()
    assert homes(world) == {}
    assert world.rejections("b.service") == {"a.service is not there": 1}


def test_the_units_of_a_dead_machine_that_belong_together_stay_together():
    world = cluster("m1", "m2", "m3", a="", b="MachineOf=a.service", c="", d="")
    world.die("m1")
    world.lead()
    assert homes(world)["a"] == homes(world)["b"] != "m1"


def test_a_unit_that_follows_two_comes_after_both_and_those_that_follow_each_other_by_name():
    world = World()
    world.machine("m1")
    world.unit("a.service", "MachineOf=b.service\nMachineOf=c.service")
    world.unit("b.service", "MachineOf=c.service")
    world.unit("c.service")
    world.unit("d.service", "MachineOf=e.service\nMachineOf=a.service")
    world.unit("e.service", "MachineOf=d.service")
    world.lead()
    group = "c.service, b.service, a.service, d.service, e.service"
    assert world.reason("a.service") == f"the only machine that fits, with {group}"


def test_a_plan_can_be_abandoned_at_each_unit():
    world = cluster("m1", "m2", a="")
    for number in range(10):
        world.unit(f"u{number}.service", "Conflicts=u*")
    checks = 0

    def check():
        nonlocal checks
        checks += 1
        if checks > 3 * 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        plan_cluster(world.snapshot, checkpoint=check)


def test_a_controller_that_does_nothing_changes_nothing():
    world = cluster("m1", "m2", a="")
    world.unit("b.service")
    seen = []

    def do_nothing(proposal):
        seen.append(list(proposal.units))

    assert plan_cluster(world.snapshot, controllers=(*CONTROLLERS, do_nothing)) == plan_cluster(world.snapshot)
    assert seen == [["a.service", "b.service"]]


def test_the_next_pass_is_due_when_the_first_controller_asks_for_one():
    world = cluster("m1", a="")
    controllers = (lambda proposal: 7.0, lambda proposal: None, lambda proposal: 5.0)
    assert plan_cluster(world.snapshot, controllers=controllers).wake_at_s == 5.0
