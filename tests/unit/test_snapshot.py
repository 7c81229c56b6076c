"""The view takes in record by record and says which units each concerns; trials leave it as it is."""

import pytest

from fleetd.leader.mirror import apply_record
from fleetd.model.machine import Machine, MachineMode, MachineSettings
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import Rejection, RejectionCount, RejectionKind
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.records import DECISIONS, LEADER, MACHINES, PLACEMENTS, SETTINGS, STATES, UNITS
from fleetd.scheduler.snapshot import Proposal, Snapshot, scopes_of
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, World

HERE = Placement("m1", "a.service", "", LAUNCHED, 1)

REJECTED = (RejectionCount(Rejection(RejectionKind.METADATA, "disk=ssd"), 2),)


def concerned(world, act):
    """The units that the records written by `act` concern, in order."""
    world.changed = {}
    act()
    return sorted(world.changed)


def order(world, name, machine, **fields):
    unit = world.snapshot.units[name]
    values = {"text": unit.text, "target": unit.target, "generation": unit.generation} | fields
    world.write(PLACEMENTS, (machine, name), Placement(machine, name, **values))


def cluster(**units):
    """Machines m1 and m2; units by name without suffix: (X-Fleet text, machine or '')."""
    world = World()
    world.machine("m1")
    world.machine("m2")
    for name, (text, machine) in units.items():
        world.unit(f"{name}.service", text)
        if machine:
            world.runs(f"{name}.service", machine)
    return world


# What is read.


def test_a_view_knows_a_unit_by_its_record_its_decision_or_its_orders():
    world = cluster(a=("", "m1"), b=("", ""))
    world.write(DECISIONS, ("c.service",), Decision("c.service", 1))
    world.write(PLACEMENTS, ("m1", "d.service"), Placement("m1", "d.service", "", INACTIVE, 1))
    world.write(STATES, ("m1", "e.service"), UnitState("loaded", "active", "running"))
    assert world.snapshot.known_units() == ["a.service", "b.service", "c.service", "d.service"]


@pytest.mark.parametrize(
    ("name", "target", "wanted"),
    [
        ("a.service", LAUNCHED, True),
        ("a@1.service", LAUNCHED, True),
        ("a.service", INACTIVE, False),
        ("a@.service", LAUNCHED, False),
    ],
)
def test_a_unit_is_wanted_unless_it_is_inactive_or_a_template(name, target, wanted):
    world = World()
    world.unit(name, target=target)
    assert world.snapshot.is_wanted(name) is wanted
    assert not world.snapshot.is_wanted("unknown.service")


def test_a_machine_is_dead_when_it_is_neither_there_nor_away():
    world = cluster(a=("", "m1"))
    world.vanish("m1")
    assert not world.snapshot.is_dead("m1")
    assert world.snapshot.absent() == ["m1"]
    world.judge(set())
    assert world.snapshot.is_dead("m1")
    assert not world.snapshot.is_dead("m2")


def test_a_machine_is_absent_only_as_long_as_orders_name_it():
    world = cluster(a=("", "m1"))
    world.die("m1")
    world.lead()
    assert world.snapshot.absent() == []


def test_records_of_what_cannot_be_a_unit_and_of_unknown_kinds_are_passed_over():
    snapshot = Snapshot()
    for kind, names in (
        (UNITS, ("nonsense",)),
        (DECISIONS, ("nonsense",)),
        (PLACEMENTS, ("m1", "nonsense")),
        (STATES, ("m1", "nonsense")),
        (LEADER, ()),
    ):
        assert apply_record(snapshot, kind, names, None) == {}
    assert snapshot.known_units() == []


