"""The snapshot holds records and indexes over them."""

import pytest

from fleetd.model.content import DropIn
from fleetd.model.group import GroupOptions
from fleetd.model.machine import (
    Capability,
    Cordon,
    Machine,
    MachineMode,
    MachineSettings,
    outdated_machine,
)
from fleetd.model.placement import Decision, Placement
from fleetd.model.reason import Hold, Rejection, RejectionCount, RejectionKind
from fleetd.model.unit import Unit, UnitState
from fleetd.registry.records import DECISIONS, LEADER, MACHINES, PLACEMENTS, SETTINGS, STATES, UNITS
from fleetd.registry.snapshots import apply_record
from fleetd.scheduler.affected import Affected, touch_machine
from fleetd.scheduler.effective_machine import LEAVING, PARKED, EffectiveMachine, effective_machine
from fleetd.scheduler.relations import with_colocated
from fleetd.scheduler.snapshot import Snapshot
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, Cluster, placed_cluster

REJECTED = (RejectionCount(Rejection(RejectionKind.METADATA, "disk=ssd"), 2),)


def test_a_unit_is_known_by_its_record_its_decision_or_its_placements():
    cluster = placed_cluster(a=("", "m1"), b=("", ""))
    cluster.write(DECISIONS, ("c.service",), Decision("c.service", 1))
    cluster.write(PLACEMENTS, ("m1", "d.service"), Placement("m1", "d.service", "", INACTIVE, 1))
    cluster.write(STATES, ("m1", "e.service"), UnitState("loaded", "active", "running"))
    assert cluster.snapshot.known_units() == ["a.service", "b.service", "c.service", "d.service"]


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
    cluster = Cluster()
    cluster.unit(name, target=target)
    assert cluster.snapshot.is_wanted(name) is wanted
    assert not cluster.snapshot.is_wanted("unknown.service")


def test_a_machine_that_is_neither_registered_nor_away_is_dead():
    cluster = placed_cluster(a=("", "m1"))
    cluster.expire_lease("m1")
    assert not cluster.snapshot.is_dead("m1")
    assert cluster.snapshot.absent() == ["m1"]
    cluster.set_away(set())
    assert cluster.snapshot.is_dead("m1")
    assert not cluster.snapshot.is_dead("m2")


def test_a_machine_is_absent_only_as_long_as_it_has_placements():
    cluster = placed_cluster(a=("", "m1"))
    cluster.die("m1")
    cluster.run_leader()
    assert cluster.snapshot.absent() == []


def test_invalid_unit_names_and_other_kinds_are_ignored():
    snapshot = Snapshot()
    for kind, names in (
        (UNITS, ("nonsense",)),
        (DECISIONS, ("nonsense",)),
        (PLACEMENTS, ("m1", "nonsense")),
        (STATES, ("m1", "nonsense")),
        (LEADER, ()),
    ):
        assert apply_record(snapshot, kind, names, None) == Affected()
    assert snapshot.known_units() == []


def test_records_by_machine_are_in_order_of_machine_ids():
    snapshot = Snapshot()
    for machine in ("m3", "m1", "m2"):
        snapshot.set_machine(machine, Machine(machine))
        snapshot.set_placement(machine, "a.service", Placement(machine, "a.service", "", LAUNCHED, 1))
        snapshot.set_state(machine, "a.service", UnitState())
    assert list(snapshot.machines) == list(snapshot.placements["a.service"]) == list(snapshot.states["a.service"])
    assert list(snapshot.machines) == ["m1", "m2", "m3"]
    assert snapshot.assigned_machine("a.service") == "m1"


def test_deleting_all_records_leaves_the_snapshot_empty():
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
    left = [snapshot.machines, snapshot.settings, snapshot.effective, snapshot.states, snapshot.superseded]
    assert left == [{}] * 5
    assert snapshot.absent() == []
    assert touch_machine(snapshot, "m1") == Affected()
    assert snapshot.occupancy("m1").units == {}
    assert not snapshot.occupancy("m1").has_patterns()


def test_with_colocated_adds_unplaced_peers_and_followers():
    cluster = placed_cluster(
        a=("", ""), b=("MachineOf=a.service", ""), c=("MachineOf=b.service", ""), d=("MachineOf=c.service", "m1")
    )
    cluster.unit("e.service", "MachineOf=d.service")
    assert with_colocated(cluster.snapshot, ["c.service"]) == ["a.service", "b.service", "c.service"]
    assert with_colocated(cluster.snapshot, ["unknown.service"]) == ["unknown.service"]


ALL = dict.fromkeys(Capability, True)
EFFECTIVE = [
    ("ready", Machine("m", metadata={"a": "1", "b": "2"}, capabilities=ALL), EffectiveMachine({"a": "1", "b": "2"})),
    ("leaving", Machine("m", mode=MachineMode.LEAVING, capabilities=ALL), EffectiveMachine({}, LEAVING, LEAVING)),
    (
        "shutting down",
        Machine("m", mode=MachineMode.LEAVING, shuts_down=True, capabilities=ALL),
        EffectiveMachine({}, LEAVING, LEAVING, may_return=True),
    ),
    ("parked", Machine("m", mode=MachineMode.PARKED, capabilities=ALL), EffectiveMachine({}, PARKED, hold=Hold.PARKED)),
]


@pytest.mark.parametrize(("machine", "expected"), [row[1:] for row in EFFECTIVE], ids=[row[0] for row in EFFECTIVE])
def test_the_effective_machine_follows_mode_and_metadata(machine, expected):
    assert effective_machine(machine, None) == expected
    assert expected.accepts_work is (machine.mode is MachineMode.READY)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (MachineMode.READY, EffectiveMachine({}, cordon=Rejection(RejectionKind.CORDONED, "disk"))),
        (MachineMode.LEAVING, EffectiveMachine({}, LEAVING, LEAVING)),
        (MachineMode.PARKED, EffectiveMachine({}, PARKED, hold=Hold.PARKED)),
    ],
)
def test_a_cordon_counts_while_the_machine_is_ready(mode, expected):
    assert (
        effective_machine(Machine("m", mode=mode, capabilities=ALL), MachineSettings(cordon=Cordon("disk", "ann", 7.0)))
        == expected
    )


def test_settings_override_the_metadata_of_a_machine():
    machine = Machine("m", metadata={"a": "1", "b": "2"})
    assert effective_machine(machine, MachineSettings({"a": "3", "b": ""})).metadata == {"a": "3"}


def test_a_drop_in_that_cannot_be_read_leaves_the_group_the_defaults():
    snapshot = Snapshot()
    broken = DropIn("a.conf", "[X-Fleet] x\n")
    unit = Unit("web@.service", "[X-Fleet]\nMaxUnavailable=7\n", INACTIVE, dropins=(broken,))
    apply_record(snapshot, UNITS, ("web@.service",), unit)
    assert snapshot.group_options("web@.service") == GroupOptions()


def test_the_first_machine_without_a_capability_is_found():
    new, old = Machine("m1", capabilities=ALL), Machine("m2", capabilities={"GRPC": False})
    assert outdated_machine([new], Capability.DROPINS) is None
    assert outdated_machine([new, old], Capability.DROPINS) is old
