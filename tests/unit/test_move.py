"""Moves: units that go to the machine that an operator names, those that stay, and those that return."""

import pytest
from msgspec.structs import replace

from fleetd.model.machine import Cordon, DrainRequest, MachineMode, MachineSettings
from fleetd.model.move import Move
from fleetd.model.placement import Placement
from fleetd.model.unit import Proof, Unit
from fleetd.registry.records import MOVES, SETTINGS, STATES, UNITS
from fleetd.registry.snapshots import apply_record
from fleetd.scheduler.disruption import DisruptionBudget
from tests.unit.cluster_builder import INACTIVE, LAUNCHED, LOADED, NOON
from tests.unit.rolling_cluster import RollingCluster, rolling_group, text_of

A = "a.service"


def move(cluster: RollingCluster, name: str, machine: str, **fields: object) -> None:
    """An operator has the unit moved."""
    request = Move(machine, "ann", NOON, origin=cluster.assigned().get(name, ""), was_available=True)
    cluster.write(MOVES, (name,), replace(request, **fields))


def submit(cluster: RollingCluster, name: str, fleet: str = "", service: str = "", target: object = LAUNCHED) -> None:
    text = text_of("old", fleet).replace("[X-Fleet]", f"{service}\n[X-Fleet]")
    cluster.write(UNITS, (name,), Unit(name, text, target))
    cluster.come_to_rest()


def cluster_with(fleet: str = "", machines: int = 2, service: str = "", target: object = LAUNCHED) -> RollingCluster:
    """a.service on the first of these machines."""
    cluster = RollingCluster(machines)
    submit(cluster, A, fleet, service, target)
    return cluster


def where(cluster: RollingCluster) -> dict[str, str]:
    """The machine that each unit runs on."""
    return {name.removesuffix(".service"): machine for machine, name in sorted(cluster.running)}


def report(cluster: RollingCluster, name: str, machine: str, **fields: object) -> None:
    """The machine reports the unit with these changes."""
    cluster.write(STATES, (machine, name), replace(cluster.snapshot.states[name][machine], **fields))


@pytest.mark.parametrize("target", [LAUNCHED, LOADED])
def test_a_unit_moves_and_stays_there(target: object) -> None:
    cluster = cluster_with(target=target)
    move(cluster, A, "m2")
    cluster.run_leader()
    assert cluster.reason(A) == "moves from m1 to m2; waits until m1 has stopped it"
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m2"}
    assert cluster.snapshot.moves == {}
    assert cluster.reason(A) == "moved there"
    cluster.elect()
    assert not cluster.run_leader().units
    assert where(cluster) == {"a": "m2"}


def test_the_record_stays_until_the_unit_is_proven() -> None:
    cluster = cluster_with()
    move(cluster, A, "m2")
    for _ in range(3):  # it stops, is forgotten, and starts
        cluster.run_leader()
        cluster.run_agents()
    cluster.run_leader()
    assert cluster.snapshot.placements[A]["m2"].prove_after_s == 10.0
    assert A in cluster.snapshot.moves
    cluster.elect()
    cluster.come_to_rest()
    assert A not in cluster.snapshot.moves


@pytest.mark.parametrize(
    ("fleet", "machine", "reason"),
    [
        ("MachineID=m1", "m2", "was not moved to m2: not machine m1"),
        ("MachineMetadata=x=y", "m2", "was not moved to m2: metadata x=y missing"),
        ("Conflicts=b.service", "m2", "was not moved to m2: conflicts with b.service"),
        ("", "m3", "was not moved to m3: machine is cordoned: disk"),
        ("", "m4", "was not moved to m4: machine is parked (its fleetd was stopped)"),
        ("", "m9", "was not moved to m9: machine is absent"),
    ],
)
def test_a_unit_that_does_not_fit_stays(fleet: str, machine: str, reason: str) -> None:
    cluster = RollingCluster(1)
    cluster.machine("m1", x="y")
    submit(cluster, A, fleet)
    cluster.machine("m2", x="z")
    submit(cluster, "b.service", "MachineID=m2")
    cluster.machine("m3")
    cluster.cordon("m3", "disk")
    cluster.machine("m4", MachineMode.PARKED)
    move(cluster, A, machine)
    before = cluster.snapshot.placements[A]
    cluster.come_to_rest()
    assert cluster.snapshot.placements[A] == before
    assert cluster.reason(A) == reason
    assert cluster.snapshot.moves == {}


