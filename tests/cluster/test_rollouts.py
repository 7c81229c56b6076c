"""Rollouts on real machines: a group changes one member after the other, also when its leader is killed meanwhile."""

import itertools
import json

import pytest

from contrib.testbed.machine import Machine
from tests.cluster.operator import RECORDER, Operator, recorded_times, with_fleet

GROUP = "roll@.service"
UNITS = tuple(f"roll@{number}.service" for number in (1, 2, 3))
TEXT = with_fleet("MaxUnavailable=1", "UpdateSettleSec=1s", "UpdateDeadlineSec=30s", service=RECORDER)


@pytest.fixture
def group(operator: Operator) -> Operator:
    """Three instances, one on each machine."""
    operator.start(dict.fromkeys(UNITS, TEXT))
    operator.wait_until_placed(*UNITS)
    assert len({machine.name for machine in map(operator.machine_of, UNITS)}) == 3
    for unit in UNITS:
        for machine in operator.cluster.machines:
            for what in ("began", "ended"):
                (machine.root / f"var/lib/{what}-{unit}").unlink(missing_ok=True)
    return operator


def outages(operator: Operator) -> list[tuple[float, float]]:
    """From when to when instances did not run, in order. Each instance has to run now, where it ran before."""
    found = []
    for unit in UNITS:
        machine = operator.machine_of(unit)
        found += list(zip(recorded_times(machine, "ended", unit), recorded_times(machine, "began", unit), strict=True))
    return sorted(found)


def assert_one_after_the_other(found: list[tuple[float, float]]) -> None:
    for (_, began), (ended, _) in itertools.pairwise(found):
        assert began < ended, f"two instances were down at the same time: {found}"


def kill_fleetd(machine: Machine) -> None:
    machine.run(["systemctl", "kill", "--signal=KILL", "--kill-whom=all", "fleet.service"])


def test_a_restart_takes_one_instance_after_the_other(group: Operator) -> None:
    before = group.pids(*UNITS)
    told = group.cluster.fleetctl("rollout", "restart", GROUP).stdout.splitlines()
    assert [line.split(" on ")[0] for line in told] == [*UNITS, f"{GROUP}: done"]
    assert all(" proven after " in line for line in told[:-1])
    after = group.pids(*UNITS)
    assert all(before[unit] != after[unit] for unit in UNITS)
    found = outages(group)
    assert len(found) == 3
    assert_one_after_the_other(found)


def test_a_content_that_fails_is_given_up_after_the_first_instance(group: Operator) -> None:
    pids = group.pids(*UNITS)
    bad = TEXT.replace("ExecStart=/bin/sleep infinity", "ExecStart=/bin/false")
    body = json.dumps({"units": [{"name": unit, "text": bad} for unit in UNITS]})
    post = ["curl", "-s", "-f", "--unix-socket", "/run/fleet.sock", "-H", "Content-Type: application/json"]
    group.cluster.machines[0].run([*post, "-d", body, "http://fleet/fleet/v2/apply"])
    result = group.cluster.fleetctl("rollout", "status", "--wait", GROUP, check=False)
    assert result.returncode == 1
    assert f"{GROUP}: reverted to the former content because {UNITS[0]} failed on" in result.stderr
    group.wait_until_placed(*UNITS)
    after = group.pids(*UNITS)
    assert [unit for unit in UNITS if pids[unit] != after[unit]] == [UNITS[0]]


@pytest.mark.covers("B.8", "C.4")
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_leader_killed_in_the_middle_is_followed_by_one_that_goes_on(group: Operator, steps: int) -> None:
    leader = group.leader()
    other = group.other_machine(leader)
    group.cluster.fleetctl("rollout", "restart", "--no-block", GROUP, on=other)

    def have_begun() -> bool:
        return sum(len(recorded_times(m, "began", unit)) for m in group.cluster.machines for unit in UNITS) >= steps

    group.cluster.wait_until(f"{steps} instances restarted", have_begun, 30)
    kill_fleetd(leader)
    told = group.cluster.fleetctl("rollout", "status", "--wait", GROUP, on=other)
    assert told.stdout.splitlines()[-1] == f"{GROUP}: done"
    found = outages(group)
    assert len(found) == 3, "each of them once"
    assert_one_after_the_other(found)


def test_a_change_is_charged_with_the_instances_that_systemd_restarts_along(operator: Operator) -> None:
    """All of base@ may be down at once, of roll@, which is restarted with it, one."""
    numbers = (1, 2, 3)
    bases = {f"base@{number}.service": with_fleet("MaxUnavailable=3", "UpdateSettleSec=1s") for number in numbers}
    dependents = {
        f"roll@{number}.service": with_fleet(
            "MaxUnavailable=1",
            f"MachineOf=base@{number}.service",
            service=f"[Unit]\nRequires=base@{number}.service\nAfter=base@{number}.service\n{RECORDER}",
        )
        for number in numbers
    }
    operator.start(bases)
    operator.start(dependents)
    operator.wait_until_placed(*bases, *dependents)
    began = {unit: len(recorded_times(operator.machine_of(unit), "began", unit)) for unit in UNITS}
    for unit in UNITS:
        (operator.machine_of(unit).root / f"var/lib/ended-{unit}").unlink(missing_ok=True)
    told = operator.cluster.fleetctl("rollout", "restart", "base@.service").stdout.splitlines()
    assert told[-1] == "base@.service: done"
    operator.wait_until_placed(*bases, *dependents)
    found = []
    for unit in UNITS:
        machine = operator.machine_of(unit)
        restarts = recorded_times(machine, "began", unit)[began[unit] :]
        found += list(zip(recorded_times(machine, "ended", unit), restarts, strict=True))
    assert len(found) == 3
    assert_one_after_the_other(sorted(found))


def test_content_whose_machine_is_lost_is_given_up_and_does_not_go_on_to_other_machines(group: Operator) -> None:
    """The update cuts the power of its machine, as one that crashes the kernel would."""
    settled = TEXT.replace("UpdateSettleSec=1s", "UpdateSettleSec=8s")
    bad = settled.replace("/bin/sleep infinity", "/bin/sleep 100000")
    body = json.dumps({"units": [{"name": unit, "text": bad} for unit in UNITS]})
    post = ["curl", "-s", "-f", "--unix-socket", "/run/fleet.sock", "-H", "Content-Type: application/json"]
    doomed = group.machine_of(UNITS[0])
    other = group.other_machine(doomed)
    other.run([*post, "-d", body, "http://fleet/fleet/v2/apply"])
    group.cluster.wait_until(
        "the first instance restarted", lambda: len(recorded_times(doomed, "began", UNITS[0])) >= 1, 30
    )
    doomed.power_cut()
    try:
        result = group.cluster.fleetctl("rollout", "status", "--wait", GROUP, on=other, check=False)
        assert result.returncode == 1
        assert "was lost within" in result.stderr
        left = [machine for machine in group.cluster.machines if machine is not doomed]
        running = {machine.show(unit, "ExecStart") for machine in left for unit in UNITS}
        assert not [line for line in running if "100000" in line]
    finally:
        doomed.boot()
        group.cluster.wait_ready()
