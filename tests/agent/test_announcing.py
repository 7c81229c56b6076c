"""Units that announce themselves: when a machine writes their names, when it takes them back, and what waits for it."""

import asyncio

import msgspec
import pytest

from fleetd.agent.announcer import CONFINED, WITHDRAWAL_S, WITHDRAWN
from fleetd.model.announcement import NOT_SETTLED, ServicePort, ServiceRecord
from fleetd.model.confinement import Limits
from fleetd.model.group import UpdateAction
from fleetd.model.machine import MachineSettings
from fleetd.model.placement import Placement
from fleetd.model.reboot import RebootPhase
from fleetd.model.unit import TargetState
from fleetd.registry.records import SERVICES, SETTINGS, SYNCED
from fleetd.store.protocol import Delete, Put
from fleetd.testing.simulated_units import Behaviour
from tests.agent.machine import MACHINE, MachineUnderTest

WEB = "web.service"
PLAIN = "[Service]\nExecStart=/bin/daemon\n[X-Fleet]\nAnnounce=8080\n"
CHECKED = PLAIN + "Check=tcp:8080\n"
RECORD = ServiceRecord("10.0.0.1", (ServicePort(8080),), "eu", "", "web", MACHINE, WEB)


async def records(machine: MachineUnderTest) -> dict[str, ServiceRecord]:
    """What stands below services/, by the key without what all have."""
    prefix = machine.registry.key(SERVICES) + "/"
    items = (await machine.store.range(prefix)).items
    return {item.key.removeprefix(prefix): SERVICES.decode(item) for item in items}


async def announced(machine: MachineUnderTest) -> list[str]:
    """The units that are announced."""
    return sorted(each.unit for record in (await records(machine)).values() for each in record.announcements())


async def until_announced(machine: MachineUnderTest, *units: str, within_s: float = 60.0) -> float:
    """Wait until these units are announced, and no others. Returns the time."""
    async with asyncio.timeout(within_s):
        while await announced(machine) != sorted(units):  # noqa: ASYNC110 (virtual time)
            await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time()


async def begin(machine: MachineUnderTest, text: str = PLAIN, name: str = WEB) -> None:
    await machine.start()
    await machine.place(name, 7, text=text)
    await until_announced(machine, name)


async def test_a_unit_is_announced_while_it_is_active(machine: MachineUnderTest) -> None:
    machine.systemd.behave(WEB, Behaviour(start_s=3))
    await machine.start()
    await machine.place(WEB, 7, text=PLAIN)
    await asyncio.sleep(2)
    assert await records(machine) == {}
    await until_announced(machine, WEB)
    assert await records(machine) == {f"web/{MACHINE}/{WEB}": RECORD}
    state = (await machine.states())[WEB]
    assert (state.active, state.unannounced) == ("active", NOT_SETTLED)
    await asyncio.sleep(2.1)
    assert (await machine.states())[WEB].unannounced == ""
    await machine.systemd.stop(WEB)
    await until_announced(machine)


async def test_a_unit_is_announced_once_its_check_passes_and_as_long_as_it_does(machine: MachineUnderTest) -> None:
    machine.prober.failures["tcp:8080"] = "connection refused"
    await machine.start()
    await machine.place(WEB, 7, text=CHECKED)
    await machine.until(lambda states: "connection refused" in states[WEB].unannounced if WEB in states else False)
    await asyncio.sleep(1)
    (failing,) = (await records(machine)).values()
    assert (failing.announcements(), failing.failing) == ((), "its check fails: connection refused")
    del machine.prober.failures["tcp:8080"]
    passed_s = asyncio.get_running_loop().time()
    assert await until_announced(machine, WEB) - passed_s < 1.2  # the first checks come each second
    machine.prober.failures["tcp:8080"] = None  # it hangs
    failed_s = asyncio.get_running_loop().time()
    gone_s = await until_announced(machine)
    assert 10 <= gone_s - failed_s <= 15.2
    state = (await machine.states())[WEB]
    assert (state.active, state.unannounced) == ("active", "its check fails: no answer within 5 s")


