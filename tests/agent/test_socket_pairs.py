"""A socket whose content changes while its service runs: both come up again, with new content where there is some."""

import pytest

from fleetd.model.unit import TargetState
from tests.agent.machine import DAEMON, OTHER, MachineUnderTest

SOCKET = "[Socket]\nListenStream=1\n"
CHANGED = "[Socket]\nListenStream=2\n"


async def start_pair(machine: MachineUnderTest, target: TargetState) -> int:
    """The process of talk.service, beside talk.socket."""
    await machine.start()
    await machine.place("talk.service", 4, TargetState.LOADED)
    await machine.settle(1)
    await machine.place("talk.socket", 5, text=SOCKET)
    await machine.until_active("talk.socket", 5)
    await machine.place("talk.service", 5, target)
    if target is TargetState.LOADED:
        await machine.settle(3)
        machine.systemd.trigger("talk.service")
        await machine.settle(3)
    else:
        await machine.until_active("talk.service", 5)
    del machine.systemd.calls[:]
    return machine.systemd.pid("talk.service")


@pytest.mark.parametrize("service", [DAEMON, OTHER])
async def test_a_changed_socket_is_restarted_with_its_service(machine: MachineUnderTest, service: str) -> None:
    before = await start_pair(machine, TargetState.LAUNCHED)
    if service != DAEMON:
        await machine.place_all({"talk.socket": CHANGED, "talk.service": service}, 7)
        await machine.until_active("talk.service", 7)
    else:
        await machine.place("talk.socket", 7, text=CHANGED)
    state = await machine.until_active("talk.socket", 7)
    await machine.settle(3)
    assert state.error == ""
    assert machine.systemd.pid("talk.service") not in (0, before)
    assert machine.asked("start", "stop", "restart") == [
        ("stop", ("talk.service",)),
        ("stop", ("talk.socket",)),
        ("start", ("talk.socket",)),
        ("start", ("talk.service",)),
    ]


async def test_a_service_that_is_only_loaded_is_left_to_its_socket(machine: MachineUnderTest) -> None:
    before = await start_pair(machine, TargetState.LOADED)
    assert before != 0
    await machine.place("talk.socket", 7, text=CHANGED)
    await machine.until_active("talk.socket", 7)
    await machine.settle(3)
    assert machine.systemd.pid("talk.service") == 0
    machine.systemd.trigger("talk.service")
    await machine.settle(3)
    assert machine.systemd.pid("talk.service") != 0


async def test_a_crash_between_stop_and_start_leaves_neither_stopped(machine: MachineUnderTest) -> None:
    await start_pair(machine, TargetState.LAUNCHED)
    await machine.place("talk.socket", 7, text=CHANGED)
    for _ in range(100):
        await machine.settle(0.01)
        if ("stop", ("talk.service",)) in machine.asked("stop"):
            break
    await machine.restart()
    await machine.until_active("talk.socket", 7)
    await machine.until_active("talk.service", 5)