def test_a_member_waits_for_the_budget_and_says_for_whom() -> None:
    cluster = rolling_group(instances=2)
    cluster.machine("m3")
    report(cluster, "w@2.service", "m2", active="failed")
    move(cluster, "w@1.service", "m3")
    cluster.run_leader()
    assert cluster.reason("w@1.service") == "waits: w@2.service is not active on m2 (MaxUnavailable=1)"
    report(cluster, "w@2.service", "m2", active="active")
    cluster.come_to_rest()
    assert where(cluster)["w@1"] == "m3"


def test_a_waiting_member_whose_move_is_taken_back_stays() -> None:
    cluster = rolling_group(instances=2)
    cluster.machine("m3")
    report(cluster, "w@2.service", "m2", active="failed")
    move(cluster, "w@1.service", "m3")
    cluster.run_leader()
    cluster.write(MOVES, ("w@1.service",), None)
    cluster.run_leader()
    assert cluster.reason("w@1.service") == "stays where it was"


def test_force_does_not_wait_for_the_budget() -> None:
    cluster = rolling_group(instances=2)
    cluster.machine("m3")
    report(cluster, "w@2.service", "m2", active="failed")
    move(cluster, "w@1.service", "m3", force=True)
    cluster.run_leader()
    assert cluster.snapshot.decisions["w@1.service"].target == "m3"


def test_two_members_move_one_after_the_other() -> None:
    cluster = rolling_group(instances=3)
    move(cluster, "w@1.service", "m3")
    move(cluster, "w@2.service", "m3")
    for _ in range(20):
        cluster.run_leader()
        cluster.run_agents()
        budget = DisruptionBudget(cluster.snapshot, {})
        names = ("w@1.service", "w@2.service", "w@3.service")
        down = [name for name in names if budget.unavailability(name, cluster.assigned().get(name, "")) is not None]
        assert len(down) <= 1
    assert where(cluster) == {"w@1": "m3", "w@2": "m3", "w@3": "m3"}


def joined_cluster() -> RollingCluster:
    """a.service and b.service, which follows it, on m1; with a global unit that they follow, too."""
    cluster = RollingCluster(3)
    submit(cluster, "g.service", "Global=true")
    submit(cluster, A, "MachineOf=g.service")
    submit(cluster, "b.service", "MachineOf=a.service")
    assert where(cluster) == {"a": "m1", "b": "m1", "g": "m3"}
    return cluster


def test_units_that_machine_of_joins_go_together() -> None:
    cluster = joined_cluster()
    move(cluster, "b.service", "m2")
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m2", "b": "m2", "g": "m3"}


def test_units_that_machine_of_joins_stay_together_if_one_does_not_fit() -> None:
    cluster = joined_cluster()
    submit(cluster, "c.service", "MachineID=m2\nConflicts=b.service")
    move(cluster, A, "m2")
    cluster.come_to_rest()
    assert where(cluster)["a"] == "m1"
    assert cluster.reason(A) == "was not moved to m2: b.service, which goes with it: conflicts with c.service"


def test_of_moves_of_joined_units_the_last_one_counts() -> None:
    cluster = joined_cluster()
    move(cluster, A, "m2")
    move(cluster, "b.service", "m3")
    cluster.run_leader()
    assert list(cluster.snapshot.moves) == ["b.service"]
    cluster.come_to_rest()
    assert where(cluster)["a"] == where(cluster)["b"] == "m3"
    assert cluster.snapshot.moves == {}


def test_joined_units_that_are_moved_to_one_machine_go_there() -> None:
    cluster = joined_cluster()
    move(cluster, A, "m2")
    move(cluster, "b.service", "m2")
    cluster.come_to_rest()
    assert where(cluster)["a"] == where(cluster)["b"] == "m2"
    assert cluster.snapshot.moves == {}