async def test_a_container_is_announced_while_podman_calls_it_healthy(machine: MachineUnderTest) -> None:
    text = PLAIN.replace("/bin/daemon", "podman run x") + "Check=container\n"
    machine.prober.podman[WEB] = "podman says that its container is starting"
    await machine.start()
    await machine.place(WEB, 7, text=text)
    await machine.until(lambda states: "is starting" in states[WEB].unannounced if WEB in states else False)
    assert (machine.prober.asked, list(machine.prober.followed)) == ([], [WEB])
    machine.prober.podman[WEB] = ""
    machine.prober.tell(WEB)
    await until_announced(machine, WEB, within_s=1)
    machine.prober.podman[WEB] = "podman says that its container is unhealthy"
    machine.prober.tell(WEB)
    await until_announced(machine, within_s=1)
    state = (await machine.states())[WEB]
    assert (state.active, state.unannounced) == (
        "active",
        "its check fails: podman says that its container is unhealthy",
    )
    await machine.place(WEB, 8, text=CHECKED)
    await until_announced(machine, WEB)
    assert list(machine.prober.followed) == []
    await machine.place(WEB, 9, text=text)
    del machine.prober.podman[WEB]
    await machine.until(lambda states: list(machine.prober.followed) == [WEB])
    await until_announced(machine, WEB)
    await machine.systemd.stop(WEB)
    await until_announced(machine)
    assert list(machine.prober.followed) == []


async def test_a_machine_that_confines_its_units_runs_no_program_of_a_check(machine: MachineUnderTest) -> None:
    machine.limits = Limits(confine=True)
    await machine.start()
    await machine.place(WEB, 7, text=PLAIN + "Check=exec:/bin/sh /tmp/x\n")
    await machine.until(lambda states: CONFINED in states[WEB].unannounced if WEB in states else False)
    await asyncio.sleep(30)
    assert machine.prober.asked == []
    assert await announced(machine) == []


async def test_what_the_servers_refuse_of_one_unit_hinders_no_other(machine: MachineUnderTest) -> None:
    machine.store.refuses = "/services/other/"
    await machine.start()
    await machine.place("other.service", 7, text=PLAIN)
    await machine.place(WEB, 7, text=PLAIN)
    await until_announced(machine, WEB)
    await machine.until(lambda states: WEB in states and states[WEB].unannounced == "", 60.0)
    await machine.systemd.stop(WEB)
    await until_announced(machine)
    machine.store.refuses = "nothing"
    await until_announced(machine, "other.service")


async def test_a_failure_that_does_not_last_is_none(machine: MachineUnderTest) -> None:
    await begin(machine, CHECKED)
    before = await machine.store.revision()
    for failure in ("refused", "", "refused", ""):
        machine.prober.failures["tcp:8080"] = failure
        await asyncio.sleep(5)
    assert await announced(machine) == [WEB]
    states = await machine.store.range(machine.registry.key(SERVICES))
    assert all(item.mod_revision <= before for item in states.items)


async def test_a_unit_that_flaps_has_to_pass_more_often_each_time(machine: MachineUnderTest) -> None:
    await begin(machine, CHECKED + "CheckInterval=1s\nCheckFailures=1\n")
    waits = []
    for _ in range(4):
        machine.prober.failures["tcp:8080"] = "refused"
        await until_announced(machine)
        del machine.prober.failures["tcp:8080"]
        began_s = asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        if waits:
            assert "has to pass" in (await machine.states())[WEB].unannounced
        waits.append(round(await until_announced(machine, WEB) - began_s))
    assert waits == [1, 2, 4, 8]


async def test_how_a_unit_that_is_gone_flapped_is_forgotten_after_a_while(machine: MachineUnderTest) -> None:
    await begin(machine, CHECKED)
    machine.prober.failures["tcp:8080"] = "refused"
    await until_announced(machine)
    await machine.unplace(WEB)
    await machine.until(lambda states: WEB not in states, 60.0)
    await asyncio.sleep(200)
    assert machine.ledger.announced is not None
    assert list(machine.ledger.announced.units) == [WEB]
    await asyncio.sleep(100)
    assert dict(machine.ledger.announced.units) == {}


