"""Machines and leaders cut off, stopped, killed or frozen: one copy of each unit in the end, at no moment none.

Process ids and times are systemd's and the units' own. Of the clocks that jump here, only fleetd's own do: containers
share the kernel's. What whole clusters make of such days is held in tests/unit/test_wall_clock.py too.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, SLEEPER, Operator, diary
from tests.cluster.tampering import tamper

TTL_S = 4
STEADY_TTL_S = 10  # with which a leader on a busy machine stays in office
UNITS = [f"u{number}.service" for number in range(6)]
DAY_S = 86_400
CLOCK = "/run/clock-is-off"
MOVED_S = 2 * TTL_S + 30  # the time in which the units of a machine that is lost run elsewhere


@pytest.fixture
def person(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """Somebody at a cluster of their own with six units that run."""
    return begin(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


def begin(cluster: Cluster, folder: Path) -> Operator:
    person = Operator(cluster, folder)
    person.start(dict.fromkeys(UNITS, RECORDER))
    return person


def homes(person: Operator) -> dict[str, list[str]]:
    """Unit → the machines that it runs on, as systemd there says."""
    found: dict[str, list[str]] = {unit: [] for unit in UNITS}
    for machine, unit in person.processes(UNITS):
        found[unit].append(machine)
    return found


def wait_until_others_have(person: Operator, lost: Machine, units: list[str]) -> None:
    others = [machine.name for machine in person.cluster.machines if machine is not lost]
    person.cluster.wait_until(
        f"what ran on {lost.name} runs elsewhere",
        lambda: all(any(machine in others for machine in homes(person)[unit]) for unit in units),
        MOVED_S,
    )


def wait_until_one_each(person: Operator) -> None:
    person.cluster.wait_until(
        "one copy of each unit", lambda: all(len(machines) == 1 for machines in homes(person).values())
    )


def assert_never_none(person: Operator, lost: Machine, units: list[str]) -> None:
    """The copies on the machine that was lost ended only when the others had begun, and those never ended."""
    others = [machine for machine in person.cluster.machines if machine is not lost]
    for unit in units:
        (ended,) = diary(lost, "ended", unit)
        assert min(at_s for machine in others for at_s in diary(machine, "began", unit)) <= ended
        assert [at_s for machine in others for at_s in diary(machine, "ended", unit)] == []


def on(person: Operator, machine: Machine) -> list[str]:
    return [unit for unit, machines in homes(person).items() if machines == [machine.name]]


@pytest.mark.covers("R.3", "S.6")
def test_a_machine_that_is_cut_off_and_healed_has_its_units_run_at_every_moment(person: Operator) -> None:
    cut = person.machine_of("u0.service")
    mine = on(person, cut)
    before = person.lives(unit for unit in UNITS if unit not in mine)
    cut.cut_network()
    wait_until_others_have(person, cut, mine)
    assert all(cut.name in machines for unit, machines in homes(person).items() if unit in mine)
    cut.heal_network()
    wait_until_one_each(person)
    assert_never_none(person, cut, mine)
    assert person.lives(unit for unit in UNITS if unit not in mine) == before


@pytest.mark.covers("P.17", "S.7")
def test_answers_of_the_store_that_are_lost_for_a_while_touch_no_unit_and_for_long_move_them(person: Operator) -> None:
    deaf = person.machine_of("u0.service")
    mine = on(person, deaf)
    before = person.lives(UNITS)
    deaf.lose_answers()
    time.sleep(TTL_S / 3)
    deaf.hear_answers()
    time.sleep(TTL_S + 2)
    assert person.lives(UNITS) == before
    deaf.lose_answers()
    refused = person.cluster.fleetctl("start", *person.write({"new.service": SLEEPER}), on=deaf, check=False)
    assert refused.returncode == 1
    assert "etcd" in refused.stderr
    wait_until_others_have(person, deaf, mine)
    deaf.hear_answers()
    wait_until_one_each(person)
    assert_never_none(person, deaf, mine)
    person.cluster.wait_ready()
    person.start({"new.service": SLEEPER})
    assert list(person.processes(["new.service"])) == [(deaf.name, "new.service")]


@pytest.mark.covers("P.16", "S.11")
def test_a_leader_that_is_killed_and_one_that_is_stopped_touch_no_unit(person: Operator) -> None:
    before = person.lives(UNITS)
    killed = person.leader()
    killed.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "fleet.service"])
    person.start({"first.service": SLEEPER}, on=another(person, killed))
    person.cluster.wait_ready()
    stopped = person.leader()
    asked = another(person, stopped)
    stopped.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    person.start({"second.service": SLEEPER}, on=asked)
    assert person.leader() is not stopped
    time.sleep(TTL_S + 2)
    assert person.lives(UNITS) == before
    stopped.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    person.cluster.wait_ready()
    assert person.lives(UNITS) == before


def another(person: Operator, machine: Machine) -> Machine:
    return next(each for each in person.cluster.machines if each is not machine)


@pytest.mark.covers("P.16", "S.11")
def test_a_leader_frozen_in_the_midst_of_its_work_and_woken_late_undoes_nothing(person: Operator) -> None:
    leader = person.leader()
    mine = on(person, leader)
    before = person.lives(unit for unit in UNITS if unit not in mine)
    batch = {f"batch-{number}.service": SLEEPER for number in range(30)}
    person.start(batch, "--no-block", on=another(person, leader))
    fleetd = str(leader.main_pid("fleet.service"))
    leader.run(["kill", "-STOP", fleetd])
    wait_until_others_have(person, leader, mine)
    time.sleep(TTL_S)
    leader.run(["kill", "-CONT", fleetd])
    wait_until_one_each(person)
    person.cluster.wait_until(
        "each of the batch runs once",
        lambda: sorted(unit for _, unit in person.processes(batch)) == sorted(batch),
    )
    assert_never_none(person, leader, mine)
    assert person.lives(unit for unit in UNITS if unit not in mine) == before
    assert leader.main_pid("fleet.service") == int(fleetd)


@pytest.mark.covers("S.11")
def test_a_leader_cut_off_from_the_store_but_not_from_the_others_loses_office_and_keeps_its_allocations(
    person: Operator,
) -> None:
    leader = person.leader()
    mine = on(person, leader)
    before = person.lives(UNITS)
    leader.cut_from_etcd()
    wait_until_others_have(person, leader, mine)
    assert person.leader() is not leader
    assert {place: life for place, life in person.lives(UNITS).items() if place in before} == before
    leader.reach_etcd()
    wait_until_one_each(person)
    assert_never_none(person, leader, mine)


@pytest.mark.covers("S.19")
def test_a_leader_that_is_cut_off_while_another_machine_is_lost_leaves_one_allocation_of_each(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    person = begin(new_cluster(machines=4, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)
    leader = person.leader()
    lost = person.machine_of(next(unit for unit in UNITS if person.machine_of(unit) is not leader))
    spared = [unit for unit in UNITS if person.machine_of(unit) not in (leader, lost)]
    mine, before = on(person, leader), person.lives(spared)
    gone = on(person, lost)
    leader.cut_network()
    lost.power_cut()
    wait_until_others_have(person, leader, mine + gone)
    leader.heal_network()
    wait_until_one_each(person)
    assert_never_none(person, leader, mine)
    assert person.lives(spared) == before
    lost.boot()
    person.cluster.wait_ready()
    time.sleep(TTL_S)
    wait_until_one_each(person)
    assert on(person, lost) == []


@pytest.mark.covers("S.8")
def test_a_leader_and_a_follower_whose_clocks_jump_a_day_touch_no_unit_and_see_who_is_lost_in_time(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    person = begin(new_cluster(machines=3, config={"agent_ttl": f"{STEADY_TTL_S}s"}), tmp_path)
    for machine in person.cluster.machines:
        tamper(machine, "wrong_clock", CLOCK=CLOCK)
        machine.run(["systemctl", "restart", "fleet.service"])
    person.cluster.wait_ready()
    leader = person.leader()
    follower, lost = (machine for machine in person.cluster.machines if machine is not leader)
    before, listed = person.lives(UNITS), person.registrations()
    leader.path(CLOCK).write_text(str(DAY_S))
    follower.path(CLOCK).write_text(str(-DAY_S))
    time.sleep(STEADY_TTL_S + 2)
    person.start({"forth.service": SLEEPER}, on=follower)
    assert abs(placed_at_s(person, "forth.service") - time.time() - DAY_S) < DAY_S / 2  # or no clock was ever wrong
    assert person.lives(UNITS) == before
    assert person.registrations() == listed

    mine = on(person, lost)
    before = person.lives(unit for unit in UNITS if unit not in mine)
    lost.power_cut()
    for machine in (leader, follower):
        machine.path(CLOCK).write_text("0")
    wait_until_others_have(person, lost, mine)
    assert abs(placed_at_s(person, mine[0]) - time.time()) < DAY_S / 2
    assert person.leader() is leader
    assert person.lives(unit for unit in UNITS if unit not in mine) == before
    assert person.registrations().items() <= listed.items()


def placed_at_s(person: Operator, unit: str) -> float:
    """When the leader placed it, by the leader's clock."""
    decision = person.cluster.etcd.etcdctl("get", "--print-value-only", f"/fleet/decisions/{unit}")
    return float(json.loads(decision)["since"])
