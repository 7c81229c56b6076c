"""The agent's counters of passes and actions."""

import pytest

from tests.agent.machine import DAEMON, MachineUnderTest
from tests.metrics import Counted

STEPS = "fleet_agent_steps_total"
FAILURES = "fleet_agent_step_failures_total"


async def test_actions_and_failures_are_counted_by_kind(machine: MachineUnderTest) -> None:
    counted = Counted()
    machine.systemd.bad_on_disk = ["bad.service"]
    await machine.start()
    await machine.place_all(dict.fromkeys(("bad.service", "good.service"), DAEMON), 7)
    await machine.until_active("good.service", 7)
    await machine.until(lambda states: "bad.service" in states)
    assert (counted(STEPS, type="write"), counted(FAILURES, type="write")) == (2, 1)
    assert (counted(STEPS, type="start"), counted(FAILURES, type="start")) == (2, 0)
    machine.systemd.bad_on_disk = []
    await machine.until_active("bad.service", 7)
    await machine.withdraw("good.service", 8)
    await machine.until(lambda states: states["good.service"].load == "not-found")
    assert (counted(STEPS, type="stop"), counted(STEPS, type="remove")) == (1, 1)
    assert (counted(FAILURES, type="stop"), counted(FAILURES, type="remove")) == (0, 0)


async def test_a_refused_reload_counts_each_time_it_is_logged(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted()
    machine.systemd.refuses_reload = True
    await machine.start()
    await machine.place("web.service", 7, text=DAEMON + "\n[Install]\nWantedBy=multi-user.target\n")
    await machine.until(lambda states: "reload" in states["web.service"].error if "web.service" in states else False)
    assert counted(FAILURES, type="reload") == caplog.text.count("Access denied") > 0
    assert counted(FAILURES, type="start") == 0


async def test_passes_are_counted_by_result(machine: MachineUnderTest) -> None:
    counted = Counted()
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    done = counted("fleet_agent_passes_total", result="done")
    assert done >= 2
    assert counted("fleet_agent_passes_total", result="failed") == 0
    machine.systemd.lose_bus(for_s=0.5)
    await machine.place("web.service", 8)
    await machine.until_active("web.service", 8)
    failed = counted("fleet_agent_passes_total", result="failed")
    assert failed >= 1
    passes = counted("fleet_agent_passes_total", result="done") + failed
    assert counted("fleet_agent_pass_duration_seconds_count") == passes
