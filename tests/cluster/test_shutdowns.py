"""A shutdown takes bounded time whatever hangs; after the boot, the machine has new units or its own.

test_loss.py covers which units a power cut and a clean shutdown move, and when.
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
STUBBORN_S = 15  # after this systemd itself kills the unit that does not stop
STUBBORN = f"[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 600\nTimeoutStopSec={STUBBORN_S}s\n"
UNITS = [f"u{number}.service" for number in range(6)]


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster that gives units little time at a shutdown."""
    config = {"agent_ttl": f"{TTL_S}s", "shutdown_timeout": f"{SHUTDOWN_TIMEOUT_S}s"}
    return Operator(new_cluster(machines=3, config=config), tmp_path)


@pytest.mark.covers("S.10")
def test_a_unit_that_hangs_at_its_stop_delays_no_other_and_a_shutdown_briefly(operator: Operator) -> None:
    operator.start({**dict.fromkeys(UNITS, RECORDER), "stubborn.service": STUBBORN})
    leaving = operator.machine_of("stubborn.service")
    begun_s = time.monotonic()
    leaving.begin_shutdown()

    def run_elsewhere(units: list[str]) -> bool:
        placed = operator.placed(on=operator.other_machine(leaving))
        return all(len(placed.get(unit, [])) == 1 and placed[unit] != [leaving.id] for unit in units)

    operator.cluster.wait_until("all others run elsewhere", lambda: run_elsewhere(UNITS))
    assert leaving.show("stubborn.service", "ActiveState") == "deactivating"
    operator.cluster.wait_until("it is waited for no longer", lambda: run_elsewhere(["stubborn.service"]))
    assert time.monotonic() - begun_s > SHUTDOWN_TIMEOUT_S
    leaving.wait_until_off(STUBBORN_S + 30)
    leaving.boot()
    operator.cluster.wait_ready()
    operator.start({"new.service": SLEEPER})
    assert operator.machine_of("new.service") is leaving
    assert all(len(machines) == 1 for machines in operator.machines_of([*UNITS, "stubborn.service"]).values())


@pytest.mark.covers("S.10")
def test_a_shutdown_without_etcd_takes_bounded_time(operator: Operator) -> None:
    operator.start(dict.fromkeys(UNITS, RECORDER))
    leaving = operator.machine_of("u0.service")
    mine = [unit for unit, machines in operator.machines_of(UNITS).items() if machines == [leaving.name]]
    spared = operator.lives(unit for unit in UNITS if unit not in mine)
    operator.cluster.etcd.freeze()
    leaving.shutdown(timeout_s=SHUTDOWN_TIMEOUT_S + 40)
    operator.cluster.etcd.thaw()
    operator.cluster.wait_until("its units run elsewhere", lambda: all(operator.machines_of(mine).values()))
    assert operator.lives(unit for unit in UNITS if unit not in mine) == spared
    leaving.boot()
    operator.cluster.wait_ready()
    assert all(len(machines) == 1 for machines in operator.machines_of(UNITS).values())


@pytest.mark.covers("S.9")
def test_each_unit_runs_once_where_it_was_after_a_power_cut_of_everything(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    # so long that no machine counts as dead
    operator = Operator(new_cluster(machines=3, config={"agent_ttl": "24s"}), tmp_path)
    operator.start({**dict.fromkeys(UNITS, RECORDER), "all.service": with_fleet("Global=true")})
    before = operator.machines_of(UNITS)
    operator.cluster.etcd.kill()
    for machine in operator.cluster.machines:
        machine.power_cut()
    operator.cluster.etcd.start()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Machine.boot, operator.cluster.machines))
    operator.cluster.wait_ready()
    operator.cluster.wait_until("all run again", lambda: operator.machines_of(UNITS) == before)
    operator.cluster.wait_until("the global too", lambda: len(operator.processes(["all.service"])) == 3)
    assert all(times == 2 for _, times in operator.lives(UNITS).values())