def test_a_unit_that_is_replaced_where_it_was_to_go_does_not_come_again() -> None:
    cluster = cluster_with()
    submit(cluster, "r.service", "Replaces=a.service\nMachineID=m2")
    move(cluster, A, "m2")
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m1", "r": "m2"}
    assert cluster.snapshot.moves == {}


def test_the_move_of_a_unit_that_is_somewhere_else_by_then_ends() -> None:
    cluster = cluster_with(machines=3)
    move(cluster, A, "m2", origin="m3")
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m1"}
    assert cluster.snapshot.moves == {}


def test_a_unit_that_is_started_again_on_the_way_goes_on_then() -> None:
    cluster = cluster_with()
    move(cluster, A, "m2")
    cluster.run_leader()
    cluster.write(UNITS, (A,), cluster.snapshot.units[A])
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m2"}


@pytest.mark.parametrize("fields", [{"target": INACTIVE}, {"text": text_of("old", "Global=true")}])
def test_the_move_of_a_unit_that_is_not_to_be_on_one_machine_ends(fields: dict[str, object]) -> None:
    cluster = cluster_with()
    cluster.write(UNITS, (A,), replace(cluster.snapshot.units[A], **fields))
    move(cluster, A, "m2")
    cluster.come_to_rest()
    assert cluster.snapshot.moves == {}


@pytest.mark.covers("B.6")
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_move_of_a_unit_that_is_destroyed_ends(when: str) -> None:
    cluster = cluster_with()
    move(cluster, A, "m2")
    if when == "after":
        cluster.run_leader()
    cluster.write(UNITS, (A,), None)
    cluster.come_to_rest()
    assert cluster.snapshot.moves == cluster.running == {}


def test_the_move_of_a_unit_that_never_was_ends() -> None:
    cluster = RollingCluster(2)
    move(cluster, A, "m2")
    cluster.elect()
    cluster.come_to_rest()
    assert cluster.snapshot.moves == {}


def test_what_is_no_unit_is_passed_over() -> None:
    cluster = RollingCluster(1)
    assert not apply_record(cluster.snapshot, MOVES, ("nonsense",), Move("m1"))


@pytest.mark.parametrize("force", [False, True])
def test_a_oneshot_at_work_moves_only_if_forced(force: bool) -> None:
    cluster = cluster_with(service="Type=oneshot")
    report(cluster, A, "m1", active="activating")
    move(cluster, A, "m2", force=force)
    cluster.run_leader()
    if force:
        assert cluster.snapshot.decisions[A].target == "m2"
    else:
        assert cluster.reason(A) == "was not moved to m2: it is a oneshot at work"
        assert cluster.assigned() == {A: "m1"}


def test_a_oneshot_that_has_completed_stays() -> None:
    cluster = cluster_with(service="Type=oneshot")
    report(cluster, A, "m1", active="inactive", completed=True)
    move(cluster, A, "m2")
    cluster.come_to_rest()
    assert cluster.assigned() == {A: "m1"}
    assert cluster.snapshot.moves == {}


@pytest.mark.covers("B.9")
def test_after_a_restore_of_the_store_the_unit_stays() -> None:
    cluster = cluster_with()
    move(cluster, A, "m2")
    cluster.snapshot.restored_at = cluster.revision + 1
    cluster.run_leader()
    assert cluster.reason(A) == "was not moved to m2: the store was restored meanwhile; ask for it again"
    assert cluster.assigned() == {A: "m1"}


@pytest.mark.covers("B.7")
def test_a_unit_whose_machine_is_lost_on_the_way_returns() -> None:
    cluster = cluster_with(machines=3)
    move(cluster, A, "m2")
    cluster.run_leader()
    cluster.die("m2")
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m1"}
    assert cluster.reason(A) == "was not moved to m2: machine is absent"
    assert cluster.snapshot.moves == {}


def test_a_unit_that_fails_there_returns_and_says_so() -> None:
    cluster = cluster_with()
    move(cluster, A, "m2")
    for _ in range(2):
        cluster.run_leader()
        cluster.run_agents()
    cluster.broken = True
    reasons = []
    for _ in range(5):
        cluster.run_leader()
        reasons.append(cluster.reason(A))
        cluster.run_agents()
    assert "failed on m2: it crashed; waits until m2 has stopped it" in reasons
    cluster.broken = False
    cluster.elect()
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m1"}
    assert cluster.reason(A) == "was not moved to m2: failed there: it crashed"