async def test_checks_at_rest_write_nothing(machine: MachineUnderTest) -> None:
    await begin(machine, CHECKED)
    await asyncio.sleep(30)
    before, asked = await machine.store.revision(), len(machine.prober.asked)
    await asyncio.sleep(100)
    assert await machine.store.revision() == before
    assert 19 <= len(machine.prober.asked) - asked <= 21


@pytest.mark.parametrize("order", ["withdraw", "unplace", "replace", "restart"])
async def test_a_name_goes_first_and_the_unit_is_stopped_three_seconds_later(
    machine: MachineUnderTest, order: str
) -> None:
    await begin(machine)
    del machine.systemd.calls[:]
    began_s = asyncio.get_running_loop().time()
    match order:
        case "withdraw":
            await machine.withdraw(WEB, 9)
        case "unplace":
            await machine.withdraw(WEB, 9)
        case "replace":
            await machine.place(WEB, 9, text=PLAIN.replace("daemon", "other"))
        case _:
            placement = Placement(MACHINE, WEB, PLAIN, TargetState.LAUNCHED, 9, restart_of=8)
            await machine.put(placement, MACHINE, WEB)
    assert await until_announced(machine) - began_s < 0.2
    await asyncio.sleep(2.5)
    assert machine.asked("stop", "restart") == []
    state = (await machine.states())[WEB]
    assert (state.active, state.unannounced) == ("active", WITHDRAWN)
    await asyncio.sleep(0.8)
    assert [call[0] for call in machine.asked("stop", "restart")] in (["stop"], ["restart"])
    if order in ("replace", "restart"):
        await until_announced(machine, WEB)
        assert (await machine.states())[WEB].generation == 9


async def test_an_order_that_is_taken_back_leaves_the_unit_announced(machine: MachineUnderTest) -> None:
    await begin(machine)
    del machine.systemd.calls[:]
    await machine.withdraw(WEB, 8)
    await until_announced(machine)
    await machine.place(WEB, 9, text=PLAIN)
    await until_announced(machine, WEB)
    await asyncio.sleep(10)
    assert machine.asked("stop", "restart", "start") == []


async def test_without_the_store_a_stop_waits_ten_seconds_and_the_name_goes_later(machine: MachineUnderTest) -> None:
    await begin(machine)
    del machine.systemd.calls[:]
    await machine.withdraw(WEB, 9)
    machine.store.is_down = True
    await asyncio.sleep(WITHDRAWAL_S - 1)
    assert machine.asked("stop") == []
    await asyncio.sleep(2)
    assert len(machine.asked("stop")) == 1
    machine.store.is_down = False
    await until_announced(machine)


