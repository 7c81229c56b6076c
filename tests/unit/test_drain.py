"""Drains: which units leave a machine, when, and what is said of those that stay."""

from random import Random

import pytest
from msgspec.structs import replace

from fleetd.model.machine import Cordon, DrainRequest, MachineMode, MachineSettings
from fleetd.model.unit import Unit
from fleetd.registry.records import PLACEMENTS, SETTINGS, STATES, UNITS
from fleetd.scheduler.disruption import DisruptionBudget
from tests.unit.cluster_builder import LAUNCHED, NOON
from tests.unit.rolling_cluster import MEMBERS, RollingCluster, rolling_group, text_of


def drain(cluster: RollingCluster, machine: str, **fields: object) -> None:
    """An operator drains the machine."""
    request = replace(DrainRequest("ann", NOON), **fields)
    cluster.write(SETTINGS, (machine,), MachineSettings(cordon=Cordon("drained"), drain=request))


def submit(cluster: RollingCluster, name: str, fleet: str = "", service: str = "") -> None:
    text = text_of("old", fleet).replace("[X-Fleet]", f"{service}\n[X-Fleet]")
    cluster.write(UNITS, (name,), Unit(name, text, LAUNCHED))
    cluster.come_to_rest()


def on(cluster: RollingCluster, machine: str) -> list[str]:
    """The units that run on the machine."""
    return sorted(name for where, name in cluster.running if where == machine)


def reason_of(cluster: RollingCluster, name: str) -> str:
    return cluster.reason(name)


def test_the_units_of_a_drained_machine_move_and_stay_away() -> None:
    cluster = rolling_group()
    submit(cluster, "a.service", "MachineMetadata=x=y")
    cluster.machine("m1", x="y")
    cluster.machine("m2", x="y")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["a.service", "w@1.service"]
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert on(cluster, "m1") == []
    assert len(cluster.running) == 4
    assert reason_of(cluster, "a.service") == "moved there"
    submit(cluster, "b.service")
    assert on(cluster, "m1") == []


def test_members_of_a_group_move_one_after_the_other_when_the_last_one_is_proven() -> None:
    cluster = RollingCluster(2)
    cluster.request("old", *MEMBERS, fleet="MachineMetadata=x=y")
    cluster.machine("m1", x="y")
    cluster.come_to_rest()
    assert on(cluster, "m1") == list(MEMBERS)
    cluster.machine("m2", x="y")
    drain(cluster, "m1")
    seen = []
    for _ in range(30):
        cluster.run_leader()
        cluster.run_agents()
        budget = DisruptionBudget(cluster.snapshot, {})
        down = sum(budget.unavailability(name, cluster.assigned().get(name, "")) is not None for name in MEMBERS)
        assert down <= 1
        seen.append(len(on(cluster, "m1")))
    assert seen[0] == 2
    assert seen == sorted(seen, reverse=True)
    assert on(cluster, "m2") == list(MEMBERS)


@pytest.mark.covers("C.8")
def test_what_waits_says_for_whom() -> None:
    cluster = rolling_group(instances=2)
    submit(cluster, "x.service")
    cluster.write(STATES, ("m2", "w@2.service"), replace(cluster.snapshot.states["w@2.service"]["m2"], active="failed"))
    drain(cluster, "m1")
    cluster.run_leader()
    assert reason_of(cluster, "w@1.service").startswith("waits: w@2.service")


@pytest.mark.covers("C.7")
def test_what_fits_nowhere_else_stays_and_says_so() -> None:
    cluster = rolling_group()
    submit(cluster, "db.service", "MachineID=m1")
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["db.service"]
    assert reason_of(cluster, "db.service") == (
        "stays on the drained machine: it fits nowhere else: not machine m1 (2)"
    )
    cluster.write(SETTINGS, ("m1",), None)
    cluster.come_to_rest()
    assert reason_of(cluster, "db.service") == "stays where it was"


def test_force_stops_what_fits_nowhere_and_ignores_the_budget() -> None:
    cluster = rolling_group()
    submit(cluster, "db.service", "MachineID=m1")
    drain(cluster, "m1", force=True)
    cluster.come_to_rest()
    assert on(cluster, "m1") == []
    assert "db.service" not in cluster.assigned()


def test_units_that_machine_of_joins_move_together_or_stay() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service")
    submit(cluster, "b.service", "MachineOf=a.service")
    submit(cluster, "c.service", "MachineOf=a.service\nConflicts=d.service")
    assert on(cluster, "m1") == ["a.service", "b.service", "c.service"]
    submit(cluster, "d.service")
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["a.service", "b.service", "c.service"]
    assert "conflicts with d.service" in reason_of(cluster, "c.service")
    cluster.write(UNITS, ("d.service",), None)
    cluster.come_to_rest()
    assert on(cluster, "m2") == ["a.service", "b.service", "c.service"]


