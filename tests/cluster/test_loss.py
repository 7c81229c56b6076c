"""Machines that are lost, cut off, shut down and rebooted: their units come back, one allocation of each."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, SLEEPER, Operator, recorded_times, with_fleet

TTL_S = 4
# A boot, a wait of a third of it for a former registration, and one heartbeat, on a busy machine.
LONG_TTL_S = 24
MOVED_S = TTL_S + 20
HANDED_OVER_S = LONG_TTL_S / 2  # placed elsewhere before the machine is off, begun as fast as that machine can


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster of three machines with a short time to live."""
    return Operator(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)


@pytest.fixture
def patient(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """The same with a time to live so long that nothing in the test can have waited for its end."""
    return Operator(new_cluster(machines=3, config={"agent_ttl": f"{LONG_TTL_S}s"}), tmp_path)


@pytest.mark.covers("2.10.1", "2.10.2", "9.14", "S.9")
def test_a_power_cut_moves_only_the_machines_own_units(operator: Operator) -> None:
    units = [f"u{number}.service" for number in range(6)]
    operator.start(dict.fromkeys(units, SLEEPER))
    lost = operator.machine_of("u0.service")
    spared = [unit for unit in units if operator.machine_of(unit) is not lost]
    before = operator.pids(*spared)
    lost.power_cut()
    operator.cluster.wait_until("all run elsewhere", lambda: _run_without(operator, units, lost.id), MOVED_S)
    assert operator.pids(*spared) == before
    lost.boot()
    operator.cluster.wait_ready()
    operator.start({"new.service": SLEEPER})
    assert operator.machine_of("new.service") is lost
    assert operator.pids(*spared) == before


@pytest.mark.covers("S.9", "S.16")
def test_a_power_cut_shorter_than_the_time_to_live_moves_nothing(patient: Operator) -> None:
    units = [f"u{number}.service" for number in range(3)]
    patient.start(dict.fromkeys(units, RECORDER))
    before, machine = patient.placed(), patient.machine_of("u0.service")
    machine.reboot()
    patient.cluster.wait_ready()
    patient.wait_until_placed(*units)
    assert "checking whether another machine with its id is alive" in machine.journal(
        "fleet.service"
    )  # its former registration is not taken for another machine with this id
    assert patient.placed() == before
    began = {
        (each.name, unit): len(recorded_times(each, "began", unit))
        for each in patient.cluster.machines
        for unit in units
    }
    assert sorted(times for times in began.values() if times) == [1, 1, 2]
    assert began[machine.name, "u0.service"] == 2


@pytest.mark.covers("2.10.3", "5.6.1", "9.9", "S.10")
def test_a_clean_shutdown_moves_units_before_the_machine_is_off(patient: Operator) -> None:
    units = [f"u{number}.service" for number in range(6)]
    patient.start(dict.fromkeys(units, RECORDER))
    leaving = patient.machine_of("u0.service")
    mine = [unit for unit in units if leaving.main_pid(unit)]
    others = [machine for machine in patient.cluster.machines if machine is not leaving]
    leaving.shutdown()
    off_s = time.time()
    patient.wait_until_placed(*units)
    for unit in mine:
        (ended_s,) = recorded_times(leaving, "ended", unit)
        (began_s,) = [at_s for machine in others for at_s in recorded_times(machine, "began", unit) if at_s > ended_s]
        assert began_s < off_s + HANDED_OVER_S


@pytest.mark.covers("S.10")
def test_a_unit_that_stops_slowly_starts_elsewhere_only_after_it_stopped(operator: Operator) -> None:
    slow = "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sh -c 'sleep 3; date +%%s.%%N > /var/lib/ended'\n"
    operator.start({"slow.service": slow})
    leaving = operator.machine_of("slow.service")
    leaving.begin_shutdown()
    operator.cluster.wait_until("it runs elsewhere", lambda: _run_without(operator, ["slow.service"], leaving.id))
    ended_s = float((leaving.root / "var/lib/ended").read_text())
    successor = operator.machine_of("slow.service")
    started_us = int(successor.show("slow.service", "ExecMainStartTimestampMonotonic"))
    started_s = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) + started_us / 1e6
    assert started_s >= ended_s


