"""UpdateAction= on one machine: what is done about changed content of a unit that runs."""

import pytest

from fleetd.model.content import Content
from fleetd.model.group import UpdateAction
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState
from tests.agent.machine import DAEMON, MACHINE, OTHER, MachineUnderTest

WEB = "web.service"
RELOADS, STUBBORN = "ExecReload=/bin/kill -HUP $MAINPID\n", "ExecReload=/bin/false\n"
ACTING = ("write", "reload", "reload-unit", "restart", "start", "stop")


async def change(machine: MachineUnderTest, before: str, after: str, action: str) -> list[str]:
    """The content of a running unit changes. Returns what systemd was asked to do for that."""
    await machine.start()
    await machine.place(WEB, 7, text=before)
    await machine.until_active(WEB, 7)
    del machine.systemd.calls[:]
    order = Placement(MACHINE, WEB, after, TargetState.LAUNCHED, 9, update=UpdateAction(action), prove_after_s=10.0)
    await machine.put(order, MACHINE, WEB)
    state = await machine.until_active(WEB, 9)
    assert state.hash == Content(after).hash
    return [call.verb for call in machine.systemd.calls if call.verb in ACTING]


@pytest.mark.parametrize(
    ("after", "action", "verbs"),
    [
        (OTHER, "auto", "write reload restart"),
        (DAEMON + "MemoryMax=1G\n", "auto", "write reload"),
        (DAEMON + "MemoryMax=1G\n", "restart", "write reload restart"),
        (OTHER + RELOADS, "reload", "write reload reload-unit"),
        (OTHER, "none", "write reload"),
    ],
)
async def test_what_is_done_about_changed_content(
    machine: MachineUnderTest, after: str, action: str, verbs: str
) -> None:
    assert " ".join(await change(machine, DAEMON, after, action)) == verbs


@pytest.mark.parametrize("action", ["reload", "none"])
async def test_content_that_is_put_off_counts_from_the_next_start(machine: MachineUnderTest, action: str) -> None:
    await change(machine, DAEMON, DAEMON + "Restart=always\nExecReload=/bin/true\n", action)
    pid = machine.systemd.pid(WEB)
    assert pid
    machine.systemd.crash(WEB)
    await machine.settle(1.0)
    assert machine.systemd.pid(WEB) not in (0, pid), "systemd has read the new Restart="


async def test_a_unit_whose_reload_fails_is_not_proven_and_runs_on(machine: MachineUnderTest) -> None:
    await change(machine, DAEMON, OTHER + STUBBORN, "reload")
    states = await machine.until(lambda states: states[WEB].proof is not None, patience_s=20)
    proof = states[WEB].proof
    assert proof is not None
    assert proof.failed.startswith("its reload ended with: failed; last lines:\n")
    assert proof.failed.endswith("\nReloading web.service.")
    assert states[WEB].active == "active"


@pytest.mark.parametrize("reload", [RELOADS, ""])
async def test_a_unit_that_was_reloaded_or_cannot_be_is_proven_when_it_stays_active(
    machine: MachineUnderTest, reload: str
) -> None:
    await change(machine, DAEMON, OTHER + reload, "reload")
    states = await machine.until(lambda states: states[WEB].proof is not None, patience_s=20)
    assert states[WEB].proof is not None
    assert states[WEB].proof.failed == ""