def test_what_is_listed_by_machine_is_in_order_whatever_order_it_came_in():
    snapshot = Snapshot()
    for machine in ("m3", "m1", "m2"):
        snapshot.set_machine(machine, Machine(machine))
        snapshot.set_placement(machine, "a.service", Placement(machine, "a.service", "", LAUNCHED, 1))
        snapshot.set_state(machine, "a.service", UnitState())
    assert list(snapshot.machines) == list(snapshot.placements["a.service"]) == list(snapshot.states["a.service"])
    assert list(snapshot.machines) == ["m1", "m2", "m3"]
    assert snapshot.assigned_machine("a.service") == "m1"


def test_a_record_that_is_gone_leaves_nothing_behind():
    snapshot = Snapshot()
    records = {
        (MACHINES, ("m1",)): Machine("m1", "s"),
        (SETTINGS, ("m1",)): MachineSettings({"a": "b"}),
        (UNITS, ("a.service",)): Unit("a.service", "[X-Fleet]\nMachineOf=b.service\nReplaces=c*\n", LAUNCHED, 1),
        (PLACEMENTS, ("m1", "a.service")): Placement("m1", "a.service", "[X-Fleet]\nReplaces=c*\n", LAUNCHED, 1),
        (PLACEMENTS, ("m2", "a.service")): Placement("m2", "a.service", "", LAUNCHED, 1, superseded=True),
        (STATES, ("m1", "a.service")): UnitState("loaded", "active", "running"),
        (DECISIONS, ("a.service",)): Decision("a.service", 1, rejections=REJECTED),
    }
    for key, record in records.items():
        apply_record(snapshot, *key, record)
    assert snapshot.superseded == {("m2", "a.service"): None}
    for key in records:
        apply_record(snapshot, *key, None)
        apply_record(snapshot, *key, None)
    assert snapshot.known_units() == []
    assert [snapshot.machines, snapshot.settings, snapshot.metadata, snapshot.states, snapshot.superseded] == [{}] * 5
    assert snapshot.absent() == []
    assert snapshot.concerned_by("m1") == {}
    assert snapshot.occupancy("m1").units == {}
    assert not snapshot.occupancy("m1").has_patterns()


# What a record concerns.


@pytest.mark.covers("2.2.2")
def test_a_unit_concerns_itself_and_those_that_machine_of_binds_to_it_before_and_after():
    world = cluster(a=("MachineOf=b.service", ""), b=("", ""), c=("", ""), d=("MachineOf=a.service", ""))
    assert concerned(world, lambda: world.unit("a.service", "MachineOf=c.service")) == [
        "a.service",
        "b.service",
        "c.service",
        "d.service",
    ]
    assert concerned(world, lambda: world.destroy("a.service")) == ["a.service", "c.service", "d.service"]
    assert concerned(world, lambda: world.unit("b.service")) == ["b.service"]


def test_an_order_concerns_its_unit_and_those_that_machine_of_binds_to_it():
    world = cluster(a=("MachineOf=b.service", "m1"), b=("", ""), c=("", "m1"))
    assert concerned(world, lambda: order(world, "b.service", "m1")) == ["a.service", "b.service"]


def test_an_order_concerns_all_on_the_machine_where_somebody_cares_who_is_there():
    world = cluster(a=("Conflicts=x*", "m1"), b=("", "m1"), c=("", "m2"), d=("", ""), e=("Conflicts=y*", ""))
    assert concerned(world, lambda: order(world, "d.service", "m1")) == ["a.service", "b.service", "d.service"]
    assert concerned(world, lambda: order(world, "e.service", "m2")) == ["c.service", "e.service"]


def test_an_order_concerns_the_allocations_that_retire_on_its_machine():
    world = cluster(a=("Conflicts=b*", ""), b=("", ""))
    order(world, "a.service", "m1", superseded=True)
    assert concerned(world, lambda: order(world, "b.service", "m1")) == ["a.service", "b.service"]
    assert concerned(world, lambda: order(world, "b.service", "m2")) == ["b.service"]


