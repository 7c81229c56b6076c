"""A machine's registration, on a virtual clock and the embedded store."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from fleetd.membership.parking import Parking, park_when_possible
from fleetd.membership.registration import Membership, Registration
from fleetd.model.machine import Machine, MachineMode
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from tests.virtual_time import offload_inline, run_virtually

TTL_S = 9.0
MACHINE_ID = "a" * 32


AT = 1_800_000_000.0  # Unix time at which the clock begins


class MachineSet:
    """Memberships of machines with one id, on one store."""

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.registry = Registry(store)
        self.published: list[int] = []
        self.heard: list[int] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(
        self,
        session: str,
        *,
        address: str = "10.0.0.1",
        boot_id: str = "boot-1",
        former_lease: int = 0,
    ) -> Membership:
        """A fleetd begins to register."""
        membership = Membership(
            Machine(MACHINE_ID, session=session, address=address, boot_id=boot_id),
            self.registry,
            Registration(session, asyncio.get_running_loop().time),
            ttl_s=TTL_S,
            now=asyncio.get_running_loop().time,
            publish=self._publish,
            heard=self.heard.append,
            former_lease=former_lease,
            unix_now=lambda: AT + asyncio.get_running_loop().time(),
        )
        self._tasks[session] = asyncio.create_task(membership.run())
        return membership

    def kill(self, session: str) -> None:
        """A fleetd ends without a word to the store."""
        self._tasks[session].cancel()

    async def kill_all(self) -> None:
        """No unit runs."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def registered(self) -> Machine | None:
        """The store's record of the machine."""
        return (await self.registry.machines()).get(MACHINE_ID)

    async def park(self, membership: Membership, *, for_s: float = 600.0) -> None:
        """Stop a fleetd, which parks the machine."""
        self.kill(membership.machine.session)
        assert await park_when_possible(self.registry, Parking(membership.machine, {}, for_s))

    async def _publish(self, lease: int) -> None:
        assert await self.store.time_to_live(lease) is not None
        self.published.append(lease)


@asynccontextmanager
async def machines() -> AsyncIterator[MachineSet]:
    store = EmbeddedStore(":memory:", offload=offload_inline, cluster_id="test")
    world = MachineSet(store)
    try:
        yield world
    finally:
        await world.kill_all()
        await store.close()


def scenario(body: Callable[[MachineSet], Awaitable[None]]) -> None:
    """Run a scenario on a virtual clock."""

    async def run() -> None:
        async with machines() as world:
            await body(world)

    run_virtually(run())


@pytest.mark.covers("5.4.9")
def test_states_are_published_before_the_machine_is_registered() -> None:
    async def body(world: MachineSet) -> None:
        seen: list[Machine | None] = []

        async def publish(lease: int) -> None:
            seen.append(await world.registered())

        world._publish = publish  # type: ignore[method-assign]
        membership = world.start("s1")
        await membership.registered.wait()
        assert seen == [None]

    scenario(body)


@pytest.mark.covers("5.5.1", "9.6")
def test_heartbeats_keep_a_machine_registered_for_hours() -> None:
    async def body(world: MachineSet) -> None:
        membership = world.start("s1")
        await asyncio.sleep(3 * 3600 + 1)
        found = await world.registered()
        assert found is not None
        assert found.session == "s1"
        assert membership.beats.covers(3600.0, asyncio.get_running_loop().time(), TTL_S / 3)
        assert len(world.heard) == 3601  # at registration, and with each heartbeat

    scenario(body)


def test_a_silent_machine_is_gone_after_its_time_to_live() -> None:
    async def body(world: MachineSet) -> None:
        await world.start("s1").registered.wait()
        world.kill("s1")
        await asyncio.sleep(TTL_S - 1)
        assert await world.registered() is not None
        await asyncio.sleep(2)
        assert await world.registered() is None

    scenario(body)


@pytest.mark.covers("5.4.7", "10.7.6")
def test_a_restarted_fleetd_adopts_the_lease_and_stays_listed() -> None:
    async def body(world: MachineSet) -> None:
        first = world.start("s1")
        await first.registered.wait()
        lease = first.lease
        world.kill("s1")
        await asyncio.sleep(2)
        second = world.start("s2")
        await asyncio.wait_for(second.registered.wait(), 1.0)
        assert second.lease == lease
        await asyncio.sleep(3 * TTL_S)
        found = await world.registered()
        assert found is not None
        assert found.session == "s2"

    scenario(body)


@pytest.mark.covers("5.4.6", "P.13")
def test_a_clone_is_refused_with_both_addresses_and_the_first_stays() -> None:
    async def body(world: MachineSet) -> None:
        first = world.start("s1")
        await first.registered.wait()
        clone = world.start("s2", address="10.0.0.2", boot_id="boot-2")
        await asyncio.sleep(5 * TTL_S)
        assert not clone.registered.is_set()
        assert "10.0.0.1" in clone.refusal
        assert "10.0.0.2" in clone.refusal
        assert "systemd-machine-id-setup" in clone.refusal
        found = await world.registered()
        assert found is not None
        assert found.session == "s1"
        assert first.disturbed_s is None

    scenario(body)