def fail_there(cluster: RollingCluster, name: str = A, **fields: object) -> None:
    """The unit moves to m2, and fails there."""
    move(cluster, name, "m2", **fields)
    while cluster.assigned().get(name) != "m2":
        cluster.run_leader()
        cluster.run_agents()
    placement: Placement = cluster.snapshot.placements[name]["m2"]
    cluster.step("m2", name)
    proof = Proof(placement.generation, placement.content.hash, failed="it crashed")
    report(cluster, name, "m2", active="failed", proof=proof)


@pytest.mark.parametrize(
    ("machines", "origin", "goal"),
    [
        (3, "m1", "m3"),  # where it was is cordoned, another machine is not
        (2, "m1", "m1"),  # nothing else fits: in spite of the cordon
        (2, "", ""),  # it did not run before: it stays
        (2, "m9", ""),  # nothing fits
    ],
)
def test_where_a_unit_goes_that_fails(machines: int, origin: str, goal: str) -> None:
    cluster = cluster_with(machines=machines)
    cluster.cordon("m1")
    fail_there(cluster, was_available=origin != "")
    if origin == "m9":
        cluster.write(MOVES, (A,), replace(cluster.snapshot.moves[A], origin=origin))
    cluster.run_leader()
    assert cluster.snapshot.decisions[A].target == goal
    assert cluster.snapshot.moves == {}
    cluster.come_to_rest()
    assert where(cluster) == {"a": goal or "m2"}


@pytest.mark.parametrize("force", [False, True])
def test_a_unit_that_fails_takes_others_back_as_the_budget_allows(force: bool) -> None:
    cluster = RollingCluster(2)
    submit(cluster, A)
    cluster.request("old", "w@1.service", "w@2.service", fleet="MachineOf=a.service")
    cluster.come_to_rest()
    fail_there(cluster, force=True)
    if not force:
        cluster.write(MOVES, (A,), replace(cluster.snapshot.moves[A], force=False))
    for name in ("w@1.service", "w@2.service"):
        cluster.step("m2", name)
    report(cluster, "w@1.service", "m2", active="active", proof=None)
    cluster.come_to_rest()
    assert set(where(cluster).values()) == ({"m1"} if force else {"m2"})


def test_the_move_of_a_unit_whose_machine_dies_first_goes_on() -> None:
    cluster = cluster_with(machines=3)
    cluster.expire_lease("m1")
    move(cluster, A, "m3")
    cluster.run_leader()
    assert cluster.assigned() == {A: "m1"}
    cluster.die("m1")
    cluster.come_to_rest()
    assert where(cluster)["a"] == "m3"
    assert cluster.snapshot.moves == {}


def test_a_unit_that_can_be_nowhere_waits_for_a_machine() -> None:
    cluster = cluster_with("MachineMetadata=x=y", machines=0)
    cluster.machine("m1", x="y")
    cluster.machine("m2", x="y")
    cluster.come_to_rest()
    move(cluster, A, "m2")
    cluster.run_leader()
    cluster.machine("m1", x="z")
    cluster.machine("m2", x="z")
    cluster.come_to_rest()
    assert cluster.assigned() == {}
    assert cluster.snapshot.moves == {}


@pytest.mark.parametrize("machine", ["m1", "m2"])
def test_a_unit_that_leaves_a_drained_machine_returns_if_a_move_finds_no_other_one(machine: str) -> None:
    cluster = cluster_with()
    for drained in ("m1", "m2"):
        cluster.write(SETTINGS, (drained,), MachineSettings(cordon=Cordon(), drain=DrainRequest("ann", NOON)))
        cluster.run_leader()
    assert cluster.snapshot.decisions[A].target == "m2"
    move(cluster, A, machine)
    cluster.run_leader()
    assert cluster.snapshot.moves == {}
    assert cluster.snapshot.decisions[A].target == "m2"
    cluster.come_to_rest()
    assert where(cluster) == {"a": "m1"}
