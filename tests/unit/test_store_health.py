"""A leader that asks whether the members of the store are healthy, only while a machine with one is next to reboot."""

import asyncio

from fleetd.leader.store_health import StoreHealthCheck
from fleetd.model.machine import Capability, Machine
from fleetd.model.reboot import Reboot, RebootPhase, RebootRequest
from fleetd.registry.records import REBOOTS, Synced
from fleetd.store.protocol import StoreMember, Unavailable
from tests.unit.leading_node import FaultyStore, Node
from tests.virtual_time import run_virtually

M2 = Machine("m2", "s2", boot_id="b1", etcd_member="e2", capabilities=dict.fromkeys(Capability, True))
MEMBERS = tuple(StoreMember(name, name, (), ()) for name in ("e1", "e2", "e3"))


class Members(FaultyStore):
    """A store with members, of which some are `down`. `asked` counts the questions."""

    down: frozenset[str] = frozenset()
    asked = 0
    is_silent = False

    async def members(self) -> tuple[StoreMember, ...]:
        self.asked += 1
        if self.is_silent:
            raise Unavailable("the store does not answer")
        return MEMBERS

    async def is_healthy(self, member: StoreMember) -> bool:
        await asyncio.sleep(0.1)
        return member.id not in self.down


async def offload_inline(work):
    return work()


def test_the_answer_names_the_members_that_do_not_answer() -> None:
    async def run() -> None:
        store = Members(":memory:", offload=offload_inline, cluster_id="test")
        store.down = frozenset({"e1"})
        done = []
        check = StoreHealthCheck(store, asyncio.get_running_loop().time, lambda: done.append(check.latest))
        check.stop()  # nothing is asked: nothing to do
        check.ask()
        check.ask()  # one at a time
        await asyncio.sleep(1)
        assert [health.unhealthy for health in done] == [("e1",)]
        store.is_silent = True
        check.ask()
        await asyncio.sleep(1)
        assert (store.asked, len(done)) == (2, 1)
        store.is_silent = False
        check.ask()
        await asyncio.sleep(0)
        check.stop()
        await asyncio.sleep(1)
        assert len(done) == 1

    run_virtually(run())


async def lead_with(store_class: type[Members], down: frozenset[str]) -> tuple[Reboot | None, int]:
    """The reboot of m2 ten seconds after it was asked for, and how often the members of the store were asked for."""
    node = Node(store_class)
    node.store.down = down
    await node.start()
    assert node.store.asked == 0
    registry, request = node.registry, RebootRequest("q1", "b1", "ann", 1.0)
    puts = [registry.put(M2, "m2"), registry.put(Synced("s2"), "m2"), registry.put(request, "m2")]
    await node.store.transact([], puts)
    await asyncio.sleep(10)
    reboot = (await registry.read(REBOOTS)).get(("m2",))
    asked = node.store.asked
    await node.stop()
    return reboot, asked


def test_a_machine_with_a_member_is_told_to_reboot_when_the_others_are_healthy() -> None:
    reboot, asked = run_virtually(lead_with(Members, frozenset({"e2"})))
    assert reboot is not None
    assert reboot.phase is RebootPhase.ORDERED
    assert asked == 1


def test_a_machine_with_a_member_waits_for_the_others_and_asks_again() -> None:
    reboot, asked = run_virtually(lead_with(Members, frozenset({"e3"})))
    assert reboot is None
    assert asked == 2
