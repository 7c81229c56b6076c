"""Restarts in place: dependent units survive; after a crash at any moment each restart is made exactly once."""

import asyncio
from pathlib import Path

import pytest

from fleetd.agent.ledger import Ledger
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from fleetd.testing.simulated_units import Behaviour
from tests.agent.machine import DAEMON, MACHINE, ONESHOT, OTHER, MachineUnderTest

APP = "[Unit]\nRequires=base.service\nAfter=base.service\n" + DAEMON
LIMITED = DAEMON + "MemoryMax=10M\n"


async def ask_for_restart(machine: MachineUnderTest, name: str, generation: int, of: int, text: str = DAEMON) -> None:
    order = Placement(MACHINE, name, text, TargetState.LAUNCHED, generation, restart_of=of)
    await machine.put(order, MACHINE, name)


async def start_pair(machine: MachineUnderTest) -> dict[str, int]:
    """The processes of a base unit and an app that requires it."""
    await machine.start()
    await machine.place_all({"base.service": DAEMON, "app.service": APP}, 7)
    for name in ("base.service", "app.service"):
        await machine.until_active(name, 7)
    return dict(machine.systemd.processes())


@pytest.mark.covers("P.7")
async def test_a_unit_that_requires_a_restarted_one_gets_a_new_process(machine: MachineUnderTest) -> None:
    before = await start_pair(machine)
    await ask_for_restart(machine, "base.service", 9, of=7)
    await machine.until_active("base.service", 9)
    await machine.until_active("app.service", 7)
    after = machine.systemd.processes()
    assert sorted(after) == sorted(before)
    assert all(after[name] != before[name] for name in before)
    assert machine.asked("restart", "stop") == [("restart", ("base.service",))]


async def test_a_unit_that_requires_a_replaced_one_gets_a_new_process(machine: MachineUnderTest) -> None:
    before = await start_pair(machine)
    await machine.place("base.service", 9, text=OTHER)
    await machine.until_active("base.service", 9)
    await machine.until_active("app.service", 7)
    assert sorted(machine.systemd.processes()) == sorted(before)
    assert machine.asked("stop") == []


async def test_a_change_that_a_reload_applies_keeps_the_process(machine: MachineUnderTest) -> None:
    before = await start_pair(machine)
    del machine.systemd.calls[:]
    await machine.place("base.service", 9, text=LIMITED)
    await machine.until_active("base.service", 9)
    assert dict(machine.systemd.processes()) == before
    assert [verb for verb, _ in machine.asked_to_act()] == ["write", "reload"]
    await machine.settle()
    assert machine.ledger.get("base.service") == Ledger(machine.directory).get("base.service")
    assert not await machine.systemd.reload_needed(["base.service"])


async def test_a_restart_is_reported_when_the_new_process_runs(machine: MachineUnderTest) -> None:
    machine.systemd.behave("web.service", Behaviour(stop_s=2, start_s=1))
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    before = machine.systemd.pid("web.service")
    await ask_for_restart(machine, "web.service", 9, of=7)
    seen = []
    while machine.systemd.pid("web.service") in (0, before):
        seen.append((await machine.states())["web.service"])
        await asyncio.sleep(0.1)
    assert {(state.generation, state.target) for state in seen} == {(7, TargetState.LAUNCHED)}
    assert len(seen) >= 19
    state = await machine.until_active("web.service", 9)
    assert state.error == ""
    await machine.settle(3)
    assert len(machine.asked("restart")) == 1


async def test_a_completed_oneshot_runs_and_completes_again_after_a_restart(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("job.service", 7, text=ONESHOT)
    await machine.until(lambda states: "job.service" in states and states["job.service"].completed)
    await ask_for_restart(machine, "job.service", 9, of=7, text=ONESHOT)
    await machine.until(lambda states: (states["job.service"].generation, states["job.service"].completed) == (9, True))
    assert len(machine.asked("start")) == 2


async def test_a_failed_restart_is_reported_as_failed(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    machine.systemd.behave("web.service", Behaviour(fails="exit-code"))
    await ask_for_restart(machine, "web.service", 9, of=7)
    states = await machine.until(lambda states: states["web.service"].generation == 9)
    assert (states["web.service"].active, states["web.service"].result) == ("failed", "failed")
    await machine.settle(5)
    assert len(machine.asked("restart", "start")) == 2


async def test_a_restart_canceled_by_another_job_is_made_again(machine: MachineUnderTest) -> None:
    machine.systemd.behave("web.service", Behaviour(stop_s=0.5))
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    before = machine.systemd.pid("web.service")
    await ask_for_restart(machine, "web.service", 9, of=7)
    await machine.until(lambda states: states["web.service"].active == "deactivating")
    machine.systemd.cancel_job("web.service")
    await machine.until_active("web.service", 9)
    assert machine.systemd.pid("web.service") not in (0, before)


async def test_a_restart_refused_by_systemd_is_reported_and_changes_nothing(machine: MachineUnderTest) -> None:
    is_active = "[Unit]\nRefuseManualStop=yes\n" + DAEMON
    await machine.start()
    await machine.place("web.service", 7, text=is_active)
    await machine.until_active("web.service", 7)
    before = machine.systemd.pid("web.service")
    await ask_for_restart(machine, "web.service", 9, of=7, text=is_active)
    states = await machine.until(lambda states: states["web.service"].result == "refused")
    assert "may be requested by dependency only" in states["web.service"].error
    assert (states["web.service"].generation, states["web.service"].active) == (7, "active")
    assert machine.systemd.pid("web.service") == before


# Crashes: fleetd is killed at each call to systemd.


@pytest.mark.parametrize("text", [DAEMON, OTHER, LIMITED])
@pytest.mark.parametrize("death", range(24))
async def test_a_crash_at_any_moment_makes_each_restart_exactly_once(tmp_path: Path, text: str, death: int) -> None:
    """Each call to systemd takes 10 ms; `death` counts half calls from the operation until fleetd is killed."""
    machine = MachineUnderTest(tmp_path)
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    before = machine.systemd.pid("web.service")
    machine.systemd.call_s = 0.01
    machine.systemd.behave("web.service", Behaviour(stop_s=0.02))
    await ask_for_restart(machine, "web.service", 9, of=7 if text == DAEMON else 0, text=text)
    await asyncio.sleep(0.0001 + death * 0.005)
    assert machine.running
    machine.running.cancel()
    await asyncio.wait([machine.running])
    machine.running = None
    await machine.restart()
    await machine.until_active("web.service", 9)
    await machine.settle(10)
    assert machine.systemd.read_files()["web.service"] == text
    assert not await machine.systemd.reload_needed(["web.service"])
    invocations = int((await machine.systemd.details("web.service")).invocation, 16)
    assert invocations == (1 if text == LIMITED else 2), "it was started so often"
    assert (machine.systemd.pid("web.service") == before) == (text == LIMITED)
    await machine.stop()
    await machine.store.close()