async def test_what_takes_an_announced_unit_down_waits_for_it(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("base.service", 5)
    await machine.place(WEB, 7, text="[Unit]\nRequires=mid.service\n" + PLAIN)
    await machine.place("mid.service", 6, text="[Unit]\nPartOf=base.service\n[Service]\nExecStart=/bin/daemon\n")
    await until_announced(machine, WEB)
    del machine.systemd.calls[:]
    await machine.withdraw("base.service", 9)
    await until_announced(machine)
    await asyncio.sleep(2)
    assert machine.asked("stop") == []
    await asyncio.sleep(1.5)
    assert [call[1] for call in machine.asked("stop")] == [("base.service",)]


async def test_a_restart_of_fleetd_keeps_names_and_results_of_checks(machine: MachineUnderTest) -> None:
    await begin(machine, CHECKED)
    before = await machine.store.range(machine.registry.key(SERVICES))
    machine.prober.failures["tcp:8080"] = "refused"
    await machine.restart()
    await asyncio.sleep(0.5)
    assert (await machine.store.range(machine.registry.key(SERVICES))).items == before.items
    await until_announced(machine)


async def test_a_restart_of_fleetd_in_a_withdrawal_stops_the_unit_when_it_is_due(machine: MachineUnderTest) -> None:
    await begin(machine)
    del machine.systemd.calls[:]
    await machine.withdraw(WEB, 9)
    await until_announced(machine)
    await machine.restart()
    await asyncio.sleep(2)
    assert (await announced(machine), machine.asked("stop")) == ([], [])
    await asyncio.sleep(2)
    assert len(machine.asked("stop")) == 1


async def test_a_boot_finds_and_takes_back_what_was_announced_before(machine: MachineUnderTest) -> None:
    await begin(machine)
    await machine.put(RECORD, "web", "m2", WEB)
    await machine.stop()
    machine.systemd.reboot()
    for path in machine.directory.iterdir():
        if path.is_file():
            path.unlink()
    for path in (machine.directory / "started").iterdir():
        path.unlink()
    await machine.place(WEB, 7, "loaded", text=PLAIN)
    await machine.start()
    async with asyncio.timeout(60):
        while list(await records(machine)) != [f"web/m2/{WEB}"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_restored_store_is_rid_of_old_names_also_where_nothing_is_announced(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("db.service", 7)
    await machine.until_active("db.service", 7)
    await machine.restart()  # the fleetd before has left no names
    await machine.until_active("db.service", 7)
    await machine.stop()
    await machine.store.close()
    machine.use_store("another-cluster")
    await machine.put(RECORD, "web", MACHINE, WEB)
    await machine.put(RECORD, "web", "m2", WEB)
    await machine.start()
    async with asyncio.timeout(60):
        while list(await records(machine)) != [f"web/m2/{WEB}"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_nothing_is_announced_before_the_leader_has_acknowledged_the_machine(machine: MachineUnderTest) -> None:
    await machine.start(synced=False)
    await machine.place(WEB, 7, text=PLAIN)
    await machine.until_active(WEB, 7)
    await asyncio.sleep(1)
    assert await records(machine) == {}
    await machine.take_in()
    machine.agent.heartbeat_answered(await machine.store.revision())
    await until_announced(machine, WEB)
    # Judged dead, with what it announces; then it is back.
    key = machine.registry.key(SERVICES, "web", MACHINE, WEB)
    await machine.store.transact([], [Delete(machine.registry.key(SYNCED, MACHINE)), Delete(key)])
    await machine.register()
    await asyncio.sleep(1)
    assert await records(machine) == {}
    await machine.take_in()
    await until_announced(machine, WEB)


async def test_a_superseded_unit_is_not_announced(machine: MachineUnderTest) -> None:
    await begin(machine)
    await machine.place(WEB, 7, text=PLAIN, superseded=True)
    await until_announced(machine)
    await machine.place(WEB, 7, text=PLAIN)
    await until_announced(machine, WEB)


async def test_a_unit_is_proven_only_when_it_has_been_announced(machine: MachineUnderTest) -> None:
    machine.prober.failures["tcp:8080"] = "refused"
    await machine.start()
    order = Placement(MACHINE, WEB, CHECKED, TargetState.LAUNCHED, 7, prove_after_s=10.0, prove_within_s=60.0)
    await machine.put(order, MACHINE, WEB)
    await asyncio.sleep(30)
    assert (await machine.states())[WEB].proof is None
    del machine.prober.failures["tcp:8080"]
    announced_s = await until_announced(machine, WEB)
    await machine.until(lambda states: states[WEB].proof is not None)
    assert 1.9 < asyncio.get_running_loop().time() - announced_s < 2.2
    machine.prober.failures["tcp:8080"] = "refused"
    order = Placement(
        MACHINE, WEB, CHECKED + "#\n", TargetState.LAUNCHED, 8, restart_of=7, prove_after_s=10.0, prove_within_s=30.0
    )
    await machine.put(order, MACHINE, WEB)
    await asyncio.sleep(40)
    proof = (await machine.states())[WEB].proof
    assert proof is not None
    assert proof.failed.startswith("it was not announced within 30 s: its check fails: refused")


async def test_what_waits_for_a_withdrawal_has_not_failed(machine: MachineUnderTest) -> None:
    await begin(machine)
    await asyncio.sleep(900)  # longer than the deadline of the change that follows
    failures: list[str] = []
    asked = Placement(
        MACHINE, WEB, PLAIN + "# changed\n", TargetState.LAUNCHED, 8, prove_after_s=1.0, prove_within_s=60.0
    )
    await machine.put(msgspec.structs.replace(asked, update=UpdateAction.RESTART), MACHINE, WEB)
    for _ in range(200):
        await asyncio.sleep(0.1)
        proof = (await machine.states())[WEB].proof
        failures += [proof.failed] if proof is not None and proof.failed else []
    assert failures == []
    proof = (await machine.states())[WEB].proof
    assert proof is not None
    assert (proof.generation, proof.failed) == (8, "")


async def test_another_address_and_other_ports_are_announced_at_once(machine: MachineUnderTest) -> None:
    await begin(machine)
    machine.place_of_machine = ("10.0.0.9", "us")
    machine.agent.heartbeat_answered(await machine.store.revision())
    await asyncio.sleep(1)
    (record,) = (await records(machine)).values()
    assert (record.address, record.zone) == ("10.0.0.9", "us")
    del machine.systemd.calls[:]
    await machine.place(WEB, 8, text=PLAIN + "Announce=api 9090\n")
    await asyncio.sleep(1)
    assert {key.split("/")[0]: record.ports for key, record in (await records(machine)).items()} == {
        "web": (ServicePort(8080),),
        "api": (ServicePort(9090),),
    }
    assert machine.asked("stop", "restart") == []
    await machine.place(WEB, 9, text=PLAIN.replace("Announce=8080", ""))
    await until_announced(machine)


async def test_the_zone_is_that_which_operators_have_set(machine: MachineUnderTest) -> None:
    async def set_zone(metadata: dict[str, str]) -> None:
        await machine.store.transact([], [machine.registry.put(MachineSettings(metadata=metadata), MACHINE)])

    async def until_in(zone: str) -> None:
        async with asyncio.timeout(5.0):
            while [record.zone for record in (await records(machine)).values()] != [zone]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    await set_zone({"zone": "north"})
    await begin(machine)
    await until_in("north")
    written = await machine.store.revision()
    await machine.restart()
    await asyncio.sleep(5)
    items = (await machine.store.range(machine.registry.key(SERVICES))).items
    assert all(item.mod_revision <= written for item in items)  # no other zone in between
    await set_zone({"zone": ""})
    await until_in("")
    await set_zone({})
    await until_in("eu")
    key = machine.registry.key(SETTINGS, MACHINE)
    await machine.store.transact([], [Put(key, b"no settings"), Put(f"{key}0", b"of another machine")])
    await machine.store.compact(await machine.store.revision())
    await set_zone({"zone": "south"})
    await until_in("south")


async def test_names_go_before_the_machine_is_rebooted_and_come_back_if_it_is_not(machine: MachineUnderTest) -> None:
    await begin(machine)
    machine.systemd.inhibit("backup", "a backup runs")
    await machine.order_reboot("r1")
    gone_s = await until_announced(machine)
    await asyncio.sleep(2.9)
    assert machine.asked("reboot-machine") == []
    assert await until_announced(machine, WEB) - gone_s < 3.5  # it was refused
    assert len(machine.asked("reboot-machine")) == 1
    machine.systemd.inhibit("backup", "")
    await machine.order_reboot("r2")
    await until_announced(machine)
    await asyncio.sleep(3.1)
    assert len(machine.asked("reboot-machine")) == 2


async def test_a_reboot_that_is_called_off_leaves_the_unit_announced(machine: MachineUnderTest) -> None:
    await begin(machine)
    await machine.order_reboot("r1", client="zincati")  # which reboots the machine itself
    await until_announced(machine)
    await machine.place("other.service", 8, text=PLAIN)
    await asyncio.sleep(30)
    assert await announced(machine) == []
    await machine.order_reboot("r1", phase=RebootPhase.GAVE_UP, client="zincati")
    await machine.take_in()  # reads it
    await until_announced(machine, "other.service", WEB)
    assert machine.asked("reboot-machine", "stop") == []


async def test_a_unit_that_is_to_be_stopped_waits_once_when_its_machine_is_rebooted_too(
    machine: MachineUnderTest,
) -> None:
    await begin(machine)
    await machine.withdraw(WEB, 9)
    await until_announced(machine)
    await asyncio.sleep(1)
    await machine.order_reboot("r1")
    await asyncio.sleep(2.1)
    assert [len(machine.asked(verb)) for verb in ("stop", "reboot-machine")] == [1, 1]