def test_where_room_is_made_it_concerns_all_that_are_nowhere_or_everywhere_or_could_make_way():
    world = cluster(
        a=("", "m1"),
        unplaced=("", ""),
        everywhere=("Global=true", ""),
        pusher=("Replaces=pushed*", "m2"),
        pushed=("", "m2"),
        other=("", "m1"),
    )
    expected = ["a.service", "m1/everywhere.service", "pushed.service", "pusher.service", "unplaced.service"]
    assert concerned(world, lambda: order(world, "a.service", "m1", target=INACTIVE)) == expected
    assert concerned(world, lambda: world.write(PLACEMENTS, ("m1", "a.service"), None)) == expected


def test_a_newcomer_concerns_those_refused_that_it_conflicts_with_for_it_is_one_more_reason():
    world = cluster(
        a=("Conflicts=x*", ""), b=("Conflicts=new*", ""), c=("", ""), new=("Conflicts=c*", ""), d=("Conflicts=new*", "")
    )
    for name in ("a.service", "b.service", "c.service", "gone.service"):
        world.write(DECISIONS, (name,), Decision(name, 1, rejections=REJECTED))
    assert concerned(world, lambda: order(world, "new.service", "m1")) == ["b.service", "c.service", "new.service"]


def test_what_happens_to_a_global_unit_on_a_machine_concerns_it_there_alone_what_is_asked_of_it_everywhere():
    world = cluster(everywhere=("Global=true", "m1"), follower=("MachineOf=everywhere.service", "m1"))
    everywhere = "everywhere.service"
    assert concerned(world, lambda: world.state(everywhere, "m1", "failed")) == [f"m1/{everywhere}"]
    assert concerned(world, lambda: order(world, everywhere, "m2")) == ["follower.service", f"m2/{everywhere}"]
    assert concerned(world, lambda: world.unit(everywhere, "Global=true")) == [everywhere, "follower.service"]
    assert concerned(world, lambda: world.write(DECISIONS, (everywhere,), None)) == [everywhere]


def test_a_unit_that_is_concerned_everywhere_is_not_concerned_on_some_machines_alone():
    assert scopes_of(["m1/a.service", "b.service", "m2/a.service", "b.service", "m1/b.service"]) == {
        "a.service": {"m1": None, "m2": None},
        "b.service": None,
    }


def test_a_state_concerns_its_unit_if_it_says_anything_that_the_leader_looks_at():
    world = cluster(a=("", "m1"))
    assert concerned(world, lambda: world.state("a.service", "m1", "active", hash="x")) == []
    assert concerned(world, lambda: world.state("a.service", "m1", "failed")) == ["a.service"]
    assert concerned(world, lambda: world.write(STATES, ("m1", "a.service"), None)) == ["a.service"]


def test_a_decision_concerns_its_unit_only_when_it_is_gone():
    world = cluster(a=("", ""))
    assert concerned(world, lambda: world.write(DECISIONS, ("a.service",), Decision("a.service", 1))) == []
    assert concerned(world, lambda: world.write(DECISIONS, ("a.service",), None)) == ["a.service"]


MACHINE_CHANGES = [
    ("its mode", lambda world: world.machine("m1", mode=MachineMode.LEAVING), True),
    ("its metadata", lambda world: world.machine("m1", role="db"), True),
    ("what people set", lambda world: world.settings("m1", role="db"), True),
    ("its session", lambda world: world.machine("m1", session="another"), True),
    ("its absence", lambda world: world.write(MACHINES, ("m1",), None), True),
    ("its address alone", lambda world: _move(world), False),
]


def _move(world):
    former = world.snapshot.machines["m1"]
    world.write(MACHINES, ("m1",), Machine("m1", former.session, "192.0.2.1"))


@pytest.mark.parametrize(
    ("act", "matters"), [row[1:] for row in MACHINE_CHANGES], ids=[row[0] for row in MACHINE_CHANGES]
)
def test_what_is_new_of_a_machine_concerns_what_is_there_or_nowhere_or_everywhere(act, matters):
    world = cluster(a=("", "m1"), b=("", "m2"), nowhere=("", ""), everywhere=("Global=true", ""), left=("", "m2"))
    world.state("left.service", "m1", "active")
    expected = ["a.service", "left.service", "m1/everywhere.service", "nowhere.service"]
    assert concerned(world, lambda: act(world)) == (expected if matters else [])


