"""Units with IsolationSec= on real machines: two of one never run at one moment, whatever is cut, frozen or killed.

Each process of the unit notes all the time that it is alive. All machines have one clock.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from contrib.testbed.root import CHECKOUT
from tests.cluster.alive import find_overlap, read_lives
from tests.cluster.operator import Operator

TTL_S = 4
ISOLATION_S, STOP_S = 6, 3
HOLD_S = ISOLATION_S + STOP_S + 5
PATIENCE_S = 60.0
STAYS_AWAY = (  # systemd does not start fleetd again
    "mkdir -p /run/systemd/system/fleet.service.d; cd /run/systemd/system/fleet.service.d; "
    "printf '[Service]\nRestart=no\n' > away.conf; systemctl daemon-reload; systemctl stop fleet.socket"
)
ONLY = "only.service"
SLACK_S = 2.0  # of a busy machine, within the 5 s that the leader waits


def unit(*, deaf: bool = False) -> str:
    command = f"/usr/bin/python3 -I {CHECKOUT}/tests/cluster/alive.py /var/lib/alive-%n{' deaf' * deaf}"
    return (
        f"[Service]\nExecStart={command}\nRestart=always\n"
        f"[X-Fleet]\nIsolationSec={ISOLATION_S}s\nIsolationStopSec={STOP_S}s\n"
    )


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(machines=3, config={"agent_ttl": f"{TTL_S}s"})


@pytest.fixture
def operator(cluster: Cluster, tmp_path: Path) -> Operator:
    return Operator(cluster, tmp_path)


def boot_now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lives(machine: Machine, name: str = ONLY) -> list[tuple[float, float]]:
    return read_lives(machine.root / f"var/lib/alive-{name}")


def all_lives(machines: Iterable[Machine], name: str = ONLY) -> list[tuple[float, float]]:
    return [life for machine in machines for life in lives(machine, name)]


def wait_until_elsewhere(operator: Operator, lost: Machine) -> Machine:
    """Wait until the unit runs on another machine, and return that."""
    others = [machine for machine in operator.cluster.machines if machine is not lost]
    operator.cluster.wait_until(
        f"{ONLY} runs elsewhere", lambda: any(machine.main_pid(ONLY) for machine in others), PATIENCE_S
    )
    return next(machine for machine in others if machine.main_pid(ONLY))


def assert_never_two(operator: Operator) -> None:
    assert find_overlap(all_lives(operator.cluster.machines)) == ()


def assert_stopped_in_time(machine: Machine, since_s: float, bound_s: float) -> None:
    """The unit has not lived on for longer than that since the machine was cut off."""
    assert lives(machine)[-1][1] - since_s <= bound_s + SLACK_S


def test_a_machine_that_is_cut_off_stops_the_unit_before_it_runs_elsewhere(operator: Operator) -> None:
    operator.start({ONLY: unit()})
    cut = operator.machine_of(ONLY)
    since_s = boot_now()
    cut.cut_network()
    new = wait_until_elsewhere(operator, cut)
    assert_stopped_in_time(cut, since_s, ISOLATION_S)
    started = cut.run(["systemctl", "start", ONLY], check=False)  # by hand, on the machine that is cut off
    assert cut.main_pid(ONLY) == 0, started
    cut.run(["systemctl", "daemon-reload"])
    cut.run(["systemctl", "restart", "fleet.service"], check=False)
    cut.run(["systemctl", "restart", ONLY], check=False)
    assert cut.main_pid(ONLY) == 0
    process = new.main_pid(ONLY)
    cut.heal_network()
    operator.cluster.wait_until(
        "it holds nothing back any more",
        lambda: not (cut.path("/run/fleet/isolation/isolated")).exists(),
        PATIENCE_S,
    )
    assert new.main_pid(ONLY) == process
    assert_never_two(operator)


def test_a_frozen_fleetd_keeps_nothing_running_even_if_systemd_is_reloaded_each_second(operator: Operator) -> None:
    operator.start({ONLY: unit(deaf=True)})
    frozen = operator.machine_of(ONLY)
    reloading = "while :; do systemctl daemon-reload; sleep 1; done"
    frozen.run(["systemd-run", "--unit=reloading", "sh", "-c", reloading])
    since_s = boot_now()
    frozen.run(["systemctl", "kill", "--signal=STOP", "--kill-whom=all", "fleet.service"])
    new = wait_until_elsewhere(operator, frozen)
    assert_stopped_in_time(frozen, since_s, ISOLATION_S + STOP_S)
    process = new.main_pid(ONLY)
    frozen.run(["systemctl", "kill", "--signal=CONT", "--kill-whom=all", "fleet.service"])
    operator.cluster.wait_ready()
    time.sleep(2 * TTL_S)
    frozen.run(["systemctl", "stop", "reloading.service"])
    assert new.main_pid(ONLY) == process
    assert_never_two(operator)


def test_a_fleetd_that_is_killed_or_updated_is_not_noticed_and_one_that_stays_away_is(operator: Operator) -> None:
    operator.start({ONLY: unit()})
    machine = operator.machine_of(ONLY)
    process = machine.main_pid(ONLY)
    for how in (["kill", "--signal=KILL", "--kill-whom=all"], ["restart"]):
        machine.run(["systemctl", *how, "fleet.service"])
        operator.cluster.wait_ready()
    time.sleep(ISOLATION_S + 2)
    assert machine.main_pid(ONLY) == process
    machine.run(["sh", "-c", STAYS_AWAY])
    machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])
    since_s = boot_now()
    wait_until_elsewhere(operator, machine)
    assert_stopped_in_time(machine, since_s, ISOLATION_S)
    assert_never_two(operator)


def test_a_store_that_is_frozen_stops_the_unit_everywhere_and_it_starts_again_once(operator: Operator) -> None:
    operator.start({ONLY: unit()})
    machine = operator.machine_of(ONLY)
    etcd = operator.cluster.etcd
    since_s = boot_now()
    etcd.freeze()
    try:
        time.sleep(ISOLATION_S + STOP_S + 2)
        assert operator.machines_of([ONLY]) == {ONLY: []}
        assert_stopped_in_time(machine, since_s, ISOLATION_S)
    finally:
        etcd.thaw()
    operator.cluster.wait_ready()
    operator.wait_until_placed(ONLY)
    assert_never_two(operator)


def test_after_a_restore_it_is_killed_in_time_where_the_store_does_not_know_it_and_starts_later(
    operator: Operator, tmp_path: Path
) -> None:
    etcd, snapshot = operator.cluster.etcd, tmp_path / "snapshot"
    operator.start({ONLY: unit(deaf=True)})
    old = operator.machine_of(ONLY)
    new = operator.other_machine(old)
    etcd.save(snapshot)
    operator.cluster.fleetctl("move", "--no-block", ONLY, new.id)
    operator.cluster.wait_until(
        "it is to stop", lambda: "deactivating" in old.run(["systemctl", "show", "-PActiveState", ONLY]).stdout
    )
    old.run(["systemctl", "kill", "--signal=KILL", ONLY])
    assert wait_until_elsewhere(operator, old) is new
    before = operator.processes([ONLY])
    time.sleep(TTL_S)  # so that every machine has seen the revision in a heartbeat
    since_s = boot_now()
    etcd.restore(snapshot)
    for machine in operator.cluster.machines:  # each has noticed it, or does so when it is back
        machine.run(["systemctl", "restart", "fleet.service"])
    operator.cluster.wait_until(
        "it runs anew", lambda: operator.processes([ONLY]).items() - before.items() != set(), PATIENCE_S
    )
    assert_never_two(operator)
    *_, known_to_nobody, anew = sorted(all_lives(operator.cluster.machines))
    assert known_to_nobody[1] - since_s <= ISOLATION_S + STOP_S + SLACK_S
    assert anew[0] - since_s >= HOLD_S