def test_a_restart_or_a_stop_of_fleetd_is_no_break_and_an_absence_or_a_reboot_is() -> None:
    async def body(world: MachineSet) -> None:
        async def since_of(session: str, boot_id: str = "boot-1") -> float:
            await world.start(session, boot_id=boot_id).registered.wait()
            found = await world.registered()
            assert found is not None
            world.kill(session)
            await asyncio.sleep(1)
            return found.since

        began = await since_of("s1")
        assert began >= AT
        assert await since_of("s2") == began
        membership = world.start("s3")
        await membership.registered.wait()
        await world.park(membership)
        await asyncio.sleep(3 * TTL_S)
        assert await since_of("s4") == began
        rebooted = await since_of("s5", "boot-2")
        assert rebooted > began + 3 * TTL_S
        await asyncio.sleep(2 * TTL_S)
        assert await since_of("s6", "boot-2") > rebooted + TTL_S

    scenario(body)


@pytest.mark.covers("P.13")
def test_a_quick_reboot_is_not_taken_for_a_clone() -> None:
    async def body(world: MachineSet) -> None:
        await world.start("s1").registered.wait()
        world.kill("s1")
        await asyncio.sleep(1)
        rebooted = world.start("s2", boot_id="boot-2")
        await asyncio.wait_for(rebooted.registered.wait(), TTL_S)
        found = await world.registered()
        assert found is not None
        assert found.boot_id == "boot-2"

    scenario(body)


@pytest.mark.covers("5.4.6")
def test_a_clone_takes_over_once_the_first_is_dead() -> None:
    async def body(world: MachineSet) -> None:
        await world.start("s1").registered.wait()
        clone = world.start("s2", address="10.0.0.2")
        await asyncio.sleep(TTL_S)
        assert not clone.registered.is_set()
        world.kill("s1")
        await asyncio.wait_for(clone.registered.wait(), 4 * TTL_S)

    scenario(body)


def test_a_registration_is_certain_for_one_ttl_after_the_last_heartbeat() -> None:
    async def body(world: MachineSet) -> None:
        membership = world.start("s1")
        await membership.registered.wait()
        for _ in range(30):
            await asyncio.sleep(1)
            assert membership.registration.is_certain
        world.kill("s1")  # its heartbeats are no longer answered
        await asyncio.sleep(TTL_S - TTL_S / 3 - 0.5)
        assert membership.registration.is_certain
        await asyncio.sleep(TTL_S / 3 + 0.5)
        assert not membership.registration.is_certain
        assert (await world.registered()) is None

    scenario(body)


@pytest.mark.covers("5.5.2")
def test_a_machine_whose_lease_was_dropped_registers_again_at_once() -> None:
    async def body(world: MachineSet) -> None:
        membership = world.start("s1")
        await membership.registered.wait()
        await world.store.revoke(membership.lease)
        await asyncio.sleep(0.1)
        found = await world.registered()
        assert found is not None
        assert membership.disturbed_s is not None
        assert not membership.beats.covers(1.0, asyncio.get_running_loop().time(), TTL_S / 3)

    scenario(body)


def test_a_parked_machine_is_listed_until_its_long_lease_ends() -> None:
    async def body(world: MachineSet) -> None:
        membership = world.start("s1")
        await membership.registered.wait()
        await world.park(membership)
        await asyncio.sleep(500)
        found = await world.registered()
        assert found is not None
        assert found.mode is MachineMode.PARKED
        await asyncio.sleep(101)
        assert await world.registered() is None

    scenario(body)


def test_a_machine_parked_without_limit_is_listed_until_it_is_back() -> None:
    async def body(world: MachineSet) -> None:
        membership = world.start("s1")
        await membership.registered.wait()
        await world.park(membership, for_s=math.inf)
        await asyncio.sleep(100 * 24 * 3600)
        found = await world.registered()
        assert found is not None
        assert found.mode is MachineMode.PARKED
        await asyncio.wait_for(world.start("s2", boot_id="boot-2").registered.wait(), TTL_S)

    scenario(body)


def test_a_parked_machine_returns_to_a_short_lease() -> None:
    async def body(world: MachineSet) -> None:
        membership = world.start("s1")
        await membership.registered.wait()
        await world.park(membership)
        await asyncio.sleep(100)
        back = world.start("s2")
        await asyncio.wait_for(back.registered.wait(), 1.0)
        found = await world.registered()
        assert found is not None
        assert found.mode is MachineMode.READY
        world.kill("s2")
        await asyncio.sleep(TTL_S + 1)
        assert await world.registered() is None

    scenario(body)


@pytest.mark.covers("5.4.8")
def test_a_reload_that_changes_the_address_keeps_the_lease() -> None:
    async def body(world: MachineSet) -> None:
        first = world.start("s1")
        await first.registered.wait()
        world.kill("s1")
        second = world.start("s2", address="10.0.0.9", former_lease=first.lease)
        await asyncio.wait_for(second.registered.wait(), 1.0)
        assert second.lease == first.lease

    scenario(body)


@pytest.mark.covers("5.6.5")
def test_a_machine_that_departs_is_gone_at_once() -> None:
    async def body(world: MachineSet) -> None:
        membership = world.start("s1")
        await membership.registered.wait()
        world.kill("s1")
        await membership.deregister()
        assert await world.registered() is None

    scenario(body)
