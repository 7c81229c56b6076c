"""Reboots that the leader orders: systemd is asked once for each order of this boot, and a refusal is told."""

import pytest

from fleetd.model.reboot import Reboot, RebootPhase, RebootRefusal
from fleetd.registry.records import REBOOTS, Synced
from fleetd.store.protocol import Put
from tests.agent.machine import BOOT, MACHINE, MachineUnderTest
from tests.agent.test_agent_absence import restore


def reboots(machine: MachineUnderTest) -> int:
    return len(machine.asked("reboot-machine"))


async def test_a_reboot_that_is_ordered_is_made_at_once_and_once(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.order_reboot("r1", phase=RebootPhase.DRAINING)
    await machine.settle()
    assert (reboots(machine), machine.agent.is_to_reboot) == (0, False)
    await machine.order_reboot("r1")
    await machine.settle()
    assert (reboots(machine), machine.agent.is_to_reboot) == (1, True)
    machine.systemd.stopping = False  # systemd-logind waits for programs that delay it
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
    await machine.restart()
    await machine.settle()
    assert reboots(machine) == 1
    assert machine.agent.reboot_refusal is None
    assert not machine.told_refusal.is_set()


@pytest.mark.parametrize(
    "order",
    [
        {"phase": RebootPhase.DRAINING},
        {"phase": RebootPhase.RETURNING},
        {"phase": RebootPhase.GAVE_UP},
        {"boot_id": "an earlier boot"},
        {"client": "zincati"},  # it reboots the machine by itself
    ],
)
async def test_a_record_that_orders_nothing_of_this_boot_is_left_alone(machine: MachineUnderTest, order: dict) -> None:
    await machine.start()
    await machine.order_reboot("r1", **order)
    await machine.take_in()  # reads it
    await machine.settle()
    assert reboots(machine) == 0
    assert machine.agent.is_to_reboot is ("client" in order)


async def test_an_order_that_the_watch_does_not_bring_is_seen_within_two_heartbeats(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.settle()
    machine.store.deaf_to = "synced"
    await machine.order_reboot("r1")
    for _ in range(2):
        machine.agent.heartbeat_answered(await machine.store.revision())
        await machine.settle()
    assert reboots(machine) == 1


async def test_an_order_waits_until_the_leader_has_taken_the_machine_in(machine: MachineUnderTest) -> None:
    await machine.start(synced=False)
    await machine.take_in("another session")
    await machine.put(Reboot("r1", BOOT, RebootPhase.ORDERED), MACHINE)
    await machine.settle()
    assert reboots(machine) == 0
    await machine.take_in()
    await machine.settle()
    assert reboots(machine) == 1


async def test_a_refusal_says_who_and_why_also_after_a_restart_and_another_order_is_tried(
    machine: MachineUnderTest,
) -> None:
    await machine.start()
    machine.systemd.inhibit("apt", "upgrades packages")
    await machine.order_reboot("r1")
    await machine.settle()
    why = "apt (process 1) has inhibited it: upgrades packages"
    assert machine.agent.reboot_refusal == RebootRefusal("r1", why)
    assert machine.told_refusal.is_set()
    machine.systemd.inhibit("apt", "")
    await machine.restart()
    await machine.settle()
    assert machine.agent.reboot_refusal == RebootRefusal("r1", why)
    assert reboots(machine) == 1
    await machine.order_reboot("r2")
    await machine.settle()
    assert reboots(machine) == 2
    assert machine.agent.reboot_refusal is None


async def test_an_order_that_systemd_did_not_hear_is_given_again(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.settle()
    machine.systemd.lose_bus(for_s=3.0)
    await machine.order_reboot("r1")
    await machine.settle(10)
    assert machine.systemd.stopping
    assert machine.agent.reboot_refusal is None


async def test_a_machine_that_shuts_down_already_is_not_told_to_reboot(machine: MachineUnderTest) -> None:
    await machine.start()
    machine.systemd.stopping = True
    await machine.order_reboot("r1")
    await machine.settle()
    assert reboots(machine) == 0


async def test_an_order_from_before_a_restore_of_the_store_is_not_carried_out(machine: MachineUnderTest) -> None:
    await machine.start()
    await machine.place("web.service", 70)
    await machine.until_active("web.service", 70)
    await restore(machine)
    await machine.put(Reboot("r1", BOOT, RebootPhase.ORDERED), MACHINE)
    await machine.start()
    await machine.settle()
    assert reboots(machine) == 0
    assert machine.agent.reboot_refusal == RebootRefusal("r1", "the store was restored since it was ordered")
    await machine.order_reboot("r2")
    await machine.settle()
    assert reboots(machine) == 1


async def test_a_record_that_cannot_be_read_orders_nothing(machine: MachineUnderTest) -> None:
    await machine.start()
    key = machine.registry.key(REBOOTS, MACHINE)
    await machine.store.transact([], [Put(key, b"{"), machine.registry.put(Synced("session-1"), MACHINE)])
    await machine.settle()
    assert reboots(machine) == 0
    await machine.place("web.service", 7)
    await machine.until_active("web.service", 7)
