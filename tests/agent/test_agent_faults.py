"""The agent under faults: bad units, restarts of fleetd, a store or a bus that is unreachable."""

import asyncio
import logging

import msgspec
import pytest

from fleetd.agent.publisher import LATE_WRITE_S
from fleetd.model.unit import TargetState, UnitState
from fleetd.model.unitfile import hash_unit_file
from fleetd.reconciler.actions import LedgerEntry
from fleetd.testing.simulated_systemd import Behaviour
from tests.agent.machine import DAEMON, MACHINE, ONESHOT, OTHER, TTL_S, MachineUnderTest

NEEDS_B = "[Unit]\nRequires=b.service\nAfter=b.service\n" + DAEMON


# Restarts of fleetd.


@pytest.mark.covers("2.10.8", "5.4.3", "5.6.4", "6.1.3", "6.1.10", "P.2")
async def test_a_restart_of_fleetd_keeps_processes_and_publishes_nothing(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place_all({"web.service": DAEMON, "job.service": ONESHOT}, 7)
    await machine.until_active("web.service", 7)
    before = await machine.until(lambda states: "job.service" in states and states["job.service"].completed)
    pid = machine.systemd.pid("web.service")
    lease = machine.registration.lease
    del machine.systemd.calls[:]
    await machine.stop()
    revision = await machine.store.revision()
    await machine.start(synced=False)
    await machine.settle()
    assert machine.asked_to_act() == []
    assert machine.systemd.pid("web.service") == pid
    assert await machine.states() == before
    assert machine.registration.lease != lease
    assert await machine.store.revision() == revision + 1, "states move to the new lease in one transaction"


async def test_states_are_not_written_again_if_the_lease_survives_a_restart(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    lease, revision = machine.registration.lease, await machine.store.revision()
    await machine.agent.publish_all(lease)
    assert await machine.store.revision() == revision


@pytest.mark.covers("P.9")
async def test_states_of_removed_units_are_deleted_at_registration(machine: MachineUnderTest) -> None:
    await machine.put(UnitState("loaded", "active", "running"), MACHINE, "ghost.service")
    await machine.start()
    assert await machine.states() == {}


@pytest.mark.covers("5.6.4")
async def test_placements_changed_while_fleetd_was_stopped_are_carried_out(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place_all({"web.service": DAEMON, "api.service": DAEMON}, 7)
    await machine.until_active("web.service", 7)
    await machine.until_active("api.service", 7)
    await machine.stop()
    await machine.place("web.service", 8, text=OTHER)
    await machine.unplace("api.service")
    await machine.start()
    assert (await machine.until_active("web.service", 8)).hash == hash_unit_file(OTHER)
    await machine.until(lambda states: "api.service" not in states)


@pytest.mark.covers("6.1.10", "P.17")
@pytest.mark.parametrize("was_asked", [False, True])
async def test_a_recorded_start_is_made_once_despite_a_crash_around_it(
    machine: MachineUnderTest, was_asked: bool
) -> None:
    await machine.systemd.connect()
    await machine.systemd.write({"web.service": DAEMON})
    if was_asked:
        await machine.systemd.start("web.service")
    await machine.systemd.close()
    del machine.systemd.calls[:]
    await machine.place("web.service", 7)
    intent = LedgerEntry(7, TargetState.LAUNCHED, hash_unit_file(DAEMON), issued=False)
    (machine.directory / "started").mkdir()
    (machine.directory / "started" / "web.service").write_bytes(msgspec.json.encode(intent))
    await machine.start()
    await machine.until_active("web.service", 7)
    assert len(machine.asked("start")) == (0 if was_asked else 1)


async def test_a_reboot_starts_all_placed_units(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.stop()
    machine.systemd.reboot()
    machine.directory = machine.directory / "after-the-boot"
    await machine.start()
    await machine.until_active("web.service", 7)
    assert machine.systemd.pid("web.service") != 0


# A bad unit affects no other.


@pytest.mark.covers("10.7.10", "R.5")
async def test_a_refused_start_is_reported_and_retried(machine: MachineUnderTest) -> None:
    machine.systemd.behave("web.service", Behaviour(refusal="Refusing to start: it is masked."))
    await machine.start()
    await machine.place("web.service", 7)
    states = await machine.until(lambda states: "web.service" in states and states["web.service"].error != "")
    assert "it is masked" in states["web.service"].error
    assert states["web.service"].target is TargetState.LOADED, "a start that was refused is not carried out"
    machine.systemd.behave("web.service", Behaviour())
    assert (await machine.until_active("web.service", 7)).error == ""
    first, second = (call.at_s for call in machine.systemd.calls if call.verb == "start")
    assert 0.9 < second - first < 2.0


async def test_the_first_report_of_an_unloadable_unit_names_the_setting(machine: MachineUnderTest) -> None:
    machine.systemd.call_s = 0.01
    await machine.start()
    await machine.place("bad.service", 7, text="[Service]\nType=simple\n")
    states = await machine.until(lambda states: "bad.service" in states and states["bad.service"].load == "bad-setting")
    assert states["bad.service"].error.startswith("Unit bad.service has a bad unit file setting.")
    assert "Service has no ExecStart=" in states["bad.service"].error
    await machine.settle(1.5)
    assert (await machine.states())["bad.service"] == states["bad.service"], "nor does a later one say less"


async def test_a_journal_that_does_not_answer_delays_reports_only_briefly(machine: MachineUnderTest) -> None:
    machine.systemd.has_slow_journal = True
    await machine.start()
    await machine.place("bad.service", 7, text="[Service]\nType=simple\n")
    states = await machine.until(lambda states: "bad.service" in states and states["bad.service"].load == "bad-setting")
    assert states["bad.service"].error == "start bad.service: Unit bad.service has a bad unit file setting."


async def test_a_bad_unit_without_an_explanation_reports_systemds_refusal(machine: MachineUnderTest) -> None:
    machine.systemd.is_mute = True
    await machine.start()
    await machine.place("bad.service", 7, text="[Service]\nType=simple\n")
    states = await machine.until(lambda states: "bad.service" in states and states["bad.service"].load == "bad-setting")
    assert states["bad.service"].error == "start bad.service: Unit bad.service has a bad unit file setting."


@pytest.mark.covers("6.2.1")
async def test_retries_back_off(machine: MachineUnderTest) -> None:
    machine.systemd.behave("web.service", Behaviour(refusal="Refused."))
    await machine.start()
    await machine.place("web.service", 7)
    await machine.settle(3.5)
    first, second, third = (call.at_s for call in machine.systemd.calls if call.verb == "start")
    assert third - second > 1.8 * (second - first)


async def test_a_new_placement_does_not_wait_for_an_older_ones_retry(machine: MachineUnderTest) -> None:
    machine.systemd.behave("web.service", Behaviour(refusal="Refused."))
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until(lambda states: "web.service" in states and states["web.service"].error != "")
    machine.systemd.behave("web.service", Behaviour())
    await machine.place("web.service", 8)
    await machine.until_active("web.service", 8)
    first, second = (call.at_s for call in machine.systemd.calls if call.verb == "start")
    assert second - first < 0.5


@pytest.mark.covers("P.7")
async def test_a_unit_is_started_again_once_its_failed_dependency_can_run(machine: MachineUnderTest) -> None:
    machine.systemd.behave("b.service", Behaviour(fails="exit-code"))
    await machine.start()
    await machine.place_all({"a.service": NEEDS_B, "b.service": DAEMON}, 7)
    states = await machine.until(lambda states: "a.service" in states and "dependency" in states["a.service"].error)
    assert (states["a.service"].active, states["a.service"].generation) == ("inactive", 0)
    machine.systemd.behave("b.service", Behaviour())
    assert (await machine.until_active("a.service", 7)).error == ""


async def test_a_restart_of_fleetd_remembers_that_a_unit_never_ran(machine: MachineUnderTest) -> None:
    machine.systemd.behave("b.service", Behaviour(fails="exit-code"))
    await machine.start()
    await machine.place_all({"a.service": NEEDS_B, "b.service": DAEMON}, 7)
    await machine.until(lambda states: "a.service" in states and "dependency" in states["a.service"].error)
    machine.systemd.behave("b.service", Behaviour())
    await machine.restart()
    await machine.until_active("a.service", 7)


@pytest.mark.covers("6.1.13", "10.7.8", "R.4")
async def test_bad_units_delay_no_good_ones_and_report_their_errors(machine: MachineUnderTest) -> None:
    bad = {
        "empty.service": "[Service]\nType=simple\n",
        "install.service": DAEMON + "\n[Install]\nWantedBy=no unit\n",
        "refused.service": DAEMON,
        "ssh.service": DAEMON,
    }
    good = {f"good-{number}.service": DAEMON for number in range(10)}
    machine.systemd.behave("refused.service", Behaviour(refusal="Refused."))
    await machine.start()
    began_s = asyncio.get_running_loop().time()
    await machine.place_all({**bad, **good}, 7)
    states = await machine.until(lambda states: all(name in states and states[name].error for name in bad))
    states = await machine.until(
        lambda states: all(name in states and states[name].active == "active" for name in good)
    )
    assert asyncio.get_running_loop().time() - began_s < 0.9, "no good unit waits for a bad one's retry"
    assert {name: states[name].generation for name in bad} == dict.fromkeys(bad, 0)


async def test_a_unit_is_not_started_if_the_ledger_cannot_be_written(machine: MachineUnderTest) -> None:
    await machine.start()
    (machine.directory / "started" / ".new").mkdir()
    await machine.place("web.service", 7)
    await machine.until(lambda states: "web.service" in states and ".new" in states["web.service"].error)
    assert machine.asked("start") == []
    (machine.directory / "started" / ".new").rmdir()
    await machine.until_active("web.service", 7)


# The store is unreachable or its watch is silent.


@pytest.mark.covers("6.3.2")
async def test_states_changed_while_the_store_is_down_are_published_later(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place("web.service", 7, "loaded")
    await machine.until(lambda states: "web.service" in states)
    await machine.settle()
    machine.store.is_down = True
    await machine.systemd.start("web.service")
    await machine.settle()
    assert (await machine.states())["web.service"].active == "inactive"
    machine.store.is_down = False
    await machine.until_active("web.service", 7)


@pytest.mark.covers("2.10.9")
async def test_starting_without_the_store_changes_nothing(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    pid = machine.systemd.pid("web.service")
    await machine.stop()
    await machine.place("api.service", 8)
    machine.store.is_down = True
    starting = asyncio.create_task(machine.start())
    await machine.settle()
    assert machine.systemd.pid("web.service") == pid
    assert not starting.done() or starting.exception() is not None
    machine.store.is_down = False
    await machine.register()
    await machine.until_active("api.service", 8)
    assert machine.systemd.pid("web.service") == pid


async def test_an_unregistered_machine_does_and_publishes_nothing(machine: MachineUnderTest) -> None:
    """The placements may be for another machine with this id: starting them would run units twice."""
    await machine.start()
    machine.registration.lease = 0
    await machine.place("web.service", 7)
    await machine.settle()
    assert machine.systemd.pid("web.service") == 0
    assert await machine.states() == {}
    await machine.register()
    await machine.until_active("web.service", 7)


async def test_placements_wait_while_another_machine_may_have_this_id(
    machine: MachineUnderTest,
) -> None:
    """After the store was frozen longer than the lease, a placement may arrive before the loss of the registration."""
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    machine.registration.renew(0.0, 0.0, 0.0)
    await machine.place("api.service", 8)
    machine.systemd.crash("web.service")
    await machine.settle()
    assert machine.systemd.pid("api.service") == 0
    assert (await machine.states())["web.service"].active == "failed"
    machine.registration.renew(0.0, TTL_S, 0.0)
    machine.agent.heartbeat_answered(await machine.store.revision())  # a heartbeat was answered
    await machine.until_active("api.service", 8)


async def test_states_deleted_by_a_machine_with_this_id_are_written_again(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    machine.registration.lease = 0
    await machine.register()
    clone_lease = await machine.store.grant(60)
    overwritten = machine.registry.put(UnitState(), MACHINE, "web.service", lease=clone_lease)
    await machine.store.transact([], [overwritten])
    await machine.store.revoke(clone_lease)
    assert await machine.states() == {}
    await machine.settle(LATE_WRITE_S + 0.1)
    assert (await machine.states())["web.service"].active == "active"


@pytest.mark.covers("5.5.2")
async def test_a_lost_lease_is_reported_and_states_move_to_the_next_lease(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place_all({"web.service": DAEMON, "api.service": DAEMON}, 7)
    await machine.until_active("web.service", 7)
    await machine.until_active("api.service", 7)
    await machine.store.revoke(machine.registration.lease)
    assert await machine.states() == {}
    machine.systemd.crash("web.service")
    await machine.settle()
    assert machine.registration.lost.is_set()
    await machine.register()
    states = await machine.states()
    assert (states["web.service"].active, states["api.service"].active) == ("failed", "active")


@pytest.mark.covers("6.1.1", "R.8")
async def test_a_silent_watch_is_noticed_with_heartbeats(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.settle()
    machine.store.deaf_to = "placements"
    await machine.place("web.service", 7)
    for _ in range(2):
        await machine.settle()
        assert machine.systemd.pid("web.service") == 0
        machine.agent.heartbeat_answered(await machine.store.revision())
    await machine.settle()
    assert machine.systemd.pid("web.service") != 0


async def test_a_queued_change_does_not_undo_a_newer_read(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.settle()
    machine.systemd.call_s = 0.1
    await machine.place("first.service", 7)
    await machine.settle(0.05)  # the pass in progress takes no change before its end
    await machine.place("web.service", 8, "loaded")
    await machine.settle(0.01)
    machine.store.deaf_to = "placements"
    await machine.place("web.service", 9)
    for _ in range(2):
        machine.agent.heartbeat_answered(await machine.store.revision())
    await machine.settle(2.0)
    assert (await machine.states())["web.service"].generation == 9


# The bus is unreachable.


async def test_a_lost_bus_stops_nothing_and_operations_follow_afterwards(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    await machine.place_all({"web.service": DAEMON, "api.service": DAEMON}, 7)
    await machine.until_active("web.service", 7)
    await machine.until_active("api.service", 7)
    pid = machine.systemd.pid("web.service")
    machine.systemd.lose_bus(for_s=0.3)
    machine.systemd.crash("api.service")
    await machine.place("new.service", 8)
    await machine.settle()
    assert machine.systemd.pid("new.service") == 0
    await machine.until_active("new.service", 8)
    await machine.until(lambda states: states["api.service"].active == "failed")
    assert machine.systemd.pid("web.service") == pid


async def test_without_a_bus_the_machine_registers_after_observing_systemd(
    machine: MachineUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machine.systemd.lose_bus(for_s=0.2)
    await machine.place("web.service", 7)
    await machine.start()
    await machine.until_active("web.service", 7)
    assert "cannot follow systemd" in caplog.text


async def test_events_while_the_bus_is_lost_cause_no_more_retries(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    machine.systemd.lose_bus(for_s=600)
    for generation in range(8, 38):
        await machine.place("web.service", generation)
        await machine.settle(1.0)
    machine.systemd.calls.clear()
    await machine.settle(80.0)
    tries = [call for call in machine.systemd.calls if call.verb == "observe"]
    assert 0 < len(tries) <= 11  # one each 8 s, the longest delay
