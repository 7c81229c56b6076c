"""Rebalancing: which units move, which never do, and that there is an end."""

from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetd.model.group import group_of
from fleetd.model.machine import Cordon, MachineMode, MachineSettings
from fleetd.model.move import Move
from fleetd.model.unit import TargetState
from fleetd.registry.records import MACHINES, MOVES, SETTINGS, STATES, UNITS
from fleetd.scheduler.failover_delays import Now
from fleetd.scheduler.rebalancing import MIN_AGE_S, RebalanceMove, Scope, find_hindrance, find_move, plan_rebalance
from fleetd.scheduler.snapshot import Snapshot
from tests.unit.cluster_builder import NOON
from tests.unit.drawn_clusters import clusters, submit
from tests.unit.rolling_cluster import RollingCluster

ALL = Scope(now_s=NOON)


def crowded(*units: str, machines: int = 2, fleet: str = "", service: str = "") -> RollingCluster:
    """All of these units are on m1, where they were before the other machines came."""
    cluster = RollingCluster(1)
    for name in units:
        submit(cluster, name, fleet, service)
    cluster.come_to_rest()
    for number in range(2, machines + 1):
        cluster.machine(f"m{number}")
    cluster.come_to_rest()
    return cluster


def instances(count: int, prefix: str = "w") -> list[str]:
    return [f"{prefix}@{number}.service" for number in range(1, count + 1)]


def planned(cluster: RollingCluster, *named: str, limit: int = 100) -> list[str]:
    scope = replace(ALL, named=frozenset(named))
    moves = plan_rebalance(cluster.snapshot, scope, limit, now=Now(cluster.clock_s, NOON), policy=cluster.policy)
    return [f"{move.unit.removesuffix('.service')} {move.origin}→{move.machine}" for move in moves]


def hindrance(cluster: RollingCluster, name: str, *named: str) -> str:
    return find_hindrance(cluster.snapshot, replace(ALL, named=frozenset(named)), name)


def carry_out(cluster: RollingCluster, move: RebalanceMove) -> None:
    """An operator has the unit moved, and waits for it."""
    cluster.write(MOVES, (move.unit,), Move(move.machine, "ann", NOON, origin=move.origin, was_available=True))
    cluster.come_to_rest()


def squares(snapshot: Snapshot) -> tuple[int, int]:
    """How uneven the instances of templates, and all units, are."""
    occupancies = [snapshot.occupancy(machine) for machine in snapshot.machines]
    by_group = sum(count**2 for occupancy in occupancies for count in occupancy.templates.values())
    return by_group, sum(len(occupancy.staying) ** 2 for occupancy in occupancies)


@pytest.mark.parametrize(
    ("units", "machines", "moves"),
    [
        (instances(2), 2, ["w@1 m1→m2"]),
        (instances(3), 2, ["w@1 m1→m2"]),
        (instances(4), 3, ["w@1 m1→m2", "w@2 m1→m3"]),
        (instances(1), 2, []),  # the only one of its group
        (["a.service", "b.service", "c.service"], 2, []),  # each is alone in its group
        (["a.service", "b.service", "c.service", *instances(2)], 2, ["w@1 m1→m2"]),
        ([*instances(2, "v"), *instances(2)], 2, ["v@1 m1→m2", "w@1 m1→m2"]),
        (instances(3), 1, []),
    ],
)
def test_units_move_until_they_are_distributed_evenly(units: Collection[str], machines: int, moves: list[str]) -> None:
    assert planned(crowded(*units, machines=machines)) == moves


def joined_by_a_machine() -> RollingCluster:
    """m1 and m2 have two units each, of two groups, and m3 has none."""
    cluster = RollingCluster(2)
    for name in (*instances(2, "v"), *instances(2)):
        submit(cluster, name)
        cluster.come_to_rest()
    cluster.machine("m3")
    cluster.come_to_rest()
    return cluster


def test_a_machine_with_two_units_fewer_gets_one() -> None:
    cluster = joined_by_a_machine()
    assert planned(cluster) == ["v@1 m1→m3"]
    move = find_move(cluster.snapshot, ALL)
    assert move == RebalanceMove("v@1.service", ("v@1.service",), "m1", "m3", "", 2, 0)