def test_who_is_away_concerns_what_is_on_the_machines_whose_standing_changed():
    world = cluster(a=("", "m1"), b=("", "m2"))
    assert concerned(world, lambda: world.judge({"m1"})) == ["a.service"]
    assert concerned(world, lambda: world.judge({"m1"})) == []
    assert concerned(world, lambda: world.judge({"m2"})) == ["a.service", "b.service"]


def test_a_session_that_is_acknowledged_concerns_nobody():
    world = cluster(a=("", "m1"))
    assert concerned(world, lambda: world.acknowledge(world.plan_cold())) == []
    assert list(world.snapshot.synced) == ["m1", "m2"]


def test_units_without_a_home_are_planned_with_all_that_machine_of_binds_to_them_through_others_without_one():
    world = cluster(
        a=("", ""), b=("MachineOf=a.service", ""), c=("MachineOf=b.service", ""), d=("MachineOf=c.service", "m1")
    )
    world.unit("e.service", "MachineOf=d.service")
    assert world.snapshot.with_colocated(["c.service"]) == ["a.service", "b.service", "c.service"]
    assert world.snapshot.with_colocated(["unknown.service"]) == ["unknown.service"]


# Trials.


def test_a_trial_shows_what_would_be_and_leaves_the_view_as_it_is():
    world = cluster(a=("Conflicts=x*", "m1"), b=("Replaces=y*", "m1"), c=("", ""))
    world.unit("w@1.service")
    world.runs("w@1.service", "m1")
    proposal = Proposal(world.snapshot)
    requirements = world.snapshot.requirements("a.service")
    proposal.vacate("b.service", "m1")
    proposal.withdraw("w@1.service", "m1", world.snapshot.requirements("w@1.service"))
    proposal.place("a.service", "m2", requirements)
    proposal.vacate("a.service", "m1")
    assert (
        proposal.assigned_machine("a.service"),
        proposal.assigned_machine("b.service"),
        proposal.assigned_machine("c.service"),
    ) == ("m2", "", "")
    assert list(proposal.occupancy("m2").units) == ["a.service"]
    assert list(proposal.occupancy("m1").units) == ["w@1.service"]
    assert list(proposal.occupancy("m1").staying) == []
    assert proposal.occupancy("m3").units == {}
    assert world.snapshot.assigned_machine("a.service") == "m1"
    assert list(world.snapshot.occupancy("m1").staying) == ["a.service", "b.service", "w@1.service"]
    assert world.snapshot.occupancy("m1").has_patterns()
    assert world.snapshot.occupancy("m1").templates == {"w@.service": 1}


def test_of_two_units_with_the_same_conflicts_one_that_leaves_takes_none_of_the_others():
    world = cluster(a=("Conflicts=x*", "m1"), b=("Conflicts=x*", "m1"))
    world.unit("x.service")
    proposal = Proposal(world.snapshot)
    proposal.vacate("a.service", "m1")
    assert list(proposal.occupancy("m1").conflicting("x.service", world.snapshot.requirements("x.service"))) == [
        "b.service"
    ]
    proposal.vacate("b.service", "m1")
    assert list(proposal.occupancy("m1").conflicting("x.service", world.snapshot.requirements("x.service"))) == []


def test_of_two_instances_on_a_machine_one_stays_counted_when_the_other_leaves():
    world = cluster()
    for name in ("w@1.service", "w@2.service"):
        world.unit(name)
        world.runs(name, "m1")
    proposal = Proposal(world.snapshot)
    proposal.vacate("w@1.service", "m1")
    assert proposal.occupancy("m1").templates == {"w@.service": 1}
    proposal.vacate("w@2.service", "m1")
    assert proposal.occupancy("m1").templates == {}