def test_units_that_machine_of_joins_move_to_a_machine_with_as_many_units() -> None:
    cluster = RollingCluster(1)
    for name, fleet in {"a": "", "b": "MachineOf=a.service", "c": "MachineOf=a.service"}.items():
        submit(cluster, f"{name}.service", fleet)
    cluster.machine("m2")
    for name in "def":
        submit(cluster, f"{name}.service", "MachineID=m2")
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert on(cluster, "m2") == [f"{name}.service" for name in "abcdef"]


@pytest.mark.parametrize("with_globals", [False, True])
def test_global_units_stay_unless_asked(with_globals: bool) -> None:
    cluster = RollingCluster(2)
    submit(cluster, "log.service", "Global=true")
    drain(cluster, "m1", with_globals=with_globals)
    cluster.come_to_rest()
    assert on(cluster, "m1") == ([] if with_globals else ["log.service"])
    assert on(cluster, "m2") == ["log.service"]
    cluster.write(SETTINGS, ("m1",), None)
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["log.service"]


def test_what_leaves_two_machines_at_once_is_spread_over_the_others() -> None:
    cluster = RollingCluster(2)
    for name in "abcd":
        submit(cluster, f"{name}.service")
    assert [len(on(cluster, machine)) for machine in ("m1", "m2")] == [2, 2]
    for machine in ("m3", "m4"):
        cluster.machine(machine)
    drain(cluster, "m1")
    drain(cluster, "m2")
    cluster.come_to_rest()
    assert [len(on(cluster, f"m{number}")) for number in range(1, 5)] == [0, 0, 2, 2]


def test_a_oneshot_at_work_may_finish() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "job.service", service="Type=oneshot")
    cluster.write(
        STATES, ("m1", "job.service"), replace(cluster.snapshot.states["job.service"]["m1"], active="activating")
    )
    drain(cluster, "m1", deadline=NOON + 60)
    cluster.run_leader()
    assert reason_of(cluster, "job.service") == "may finish on the drained machine, until 2027-01-15 12:01:00 UTC"
    cluster.wait(60)
    cluster.run_leader()
    assert reason_of(cluster, "job.service") == "stays: the drain of its machine ended at 2027-01-15 12:01:00 UTC"


def test_the_place_of_a_unit_that_moves_is_kept() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service", "Conflicts=b.service")
    drain(cluster, "m1")
    cluster.run_leader()
    assert cluster.snapshot.decisions["a.service"].target == "m2"
    cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old"), LAUNCHED))
    cluster.run_leader()
    assert "b.service" not in cluster.assigned()
    cluster.elect()
    cluster.come_to_rest()
    assert on(cluster, "m2") == ["a.service"]
    assert cluster.snapshot.decisions["a.service"].target == ""
    cluster.write(UNITS, ("a.service",), None)
    cluster.come_to_rest()
    assert on(cluster, "m2") == ["b.service"]


@pytest.mark.covers("B.6")
def test_the_kept_place_of_a_unit_that_is_destroyed_is_free() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service", "Conflicts=b.service")
    drain(cluster, "m1")
    cluster.run_leader()
    cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old"), LAUNCHED))
    cluster.write(UNITS, ("a.service",), None)
    cluster.come_to_rest()
    assert on(cluster, "m2") == ["b.service"]


def test_a_unit_that_its_new_machine_takes_no_longer_goes_to_another() -> None:
    cluster = RollingCluster(3)
    for number in (1, 2, 3):
        cluster.machine(f"m{number}", x="y")
    submit(cluster, "a.service", "MachineMetadata=x=y")
    drain(cluster, "m1")
    cluster.run_leader()
    target = cluster.snapshot.decisions["a.service"].target
    cluster.machine(target, x="z")
    cluster.come_to_rest()
    assert on(cluster, ({"m2", "m3"} - {target}).pop()) == ["a.service"]


@pytest.mark.covers("B.7")
def test_a_unit_whose_new_machine_is_lost_goes_to_another() -> None:
    cluster = RollingCluster(3)
    submit(cluster, "a.service")
    drain(cluster, "m1")
    cluster.run_leader()
    target = cluster.snapshot.decisions["a.service"].target
    cluster.die(target)
    cluster.come_to_rest()
    assert on(cluster, ({"m2", "m3"} - {target}).pop()) == ["a.service"]


def test_a_machine_that_is_absent_or_leaves_is_not_drained() -> None:
    cluster = RollingCluster(1)
    submit(cluster, "a.service")
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["a.service"]
    cluster.expire_lease("m1")
    cluster.run_leader()
    assert cluster.assigned() == {"a.service": "m1"}


def test_a_unit_that_fits_nowhere_else_any_more_returns_in_spite_of_the_cordon() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service")
    drain(cluster, "m1")
    cluster.run_leader()
    cluster.die("m2")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["a.service"]
    assert reason_of(cluster, "a.service").startswith("stays on the drained machine")