def test_a_move_says_how_uneven_its_group_is() -> None:
    move = find_move(crowded(*instances(3)).snapshot, ALL)
    assert move == RebalanceMove("w@1.service", ("w@1.service",), "m1", "m2", "w@.service", 3, 0)


def test_no_more_moves_are_planned_than_asked_for() -> None:
    assert planned(crowded(*instances(6)), limit=2) == ["w@1 m1→m2", "w@2 m1→m2"]
    assert planned(crowded(*instances(6)), limit=0) == []


def test_named_units_and_templates_alone_move() -> None:
    cluster = crowded("a.service", "b.service", *instances(2, "v"), *instances(2))
    assert planned(cluster, "w@.service") == ["w@1 m1→m2"]
    assert planned(cluster, "w@2.service") == ["w@2 m1→m2"]
    assert planned(cluster, "a.service") == ["a m1→m2"]
    assert hindrance(cluster, "a.service") == "is alone in its group, and not named"
    assert hindrance(cluster, "a.service", "a.service") == ""


@pytest.mark.parametrize(
    ("fleet", "service", "why"),
    [
        ("Movable=false", "", "has Movable=false"),
        ("Replaces=x.service", "", "has Replaces="),
        ("Global=true", "", "is on every machine that it fits on"),
    ],
)
def test_some_units_stay_where_they_are(fleet: str, service: str, why: str) -> None:
    cluster = crowded(*instances(2), fleet=fleet, service=service)
    assert planned(cluster) == planned(cluster, "w@.service") == []
    assert hindrance(cluster, "w@1.service", "w@.service") == why


def test_a_template_has_to_have_instances() -> None:
    cluster = crowded("x@.service")
    assert hindrance(cluster, "x@.service") == "has no instances"


def test_a_unit_that_fits_on_its_machine_alone_stays() -> None:
    cluster = crowded(*instances(2), fleet="MachineID=m1")
    assert planned(cluster) == []
    assert hindrance(cluster, "w@1.service") == ""


@pytest.mark.parametrize(
    ("service", "fields", "why"),
    [
        ("Type=oneshot", {"active": "activating"}, "is a oneshot at work"),
        ("Type=oneshot", {"active": "inactive", "completed": True}, "is a oneshot that has completed"),
        ("", {"active": "failed"}, "is not available itself"),
        ("Type=oneshot", {"active": "inactive", "completed": False}, "is not available itself"),
    ],
)
def test_what_should_not_be_stopped_now_stays(service: str, fields: dict[str, object], why: str) -> None:
    cluster = crowded(*instances(2), service=service)
    for name in instances(2):
        state = replace(cluster.snapshot.states[name]["m1"], **fields)
        cluster.write(STATES, ("m1", name), state)
    assert planned(cluster) == []
    assert hindrance(cluster, "w@1.service") == why


def test_a_group_with_too_few_available_members_stays() -> None:
    cluster = crowded(*instances(3))
    cluster.write(STATES, ("m1", "w@3.service"), replace(cluster.snapshot.states["w@3.service"]["m1"], active="failed"))
    assert planned(cluster) == []
    assert "w@3.service is not active on m1" in hindrance(cluster, "w@1.service")


def test_units_that_are_only_loaded_move() -> None:
    cluster = crowded(*instances(2))
    for name in instances(2):
        cluster.write(UNITS, (name,), replace(cluster.snapshot.units[name], target=TargetState.LOADED))
    cluster.come_to_rest()
    assert planned(cluster) == ["w@1 m1→m2"]
    cluster.write(UNITS, ("w@1.service",), replace(cluster.snapshot.units["w@1.service"], target=TargetState.INACTIVE))
    assert planned(cluster) == []
    assert hindrance(cluster, "w@1.service") == "is inactive"


def test_a_group_that_is_changed_stays_until_that_is_done() -> None:
    cluster = crowded(*instances(4))
    cluster.request("new", *instances(4))
    cluster.run_leader()
    assert "rollout" in hindrance(cluster, "w@1.service")
    assert find_move(cluster.snapshot, ALL) is None
    cluster.come_to_rest()
    assert planned(cluster) == ["w@1 m1→m2", "w@2 m1→m2"]


def test_a_unit_on_its_way_stays() -> None:
    cluster = crowded(*instances(2))
    cluster.write(MOVES, ("w@1.service",), Move("m2", "ann", NOON, origin="m1"))
    assert hindrance(cluster, "w@1.service") == "is on its way to a machine"
    cluster.run_leader()
    cluster.run_agents()
    cluster.run_leader()
    assert hindrance(cluster, "w@1.service") == "is on its way to a machine"
    assert find_move(cluster.snapshot, ALL) is None