@pytest.mark.covers("2.10.2", "4.9.4", "5.5.3", "S.6")
def test_a_machine_cut_off_keeps_its_allocations_until_replacements_run(
    operator: Operator,
) -> None:
    units = [f"u{number}.service" for number in range(3)]
    operator.start(dict.fromkeys(units, SLEEPER))
    cut = operator.machine_of("u0.service")
    mine = next(unit for unit in units if operator.machine_of(unit) is cut)
    pid = cut.main_pid(mine)
    asked = next(machine for machine in operator.cluster.machines if machine is not cut)
    cut.cut_network()
    operator.cluster.wait_until("it runs elsewhere", lambda: _run_without(operator, units, cut.id, on=asked), MOVED_S)
    assert cut.main_pid(mine) == pid
    cut.heal_network()
    operator.cluster.wait_until("the superseded allocation has stopped", lambda: cut.main_pid(mine) == 0)
    operator.wait_until_placed(*units)
    assert operator.machine_of(mine) is not cut


@pytest.mark.covers("R.3")
def test_a_superseded_allocation_is_kept_if_its_replacement_fails(operator: Operator) -> None:
    first, *others = operator.cluster.machines
    first.path("/var/lib/good").touch()
    picky = "[Service]\nExecStart=/bin/sh -c 'test -e /var/lib/good && exec sleep infinity; exit 1'\n"
    fillers = {f"filler-{number}.service": with_fleet(f"MachineID={m.id}") for number, m in enumerate(others)}
    operator.start(fillers)  # so that the first machine has the fewest units
    operator.start({"picky.service": picky})
    pid = first.main_pid("picky.service")
    assert pid > 1
    first.cut_network()
    operator.cluster.wait_until(
        "a replacement has failed elsewhere", lambda: any(_failed(machine, "picky.service") for machine in others)
    )
    first.heal_network()
    operator.cluster.wait_until(
        "the unit is back on its first machine",
        lambda: operator.placed(on=others[0]).get("picky.service") == [first.id],
    )
    assert first.main_pid("picky.service") == pid


@pytest.mark.covers("10.7.7")
def test_colocated_and_global_units_survive_the_loss_of_a_machine(operator: Operator) -> None:
    operator.start(
        {
            "peer.service": SLEEPER,
            "follower.service": with_fleet("MachineOf=peer.service"),
            "all.service": with_fleet("Global=true"),
        }
    )
    lost = operator.machine_of("peer.service")
    lost.power_cut()
    operator.cluster.wait_until(
        "the pair runs elsewhere",
        lambda: _run_without(operator, ["peer.service", "follower.service"], lost.id),
        MOVED_S,
    )
    assert operator.machine_of("peer.service") is operator.machine_of("follower.service")
    assert len(operator.placed()["all.service"]) == 2


@pytest.mark.covers("2.2.1", "9.2", "10.7.15", "P.16")
def test_a_lost_leader_is_replaced_and_its_units_fail_over(operator: Operator) -> None:
    units = [f"u{number}.service" for number in range(6)]
    operator.start(dict.fromkeys(units, SLEEPER))
    leader = operator.leader()
    leader.power_cut()
    operator.cluster.wait_until("all run elsewhere", lambda: _run_without(operator, units, leader.id), MOVED_S)
    operator.start({"after.service": SLEEPER})


def _run_without(operator: Operator, units: list[str], machine_id: str, on: Machine | None = None) -> bool:
    placed = operator.placed(on=on)
    return all(len(placed.get(unit, [])) == 1 and placed[unit] != [machine_id] for unit in units)


def _failed(machine: Machine, unit: str) -> bool:
    return machine.show(unit, "ActiveState") == "failed"
