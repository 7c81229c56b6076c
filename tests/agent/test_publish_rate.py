"""A unit that restarts for ever causes one write a second; the result of an operation is never delayed."""

import asyncio

from fleetd.agent.publish_rate import BURST
from fleetd.model.unit import UnitState
from tests.agent.machine import MachineUnderTest
from tests.metrics import Counted

HELD_BACK = "fleet_agent_states_held_back_total"


async def flap(machine: MachineUnderTest, name: str, for_s: float) -> None:
    """Kill and start the unit ten times a second, as Restart= does; at the end it has failed."""
    for _ in range(int(for_s * 10)):
        machine.systemd.crash(name)
        await asyncio.sleep(0.05)
        await machine.systemd.start(name)
        await asyncio.sleep(0.05)
    machine.systemd.crash(name)


async def test_a_unit_that_restarts_for_ever_is_published_once_a_second(
    machine: MachineUnderTest,
) -> None:
    counted = Counted()
    await machine.start()
    await machine.place_all({"bad.service": "[Service]\nExecStart=/bin/daemon\n"}, 7)
    await machine.until_active("bad.service", 7)
    before = await machine.store.revision()
    await flap(machine, "bad.service", for_s=20)
    writes = await machine.store.revision() - before
    assert BURST <= writes <= 20 + BURST + 1
    assert counted(HELD_BACK) > 100
    await machine.until(lambda states: states["bad.service"].active == "failed")
    await machine.settle(5)
    assert (await machine.states())["bad.service"].active == "failed"


async def test_an_operation_on_a_restarting_unit_is_reported_at_once(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("bad.service", 7)
    await machine.until_active("bad.service", 7)
    await flap(machine, "bad.service", for_s=3)
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await machine.place("bad.service", 9)
    await machine.until_active("bad.service", 9)
    await machine.withdraw("bad.service", 11)
    gone = UnitState("not-found", "inactive", "dead", generation=11)
    await machine.until(lambda states: states["bad.service"] == gone)
    assert loop.time() - began_s < 0.5


async def test_occasional_changes_of_a_few_units_are_published_at_once(machine: MachineUnderTest) -> None:
    counted = Counted()
    await machine.start()
    names = [f"u{number}.service" for number in range(300)]
    await machine.place_all(dict.fromkeys(names[:100], "[Service]\nExecStart=/bin/daemon\n"), 7)
    await machine.until_active(names[99], 7)
    await machine.place_all(dict.fromkeys(names[100:200], "[Service]\nExecStart=/bin/daemon\n"), 8)
    await machine.until_active(names[199], 8)
    for _ in range(2):
        for name in names[:200]:
            machine.systemd.crash(name)
        await machine.until(lambda states: all(state.active == "failed" for state in states.values()))
        for name in names[:200]:
            await machine.systemd.start(name)
        await machine.until(lambda states: all(state.active == "active" for state in states.values()))
        await machine.settle(10)
    assert counted(HELD_BACK) == 0
