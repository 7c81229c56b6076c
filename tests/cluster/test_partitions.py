"""Machines and leaders cut off, stopped, killed or frozen: one allocation of each unit at the end, and at least one
always.

Process ids and times come from systemd and the units. Only fleetd's own clocks jump here, because containers share the
kernel's. tests/unit/test_wall_clock.py covers whole clusters with wrong clocks.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, SLEEPER, Operator, recorded_times
from tests.cluster.tampering import tamper

TTL_S = 4
STEADY_TTL_S = 10  # long enough for a leader on a busy machine to keep its lease
UNITS = [f"u{number}.service" for number in range(6)]
DAY_S = 86_400
CLOCK = "/run/clock-is-off"
MOVED_S = 2 * TTL_S + 30  # time for the units of a lost machine to run elsewhere


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster with six running units."""
    return start_units(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


def start_units(cluster: Cluster, folder: Path) -> Operator:
    operator = Operator(cluster, folder)
    operator.start(dict.fromkeys(UNITS, RECORDER))
    return operator


def wait_until_others_have(operator: Operator, lost: Machine, units: list[str]) -> None:
    others = [machine.name for machine in operator.cluster.machines if machine is not lost]
    operator.cluster.wait_until(
        f"what ran on {lost.name} runs elsewhere",
        lambda: all(any(machine in others for machine in operator.machines_of(UNITS)[unit]) for unit in units),
        MOVED_S,
    )


def wait_until_one_each(operator: Operator) -> None:
    operator.cluster.wait_until(
        "one allocation of each unit",
        lambda: all(len(machines) == 1 for machines in operator.machines_of(UNITS).values()),
    )


def assert_never_none(operator: Operator, lost: Machine, units: list[str]) -> None:
    """The allocations on the lost machine ended only after their replacements had begun, and the replacements never
    ended."""
    others = [machine for machine in operator.cluster.machines if machine is not lost]
    for unit in units:
        (ended,) = recorded_times(lost, "ended", unit)
        assert min(at_s for machine in others for at_s in recorded_times(machine, "began", unit)) <= ended
        assert [at_s for machine in others for at_s in recorded_times(machine, "ended", unit)] == []


def on(operator: Operator, machine: Machine) -> list[str]:
    return [unit for unit, machines in operator.machines_of(UNITS).items() if machines == [machine.name]]


@pytest.mark.covers("R.3", "S.6")
def test_units_of_a_machine_cut_off_and_back_run_at_every_moment(operator: Operator) -> None:
    cut = operator.machine_of("u0.service")
    mine = on(operator, cut)
    before = operator.lives(unit for unit in UNITS if unit not in mine)
    cut.cut_network()
    wait_until_others_have(operator, cut, mine)
    assert all(cut.name in machines for unit, machines in operator.machines_of(UNITS).items() if unit in mine)
    cut.heal_network()
    wait_until_one_each(operator)
    assert_never_none(operator, cut, mine)
    assert operator.lives(unit for unit in UNITS if unit not in mine) == before


@pytest.mark.covers("P.17", "S.7")
def test_lost_answers_of_the_store_move_units_only_if_they_last(operator: Operator) -> None:
    deaf = operator.machine_of("u0.service")
    mine = on(operator, deaf)
    before = operator.lives(UNITS)
    deaf.lose_answers()
    time.sleep(TTL_S / 3)
    deaf.hear_answers()
    time.sleep(TTL_S + 2)
    assert operator.lives(UNITS) == before
    deaf.lose_answers()
    refused = operator.cluster.fleetctl("start", *operator.write({"new.service": SLEEPER}), on=deaf, check=False)
    assert refused.returncode == 1
    assert "etcd" in refused.stderr
    wait_until_others_have(operator, deaf, mine)
    deaf.hear_answers()
    wait_until_one_each(operator)
    assert_never_none(operator, deaf, mine)
    operator.cluster.wait_ready()
    operator.start({"new.service": SLEEPER})
    assert list(operator.processes(["new.service"])) == [(deaf.name, "new.service")]


@pytest.mark.covers("P.16", "S.11")
def test_a_killed_and_a_stopped_leader_leave_units_running(operator: Operator) -> None:
    before = operator.lives(UNITS)
    killed = operator.leader()
    killed.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "fleet.service"])
    operator.start({"first.service": SLEEPER}, on=operator.other_machine(killed))
    operator.cluster.wait_ready()
    stopped = operator.leader()
    asked = operator.other_machine(stopped)
    stopped.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    operator.start({"second.service": SLEEPER}, on=asked)
    assert operator.leader() is not stopped
    time.sleep(TTL_S + 2)
    assert operator.lives(UNITS) == before
    stopped.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    operator.cluster.wait_ready()
    assert operator.lives(UNITS) == before


