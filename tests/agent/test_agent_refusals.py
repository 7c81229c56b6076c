"""Units with a name that the machine has of its own: refused, and checked again with each heartbeat."""

import pytest

from tests.agent.machine import MachineUnderTest

PATH = "/etc/systemd/system/web.service"


@pytest.mark.covers("R.5")
@pytest.mark.parametrize(("path", "has"), [(PATH, PATH), ("", "web.service")])
async def test_a_refusal_is_published_as_long_as_its_cause_exists(
    machine: MachineUnderTest, path: str, has: str
) -> None:
    machine.systemd.own("web.service", path)
    await machine.start()
    await machine.place("web.service", 7)
    state = (await machine.until(lambda states: bool(states) and states["web.service"].refusal != ""))["web.service"]
    assert (state.refusal, state.load, state.generation) == (f"has its own {has}", "not-found", 0)
    assert "choose another name" in state.error
    await machine.withdraw("web.service", 8)
    state = (await machine.until(lambda states: states["web.service"].generation == 8))["web.service"]
    assert state.refusal == f"has its own {has}"
    machine.systemd.disown("web.service")
    machine.agent.heartbeat_answered(await machine.store.revision())
    state = (await machine.until(lambda states: not states["web.service"].refusal))["web.service"]
    assert state.error == ""
    await machine.place("web.service", 9)
    await machine.until_active("web.service", 9)


async def test_a_machine_without_refusals_checks_nothing_with_heartbeats(machine: MachineUnderTest) -> None:
    machine.systemd.own("web.service", PATH)
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until(lambda states: "web.service" in states)
    await machine.unplace("web.service")
    await machine.until(lambda states: "web.service" not in states)
    await machine.settle()
    machine.systemd.calls.clear()
    machine.agent.heartbeat_answered(await machine.store.revision())
    await machine.settle()
    assert machine.systemd.calls == []
