"""Three faults at a time, drawn from a seed, on machines and store: then the cluster recovers, and nothing is lost.

FLEET_STORMS=100 runs a hundred storms, as `make soak` does. The name of the test has the seed; to repeat one:
FLEET_STORMS=100 pytest tests/cluster/test_storms.py -k '[17]'
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import CommandFailed, Machine
from tests.cluster.operator import RECORDER, Operator, recorded_times, with_fleet
from tests.cluster.traffic import Traffic

TTL_S = 4
STORMS = int(os.environ.get("FLEET_STORMS", "1"))
ROUNDS = 2
LONGEST_GAP_S = TTL_S / 2
LONGEST_HOLD_S = 2 * TTL_S
UNITS = [f"u{number}.service" for number in range(8)]
CONFLICTING = {
    "left.service": with_fleet("Conflicts=right.service"),
    "right.service": with_fleet("Conflicts=left.service"),
}
ONCE = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'date +%%s.%%N >> /var/lib/began-%n'\n"


@contextmanager
def power_cut(machine: Machine) -> Iterator[None]:
    machine.power_cut()
    yield
    machine.boot()


@contextmanager
def cut(machine: Machine) -> Iterator[None]:
    machine.cut_network()
    yield
    machine.heal_network()


@contextmanager
def answers_lost(machine: Machine) -> Iterator[None]:
    machine.lose_answers()
    yield
    machine.hear_answers()


@contextmanager
def cut_from_etcd(machine: Machine) -> Iterator[None]:
    machine.cut_from_etcd()
    yield
    machine.reach_etcd()


@contextmanager
def switched_off(machine: Machine) -> Iterator[None]:
    machine.begin_shutdown()
    yield
    machine.wait_until_off()
    machine.boot()


@contextmanager
def fleetd_frozen(machine: Machine) -> Iterator[None]:
    pid = str(machine.main_pid("fleet.service"))
    machine.run(["kill", "-STOP", pid])
    yield
    with suppress(CommandFailed):  # its watchdog kills a fleetd that is frozen for half a minute
        machine.run(["kill", "-CONT", pid])


@contextmanager
def fleetd_killed(machine: Machine) -> Iterator[None]:
    machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
    yield


@contextmanager
def etcd_frozen(cluster: Cluster) -> Iterator[None]:
    cluster.etcd.freeze()
    yield
    cluster.etcd.thaw()


@contextmanager
def etcd_killed(cluster: Cluster) -> Iterator[None]:
    cluster.etcd.kill()
    yield
    cluster.etcd.start()


MACHINE_FAULTS = (power_cut, switched_off, cut, answers_lost, cut_from_etcd, fleetd_frozen, fleetd_killed)
STORE_FAULTS = (etcd_frozen, etcd_killed)
Fault = Callable[[], AbstractContextManager[None]]


class Storm:
    """The faults of one round. `harmed`: machines whose units may move; `off`: those of them that lose their units at
    once."""

    def __init__(self, cluster: Cluster, chance: random.Random) -> None:
        self._chance = chance
        self.harmed: list[Machine] = []
        self.off: list[Machine] = []
        self._faults: list[tuple[str, Fault]] = []
        chosen = chance.sample(cluster.machines, chance.choice([2, 3]))
        for machine in chosen:
            self._add(machine, chance.choice(MACHINE_FAULTS))
        if len(chosen) == 2:
            store_fault = chance.choice(STORE_FAULTS)
            self._faults.append((store_fault.__name__, lambda: store_fault(cluster)))
        chance.shuffle(self._faults)

    def __str__(self) -> str:
        return ", ".join(name for name, _ in self._faults)

    def _add(self, machine: Machine, fault: Callable[[Machine], AbstractContextManager[None]]) -> None:
        self._faults.append((f"{machine.name}: {fault.__name__}", lambda: fault(machine)))
        if fault is not fleetd_killed:
            self.harmed.append(machine)
        if fault in (power_cut, switched_off):
            self.off.append(machine)

    def run(self) -> None:
        """Begin the faults one after the other, wait, and end them in the opposite order."""
        with ExitStack() as faults:
            for _, fault in self._faults:
                faults.enter_context(fault())
                faults.callback(time.sleep, self._chance.uniform(0, LONGEST_GAP_S))
                time.sleep(self._chance.uniform(0, LONGEST_GAP_S))
            time.sleep(self._chance.uniform(0, LONGEST_HOLD_S))


def fewest_running(operator: Operator, unit: str, since_s: float) -> int:
    """The smallest number of running allocations after the unit first ran, from the times that the units recorded."""
    turns = [
        (at_s, change)
        for machine in operator.cluster.machines
        for what, change in (("began", 1), ("ended", -1))
        for at_s in recorded_times(machine, what, unit)
        if at_s > since_s
    ]
    running = least = 1
    for _, change in sorted(turns):
        running += change
        least = min(least, running)
    return least


def conflicts_hold(operator: Operator) -> bool:
    """Whether each of the conflicting units runs once, on a machine of its own."""
    places = list(operator.processes(CONFLICTING))
    return len(places) == len(CONFLICTING) == len({machine for machine, _ in places})


@pytest.mark.covers("S.20")
@pytest.mark.parametrize("seed", range(STORMS))
def test_after_a_storm_each_unit_runs_once_and_no_operation_is_lost(
    new_cluster: Callable[..., Cluster], tmp_path: Path, seed: int
) -> None:
    operator = Operator(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)
    chance = random.Random(seed)
    operator.start({**dict.fromkeys(UNITS, RECORDER), **CONFLICTING, "once.service": ONCE})
    for _ in range(ROUNDS):
        storm = Storm(operator.cluster, chance)
        print(storm)  # shown when the test fails
        machines_before, lives, since_s = operator.machines_of(UNITS), operator.lives(UNITS), time.time()
        with Traffic(operator) as traffic:
            storm.run()
        operator.cluster.wait_ready()
        operator.cluster.wait_until(
            "one allocation of each", lambda: all(len(found) == 1 for found in operator.machines_of(UNITS).values())
        )
        traffic.wait_until_done()
        time.sleep(TTL_S)
        assert all(len(found) == 1 for found in operator.machines_of(UNITS).values())
        harmed, off = ([machine.name for machine in machines] for machines in (storm.harmed, storm.off))
        spared = {place: life for place, life in lives.items() if life[0] and place[0] not in harmed}
        after = operator.lives(UNITS)
        assert {place: after.get(place) for place in spared} == spared
        operator.cluster.wait_until("the conflicting units run on different machines", lambda: conflicts_hold(operator))
        assert sum(len(recorded_times(machine, "began", "once.service")) for machine in operator.cluster.machines) == 1
        for unit, (machine,) in machines_before.items():
            assert machine in off or fewest_running(operator, unit, since_s) >= 1, unit
