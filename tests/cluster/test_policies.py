"""What units and fleet.conf set for a lost machine: how long to wait for it, and what runs again."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, SLEEPER, Operator, recorded_times, with_fleet

TTL_S = 4
PARKED_S = 6
ONCE = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'date +%%s.%%N >> /var/lib/began-%n'\n"


@pytest.fixture
def operator(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """An operator of a new cluster of two machines with short times to live."""
    config = {"agent_ttl": f"{TTL_S}s", "parked_ttl": f"{PARKED_S}s"}
    return Operator(new_cluster(machines=2, config=config), tmp_path)


def test_a_machine_back_before_the_failover_delay_keeps_its_units(
    operator: Operator,
) -> None:
    operator.start({"patient.service": with_fleet("FailoverDelay=2min", service=RECORDER), "other.service": SLEEPER})
    lost = operator.machine_of("patient.service")
    survivor = operator.other_machine(lost)
    lost.power_cut()
    _wait_for_reason(operator, survivor, f"waits for machine {lost.id[:8]} to come back, until ")
    answer = operator.cluster.fleetctl("status", "patient.service", on=survivor, check=False)
    assert "It waits for machine" in answer.stderr
    lost.boot()
    operator.cluster.wait_ready()
    operator.wait_until_placed("patient.service", "other.service")
    assert operator.machine_of("patient.service") is lost
    assert len(recorded_times(lost, "began", "patient.service")) == 2
    pid = lost.main_pid("patient.service")

    lost.cut_network()
    _wait_for_reason(operator, survivor, "waits for machine")
    lost.heal_network()
    _wait_for_reason(operator, survivor, f"machine {lost.id[:8]} came back in time")
    assert lost.main_pid("patient.service") == pid
    assert recorded_times(survivor, "began", "patient.service") == []


def test_a_unit_fails_over_after_its_delay_and_not_earlier(operator: Operator) -> None:
    delay_s = 8
    operator.start({"patient.service": with_fleet(f"FailoverDelay={delay_s}s", service=RECORDER)})
    lost = operator.machine_of("patient.service")
    survivor = operator.other_machine(lost)
    cut_s = time.time()
    lost.power_cut()
    operator.cluster.wait_until(
        "it runs elsewhere",
        lambda: recorded_times(survivor, "began", "patient.service") != [],
        3 * TTL_S + delay_s + 10,
    )
    (began_s,) = recorded_times(survivor, "began", "patient.service")
    assert began_s - cut_s > delay_s
    lost.boot()
    operator.cluster.wait_ready()
    assert operator.machine_of("patient.service") is survivor


def test_a_cleanly_rebooted_machine_is_waited_for(operator: Operator) -> None:
    operator.start(
        {"patient.service": with_fleet("FailoverDelay=infinity", service=RECORDER), "other.service": SLEEPER}
    )
    rebooted = operator.machine_of("patient.service")
    survivor = operator.other_machine(rebooted)
    rebooted.begin_shutdown()
    rebooted.wait_until_off()
    _wait_for_reason(operator, survivor, f"waits for machine {rebooted.id[:8]} to come back, however long that takes")
    rebooted.boot()
    operator.cluster.wait_ready()
    operator.wait_until_placed("patient.service", "other.service")
    assert operator.machine_of("patient.service") is rebooted
    assert recorded_times(survivor, "began", "patient.service") == []


def test_a_machine_stays_parked_for_parked_ttl_and_then_counts_as_dead(operator: Operator) -> None:
    plain = [f"u{number}.service" for number in range(3)]
    operator.start({"patient.service": with_fleet("FailoverDelay=infinity")} | dict.fromkeys(plain, SLEEPER))
    parked = operator.machine_of("patient.service")
    survivor = operator.other_machine(parked)
    mine = next(unit for unit in plain if operator.machine_of(unit) is parked)
    pids = parked.main_pids(["patient.service", mine])
    stopped_s = time.monotonic()
    parked.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    listed = operator.cluster.fleetctl("list-machines", "--fields=machine,mode", "--full", on=survivor).stdout
    assert f"{parked.id}\tparked" in listed
    operator.cluster.wait_until("one is started elsewhere", lambda: survivor.main_pid(mine) > 0, PARKED_S + 3 * TTL_S)
    assert time.monotonic() - stopped_s > PARKED_S
    _wait_for_reason(operator, survivor, "waits for machine")
    assert parked.main_pids(["patient.service", mine]) == pids
    parked.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    operator.cluster.wait_ready()
    operator.cluster.wait_until("the superseded allocation has stopped", lambda: parked.main_pid(mine) == 0, 20)
    operator.wait_until_placed("patient.service", *plain)
    assert parked.main_pid("patient.service") == pids["patient.service"]


@pytest.mark.covers("P.10")
def test_a_completed_oneshot_fails_over_only_with_rerun_after_failover(operator: Operator) -> None:
    units = {"once.service": ONCE, "again.service": with_fleet("RerunAfterFailover=true", service=ONCE)}
    operator.start(units)
    machine_ids = {name: operator.reports()[name]["machine"] for name in units}
    lost = operator.cluster.machine(machine_ids["again.service"])
    survivor = operator.other_machine(lost)
    lost.power_cut()
    operator.cluster.wait_until(
        "it runs again", lambda: recorded_times(survivor, "began", "again.service") != [], 3 * TTL_S + 10
    )
    assert sum(len(recorded_times(machine, "began", "once.service")) for machine in operator.cluster.machines) == 1
    assert [len(recorded_times(machine, "began", "again.service")) for machine in (lost, survivor)] == [1, 1]


def _wait_for_reason(operator: Operator, asked: Machine, reason: str) -> None:
    """Wait until the leader gives this reason for patient.service."""
    operator.cluster.wait_until(
        f"it says {reason!r}",
        lambda: str(operator.reports(on=asked)["patient.service"].get("reason")).startswith(reason),
        4 * TTL_S + 10,
    )