def test_machines_that_take_no_new_units_do_not_count() -> None:
    cluster = crowded(*instances(4))
    record, cordoned = cluster.snapshot.machines["m2"], MachineSettings(cordon=Cordon("disk"))
    for settings_, mode in ((cordoned, MachineMode.READY), (None, MachineMode.PARKED)):
        cluster.write(SETTINGS, ("m2",), settings_)
        cluster.write(MACHINES, ("m2",), replace(record, mode=mode))
        assert planned(cluster) == []
    cluster.write(MACHINES, ("m2",), record)
    assert len(planned(cluster)) == 2
    cluster.write(SETTINGS, ("m1",), cordoned)
    assert planned(cluster) == []
    assert hindrance(cluster, "w@1.service").startswith("is on a machine that takes no new units")


@pytest.mark.parametrize(
    ("age_s", "moves"),
    [(0, 0), (MIN_AGE_S - 1, 0), (MIN_AGE_S, 2), (-86_400, 2)],  # the last one's clock is wrong
)
def test_a_machine_counts_some_time_after_it_came(age_s: float, moves: int) -> None:
    cluster = crowded(*instances(4))
    cluster.write(MACHINES, ("m2",), replace(cluster.snapshot.machines["m2"], since=NOON - age_s))
    assert len(planned(cluster)) == moves


def test_units_that_machine_of_joins_go_together_or_stay() -> None:
    cluster = RollingCluster(1)
    for number in (1, 2):
        submit(cluster, f"w@{number}.service")
        submit(cluster, f"log@{number}.service", f"MachineOf=w@{number}.service")
    cluster.come_to_rest()
    cluster.machine("m2")
    move = find_move(cluster.snapshot, ALL)
    assert move is not None
    assert sorted(move.units) == ["log@1.service", "w@1.service"]
    assert planned(cluster) == ["log@1 m1→m2"]
    submit(cluster, "alone.service", "MachineOf=w@1.service")
    submit(cluster, "also.service", "MachineOf=w@2.service")
    cluster.come_to_rest()
    assert planned(cluster) == []
    assert planned(cluster, "w@1.service", "log@1.service", "alone.service") == ["log@1 m1→m2"]


def test_a_unit_does_not_go_where_another_would_replace_it() -> None:
    cluster = crowded(*instances(2), fleet="")
    submit(cluster, "r.service", "MachineID=m2\nReplaces=w@*")
    cluster.come_to_rest()
    assert planned(cluster) == []


def test_a_plan_ends_with_a_unit_that_does_not_get_there() -> None:
    cluster = crowded(*instances(4))
    submit(cluster, "r.service", "MachineID=m2\nReplaces=w@*")  # is placed at the same time
    assert planned(cluster) == ["w@1 m1→m2"]


@pytest.mark.covers("C.11")
@settings(max_examples=200, deadline=None)
@given(clusters(), st.data())
def test_rebalancing_ends_evens_out_and_comes_as_planned(cluster: RollingCluster, data: st.DataObject) -> None:
    for number in range(data.draw(st.integers(0, 2))):
        cluster.machine(f"n{number}", x=str(data.draw(st.integers(1, 2))))
    cluster.come_to_rest()
    scope = replace(
        ALL, named=frozenset(data.draw(st.sets(st.sampled_from(["a.service", "w@.service", "v@0.service"]))))
    )
    foreseen = plan_rebalance(cluster.snapshot, scope, 1000, now=Now(cluster.clock_s, NOON), policy=cluster.policy)
    done = []
    while (move := find_move(cluster.snapshot, scope)) is not None:
        before = squares(cluster.snapshot)
        for name in move.units:
            members = [
                each for each in cluster.snapshot.group_units(group_of(name)) if cluster.snapshot.is_wanted(each)
            ]
            assert len(members) > 1 or scope.names(name)
        carry_out(cluster, move)
        assert {cluster.snapshot.assigned_machine(name) for name in move.units} == {move.machine}
        assert squares(cluster.snapshot) < before
        done.append(move)
    assert foreseen == done
    assert plan_rebalance(cluster.snapshot, scope, 1000) == []
