"""The agent and placements missing from the store: no unit stops before the leader has planned, or after a restore."""

from collections.abc import Awaitable, Callable

import pytest

from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.records import PLACEMENTS
from fleetd.store.protocol import Put
from tests.agent.machine import DAEMON, MACHINE, OTHER, MachineUnderTest

# A missing placement is no order to stop.


async def test_a_missing_placement_stops_nothing_before_the_leaders_acknowledgement(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.stop()
    await machine.unplace("web.service")
    await machine.start(synced=False)
    await machine.settle()
    assert (await machine.states())["web.service"].active == "active"
    await machine.take_in("session-of-another-run")
    await machine.settle()
    assert machine.systemd.pid("web.service") != 0
    await machine.take_in()
    assert await machine.until(lambda states: not states) == {}
    assert machine.systemd.pid("web.service") == 0


async def test_placements_before_the_acknowledgement_count_with_a_late_watch(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.stop()
    await machine.unplace("web.service")
    await machine.start(synced=False)
    machine.store.deaf_to = "placements"
    await machine.place("web.service", 7)
    await machine.take_in()
    await machine.settle()
    assert machine.asked("stop") == []


async def test_placements_written_between_two_reads_are_seen(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place_all({"web.service": DAEMON, "gone.service": DAEMON}, 7)
    await machine.until_active("web.service", 7)
    await machine.until_active("gone.service", 7)
    await machine.stop()
    await machine.unplace("web.service")
    await machine.unplace("gone.service")

    async def plan_for_the_machine() -> None:
        await machine.place("web.service", 7)
        await machine.take_in("session-2")

    machine.store.interruption = plan_for_the_machine
    await machine.start(synced=False)
    await machine.until(lambda states: "gone.service" not in states)
    assert machine.asked("stop") == [("stop", ("gone.service",))]


async def test_placements_are_carried_out_before_the_acknowledgement(machine: MachineUnderTest) -> None:
    await machine.start(synced=False)
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)


async def test_a_placement_that_cannot_be_read_leaves_its_unit_as_it_is(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.store.transact([], [Put(machine.registry.key(PLACEMENTS, MACHINE, "web.service"), b"{")])
    await machine.settle()
    assert "web.service" in caplog.text
    await machine.restart()
    await machine.settle()
    assert machine.asked("stop") == []
    await machine.place("web.service", 8, "loaded")
    await machine.until(lambda states: states["web.service"].generation == 8)
    assert machine.systemd.pid("web.service") == 0


async def work_elsewhere(machine: MachineUnderTest, revisions: int) -> None:
    """Raise the store's revision without a change for this machine."""
    for number in range(revisions):
        await machine.put(UnitState(), "m2", f"unit-{number}.service")


async def restore(machine: MachineUnderTest) -> None:
    """While fleetd is stopped, replace the store by one of a lower revision."""
    await work_elsewhere(machine, 30)
    machine.agent.heartbeat_answered(await machine.store.revision())
    await machine.settle()
    await machine.stop()
    await machine.store.close()
    machine.use_store("the-cluster")


async def set_up_anew(machine: MachineUnderTest) -> None:
    """Replace the store by another cluster's, of a higher revision."""
    await machine.stop()
    await machine.store.close()
    machine.use_store("another-cluster")
    await work_elsewhere(machine, 60)


@pytest.mark.parametrize("replace_store", [restore, set_up_anew])
async def test_a_restored_store_stops_starts_and_moves_nothing(
    machine: MachineUnderTest,
    caplog: pytest.LogCaptureFixture,
    replace_store: Callable[[MachineUnderTest], Awaitable[None]],
) -> None:
    await machine.start()
    texts = dict.fromkeys(("known.service", "replaced.service", "stopped.service", "unknown.service", "going.service"))
    await machine.place_all(dict.fromkeys(texts, DAEMON), 70)
    for name in texts:
        await machine.until_active(name, 70)
    pids = dict(machine.systemd.processes())
    await replace_store(machine)
    await machine.place("known.service", 3)
    await machine.place("replaced.service", 3, text=OTHER)
    await machine.place("stopped.service", 3, "loaded")
    await machine.place("going.service", 3, "inactive")
    await machine.place("elsewhere.service", 3)
    await machine.take_in("session-2")
    del machine.systemd.calls[:]
    await machine.start()
    states = await machine.until(lambda states: "elsewhere.service" in states)
    await machine.settle()
    assert machine.asked_to_act() == []
    assert machine.systemd.processes() == pids
    states = await machine.states()
    assert sorted(states) == sorted([*texts, "elsewhere.service"])
    assert (states["known.service"].generation, states["known.service"].error) == (3, "")
    for name in ("replaced.service", "stopped.service", "elsewhere.service"):
        assert "held as it was" in states[name].error
    for name in ("unknown.service", "going.service"):
        assert "does not know this unit" in states[name].error
    assert sum("the store was restored" in record.getMessage() for record in caplog.records) == 1

    await machine.restart()
    await machine.settle()
    assert machine.systemd.processes() == pids
    await machine.place("stopped.service", 9, "loaded")
    await machine.place("elsewhere.service", 9)
    await machine.place("unknown.service", 9)
    await machine.until_active("elsewhere.service", 9)
    assert (await machine.until_active("unknown.service", 9)).error == ""
    assert machine.systemd.pid("unknown.service") == pids["unknown.service"]
    await machine.until(lambda states: states["stopped.service"].active == "inactive")


async def test_a_unit_of_systemd_without_a_file_is_neither_adopted_nor_stopped(
    machine: MachineUnderTest,
) -> None:
    """After a restore, fleet once destroyed a unit with the name of a mount of the machine, and unmounted /tmp."""
    own = "system-getty.slice"
    await machine.start()
    await machine.systemd.start(own)
    await machine.place("web.service", 70)
    await machine.until_active("web.service", 70)
    await restore(machine)
    await machine.place(own, 3, text="[Unit]\nDescription=mine\n")
    await machine.take_in("session-2")
    del machine.systemd.calls[:]
    await machine.start()
    states = await machine.until(lambda states: own in states)
    await machine.settle()
    assert machine.ledger.get(own) is None
    await machine.withdraw(own, 4)
    await machine.settle()
    states = await machine.states()
    assert (states[own].load, states[own].target) == ("not-found", TargetState.INACTIVE)
    assert (await machine.systemd.observe([own]))[own].active == "active"
    assert machine.asked("stop") == []


async def test_an_empty_machine_takes_new_units_after_a_restore(machine: MachineUnderTest) -> None:
    await machine.start()
    await restore(machine)
    await machine.start()
    await machine.settle()
    await machine.place("web.service", 3)
    await machine.until_active("web.service", 3)


async def test_a_restore_while_fleetd_runs_is_noticed_with_the_next_heartbeat(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 70)
    await machine.until_active("web.service", 70)
    machine.agent.heartbeat_answered(await machine.store.revision() + 50)  # revisions that the restore will lose
    await machine.settle()
    machine.store.deaf_to = "placements"
    await machine.unplace("web.service")
    machine.agent.heartbeat_answered(await machine.store.revision())
    states = await machine.until(lambda states: states["web.service"].error != "")
    assert "does not know this unit" in states["web.service"].error
    assert machine.ledger.orphans == ("web.service",)
    assert machine.asked("stop") == []


async def test_an_orphan_that_stops_is_forgotten(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 70)
    await machine.until_active("web.service", 70)
    await restore(machine)
    await machine.start()
    await machine.until(lambda states: "web.service" in states and "does not know" in states["web.service"].error)
    machine.systemd.crash("web.service")
    assert await machine.until(lambda states: not states) == {}
    assert (machine.ledger.orphans, dict(machine.systemd.read_files())) == ((), {})
