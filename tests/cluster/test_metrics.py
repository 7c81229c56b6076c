"""What Prometheus reads from real machines."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contrib.testbed.machine import Machine
from tests.cluster.operator import SLEEPER, Operator, with_fleet

ASK = ["curl", "--silent", "--fail", "--unix-socket", "/run/fleet.sock", "http://fleet/metrics"]


def scrape(machine: Machine) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of one machine: (name, labels) → value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(machine.run(ASK).stdout)
        for sample in family.samples
    }


def labelled(samples: Any, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric, by the values of its labels, sorted by label name."""
    return {tuple(value for _, value in labels): number for (found, labels), number in samples.items() if found == name}


@pytest.mark.covers("4.8.1")
def test_the_leader_counts_the_cluster_and_each_machine_its_own_actions(operator: Operator) -> None:
    machines = operator.cluster.machines
    before = {machine.name: scrape(machine) for machine in machines}
    units = [f"u{number}.service" for number in range(6)]
    operator.start({**dict.fromkeys(units, SLEEPER), "far.service": with_fleet("MachineID=elsewhere")}, "--no-block")
    operator.wait_until_placed(*units)
    leader = operator.leader()
    after = {machine.name: scrape(machine) for machine in machines}
    for machine in machines:
        leads = after[machine.name]["fleet_engine_leader", ()]
        assert leads == (machine is leader)
        assert labelled(after[machine.name], "fleet_machines") == ({("ready",): 3} if leads else {})
    shown = after[leader.name]
    assert labelled(shown, "fleet_units") == {("launched", "launched"): 6, ("inactive", "launched"): 1}
    assert labelled(shown, "fleet_unit_allocations") == {("active",): 6}
    assert shown["fleet_engine_queue_length", ()] == 0
    assert shown["process_resident_memory_bytes", ()] < 80e6

    def done(name: str, **labels: str) -> float:
        key = (name, tuple(labels.items()))
        return sum(after[machine.name].get(key, 0) - before[machine.name].get(key, 0) for machine in machines)

    assert done("fleet_engine_task_count_total", type="attemptscheduleunit") == 6
    assert done("fleet_engine_reconcile_failure_count_total", type="schedule") == 1
    assert done("fleet_agent_steps_total", type="start") == 6
    assert done("fleet_agent_step_failures_total", type="start") == 0
    assert all(found["fleet_registered", ()] == 1 for found in after.values())
