"""Actions that fail on one machine: each failure affects only its unit, is reported and is retried."""

import pytest

from fleetd.model.unit import TargetState
from fleetd.model.unitfile import hash_unit_file
from fleetd.testing.simulated_systemd import Behaviour
from tests.agent.machine import DAEMON, ONESHOT, OTHER, MachineUnderTest

ENABLED = DAEMON + "\n[Install]\nWantedBy=multi-user.target\n"


@pytest.mark.covers("6.1.13", "R.4")
async def test_one_file_that_cannot_be_written_holds_up_no_other(machine: MachineUnderTest) -> None:
    machine.systemd.bad_on_disk = ["bad.service"]
    await machine.start()
    await machine.place_all(dict.fromkeys(("a.service", "bad.service", "c.service"), DAEMON), 7)
    await machine.until_active("a.service", 7)
    await machine.until_active("c.service", 7)
    states = await machine.until(lambda states: "bad.service" in states)
    assert (states["bad.service"].error, states["bad.service"].hash) == ("Input/output error", "")
    machine.systemd.bad_on_disk = []
    assert (await machine.until_active("bad.service", 7)).error == ""


@pytest.mark.covers("10.7.8")
async def test_a_file_that_cannot_be_removed_is_reported_and_removed_later(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place_all(dict.fromkeys(("bad.service", "good.service"), DAEMON), 7)
    await machine.until_active("bad.service", 7)
    await machine.until_active("good.service", 7)
    machine.systemd.bad_on_disk = ["bad.service"]
    await machine.withdraw("bad.service", 8)
    await machine.withdraw("good.service", 8)
    states = await machine.until(
        lambda states: bool(states["bad.service"].error) and states["good.service"].target is TargetState.INACTIVE
    )
    assert states["bad.service"].target is not TargetState.INACTIVE, "it is not reported gone while its file is here"
    machine.systemd.bad_on_disk = []
    await machine.until(lambda states: states["bad.service"].target is TargetState.INACTIVE)


async def test_a_refused_stop_is_reported_and_retried(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    machine.systemd.behave("web.service", Behaviour(stop_s=30.0))  # so that there is a retry after the refusal
    machine.systemd.refused_stops = ["web.service"]
    await machine.place("web.service", 8, "loaded")
    states = await machine.until(lambda states: "refused" in states["web.service"].error)
    assert states["web.service"].generation == 7, "a stop that was refused is not carried out"


async def test_a_unit_that_returns_after_each_stop_is_stopped_with_back_off(machine: MachineUnderTest) -> None:
    machine.systemd.restless = ["web.service"]
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.withdraw("web.service", 8)
    await machine.until(lambda states: "active again" in states["web.service"].error)
    await machine.settle(0.3)
    assert len(machine.asked("stop")) == 2
    machine.systemd.restless = []
    await machine.until(lambda states: states["web.service"].target is TargetState.INACTIVE)


async def test_a_requested_stop_is_made_once_even_if_a_socket_restarts_the_unit(
    machine: MachineUnderTest,
) -> None:
    machine.systemd.restless = ["web.service"]
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.place("web.service", 8, "loaded")
    states = await machine.until(lambda states: states["web.service"].generation == 8)
    assert (states["web.service"].active, states["web.service"].target) == ("active", TargetState.LOADED)
    assert len(machine.asked("stop")) == 1


@pytest.mark.covers("6.1.13")
async def test_nothing_is_started_before_a_needed_reload(machine: MachineUnderTest) -> None:
    machine.systemd.refuses_reload = True
    await machine.start()
    await machine.place("web.service", 7, text=ENABLED)
    states = await machine.until(lambda states: "web.service" in states and states["web.service"].error != "")
    assert "Access denied" in states["web.service"].error
    assert machine.asked("start") == []
    machine.systemd.refuses_reload = False
    assert (await machine.until_active("web.service", 7)).error == ""
    assert [verb for verb, _ in machine.asked("reload", "start")] == ["reload", "start"]


@pytest.mark.covers("6.2.5")
async def test_systemd_is_asked_once_per_change_of_files_if_it_needs_a_reload(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("a.service", 7)
    await machine.until_active("a.service", 7)
    await machine.place("b.service", 8, text=ENABLED)
    await machine.until_active("b.service", 8)
    await machine.withdraw("b.service", 9)
    await machine.until(lambda states: states["b.service"].target is TargetState.INACTIVE)
    assert [names for _, names in machine.asked("reload-needed")] == [("a.service",), ("b.service",), ("b.service",)]
    assert len(machine.asked("reload")) == 2, "enabling and disabling a unit touches multi-user.target"


async def test_a_refused_second_start_keeps_the_first_in_the_ledger(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    machine.systemd.crash("web.service")
    machine.systemd.behave("web.service", Behaviour(refusal="Refused."))
    await machine.place("web.service", 8)
    states = await machine.until(lambda states: "Refused" in states["web.service"].error)
    assert (states["web.service"].generation, states["web.service"].target) == (7, TargetState.LAUNCHED)
    machine.systemd.behave("web.service", Behaviour())
    await machine.until_active("web.service", 8)


async def test_a_bus_lost_during_a_pass_starts_nothing_twice(machine: MachineUnderTest) -> None:
    machine.systemd.call_s = 0.03
    await machine.start()
    await machine.place("job.service", 7, text=ONESHOT)
    await machine.systemd.was_asked_to_start.wait()
    machine.systemd.lose_bus(for_s=0.1)  # before the answer: the job was not queued
    states = await machine.until(lambda states: "job.service" in states and states["job.service"].completed)
    assert states["job.service"].generation == 7
    machine.systemd.call_s = 0.0
    await machine.settle()
    assert len(machine.asked("start")) == 2, "one that was not heard, and one that was"
    assert machine.asked("write")[0] == ("write", ("job.service",))


async def test_a_bus_lost_while_files_are_written_leaves_no_partial_file(machine: MachineUnderTest) -> None:
    machine.systemd.call_s = 0.03
    await machine.start()
    await machine.place("web.service", 7)
    await machine.systemd.was_asked_to_write.wait()
    machine.systemd.lose_bus(for_s=0.1)
    state = await machine.until_active("web.service", 7)
    assert state.hash == hash_unit_file(DAEMON)


async def test_a_unit_that_systemd_does_not_describe_delays_no_other(machine: MachineUnderTest) -> None:
    machine.systemd.is_mute = True
    machine.systemd.behave("failing.service", Behaviour(fails="exit-code"))
    await machine.start()
    await machine.place_all({"job.service": ONESHOT, "failing.service": DAEMON, "web.service": DAEMON}, 7)
    await machine.until_active("web.service", 7)
    states = await machine.until(lambda states: states["failing.service"].error != "")
    assert states["failing.service"].error == "systemd gives no reason"
    assert not states["job.service"].completed


async def test_a_replacement_that_cannot_be_written_leaves_the_unit_running(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    machine.systemd.bad_on_disk = ["web.service"]
    await machine.place("web.service", 8, text=OTHER)
    states = await machine.until(lambda states: states["web.service"].error != "")
    assert (states["web.service"].active, states["web.service"].generation) == ("active", 7)
    machine.systemd.bad_on_disk = []
    await machine.until_active("web.service", 8)
