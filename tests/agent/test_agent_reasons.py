"""Failed jobs: systemd's reason is published at once, and refused jobs are retried."""

import asyncio

import pytest

from fleetd.model.unit import UnitState
from tests.agent.machine import DAEMON, ONESHOT, MachineUnderTest

ABSENT = "/no/such/path"
CONDITION = f"[Unit]\nConditionPathExists={ABSENT}\n"
ASSERTION = f"[Unit]\nAssertPathExists={ABSENT}\n"
TIMER = "[Timer]\nOnActiveSec=1h\n"


async def until_result(machine: MachineUnderTest, name: str, result: str) -> UnitState:
    states = await machine.until(lambda states: name in states and states[name].result == result)
    return states[name]


@pytest.mark.parametrize("text", [DAEMON, ONESHOT])
async def test_an_unmet_condition_is_reported_and_is_no_failure(machine: MachineUnderTest, text: str) -> None:
    await machine.start()
    await machine.place("web.service", 7, text=CONDITION + text)
    state = await until_result(machine, "web.service", "condition")
    assert (state.active, state.generation, state.error, state.completed) == ("inactive", 7, "", False)
    assert f"(ConditionPathExists={ABSENT})" in state.note
    await machine.restart()
    await machine.settle(5)
    state = (await machine.states())["web.service"]
    assert (state.result, state.error, state.completed) == ("condition", "", False)
    assert ABSENT in state.note
    assert len(machine.asked("start")) == 1
    machine.systemd.set_path(ABSENT, exists=True)
    await machine.place("web.service", 9, text=CONDITION + text)
    done = await machine.until(lambda states: (states["web.service"].generation, states["web.service"].note) == (9, ""))
    assert done["web.service"].result == ""


async def test_a_condition_met_at_a_later_start_by_a_timer_is_reported(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7, text=CONDITION + DAEMON)
    await until_result(machine, "web.service", "condition")
    machine.systemd.set_path(ABSENT, exists=True)
    machine.systemd.trigger("web.service")
    state = await machine.until_active("web.service", 7)
    assert (state.result, state.note) == ("", "")


async def test_an_unmet_assertion_is_a_failure_and_is_not_retried(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7, text=ASSERTION + DAEMON)
    state = await until_result(machine, "web.service", "assert")
    assert (state.active, state.generation, state.note) == ("inactive", 7, "")
    assert "asserts failed" in state.error
    await machine.settle(100)
    assert len(machine.asked("start")) == 1


async def test_a_timer_without_its_service_says_so_and_starts_with_it(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place("tick.timer", 7, text=TIMER)
    state = await until_result(machine, "tick.timer", "refused")
    assert "Refusing to start, unit tick.service to trigger not loaded." in state.error
    assert state.generation == 0
    await machine.settle(40)  # until its next retry is far away
    began_s = asyncio.get_running_loop().time()
    await machine.place("tick.service", 8, "loaded")
    await machine.until_active("tick.timer", 7)
    assert asyncio.get_running_loop().time() - began_s < 0.5


async def test_a_socket_is_retried_until_its_running_service_has_stopped(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("talk.service", 7)
    await machine.until_active("talk.service", 7)
    await machine.place("talk.socket", 8, text="[Socket]\nListenStream=/run/talk.sock\n")
    state = await until_result(machine, "talk.socket", "refused")
    assert "Socket service talk.service already active, refusing." in state.error
    await machine.place("talk.service", 9, "loaded")
    await machine.until(lambda states: states["talk.service"].active == "inactive")
    await machine.settle(4)
    assert (await machine.states())["talk.socket"].active == "active"


async def test_a_socket_and_its_service_start_together_in_any_name_order(machine: MachineUnderTest) -> None:
    await machine.start()
    pair = {"web.socket": "[Socket]\nService=b-web.service\nListenStream=/run/web.sock\n", "b-web.service": DAEMON}
    await machine.place_all(pair, 7)
    for name in pair:
        assert (await machine.until_active(name, 7)).error == ""


async def test_a_stop_that_systemd_refuses_is_reported_at_once(machine: MachineUnderTest) -> None:
    text = "[Unit]\nRefuseManualStop=yes\n" + DAEMON
    await machine.start()
    await machine.place("web.service", 7, text=text)
    await machine.until_active("web.service", 7)
    await machine.place("web.service", 9, "loaded", text=text)
    state = await until_result(machine, "web.service", "refused")
    assert "may be requested by dependency only" in state.error
    assert (state.active, state.generation) == ("active", 7)


async def test_a_service_that_ends_at_once_with_success_reports_a_done_job(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7, text="[Service]\nExecStart=/bin/true\n")
    state = await until_result(machine, "web.service", "done")
    assert (state.active, state.generation, state.error) == ("inactive", 7, "")


async def test_apps_start_after_their_databases_in_any_name_order(machine: MachineUnderTest) -> None:
    """As after a power cut: all placements are there at once, sorted by name."""
    app = "[Unit]\nAfter=z-db.service\n" + DAEMON
    await machine.place_all(
        {"a-app.service": app, **{f"m{n}.service": DAEMON for n in range(60)}, "z-db.service": DAEMON}, 7
    )
    await machine.start()
    await machine.until_active("a-app.service", 7)
    starts = [name for _, (name,) in machine.asked("start")]
    assert starts.index("z-db.service") < starts.index("a-app.service")
