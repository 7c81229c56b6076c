"""Units with Lock= on real machines: two of one lock never run at one moment, whatever is cut, frozen or killed.

Two instances wait for one lock, each on a machine of its own. See test_isolation.py for how lives are noted.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import CHECKOUT
from tests.cluster.alive import find_overlap
from tests.cluster.operator import Operator
from tests.cluster.test_isolation import ISOLATION_S, STOP_S, TTL_S, all_lives, boot_now

UNITS = ("one@1.service", "one@2.service")
TEMPLATE = (
    f"[Service]\nExecStart=/usr/bin/python3 -I {CHECKOUT}/tests/cluster/alive.py /var/lib/alive-%n\nRestart=always\n"
    "EnvironmentFile=/run/fleet/locks/the-one.env\n"
    f"[X-Fleet]\nConflicts=one@*\nLock=the-one\nIsolationSec={ISOLATION_S}s\nIsolationStopSec={STOP_S}s\n"
)
PATIENCE_S = 90.0


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a cluster in which one instance runs, and the other waits for the lock."""
    operator = Operator(new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"}), tmp_path)
    operator.write({"one@.service": TEMPLATE})
    started = operator.cluster.fleetctl("start", *(str(tmp_path / unit) for unit in UNITS))
    assert "waits for lock the-one" in started.stdout + started.stderr
    return operator


def running(operator: Operator) -> list[tuple[Machine, str]]:
    """Which instances run, and where."""
    return [(machine, unit) for machine in operator.cluster.machines for unit in UNITS if machine.main_pid(unit)]


def wait_until_runs(operator: Operator, other_than: Machine) -> tuple[Machine, str]:
    """Wait until an instance runs on another machine than this."""
    found: list[tuple[Machine, str]] = []

    def runs_elsewhere() -> bool:
        found[:] = [each for each in running(operator) if each[0] is not other_than]
        return bool(found)

    operator.cluster.wait_until("an instance runs elsewhere", runs_elsewhere, PATIENCE_S)
    return found[0]


def assert_never_two(operator: Operator) -> None:
    lives = [life for unit in UNITS for life in all_lives(operator.cluster.machines, unit)]
    assert find_overlap(lives) == ()


def token(machine: Machine) -> str:
    return machine.path("/run/fleet/locks/the-one.env").read_text()


def test_one_runs_and_the_other_says_for_whom_it_waits_until_the_first_is_stopped(operator: Operator) -> None:
    [(machine, unit)] = running(operator)
    [waiting] = [each for each in UNITS if each != unit]
    listed = operator.cluster.fleetctl("list-units", "--fields=unit,active,sub", "--no-legend").stdout
    assert re.search(f"{waiting}\\s+inactive\\s+lock-wait", listed), listed
    operator.cluster.wait_until(
        "explain says who holds the lock",
        lambda: f"held by {unit} on " in operator.cluster.fleetctl("explain", waiting).stdout,
        PATIENCE_S,
    )
    assert token(machine).startswith("FLEET_LOCK_TOKEN=")
    first = token(machine)
    operator.cluster.fleetctl("stop", unit)
    new, now_running = wait_until_runs(operator, machine)
    assert now_running == waiting
    assert token(new) > first
    assert_never_two(operator)


def test_a_holder_that_is_cut_off_stops_before_the_other_starts(operator: Operator) -> None:
    [(cut, unit)] = running(operator)
    cut.run(["systemd-run", "--unit=reloading", "sh", "-c", "while :; do systemctl daemon-reload; sleep 1; done"])
    since_s = boot_now()
    cut.cut_network()
    new, now_running = wait_until_runs(operator, cut)
    cut.run(["systemctl", "start", unit], check=False)
    assert cut.main_pid(unit) == 0
    assert lives_end(operator, cut, unit) - since_s <= ISOLATION_S + 2
    process = new.main_pid(now_running)
    cut.heal_network()
    time.sleep(3 * TTL_S)
    assert new.main_pid(now_running) == process
    assert_never_two(operator)


def lives_end(operator: Operator, machine: Machine, unit: str) -> float:
    return all_lives([machine], unit)[-1][1]


def test_a_frozen_fleetd_keeps_no_lock_and_a_killed_one_loses_none(operator: Operator) -> None:
    [(machine, unit)] = running(operator)
    process = machine.main_pid(unit)
    machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
    operator.cluster.wait_ready()
    time.sleep(ISOLATION_S + 2)
    assert running(operator) == [(machine, unit)]
    assert machine.main_pid(unit) == process
    machine.run(["systemctl", "kill", "--signal=STOP", "--kill-whom=all", "fleet.service"])
    new, now_running = wait_until_runs(operator, machine)
    machine.run(["systemctl", "kill", "--signal=CONT", "--kill-whom=all", "fleet.service"])
    process = new.main_pid(now_running)
    time.sleep(3 * TTL_S)
    assert running(operator) == [(new, now_running)]
    assert new.main_pid(now_running) == process
    assert_never_two(operator)


def test_a_store_that_is_frozen_leaves_none_running_and_one_runs_when_it_is_back(operator: Operator) -> None:
    etcd = operator.cluster.etcd
    etcd.freeze()
    try:
        time.sleep(ISOLATION_S + STOP_S + 2)
        assert running(operator) == []
    finally:
        etcd.thaw()
    operator.cluster.wait_until("one runs again", lambda: len(running(operator)) == 1, PATIENCE_S)
    assert_never_two(operator)
