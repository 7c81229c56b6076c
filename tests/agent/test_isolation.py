"""The agent and units with IsolationSec=: they run only while a lease is renewed, and start again when that is over."""

import asyncio

from fleetd.agent.isolation import MAY_RUN_ELSEWHERE
from fleetd.model.unit import UnitState
from fleetd.store.protocol import Put
from fleetd.testing.simulated_units import Behaviour
from tests.agent.machine import DAEMON, MachineUnderTest

WEB, DB = "web.service", "db.service"
SINGLE = f"{DAEMON}[X-Fleet]\nIsolationSec=30s\n"
BEAT_S = 3.0


async def beat(machine: MachineUnderTest) -> None:
    """A heartbeat that was sent just now is answered."""
    now_s = asyncio.get_running_loop().time()
    machine.registration.renew(0.0, 3600.0, now_s)
    machine.agent.heartbeat_answered(await machine.store.revision())


async def keep_beating(machine: MachineUnderTest, for_s: float) -> None:
    for _ in range(int(for_s / BEAT_S)):
        await beat(machine)
        await asyncio.sleep(BEAT_S)


async def start_web(machine: MachineUnderTest, text: str = SINGLE) -> int:
    await machine.start()
    await beat(machine)
    await machine.place(WEB, 5, text=text)
    await machine.until_active(WEB, 5)
    return machine.systemd.pid(WEB)


async def come_back(machine: MachineUnderTest) -> None:
    """The machine registers again, and the leader acknowledges that."""
    now_s = asyncio.get_running_loop().time()
    machine.registration.renew(0.0, 3600.0, now_s)
    await machine.register()
    await machine.take_in()


def runs(states: dict[str, UnitState], name: str = WEB) -> bool:
    return name in states and states[name].active == "active"


async def test_heartbeats_keep_a_unit_running_and_nothing_is_asked_for_another(machine: MachineUnderTest) -> None:
    process = await start_web(machine)
    await machine.place(DB, 6)
    await machine.until_active(DB, 6)
    machine.systemd.calls.clear()
    await keep_beating(machine, 120)
    assert machine.systemd.pid(WEB) == process
    assert machine.asked("hold-lease") == [("hold-lease", (WEB,))] * 39  # one for each that was sent later
    await machine.withdraw(WEB, 7)
    await machine.until(lambda states: states[WEB].generation == 7)
    machine.systemd.calls.clear()
    await keep_beating(machine, 30)
    assert machine.asked("hold-lease", "drop-lease") == [("drop-lease", ())]


async def test_without_heartbeats_it_is_stopped_and_what_has_no_option_runs_on(machine: MachineUnderTest) -> None:
    await start_web(machine)
    await machine.place(DB, 6)
    await machine.until_active(DB, 6)
    process = machine.systemd.pid(DB)
    began_s = asyncio.get_running_loop().time()
    await asyncio.sleep(29.5)
    assert machine.systemd.pid(WEB)
    await asyncio.sleep(1)
    assert machine.systemd.pid(WEB) == 0
    machine.systemd.trigger(WEB)
    await asyncio.sleep(1)
    assert machine.systemd.pid(WEB) == 0
    assert machine.systemd.pid(DB) == process
    assert asyncio.get_running_loop().time() - began_s < 45


async def test_it_is_stopped_while_fleetd_is_dead_and_starts_again_when_all_is_well(machine: MachineUnderTest) -> None:
    await start_web(machine)
    await machine.stop()
    await asyncio.sleep(31)
    assert machine.systemd.isolation().stopped == (WEB,)
    await machine.start(synced=False)
    await beat(machine)
    await asyncio.sleep(5)
    assert machine.systemd.pid(WEB) == 0  # the leader has not acknowledged it: the unit may run elsewhere
    await machine.take_in()
    await beat(machine)
    await machine.until(runs)
    assert not machine.systemd.isolation().is_isolated


async def test_it_is_not_started_again_where_it_is_superseded(machine: MachineUnderTest) -> None:
    await start_web(machine)
    await asyncio.sleep(31)
    await machine.place(WEB, 5, text=SINGLE, superseded=True)
    await come_back(machine)
    await keep_beating(machine, 15)
    assert machine.systemd.pid(WEB) == 0
    await machine.place(DB, 8, text=SINGLE)
    await machine.until_active(DB, 8)  # the machine holds nothing back any more


async def test_what_was_stopped_before_is_not_started_again(machine: MachineUnderTest) -> None:
    await start_web(machine)
    await machine.systemd.stop(WEB)  # by a person
    await asyncio.sleep(31)
    await come_back(machine)
    await keep_beating(machine, 15)
    assert machine.systemd.pid(WEB) == 0
    assert not machine.systemd.isolation().is_isolated


