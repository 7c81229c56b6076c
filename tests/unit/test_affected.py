"""Which units a change affects. test_leader_properties.py checks that planning these is enough."""

import msgspec
import pytest

from fleetd.model.announcement import NOT_SETTLED
from fleetd.model.machine import MachineMode
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import Rejection, RejectionCount, RejectionKind
from fleetd.registry.records import DECISIONS, MACHINES, PLACEMENTS, STATES
from fleetd.scheduler.affected import Affected
from tests.unit.cluster_builder import INACTIVE, placed_cluster

REJECTED = (RejectionCount(Rejection(RejectionKind.METADATA, "disk=ssd"), 2),)


def affected_by(cluster, act):
    """The units affected by the records that `act` writes, sorted, as UNIT or MACHINE/UNIT."""
    cluster.changed = Affected()
    act()
    return sorted([*cluster.changed.units, *(f"{machine}/{name}" for name, machine in cluster.changed.on_machines)])


def put(cluster, name, machine, **fields):
    unit = cluster.snapshot.units[name]
    values = {"text": unit.text, "target": unit.target, "generation": unit.generation} | fields
    cluster.write(PLACEMENTS, (machine, name), Placement(machine, name, **values))


@pytest.mark.covers("2.2.2")
def test_a_unit_affects_itself_and_its_peers_before_and_after():
    cluster = placed_cluster(a=("MachineOf=b.service", ""), b=("", ""), c=("", ""), d=("MachineOf=a.service", ""))
    assert affected_by(cluster, lambda: cluster.unit("a.service", "MachineOf=c.service")) == [
        "a.service",
        "b.service",
        "c.service",
        "d.service",
    ]
    assert affected_by(cluster, lambda: cluster.destroy("a.service")) == ["a.service", "c.service", "d.service"]
    assert affected_by(cluster, lambda: cluster.unit("b.service")) == ["b.service"]


def test_a_placement_affects_its_unit_and_its_peers():
    cluster = placed_cluster(a=("MachineOf=b.service", "m1"), b=("", ""), c=("", "m1"))
    assert affected_by(cluster, lambda: put(cluster, "b.service", "m1")) == ["a.service", "b.service"]


def test_a_placement_affects_all_on_a_machine_with_patterns():
    cluster = placed_cluster(a=("Conflicts=x*", "m1"), b=("", "m1"), c=("", "m2"), d=("", ""), e=("Conflicts=y*", ""))
    assert affected_by(cluster, lambda: put(cluster, "d.service", "m1")) == [
        "a.service",
        "b.service",
        "d.service",
    ]
    assert affected_by(cluster, lambda: put(cluster, "e.service", "m2")) == ["c.service", "e.service"]


def test_a_placement_affects_superseded_allocations_on_its_machine():
    cluster = placed_cluster(a=("Conflicts=b*", ""), b=("", ""))
    put(cluster, "a.service", "m1", superseded=True)
    assert affected_by(cluster, lambda: put(cluster, "b.service", "m1")) == ["a.service", "b.service"]
    assert affected_by(cluster, lambda: put(cluster, "b.service", "m2")) == ["b.service"]


def test_a_freed_place_affects_unplaced_global_and_replaceable_units():
    cluster = placed_cluster(
        a=("", "m1"),
        unplaced=("", ""),
        everywhere=("Global=true", ""),
        replacer=("Replaces=replaced*", "m2"),
        replaced=("", "m2"),
        other=("", "m1"),
    )
    expected = ["a.service", "m1/everywhere.service", "replaced.service", "replacer.service", "unplaced.service"]
    assert affected_by(cluster, lambda: put(cluster, "a.service", "m1", target=INACTIVE)) == expected
    assert affected_by(cluster, lambda: cluster.write(PLACEMENTS, ("m1", "a.service"), None)) == expected


def test_a_new_placement_affects_the_rejected_units_that_it_conflicts_with():
    cluster = placed_cluster(
        a=("Conflicts=x*", ""), b=("Conflicts=new*", ""), c=("", ""), new=("Conflicts=c*", ""), d=("Conflicts=new*", "")
    )
    for name in ("a.service", "b.service", "c.service", "gone.service"):
        cluster.write(DECISIONS, (name,), Decision(name, 1, rejections=REJECTED))
    assert affected_by(cluster, lambda: put(cluster, "new.service", "m1")) == [
        "b.service",
        "c.service",
        "new.service",
    ]


def test_a_global_unit_is_affected_on_one_machine_by_what_happens_there():
    cluster = placed_cluster(everywhere=("Global=true", "m1"), follower=("MachineOf=everywhere.service", "m1"))
    everywhere = "everywhere.service"
    assert affected_by(cluster, lambda: cluster.state(everywhere, "m1", "failed")) == [f"m1/{everywhere}"]
    assert affected_by(cluster, lambda: put(cluster, everywhere, "m2")) == [
        "follower.service",
        f"m2/{everywhere}",
    ]
    assert affected_by(cluster, lambda: cluster.unit(everywhere, "Global=true")) == [everywhere, "follower.service"]
    assert affected_by(cluster, lambda: cluster.write(DECISIONS, (everywhere,), None)) == [everywhere]


