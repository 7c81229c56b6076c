"""The agent on an embedded store and a simulated systemd: one machine without faults."""

import asyncio

import pytest

from fleetd.model.unit import TargetState, UnitState
from fleetd.model.unitfile import hash_unit_file
from fleetd.registry.records import STATES
from fleetd.testing.simulated_systemd import Behaviour
from tests.agent.machine import DAEMON, MACHINE, ONESHOT, OTHER, MachineUnderTest

SLOW_STOP = "[Service]\nExecStart=/bin/daemon\nExecStop=/bin/sleep 0.1\n"


@pytest.mark.covers("2.1.3", "6.1.1", "6.1.2", "6.1.6", "6.2.2", "6.3.1", "6.3.3")
async def test_a_launched_unit_is_written_started_and_reported(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    state = await machine.until_active("web.service", 7)
    assert state == UnitState("loaded", "active", "running", hash_unit_file(DAEMON), TargetState.LAUNCHED, 7)
    assert machine.asked_to_act() == [("write", ("web.service",)), ("start", ("web.service",))]
    assert await machine.agent.running_units() == ("web.service",)


@pytest.mark.covers("4.5.4", "6.3.2", "9.5", "P.9")
async def test_published_states_are_on_the_machines_lease(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    item = await machine.store.get(machine.registry.key(STATES, MACHINE, "web.service"))
    assert item is not None
    assert item.lease == machine.registration.lease != 0


@pytest.mark.covers("2.1.2", "6.1.5")
async def test_a_loaded_unit_is_written_and_not_started(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7, "loaded")
    states = await machine.until(lambda states: "web.service" in states and states["web.service"].generation == 7)
    assert states["web.service"].target is TargetState.LOADED
    assert machine.asked_to_act() == [("write", ("web.service",))]


@pytest.mark.covers("6.1.9", "6.2.3")
async def test_a_stop_keeps_the_file_and_a_later_start_by_hand_is_left_alone(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.place("web.service", 8, "loaded")
    states = await machine.until(lambda states: states["web.service"].generation == 8)
    assert (states["web.service"].active, states["web.service"].target) == ("inactive", TargetState.LOADED)
    await machine.systemd.start("web.service")  # by hand, or by a timer
    await machine.until_active("web.service", 8)
    await machine.settle()
    assert machine.asked("stop") == [("stop", ("web.service",))]
    assert "web.service" in machine.systemd.read_files()


@pytest.mark.covers("10.2.5")
async def test_a_repeated_start_starts_an_inactive_unit_and_no_running_one(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place_all({"rests.service": DAEMON, "runs.service": DAEMON}, 7)
    await machine.until_active("rests.service", 7)
    await machine.until_active("runs.service", 7)
    pid = machine.systemd.pid("runs.service")
    machine.systemd.crash("rests.service")
    await machine.until(lambda states: states["rests.service"].active == "failed")
    await machine.place_all({"rests.service": DAEMON, "runs.service": DAEMON}, 8)
    await machine.until_active("rests.service", 8)
    await machine.until_active("runs.service", 8)
    assert machine.systemd.pid("runs.service") == pid


@pytest.mark.covers("2.10.5", "6.1.7", "6.3.4")
async def test_a_replaced_unit_is_written_then_restarted(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    del machine.systemd.calls[:]
    await machine.place("web.service", 8, text=OTHER)
    state = await machine.until_active("web.service", 8)
    assert [verb for verb, _ in machine.asked_to_act()] == ["write", "reload", "restart"]
    assert state.hash == hash_unit_file(OTHER)


@pytest.mark.covers("2.10.7", "4.5.4", "6.1.4", "6.2.4", "6.3.5", "10.7.11", "P.8")
async def test_a_destroyed_unit_is_stopped_then_removed_then_reported(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place("web.service", 7, text=SLOW_STOP)
    await machine.until_active("web.service", 7)
    await machine.withdraw("web.service", 8)
    states = await machine.until(lambda states: states["web.service"].active == "deactivating")
    assert states["web.service"].target is not TargetState.INACTIVE
    assert "web.service" in machine.systemd.read_files()
    states = await machine.until(lambda states: states["web.service"].target is TargetState.INACTIVE)
    assert (states["web.service"].generation, states["web.service"].active) == (8, "inactive")
    assert dict(machine.systemd.read_files()) == {}
    assert machine.asked("stop", "remove") == [("stop", ("web.service",)), ("remove", ("web.service",))]
    await machine.unplace("web.service")
    assert await machine.until(lambda states: not states) == {}
    assert machine.ledger.names == ()


async def test_a_machine_is_unassigned_when_its_last_placement_is_deleted(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    waiting = asyncio.create_task(machine.agent.wait_until_unassigned())
    await machine.withdraw("web.service", 8)
    await machine.until(lambda states: states["web.service"].target is TargetState.INACTIVE)
    await machine.settle()
    assert not waiting.done()
    await machine.unplace("web.service")
    await asyncio.wait_for(waiting, 1.0)


async def test_a_unit_placed_again_while_it_stops_is_started_again(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7, text=SLOW_STOP)
    await machine.until_active("web.service", 7)
    pid = machine.systemd.pid("web.service")
    await machine.withdraw("web.service", 7)
    await machine.until(lambda states: states["web.service"].active == "deactivating")
    await machine.place("web.service", 7, text=SLOW_STOP)
    await machine.until_active("web.service", 7)
    assert machine.systemd.pid("web.service") not in (0, pid)


async def test_a_superseded_unit_keeps_running_until_it_is_withdrawn(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.place("web.service", 9, "launched", OTHER, superseded=True)
    await machine.settle()
    assert machine.asked("stop") == []
    await machine.withdraw("web.service", 9)
    await machine.until(lambda states: states["web.service"].target is TargetState.INACTIVE)


TRIGGERS = {  # `starts` is a call for a unit that exists
    "path": "[Path]\nUnit=ssh.service\n",
    "socket": "[Socket]\nService=ssh.service\n",
    "timer": "[Timer]\nUnit=ssh.service\n",
}


@pytest.mark.covers("10.4.11")
@pytest.mark.parametrize("suffix", ["target", "slice", "swap", "mount", "path", "socket", "timer"])
async def test_a_unit_of_any_type_is_adopted_and_removed_completely(machine: MachineUnderTest, suffix: str) -> None:
    name = f"a.{suffix}"
    await machine.start()
    await machine.place(name, 7, text=TRIGGERS.get(suffix, "[Unit]\nDescription=any\n"))
    await machine.until_active(name, 7)
    await machine.restart()
    await machine.settle()
    assert machine.asked("write", "start") == [("write", (name,)), ("start", (name,))]
    await machine.withdraw(name, 8)
    await machine.until(lambda states: states[name].target is TargetState.INACTIVE)
    assert dict(machine.systemd.read_files()) == {}


async def test_a_completed_oneshot_is_reported_as_completed(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("job.service", 7, text=ONESHOT)
    states = await machine.until(lambda states: "job.service" in states and states["job.service"].completed)
    assert (states["job.service"].active, states["job.service"].generation) == ("inactive", 7)


@pytest.mark.covers("6.1.12")
async def test_a_failed_unit_reports_why_and_is_not_started_again(machine: MachineUnderTest) -> None:
    machine.systemd.behave("web.service", Behaviour(fails="exit-code"))
    await machine.start()
    await machine.place("web.service", 7)
    states = await machine.until(lambda states: "web.service" in states and states["web.service"].error != "")
    assert (states["web.service"].active, states["web.service"].generation) == ("failed", 7)
    assert "exit-code" in states["web.service"].error
    await machine.settle(1.2)
    assert machine.asked("start") == [("start", ("web.service",))]
    assert machine.asked("explain") == [("explain", ("web.service",))], "one failure is explained once"
    machine.systemd.behave("web.service", Behaviour())
    await machine.place("web.service", 8)
    assert (await machine.until_active("web.service", 8)).error == ""


async def test_each_failure_has_its_own_explanation(machine: MachineUnderTest) -> None:
    machine.systemd.call_s = 0.01  # the unit may fail again before the agent looks at it
    machine.systemd.behave("web.service", Behaviour(fails="exit-code"))
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until(lambda states: "web.service" in states and "exit-code" in states["web.service"].error)
    machine.systemd.behave("web.service", Behaviour(fails="timeout"))
    await machine.place("web.service", 8)
    states = await machine.until(lambda states: "timeout" in states["web.service"].error)
    assert states["web.service"].generation == 8


@pytest.mark.covers("P.7")
async def test_units_that_require_each_other_are_written_before_either_starts(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    needs_b = "[Unit]\nRequires=b.service\nAfter=b.service\n" + DAEMON
    await machine.place_all({"a.service": needs_b, "b.service": DAEMON}, 7)
    await machine.until_active("a.service", 7)
    await machine.until_active("b.service", 7)
    assert machine.asked_to_act()[0] == ("write", ("a.service", "b.service"))


@pytest.mark.covers("6.2.5", "P.3")
async def test_many_units_need_one_write_one_reload_and_few_observations(machine: MachineUnderTest) -> None:
    names = [f"unit-{number:03}.service" for number in range(128)]
    await machine.start()
    await machine.settle()
    del machine.systemd.calls[:]
    await machine.place_all(dict.fromkeys(names, DAEMON), 7)
    await machine.until(lambda states: sum(state.active == "active" for state in states.values()) == len(names))
    assert [names for _, names in machine.asked("write")] == [tuple(names)]
    assert len(machine.asked("start")) == len(names)
    assert len(machine.asked("reload")) <= 1
    assert len(machine.asked("observe")) <= 4


@pytest.mark.covers("6.1.1", "6.1.11", "6.3.2", "9.1", "9.3", "P.3", "R.8")
async def test_an_idle_agent_asks_neither_systemd_nor_the_store(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.settle()
    revision = await machine.store.revision()
    del machine.systemd.calls[:]
    for _ in range(3):
        machine.agent.heartbeat_answered(revision)
        await machine.settle()
    assert machine.systemd.calls == []
    assert await machine.store.revision() == revision


@pytest.mark.covers("6.3.5", "R.7")
@pytest.mark.parametrize("name", ["ssh.service", "fleet.service", "systemd-own.service", "dbus.service", "no-suffix"])
async def test_a_unit_that_is_not_ours_is_refused_and_never_changed(machine: MachineUnderTest, name: str) -> None:
    await machine.start()
    await machine.systemd.start("ssh.service")
    pid = machine.systemd.pid("ssh.service")
    del machine.systemd.calls[:]
    await machine.place(name, 7)
    states = await machine.until(lambda states: name in states)
    assert states[name].error != ""
    assert (states[name].active, states[name].hash) == ("inactive", "")
    await machine.withdraw(name, 8)
    await machine.until(lambda states: states[name].generation == 8)
    await machine.unplace(name)
    await machine.until(lambda states: not states)
    assert machine.asked_to_act() == []
    assert machine.systemd.pid("ssh.service") == pid != 0


@pytest.mark.covers("5.6.3")
async def test_agent_state_is_served_under_coreos_fleets_names(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("loaded.service", 7, "loaded")
    await machine.place("web.service", 8)
    await machine.until_active("web.service", 8)
    await machine.settle()
    described = machine.agent.describe()
    assert described.pop("UnitStatePublisher") == {"Cache": await machine.states(), "ToPublish": []}
    assert described == {
        "Agent": {
            "Cache": {"TargetStates": {"loaded.service": TargetState.LOADED, "web.service": TargetState.LAUNCHED}}
        },
        "UnitStateGenerator": {"Subscribed": ["loaded.service", "web.service"]},
    }


async def test_a_placement_made_while_the_machine_registers_is_carried_out(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.settle()

    async def register_again() -> None:
        machine.registration.lease = 0
        await machine.register()
        await machine.settle()  # the agent reads its placements again before systemd has answered

    machine.systemd.interruption = register_again
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