def test_units_that_machine_of_joins_return_together() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service")
    submit(cluster, "b.service", "MachineOf=a.service")
    drain(cluster, "m1")
    cluster.run_leader()
    cluster.elect()
    cluster.die("m2")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["a.service", "b.service"]


def test_what_force_has_stopped_does_not_return() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service")
    drain(cluster, "m1", force=True)
    cluster.run_leader()
    cluster.die("m2")
    cluster.come_to_rest()
    assert cluster.assigned() == {}


def test_a_unit_that_stays_leaves_as_soon_as_another_machine_takes_it() -> None:
    cluster = RollingCluster(2)
    cluster.machine("m1", disk="ssd")
    submit(cluster, "a.service", "MachineMetadata=disk=ssd")
    drain(cluster, "m1")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["a.service"]
    cluster.machine("m2", disk="ssd")
    cluster.come_to_rest()
    assert on(cluster, "m2") == ["a.service"]


def test_a_unit_that_an_operator_starts_again_while_it_moves_arrives_where_its_place_is_kept() -> None:
    cluster = RollingCluster(3)
    submit(cluster, "a.service")
    drain(cluster, "m1")
    cluster.run_leader()
    target = cluster.snapshot.decisions["a.service"].target
    cluster.write(UNITS, ("a.service",), Unit("a.service", text_of("new"), LAUNCHED))
    cluster.come_to_rest()
    assert on(cluster, target) == ["a.service"]


@pytest.mark.parametrize("way", ["leaves", "is parked", "has another unit"])
def test_a_unit_does_not_return_to_a_machine_that_does_not_take_it_any_more(way: str) -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service", "Conflicts=b.service")
    submit(cluster, "log.service", "Global=true")
    drain(cluster, "m1")
    cluster.run_leader()
    cluster.run_agents()
    cluster.run_leader()
    cluster.die("m2")
    if way == "has another unit":
        cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old", "Global=true"), LAUNCHED))
    else:
        cluster.machine("m1", mode=MachineMode.LEAVING if way == "leaves" else MachineMode.PARKED)
    cluster.run_leader()
    cluster.run_agents()
    cluster.run_leader()
    assert "a.service" not in cluster.assigned()


def test_a_unit_that_has_waited_for_its_peer_returns_with_it() -> None:
    cluster = RollingCluster(2)
    submit(cluster, "a.service")
    submit(cluster, "b.service", "MachineOf=a.service")
    drain(cluster, "m1")
    cluster.run_leader()
    cluster.die("m2")
    for _ in range(2):
        cluster.step("m1", "a.service")
        cluster.run_leader()
    assert reason_of(cluster, "a.service").startswith("waits for b.service, which waits until m1 has stopped it")
    cluster.come_to_rest()
    assert on(cluster, "m1") == ["a.service", "b.service"]


def test_a_new_leader_keeps_the_place_of_a_unit_that_moves() -> None:
    for seed in range(5):
        cluster = RollingCluster(2)
        submit(cluster, "a.service", "Conflicts=b.service")
        drain(cluster, "m1")
        cluster.run_leader()
        cluster.step("m1", "a.service")
        cluster.run_leader()
        assert reason_of(cluster, "a.service") == "waits until m1 has removed it"
        cluster.write(UNITS, ("b.service",), Unit("b.service", text_of("old"), LAUNCHED))
        cluster.elect(Random(seed))
        cluster.run_leader()
        assert "b.service" not in cluster.assigned()
        assert cluster.snapshot.occupancy("m2").staying.keys() == {"a.service"}


def test_units_that_run_and_are_not_proven_yet_do_not_leave_at_once() -> None:
    cluster = RollingCluster(2)
    cluster.request("old", *MEMBERS, fleet="MachineMetadata=x=y")
    cluster.machine("m1", x="y")
    cluster.come_to_rest()
    for name in MEMBERS:  # their fleetd was restarted, and has not judged them yet
        placement = cluster.snapshot.placements[name]["m1"]
        cluster.write(PLACEMENTS, ("m1", name), replace(placement, prove_after_s=10.0))
        cluster.write(STATES, ("m1", name), replace(cluster.snapshot.states[name]["m1"], proof=None))
    cluster.machine("m2", x="y")
    drain(cluster, "m1")
    cluster.run_leader()
    assert [name for name in MEMBERS if not cluster.snapshot.placements[name]["m1"].is_withdrawn] == list(MEMBERS)
    assert reason_of(cluster, MEMBERS[0]) == (
        "waits: w@2.service is not proven yet on m1, w@3.service is not proven yet on m1 (MaxUnavailable=1)"
    )
    cluster.come_to_rest()
    assert on(cluster, "m2") == list(MEMBERS)
