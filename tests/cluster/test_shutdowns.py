"""Machines that are switched off: in bounded time whatever hangs, and back with new work, or with their own.

What a power cut and a clean shutdown move, and when, is held in test_loss.py.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contrib.testbed import Cluster, Machine
from tests.cluster.operator import RECORDER, SLEEPER, Operator, with_fleet

TTL_S = 4
SHUTDOWN_TIMEOUT_S = 4
STUBBORN_S = 15  # after which systemd itself kills the unit that does not stop
STUBBORN = f"[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 600\nTimeoutStopSec={STUBBORN_S}s\n"
UNITS = [f"u{number}.service" for number in range(6)]


@pytest.fixture
def person(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """Somebody at a cluster of their own that gives units little time at a shutdown."""
    config = {"agent_ttl": f"{TTL_S}s", "shutdown_timeout": f"{SHUTDOWN_TIMEOUT_S}s"}
    return Operator(new_cluster(machines=3, config=config), tmp_path)


def homes(person: Operator, units: list[str]) -> dict[str, list[str]]:
    """Unit → the machines that are up and have a process of it."""
    found: dict[str, list[str]] = {unit: [] for unit in units}
    for machine, unit in person.processes(units):
        found[unit].append(machine)
    return found


@pytest.mark.covers("S.10")
def test_a_unit_that_hangs_at_its_stop_holds_up_neither_the_others_nor_the_shutdown_for_ever(person: Operator) -> None:
    person.start({**dict.fromkeys(UNITS, RECORDER), "stubborn.service": STUBBORN})
    leaving = person.machine_of("stubborn.service")
    begun_s = time.monotonic()
    leaving.begin_shutdown()

    def run_elsewhere(units: list[str]) -> bool:
        placed = person.placed(on=next(machine for machine in person.cluster.machines if machine is not leaving))
        return all(len(placed.get(unit, [])) == 1 and placed[unit] != [leaving.id] for unit in units)

    person.cluster.wait_until("all others run elsewhere", lambda: run_elsewhere(UNITS))
    assert leaving.show("stubborn.service", "ActiveState") == "deactivating"
    person.cluster.wait_until("it is waited for no longer", lambda: run_elsewhere(["stubborn.service"]))
    assert time.monotonic() - begun_s > SHUTDOWN_TIMEOUT_S
    leaving.wait_until_off(STUBBORN_S + 30)
    leaving.boot()
    person.cluster.wait_ready()
    person.start({"new.service": SLEEPER})
    assert person.machine_of("new.service") is leaving
    assert all(len(machines) == 1 for machines in homes(person, [*UNITS, "stubborn.service"]).values())


@pytest.mark.covers("S.10")
def test_a_machine_that_shuts_down_while_etcd_is_away_is_off_in_bounded_time(person: Operator) -> None:
    person.start(dict.fromkeys(UNITS, RECORDER))
    leaving = person.machine_of("u0.service")
    mine = [unit for unit, machines in homes(person, UNITS).items() if machines == [leaving.name]]
    spared = person.lives(unit for unit in UNITS if unit not in mine)
    person.cluster.etcd.freeze()
    leaving.shutdown(timeout_s=SHUTDOWN_TIMEOUT_S + 40)
    person.cluster.etcd.thaw()
    person.cluster.wait_until("its units run elsewhere", lambda: all(homes(person, mine).values()))
    assert person.lives(unit for unit in UNITS if unit not in mine) == spared
    leaving.boot()
    person.cluster.wait_ready()
    assert all(len(machines) == 1 for machines in homes(person, UNITS).values())


@pytest.mark.covers("S.9")
def test_after_a_power_cut_of_everything_each_unit_runs_once_where_it_was(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    person = Operator(new_cluster(machines=3, config={"agent_ttl": "24s"}), tmp_path)  # none is taken for dead
    person.start({**dict.fromkeys(UNITS, RECORDER), "all.service": with_fleet("Global=true")})
    before = homes(person, UNITS)
    person.cluster.etcd.kill()
    for machine in person.cluster.machines:
        machine.power_cut()
    person.cluster.etcd.start()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Machine.boot, person.cluster.machines))
    person.cluster.wait_ready()
    person.cluster.wait_until("all run again", lambda: homes(person, UNITS) == before)
    person.cluster.wait_until("the global too", lambda: len(person.processes(["all.service"])) == 3)
    assert all(times == 2 for _, times in person.lives(UNITS).values())
