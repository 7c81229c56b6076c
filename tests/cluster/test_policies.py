"""What units and fleet.conf say for the case that a machine is lost: how long it is waited for, what is run again."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contrib.testbed import Cluster
from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, SLEEPER, Operator, diary, with_fleet

TTL_S = 4
PARKED_S = 6
ONCE = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'date +%%s.%%N >> /var/lib/began-%n'\n"


@pytest.fixture
def person(new_cluster: Callable[..., Cluster], tmp_path: Path) -> Operator:
    """Somebody at a cluster of their own, of two machines, whose times to live are short."""
    config = {"agent_ttl": f"{TTL_S}s", "parked_ttl": f"{PARKED_S}s"}
    return Operator(new_cluster(machines=2, config=config), tmp_path)


def test_a_machine_that_is_back_before_the_delay_is_over_has_its_units_and_they_were_nowhere_else(
    person: Operator,
) -> None:
    person.start({"patient.service": with_fleet("FailoverDelay=2min", service=RECORDER), "other.service": SLEEPER})
    lost = person.machine_of("patient.service")
    survivor = _other(person, lost)
    lost.power_cut()
    _wait_for_reason(person, survivor, f"waits for machine {lost.id[:8]} to come back, until ")
    answer = person.cluster.fleetctl("status", "patient.service", on=survivor, check=False)
    assert "It waits for machine" in answer.stderr
    lost.boot()
    person.cluster.wait_ready()
    person.wait_until_placed("patient.service", "other.service")
    assert person.machine_of("patient.service") is lost
    assert len(diary(lost, "began", "patient.service")) == 2
    pid = lost.main_pid("patient.service")

    lost.cut_network()
    _wait_for_reason(person, survivor, "waits for machine")
    lost.heal_network()
    _wait_for_reason(person, survivor, f"machine {lost.id[:8]} came back in time")
    assert lost.main_pid("patient.service") == pid
    assert diary(survivor, "began", "patient.service") == []


def test_when_the_delay_is_over_the_unit_is_started_elsewhere_and_not_sooner(person: Operator) -> None:
    delay_s = 8
    person.start({"patient.service": with_fleet(f"FailoverDelay={delay_s}s", service=RECORDER)})
    lost = person.machine_of("patient.service")
    survivor = _other(person, lost)
    cut_s = time.time()
    lost.power_cut()
    person.cluster.wait_until(
        "it runs elsewhere", lambda: diary(survivor, "began", "patient.service") != [], 3 * TTL_S + delay_s + 10
    )
    (began_s,) = diary(survivor, "began", "patient.service")
    assert began_s - cut_s > delay_s
    lost.boot()
    person.cluster.wait_ready()
    assert person.machine_of("patient.service") is survivor


def test_a_machine_that_is_rebooted_in_order_is_waited_for(person: Operator) -> None:
    person.start({"patient.service": with_fleet("FailoverDelay=infinity", service=RECORDER), "other.service": SLEEPER})
    rebooted = person.machine_of("patient.service")
    survivor = _other(person, rebooted)
    rebooted.begin_shutdown()
    rebooted.wait_until_off()
    _wait_for_reason(person, survivor, f"waits for machine {rebooted.id[:8]} to come back, however long that takes")
    rebooted.boot()
    person.cluster.wait_ready()
    person.wait_until_placed("patient.service", "other.service")
    assert person.machine_of("patient.service") is rebooted
    assert diary(survivor, "began", "patient.service") == []


def test_a_machine_whose_fleetd_is_stopped_is_parked_for_its_time_and_then_counts_as_dead(person: Operator) -> None:
    plain = [f"u{number}.service" for number in range(3)]
    person.start({"patient.service": with_fleet("FailoverDelay=infinity")} | dict.fromkeys(plain, SLEEPER))
    parked = person.machine_of("patient.service")
    survivor = _other(person, parked)
    mine = next(unit for unit in plain if person.machine_of(unit) is parked)
    pids = parked.main_pids(["patient.service", mine])
    stopped_s = time.monotonic()
    parked.run(["systemctl", "stop", "fleet.socket", "fleet.service"])
    listed = person.cluster.fleetctl("list-machines", "--fields=machine,mode", "--full", on=survivor).stdout
    assert f"{parked.id}\tparked" in listed
    person.cluster.wait_until("one is started elsewhere", lambda: survivor.main_pid(mine) > 0, PARKED_S + 3 * TTL_S)
    assert time.monotonic() - stopped_s > PARKED_S
    _wait_for_reason(person, survivor, "waits for machine")
    assert parked.main_pids(["patient.service", mine]) == pids
    parked.run(["systemctl", "start", "fleet.socket", "fleet.service"])
    person.cluster.wait_ready()
    person.cluster.wait_until("the copy is retired", lambda: parked.main_pid(mine) == 0, 20)
    person.wait_until_placed("patient.service", *plain)
    assert parked.main_pid("patient.service") == pids["patient.service"]


@pytest.mark.covers("P.10")
def test_a_finished_oneshot_runs_again_elsewhere_only_where_that_is_asked_for(person: Operator) -> None:
    units = {"once.service": ONCE, "again.service": with_fleet("RerunAfterFailover=true", service=ONCE)}
    person.start(units)
    homes = {name: person.reports()[name]["machine"] for name in units}
    lost = person.cluster.machine(homes["again.service"])
    survivor = _other(person, lost)
    lost.power_cut()
    person.cluster.wait_until("it runs again", lambda: diary(survivor, "began", "again.service") != [], 3 * TTL_S + 10)
    assert sum(len(diary(machine, "began", "once.service")) for machine in person.cluster.machines) == 1
    assert [len(diary(machine, "began", "again.service")) for machine in (lost, survivor)] == [1, 1]


def _other(person: Operator, machine: Machine) -> Machine:
    return next(other for other in person.cluster.machines if other is not machine)


def _wait_for_reason(person: Operator, asked: Machine, reason: str) -> None:
    """Until the leader says so of patient.service."""
    person.cluster.wait_until(
        f"it says {reason!r}",
        lambda: str(person.reports(on=asked)["patient.service"].get("reason")).startswith(reason),
        4 * TTL_S + 10,
    )
