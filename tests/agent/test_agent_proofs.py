"""Proofs of health: given when they are due, without polling, and the same after a restart of fleetd."""

import asyncio

import pytest

from fleetd.model.placement import Placement
from fleetd.model.unit import Proof, TargetState
from fleetd.model.unitfile import hash_unit_file
from fleetd.testing.simulated_units import Behaviour
from tests.agent.machine import DAEMON, MACHINE, ONESHOT, MachineUnderTest

WEB = "web.service"
CHANGED = DAEMON + "MemoryMax=10M\n"
CRASHES = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=50ms\nExecStart=/bin/sleep 0.5\n"


async def ask(
    machine: MachineUnderTest, text: str = DAEMON, generation: int = 7, *, within_s: float | None = 60.0
) -> None:
    """The leader places the unit, and asks whether it is active for ten seconds."""
    order = Placement(MACHINE, WEB, text, TargetState.LAUNCHED, generation, prove_after_s=10.0, prove_within_s=within_s)
    await machine.put(order, MACHINE, WEB)


async def proof(machine: MachineUnderTest) -> Proof | None:
    state = (await machine.states()).get(WEB)
    return state.proof if state else None


async def proven_after_s(machine: MachineUnderTest) -> float:
    """How long it takes from now until there is an answer, in whole seconds."""
    began_s = asyncio.get_running_loop().time()
    await machine.until(lambda states: WEB in states and states[WEB].proof is not None, patience_s=1000)
    return round(asyncio.get_running_loop().time() - began_s)


async def test_a_unit_is_proven_once_it_has_been_active_so_long(machine: MachineUnderTest) -> None:
    machine.systemd.behave(WEB, Behaviour(start_s=3))
    await machine.start()
    await ask(machine)
    assert await proven_after_s(machine) == 13
    invocation = (await machine.systemd.last_run(WEB)).invocation
    assert await proof(machine) == Proof(7, hash_unit_file(DAEMON), invocation)


async def test_systemd_is_not_polled_for_a_proof_and_not_asked_without_the_question(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await machine.until_active(WEB, 7)
    await asyncio.sleep(100)
    assert machine.asked("details", "last-run") == []
    await ask(machine, generation=9)
    await asyncio.sleep(1)
    del machine.systemd.calls[:]
    await asyncio.sleep(100)
    assert len(machine.asked("details", "last-run")) <= 1
    assert await proof(machine) is not None


async def test_a_unit_that_was_active_before_the_question_is_proven_at_once(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await asyncio.sleep(20)
    await ask(machine)
    assert await proven_after_s(machine) == 0


async def test_the_time_goes_on_while_fleetd_is_restarted(machine: MachineUnderTest) -> None:
    await machine.start()
    await ask(machine)
    await asyncio.sleep(4)
    await machine.stop()
    await asyncio.sleep(3)
    await machine.start()
    assert await proven_after_s(machine) == 3
    given = await proof(machine)
    await machine.restart()
    assert await proven_after_s(machine) == 0
    assert await proof(machine) == given


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_change_that_a_daemon_reload_applies_has_to_settle(machine: MachineUnderTest, restarts: bool) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await asyncio.sleep(20)
    await ask(machine, CHANGED, 9)
    if restarts:
        await asyncio.sleep(4)
        await machine.restart()
    assert await proven_after_s(machine) == (6 if restarts else 10)
    assert (await proof(machine)).hash == hash_unit_file(CHANGED)


async def test_a_crash_loop_is_never_proven_and_is_told(machine: MachineUnderTest) -> None:
    await machine.start()
    await ask(machine, CRASHES)
    answers = []
    for _ in range(300):
        await asyncio.sleep(0.37)
        answers.append(await proof(machine))
    words = "systemd restarted it before it had been active for 10 s; last lines:\nStarted web.service."
    assert {answer for answer in answers if answer} == {Proof(7, hash_unit_file(CRASHES), failed=words)}
    assert (await machine.systemd.last_run(WEB)).restarts > 100


async def test_a_restart_before_the_change_does_not_count_against_it(machine: MachineUnderTest) -> None:
    restarted = DAEMON + "Restart=always\nRestartSec=50ms\n"
    await machine.start()
    await machine.place(WEB, 7, text=restarted)
    await machine.until_active(WEB, 7)
    machine.systemd.crash(WEB)
    await asyncio.sleep(1)
    assert (await machine.systemd.last_run(WEB)).restarts == 1
    await ask(machine, restarted + "MemoryMax=10M\n", 9)
    assert await proven_after_s(machine) == 10
    assert (await proof(machine)).failed == ""


async def test_a_unit_that_does_not_come_up_has_failed_at_the_deadline(machine: MachineUnderTest) -> None:
    machine.systemd.behave(WEB, Behaviour(start_s=1e9))
    await machine.start()
    await ask(machine)
    await asyncio.sleep(20)
    await machine.restart()
    assert await proven_after_s(machine) == 40
    assert (await proof(machine)).failed == "it was not active for 10 s within 60 s"


async def test_a_unit_that_fails_and_one_that_systemd_refuses_are_told_at_once(machine: MachineUnderTest) -> None:
    machine.systemd.behave(WEB, Behaviour(fails="exit-code"))
    await machine.start()
    await ask(machine)
    assert await proven_after_s(machine) == 0
    assert (await proof(machine)).failed == "exit-code; last lines:\nweb.service: Failed with result 'exit-code'."
    machine.systemd.behave(WEB, Behaviour(refusal="bad setting"))
    await ask(machine, generation=9)
    await machine.until(lambda states: states[WEB].proof is not None and states[WEB].proof.generation == 9)
    assert (await proof(machine)).failed == "start web.service: bad setting"


async def test_a_failure_is_told_without_an_explanation_that_does_not_come_in_time(machine: MachineUnderTest) -> None:
    machine.systemd.has_slow_journal = True
    await machine.start()
    await ask(machine, CRASHES)
    began_s = asyncio.get_running_loop().time()
    await machine.until(lambda states: WEB in states and states[WEB].proof is not None)
    assert 1.0 <= asyncio.get_running_loop().time() - began_s < 3.0
    assert (await proof(machine)).failed == "systemd restarted it before it had been active for 10 s"


async def test_a_oneshot_is_proven_when_it_has_completed(machine: MachineUnderTest) -> None:
    machine.systemd.behave(WEB, Behaviour(start_s=100))
    await machine.start()
    await ask(machine, ONESHOT)
    assert await proven_after_s(machine) == 100
    assert (await proof(machine)).failed == ""


async def test_a_unit_that_is_restarted_for_its_content_is_proven_in_its_new_run(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place(WEB, 7)
    await asyncio.sleep(20)
    before = (await machine.systemd.last_run(WEB)).invocation
    await ask(machine, DAEMON.replace("daemon", "other"), 9)
    assert await proven_after_s(machine) == 10
    answer = await proof(machine)
    assert answer.invocation not in ("", before)
    assert answer.generation == 9