def test_a_unit_affected_everywhere_is_not_restricted_to_some_machines():
    affected = Affected({"b.service": None}, {("a.service", "m1"): None, ("b.service", "m1"): None})
    affected |= Affected(on_machines={("a.service", "m2"): None})
    assert affected.scopes() == {"a.service": {"m1": None, "m2": None}, "b.service": None}
    assert len(affected) == 4


def test_a_state_affects_its_unit_only_if_a_relevant_field_differs():
    cluster = placed_cluster(a=("", "m1"))
    assert affected_by(cluster, lambda: cluster.state("a.service", "m1", "active", hash="x")) == []
    assert affected_by(cluster, lambda: cluster.state("a.service", "m1", "failed")) == ["a.service"]
    assert affected_by(cluster, lambda: cluster.write(STATES, ("m1", "a.service"), None)) == ["a.service"]


def test_a_name_that_comes_or_goes_affects_its_unit():
    cluster = placed_cluster(a=("", "m1"))
    for unannounced, is_affected in (("status 404", True), ("status 503", False), (NOT_SETTLED, True), ("", True)):
        state = msgspec.structs.replace(cluster.snapshot.states["a.service"]["m1"], unannounced=unannounced)
        found = affected_by(cluster, lambda state=state: cluster.write(STATES, ("m1", "a.service"), state))
        assert found == ["a.service"] * is_affected


def test_a_unit_that_begins_to_wait_for_its_lock_is_affected():
    cluster = placed_cluster(a=("", "m1"))
    for result, hash_, is_affected in (("lock", "x", True), ("lock", "x", False), ("lock", "y", True), ("", "y", True)):
        state = msgspec.structs.replace(cluster.snapshot.states["a.service"]["m1"], result=result, hash=hash_)
        found = affected_by(cluster, lambda state=state: cluster.write(STATES, ("m1", "a.service"), state))
        assert found == ["a.service"] * is_affected


def test_every_state_affects_a_unit_with_a_superseded_allocation():
    cluster = placed_cluster(a=("", "m1"))
    put(cluster, "a.service", "m2", superseded=True)
    assert affected_by(cluster, lambda: cluster.state("a.service", "m1", "active", hash="x")) == ["a.service"]


def test_a_decision_affects_its_unit_only_when_it_is_deleted():
    cluster = placed_cluster(a=("", ""))
    assert affected_by(cluster, lambda: cluster.write(DECISIONS, ("a.service",), Decision("a.service", 1))) == []
    assert affected_by(cluster, lambda: cluster.write(DECISIONS, ("a.service",), None)) == ["a.service"]


MACHINE_CHANGES = [
    ("its mode", lambda cluster: cluster.machine("m1", mode=MachineMode.LEAVING), True),
    ("its metadata", lambda cluster: cluster.machine("m1", role="db"), True),
    ("its settings", lambda cluster: cluster.settings("m1", role="db"), True),
    ("the units that it takes", lambda cluster: cluster.machine("m1", facts={"accept": ("b*",)}), True),
    ("its session", lambda cluster: cluster.machine("m1", session="another"), True),
    ("its absence", lambda cluster: cluster.write(MACHINES, ("m1",), None), True),
    ("its address alone", lambda cluster: _move(cluster), False),
]


def _move(cluster):
    former = cluster.snapshot.machines["m1"]
    cluster.write(MACHINES, ("m1",), msgspec.structs.replace(former, address="192.0.2.1"))


@pytest.mark.parametrize(
    ("act", "matters"), [row[1:] for row in MACHINE_CHANGES], ids=[row[0] for row in MACHINE_CHANGES]
)
def test_a_machine_affects_its_units_and_those_that_may_move_to_it(act, matters):
    cluster = placed_cluster(
        a=("", "m1"), b=("", "m2"), unplaced=("", ""), everywhere=("Global=true", ""), left=("", "m2")
    )
    cluster.state("left.service", "m1", "active")
    expected = ["a.service", "left.service", "m1/everywhere.service", "unplaced.service"]
    assert affected_by(cluster, lambda: act(cluster)) == (expected if matters else [])


def test_being_away_affects_the_units_on_the_machine():
    cluster = placed_cluster(a=("", "m1"), b=("", "m2"))
    assert affected_by(cluster, lambda: cluster.set_away({"m1"})) == ["a.service"]
    assert affected_by(cluster, lambda: cluster.set_away({"m1"})) == []
    assert affected_by(cluster, lambda: cluster.set_away({"m2"})) == ["a.service", "b.service"]


def test_an_acknowledged_session_affects_no_unit():
    cluster = placed_cluster(a=("", "m1"))
    assert affected_by(cluster, lambda: cluster.acknowledge(cluster.plan_cold())) == []
    assert list(cluster.snapshot.synced) == ["m1", "m2"]