@pytest.mark.covers("P.16", "S.11")
def test_a_leader_frozen_while_it_works_and_woken_late_undoes_nothing(operator: Operator) -> None:
    leader = operator.leader()
    mine = on(operator, leader)
    before = operator.lives(unit for unit in UNITS if unit not in mine)
    batch = {f"batch-{number}.service": SLEEPER for number in range(30)}
    operator.start(batch, "--no-block", on=operator.other_machine(leader))
    fleetd = str(leader.main_pid("fleet.service"))
    leader.run(["kill", "-STOP", fleetd])
    wait_until_others_have(operator, leader, mine)
    time.sleep(TTL_S)
    leader.run(["kill", "-CONT", fleetd])
    wait_until_one_each(operator)
    operator.cluster.wait_until(
        "each of the batch runs once",
        lambda: sorted(unit for _, unit in operator.processes(batch)) == sorted(batch),
    )
    assert_never_none(operator, leader, mine)
    assert operator.lives(unit for unit in UNITS if unit not in mine) == before
    assert leader.main_pid("fleet.service") == int(fleetd)


@pytest.mark.covers("S.11")
def test_a_leader_cut_off_from_the_store_loses_the_election_and_no_unit(
    operator: Operator,
) -> None:
    leader = operator.leader()
    mine = on(operator, leader)
    before = operator.lives(UNITS)
    leader.cut_from_etcd()
    wait_until_others_have(operator, leader, mine)
    assert operator.leader() is not leader
    assert {place: life for place, life in operator.lives(UNITS).items() if place in before} == before
    leader.reach_etcd()
    wait_until_one_each(operator)
    assert_never_none(operator, leader, mine)


@pytest.mark.covers("S.19")
def test_a_leader_and_a_machine_cut_off_leave_one_allocation_of_each_unit(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = start_units(new_cluster(machines=4, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)
    leader = operator.leader()
    lost = operator.machine_of(next(unit for unit in UNITS if operator.machine_of(unit) is not leader))
    spared = [unit for unit in UNITS if operator.machine_of(unit) not in (leader, lost)]
    mine, before = on(operator, leader), operator.lives(spared)
    gone = on(operator, lost)
    leader.cut_network()
    lost.power_cut()
    wait_until_others_have(operator, leader, mine + gone)
    leader.heal_network()
    wait_until_one_each(operator)
    assert_never_none(operator, leader, mine)
    assert operator.lives(spared) == before
    lost.boot()
    operator.cluster.wait_ready()
    time.sleep(TTL_S)
    wait_until_one_each(operator)
    assert on(operator, lost) == []


@pytest.mark.covers("S.8")
def test_clocks_that_jump_a_day_move_no_unit_and_hide_no_lost_machine(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    operator = start_units(new_cluster(machines=3, config={"agent_ttl": f"{STEADY_TTL_S}s"}), tmp_path)
    for machine in operator.cluster.machines:
        tamper(machine, "wrong_clock", CLOCK=CLOCK)
        machine.run(["systemctl", "restart", "fleet.service"])
    operator.cluster.wait_ready()
    leader = operator.leader()
    follower, lost = (machine for machine in operator.cluster.machines if machine is not leader)
    before, listed = operator.lives(UNITS), operator.registrations()
    leader.path(CLOCK).write_text(str(DAY_S))
    follower.path(CLOCK).write_text(str(-DAY_S))
    time.sleep(STEADY_TTL_S + 2)
    operator.start({"forth.service": SLEEPER}, on=follower)
    # otherwise no clock was ever wrong
    assert abs(placed_at_s(operator, "forth.service") - time.time() - DAY_S) < DAY_S / 2
    assert operator.lives(UNITS) == before
    assert operator.registrations() == listed

    mine = on(operator, lost)
    before = operator.lives(unit for unit in UNITS if unit not in mine)
    lost.power_cut()
    for machine in (leader, follower):
        machine.path(CLOCK).write_text("0")
    wait_until_others_have(operator, lost, mine)
    assert abs(placed_at_s(operator, mine[0]) - time.time()) < DAY_S / 2
    assert operator.leader() is leader
    assert operator.lives(unit for unit in UNITS if unit not in mine) == before
    assert operator.registrations().items() <= listed.items()


def placed_at_s(operator: Operator, unit: str) -> float:
    """When the leader placed the unit, by the leader's clock."""
    decision = operator.cluster.etcd.etcdctl("get", "--print-value-only", f"/fleet/decisions/{unit}")
    return float(json.loads(decision)["since"])
