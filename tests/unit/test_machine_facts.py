"""What a machine publishes of itself while it runs: that it wants a reboot, a refused one, its etcd member."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from fleetd.config.config import parse_config
from fleetd.model.machine import Machine, MachineMode
from fleetd.model.placement import Placement
from fleetd.model.reboot import Reboot, RebootPhase
from fleetd.model.unit import TargetState
from fleetd.process.host_environment import HostEnvironment
from fleetd.process.node import Node
from fleetd.registry.records import MACHINES, Synced
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore
from fleetd.store.protocol import StoreMember, Unavailable
from fleetd.testing.simulated_systemd import SimulatedSystemd
from tests.virtual_time import offload_inline, run_virtually

M1 = StoreMember("a1", "one", ("http://10.0.0.1:2380",), ("http://localhost:2379",))
M2 = StoreMember("b2", "two", ("http://two.example:2380",), ("http://[2001:db8::2]:2379",))
BROKEN = StoreMember("c3", "three", ("http://[nonsense:2380",), ())


class StoreWithMembers(EmbeddedStore):
    """A store in this process that says it has members, and counts how often it was asked."""

    def __init__(self, members: tuple[StoreMember, ...] = ()) -> None:
        super().__init__(":memory:", offload=offload_inline)
        self.is_down = False
        self.known = members
        self.asked = 0

    async def members(self) -> tuple[StoreMember, ...]:
        self.asked += 1
        if self.is_down:
            raise Unavailable("etcd does not answer")
        return self.known

    async def keep_alive(self, lease: int):
        if self.is_down:
            raise Unavailable("etcd does not answer")
        return await super().keep_alive(lease)


class World:
    """One node and what surrounds it."""

    def __init__(self, directory: Path, store: StoreWithMembers, own_hosts: tuple[str, ...] = ()) -> None:
        self.store = store
        self.need = ""
        self.host_keys: tuple[str, ...] = ()
        self.systemd = SimulatedSystemd()
        config, _ = parse_config("disable_engine=true", "fleet.conf", {}, {})

        async def is_own_host(host: str) -> bool:
            return host in own_hosts

        surroundings = HostEnvironment(
            directory,
            own_unit="fleet.service",
            find_address=lambda: "10.0.0.1",
            find_host_keys=lambda: self.host_keys,
            find_reboot_need=lambda: self.need,
            is_own_host=is_own_host,
            offload=offload_inline,
        )
        machine = Machine("m1", session="s1", address="10.0.0.1", boot_id="boot-1")
        self.node = Node(config, store, self.systemd, machine, surroundings)
        self.registry = Registry(store)

    async def published(self) -> Machine | None:
        item = await self.store.get("/fleet/machines/m1")
        return MACHINES.decode(item) if item else None

    async def order_reboot(self) -> None:
        puts = [
            self.registry.put(Synced("s1"), "m1"),
            self.registry.put(Reboot("r1", "boot-1", RebootPhase.ORDERED), "m1"),
        ]
        await self.store.transact([], puts)


def run(world: Callable[[], World], scenario: Callable[[World], Awaitable[None]]) -> None:
    async def play() -> None:
        here = world()
        here.node.start()
        await asyncio.sleep(1)
        await scenario(here)
        await here.node.close()

    run_virtually(play())


def test_a_machine_that_wants_a_reboot_says_so_with_its_next_heartbeat(tmp_path: Path) -> None:
    async def scenario(here: World) -> None:
        before = await here.store.get("/fleet/machines/m1")
        await asyncio.sleep(100)
        assert await here.store.get("/fleet/machines/m1") == before
        here.need = "libc6"
        await asyncio.sleep(10)
        published = await here.published()
        assert published is not None
        assert published.reboot_required == "libc6"
        here.need = ""
        await asyncio.sleep(10)
        assert await here.published() == msgspec.structs.replace(published, reboot_required="")

    run(lambda: World(tmp_path, StoreWithMembers()), scenario)


def test_host_keys_that_changed_are_published_with_the_next_heartbeat(tmp_path: Path) -> None:
    async def scenario(here: World) -> None:
        before = await here.published()
        assert before is not None
        assert before.host_keys == ()
        for keys in (("ssh-ed25519 AAAA",), ("ssh-ed25519 BBBB", "ssh-rsa CCCC"), ()):
            here.host_keys = keys
            await asyncio.sleep(10)
            assert await here.published() == msgspec.structs.replace(before, host_keys=keys)

    run(lambda: World(tmp_path, StoreWithMembers()), scenario)


def test_a_refused_reboot_is_published_at_once(tmp_path: Path) -> None:
    async def scenario(here: World) -> None:
        here.systemd.inhibit("apt", "at work")
        await here.order_reboot()
        await asyncio.sleep(0.5)
        published = await here.published()
        assert published is not None
        assert published.reboot_refused is not None
        assert published.reboot_refused.order == "r1"
        assert "apt (process 1) has inhibited it: at work" in published.reboot_refused.why

    run(lambda: World(tmp_path, StoreWithMembers()), scenario)


@pytest.mark.parametrize(
    ("members", "own_hosts", "expected"),
    [
        ((), (), ""),
        ((M1, M2), (), "a1"),  # the published address
        ((M2,), (), ""),
        ((M2,), ("two.example",), "b2"),
        ((M2,), ("2001:db8::2",), "b2"),
        ((BROKEN, M1), (), "a1"),
    ],
)
def test_a_machine_knows_which_member_of_etcd_runs_on_it(
    tmp_path: Path, members: tuple[StoreMember, ...], own_hosts: tuple[str, ...], expected: str
) -> None:
    async def scenario(here: World) -> None:
        published = await here.published()
        assert published is not None
        assert published.etcd_member == expected

    run(lambda: World(tmp_path, StoreWithMembers(members), own_hosts), scenario)


def test_members_are_asked_for_once_and_again_after_the_store_was_away(tmp_path: Path) -> None:
    async def scenario(here: World) -> None:
        await asyncio.sleep(3600)
        assert here.store.asked == 1
        here.store.known = (M1,)
        here.store.is_down = True
        await asyncio.sleep(5)
        here.store.is_down = False
        await asyncio.sleep(60)
        published = await here.published()
        assert published is not None
        assert (published.etcd_member, here.store.asked) == ("a1", 2)

    run(lambda: World(tmp_path, StoreWithMembers()), scenario)


def test_members_are_asked_for_again_until_there_is_an_answer(tmp_path: Path) -> None:
    async def scenario(here: World) -> None:
        await asyncio.sleep(60)
        published = await here.published()
        assert published is not None
        assert (published.etcd_member, here.store.asked) == ("a1", 2)

    class LateMembers(StoreWithMembers):
        async def members(self) -> tuple[StoreMember, ...]:
            self.asked += 1
            if self.asked == 1:
                raise Unavailable("permission denied")
            return self.known

    run(lambda: World(tmp_path, LateMembers((M1,))), scenario)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_machine_that_reboots_as_ordered_leaves_at_once_and_its_placements_stay(
    tmp_path: Path, ordered: bool
) -> None:
    async def scenario(here: World) -> None:
        unit = Placement("m1", "web.service", "[Service]\nExecStart=/bin/x\n", TargetState.LAUNCHED, 7)
        await here.store.transact([], [here.registry.put(Synced("s1"), "m1"), here.registry.put(unit, "m1", unit.unit)])
        await asyncio.sleep(1)
        if ordered:
            await here.order_reboot()
            await asyncio.sleep(1)
        here.systemd.stopping = True
        begun_s = asyncio.get_running_loop().time()
        shutting_down = asyncio.create_task(here.node.shut_down())
        await asyncio.sleep(1)
        published = await here.published()
        assert published is not None
        assert (published.mode, published.shuts_down) == (MachineMode.LEAVING, True)
        await here.systemd.stop("web.service")
        await shutting_down
        took_s = asyncio.get_running_loop().time() - begun_s
        assert (took_s < 2) is ordered  # else it waits a while until the leader has placed them elsewhere
        assert await here.published() is None
        assert await here.store.get("/fleet/placements/m1/web.service") is not None

    run(lambda: World(tmp_path, StoreWithMembers()), scenario)