async def test_nothing_is_started_while_the_machine_may_be_cut_off(machine: MachineUnderTest) -> None:
    await machine.start()
    await beat(machine)
    await asyncio.sleep(31)
    await machine.place(WEB, 5, text=SINGLE)
    await machine.place(DB, 6)
    await machine.until_active(DB, 6)
    assert machine.systemd.pid(WEB) == 0
    await beat(machine)
    await machine.until_active(WEB, 5)


async def test_a_unit_that_does_not_stop_is_waited_for(machine: MachineUnderTest) -> None:
    machine.systemd.behave(WEB, Behaviour(stop_s=1000.0))
    await start_web(machine)
    await asyncio.sleep(31)
    await come_back(machine)
    await beat(machine)
    await asyncio.sleep(2)
    assert machine.systemd.isolation().is_under_way
    await keep_beating(machine, 15)
    await machine.until(runs)


async def test_an_older_answer_renews_no_lease(machine: MachineUnderTest) -> None:
    """fleetd was frozen from before the answer came until after systemd has stopped the unit."""
    await start_web(machine)
    sent_s = asyncio.get_running_loop().time()
    await asyncio.sleep(31)
    machine.registration.renew(0.0, 3600.0, sent_s)
    machine.agent.heartbeat_answered(await machine.store.revision())
    await asyncio.sleep(5)
    assert machine.systemd.pid(WEB) == 0
    assert machine.systemd.isolation().is_isolated


async def test_a_running_unit_that_gets_the_option_is_leased_without_a_restart(machine: MachineUnderTest) -> None:
    process = await start_web(machine, DAEMON)
    await beat(machine)
    await machine.place(WEB, 6, text=SINGLE)
    await machine.until_active(WEB, 6)
    assert machine.systemd.pid(WEB) == process
    await asyncio.sleep(31)
    assert machine.systemd.pid(WEB) == 0


async def note_restore(machine: MachineUnderTest) -> None:
    """A server has noticed that the store was restored, just now or at any time."""
    await machine.store.transact([], [Put(machine.registry.history_key, b"another-9-5-0")])


async def restore(machine: MachineUnderTest) -> None:
    """While fleetd is stopped, the store is set back to when it was empty."""
    await machine.stop()
    await machine.store.close()
    machine.use_store("the-cluster")
    await note_restore(machine)


async def test_after_a_restore_it_waits_until_it_runs_nowhere_also_if_fleetd_is_restarted(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await beat(machine)
    await restore(machine)
    await machine.start()
    await keep_beating(machine, 21)
    await machine.restart()
    await machine.place(WEB, 5, text=SINGLE)
    await keep_beating(machine, 21)
    state = await machine.until(lambda states: WEB in states)
    assert (state[WEB].active, state[WEB].note) == ("inactive", MAY_RUN_ELSEWHERE)
    await keep_beating(machine, 9)  # 30 s, the 10 s of IsolationStopSec= and 5 s are over
    assert (await machine.until_active(WEB, 5)).note == ""


async def test_a_machine_that_has_booted_cannot_know_how_old_a_restore_is(machine: MachineUnderTest) -> None:
    await note_restore(machine)
    await machine.start()
    await machine.place(WEB, 5, text=SINGLE)
    await machine.place(DB, 6)
    await machine.until_active(DB, 6)
    await keep_beating(machine, 42)
    assert machine.systemd.pid(WEB) == 0
    await keep_beating(machine, 9)
    await machine.until_active(WEB, 5)


async def test_after_a_restore_no_heartbeat_keeps_a_unit_running_that_takes_long_to_stop(
    machine: MachineUnderTest,
) -> None:
    machine.systemd.behave(WEB, Behaviour(stop_s=1000.0))
    await start_web(machine)
    await beat(machine)
    await restore(machine)
    await machine.place(DB, 6, text=SINGLE)
    await machine.start()
    await keep_beating(machine, 12)
    assert machine.systemd.pid(WEB)
    await machine.restart()
    await keep_beating(machine, 15)
    assert machine.systemd.pid(WEB)
    await keep_beating(machine, 15)  # from the last heartbeat before the restore, 30 s and 10 s are over
    assert machine.systemd.pid(WEB) == 0
    await keep_beating(machine, 9)
    await machine.place(DB, 7, text=SINGLE)
    await machine.until_active(DB, 7)
    await keep_beating(machine, 60)  # heartbeats count again
    assert machine.systemd.pid(DB)
