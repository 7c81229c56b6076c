"""The agent and units with Lock=: none runs without its lock, on this machine or another, and the token is there."""

import asyncio

from fleetd.api.locking import Asked, Held, Locking
from fleetd.membership.store_epoch import StoreEpoch
from fleetd.model.job_result import WAITS_FOR_LOCK
from fleetd.model.unit import UnitState
from tests.agent.machine import DAEMON, OTHER, MachineUnderTest
from tests.agent.test_isolation import beat, keep_beating

WEB, DB = "web.service", "db.service"
LOCKED = f"{DAEMON}[X-Fleet]\nLock=only\n"


async def make_other(machine: MachineUnderTest) -> Locking:
    """Another machine, which takes locks as well."""
    now = asyncio.get_running_loop().time
    epoch = StoreEpoch(machine.registry, "m2", now=now)
    epoch.accept(await epoch.check(0, await machine.store.revision()))
    return Locking(machine.registry, epoch, now, lambda: 1e9 + now())


def asked(name: str = "only", slots: int = 1) -> Asked:
    return Asked(name, 30.0, slots, "machine m2", "web.service on m2")


async def start_web(machine: MachineUnderTest) -> None:
    await machine.start()
    await beat(machine)
    await machine.place(WEB, 5, text=LOCKED)
    await machine.until_active(WEB, 5)


async def until_free(locking: Locking) -> Held:
    async with asyncio.timeout(120):
        return await locking.acquire(asked())


def waits(states: dict[str, UnitState]) -> bool:
    return WEB in states and states[WEB].result == WAITS_FOR_LOCK and "held by" in states[WEB].note


async def test_a_unit_runs_with_its_lock_which_it_gives_up_once_it_is_stopped(machine: MachineUnderTest) -> None:
    await start_web(machine)
    other = await make_other(machine)
    view = await other.read("only")
    [holder] = view.record.holders
    assert (holder.holder, holder.ttl_s) == ("web.service on m1", 45.0)
    assert (machine.directory / "locks/only.env").read_text() == f"FLEET_LOCK_TOKEN={holder.token}\n"
    await keep_beating(machine, 200)
    assert (await other.read("only")).record.holders == (holder,)
    await machine.withdraw(WEB, 6)
    await machine.until(lambda states: states[WEB].generation == 6)
    await asyncio.sleep(1)
    assert (await other.read("only")).record.holders == ()
    assert not (machine.directory / "locks/only.env").exists()


async def test_it_waits_for_a_lock_that_is_held_elsewhere_and_says_so(machine: MachineUnderTest) -> None:
    await machine.start()
    await beat(machine)
    other = await make_other(machine)
    held = await other.try_to_acquire(asked())
    assert held is not None
    await machine.place(WEB, 5, text=LOCKED)
    states = await machine.until(waits)
    assert states[WEB].note == "waits for lock only, held by web.service on m2"
    assert states[WEB].active == "inactive"
    machine.systemd.trigger(WEB)
    await asyncio.sleep(1)
    assert machine.systemd.pid(WEB) == 0
    await other.release(held.session)
    await machine.until_active(WEB, 5)


async def test_two_units_of_one_machine_have_it_one_after_the_other(machine: MachineUnderTest) -> None:
    await start_web(machine)
    await machine.place(DB, 6, text=LOCKED)
    await asyncio.sleep(5)
    assert machine.systemd.pid(DB) == 0
    await machine.withdraw(WEB, 7)
    await machine.until_active(DB, 6)
    assert machine.systemd.pid(WEB) == 0


async def test_a_lock_that_is_taken_away_stops_the_unit_which_has_it_again_later(machine: MachineUnderTest) -> None:
    await start_web(machine)
    other = await make_other(machine)
    await other.evict((await other.read("only")).sessions)
    await keep_beating(machine, 18)
    assert machine.systemd.pid(WEB) == 0
    await keep_beating(machine, 60)
    assert machine.systemd.pid(WEB)


async def test_a_store_that_does_not_answer_stops_it_and_it_starts_again(machine: MachineUnderTest) -> None:
    await start_web(machine)
    machine.store.is_down = True
    await asyncio.sleep(41)
    assert machine.systemd.pid(WEB) == 0
    machine.store.is_down = False
    await keep_beating(machine, 60)
    assert machine.systemd.pid(WEB)


async def test_a_restarted_fleetd_goes_on_with_the_lock(machine: MachineUnderTest) -> None:
    await start_web(machine)
    process = machine.systemd.pid(WEB)
    other = await make_other(machine)
    [holder] = (await other.read("only")).record.holders
    await machine.stop()
    await asyncio.sleep(12)
    await machine.start()
    await beat(machine)
    await keep_beating(machine, 100)
    assert machine.systemd.pid(WEB) == process
    assert (await other.read("only")).record.holders == (holder,)


async def test_a_unit_that_ends_or_fails_gives_its_lock_up(machine: MachineUnderTest) -> None:
    await start_web(machine)
    other = await make_other(machine)
    machine.systemd.crash(WEB)
    await asyncio.sleep(1)
    assert await until_free(other)


async def test_a_running_unit_gets_another_lock_only_after_it_has_stopped(machine: MachineUnderTest) -> None:
    await start_web(machine)
    process = machine.systemd.pid(WEB)
    await machine.place(WEB, 6, text=LOCKED.replace("only", "other"))
    await machine.until_active(WEB, 6)
    assert machine.systemd.pid(WEB) != process
    await asyncio.sleep(1)
    other = await make_other(machine)
    assert (await other.read("only")).record.holders == ()
    assert (await other.read("other")).record.holders
    await machine.place(WEB, 7, text=OTHER)
    await machine.until_active(WEB, 7)
    await asyncio.sleep(1)
    assert (await other.read("other")).record.holders == ()
