"""The leader deletes the names that a worker keeps of units that were taken from it."""

import asyncio

from msgspec import structs

from fleetd.leader.announcement_sweeper import PERIOD_S, AnnouncementSweeper
from fleetd.model.announcement import ServicePort, ServiceRecord
from fleetd.model.certificate import SERVER, WORKER
from fleetd.model.machine import Machine
from fleetd.model.machine_identity import MachineIdentity
from fleetd.model.placement import Placement
from fleetd.model.unit import TargetState, UnitState
from fleetd.registry.records import (
    MACHINE_IDENTITIES,
    MACHINES,
    PLACEMENTS,
    SERVICES,
    STATES,
    SYNCED,
    Kind,
    Names,
    Record,
    Synced,
    encode,
)
from fleetd.registry.registry import Registry
from fleetd.scheduler.stale_announcements import find_stale
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Delete, Operation, Put, Unchanged
from tests.unit.cluster_builder import Cluster
from tests.unit.leading_node import Node
from tests.virtual_time import run_virtually

WEB = "web.service"
RECORD = ServiceRecord("10.0.0.7", (ServicePort(80),))


class Leader:
    """The leader's snapshot and the store, with what is written in both."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.registry = Registry(EmbeddedStore(":memory:", offload=inline))
        guards = (Unchanged("/fleet/leader", 0),)
        self.sweeper = AnnouncementSweeper(self.registry, guards, lambda: self.cluster.snapshot)

    async def write(self, kind: Kind[Record], names: Names, record: Record | None) -> None:
        self.cluster.write(kind, names, record)
        await self.store(kind, names, record)

    async def store(self, kind: Kind[Record], names: Names, record: Record | None) -> None:
        key = self.registry.key(kind, *names)
        operation: Operation = Put(key, encode(record)) if record else Delete(key)
        await self.registry.store.transact([], [operation])

    async def fill(self) -> None:
        """Worker w and server s announce web twice each, and have been told to stop it; w announces another, too."""
        await self.write(MACHINE_IDENTITIES, ("w",), MachineIdentity(WORKER))
        await self.write(MACHINE_IDENTITIES, ("s",), MachineIdentity(SERVER))
        for machine in ("w", "s"):
            for service in ("web", "admin"):
                await self.write(SERVICES, (service, machine, WEB), RECORD)
        await self.write(SERVICES, ("db", "w", "db.service"), RECORD)
        await self.write(PLACEMENTS, ("w", "db.service"), placed("db.service"))

    async def left(self) -> list[str]:
        prefix = self.registry.key(SERVICES) + "/"
        return [item.key.removeprefix(prefix) for item in (await self.registry.store.range(prefix)).items]


def placed(unit: str = WEB) -> Placement:
    return Placement("w", unit, "", TargetState.LAUNCHED, 1)


ALL = [f"admin/s/{WEB}", f"admin/w/{WEB}", "db/w/db.service", f"web/s/{WEB}", f"web/w/{WEB}"]
OF_OTHERS = [f"admin/s/{WEB}", "db/w/db.service", f"web/s/{WEB}"]


def test_what_a_worker_announces_without_a_placement_is_found() -> None:
    async def run() -> object:
        leader = Leader()
        await leader.fill()
        return find_stale(leader.cluster.snapshot)

    assert run_virtually(run()) == {("w", WEB): ("web", "admin")}


def test_names_that_a_worker_keeps_are_deleted_and_it_has_time_to_take_them_back() -> None:
    async def run() -> list[list[str]]:
        leader = Leader()
        await leader.fill()
        task = asyncio.create_task(leader.sweeper.run())
        seen = []
        for _ in range(2):
            await asyncio.sleep(PERIOD_S + 1)
            seen.append(await leader.left())
        task.cancel()
        return seen

    assert run_virtually(run()) == [ALL, OF_OTHERS]


def test_a_unit_that_is_placed_again_keeps_its_names_and_the_guard_of_the_term_holds() -> None:
    async def run() -> list[list[str]]:
        leader = Leader()
        await leader.fill()
        task = asyncio.create_task(leader.sweeper.run())
        seen = []
        await leader.store(PLACEMENTS, ("w", WEB), placed())  # of which the snapshot does not know yet
        await asyncio.sleep(3 * PERIOD_S)
        seen.append(await leader.left())
        await leader.store(PLACEMENTS, ("w", WEB), None)
        await leader.registry.store.transact([], [Put("/fleet/leader", b"another")])
        await asyncio.sleep(3 * PERIOD_S)
        seen.append(await leader.left())
        await leader.registry.store.transact([], [Delete("/fleet/leader")])
        await asyncio.sleep(PERIOD_S + 1)
        seen.append(await leader.left())
        task.cancel()
        return seen

    assert run_virtually(run()) == [ALL, ALL, OF_OTHERS]


def test_a_name_that_another_content_announced_is_deleted_once_the_worker_says_that_it_has_the_new_one() -> None:
    async def run() -> list[object]:
        leader = Leader()
        placement = Placement("w", WEB, "[X-Fleet]\nAnnounce=web 80\n", TargetState.LAUNCHED, 2)
        old = UnitState(active="active", hash="old", generation=1)
        new = UnitState(active="active", hash=placement.content.hash, generation=2)
        await leader.write(MACHINE_IDENTITIES, ("w",), MachineIdentity(WORKER))
        await leader.write(PLACEMENTS, ("w", WEB), placement)
        for service in ("web", "admin"):
            await leader.write(SERVICES, (service, "w", WEB), RECORD)
        task = asyncio.create_task(leader.sweeper.run())
        found: list[object] = [find_stale(leader.cluster.snapshot)]
        await leader.write(STATES, ("w", WEB), old)
        found.append(find_stale(leader.cluster.snapshot))
        await leader.write(STATES, ("w", WEB), new)
        found.append(find_stale(leader.cluster.snapshot))
        again = structs.replace(placement, generation=3)
        await leader.store(PLACEMENTS, ("w", WEB), again)  # of which the snapshot does not know yet
        await asyncio.sleep(2 * PERIOD_S + 1)
        found.append(await leader.left())
        await leader.store(PLACEMENTS, ("w", WEB), placement)
        await asyncio.sleep(PERIOD_S)
        found.append(await leader.left())
        task.cancel()
        return found

    kept, stale = [f"admin/w/{WEB}", f"web/w/{WEB}"], {("w", WEB): ("admin",)}
    assert run_virtually(run()) == [{}, {}, stale, kept, [f"web/w/{WEB}"]]


def test_a_leader_deletes_them() -> None:
    async def run() -> int:
        node = Node()
        identity, service = node.registry.key(MACHINE_IDENTITIES, "w"), node.registry.key(SERVICES, "web", "w", WEB)
        await node.start()
        machine, synced = node.registry.key(MACHINES, "w"), node.registry.key(SYNCED, "w")
        records: dict[str, Record] = {
            machine: Machine("w", "s1"),
            synced: Synced("s1"),
            identity: MachineIdentity(WORKER),
            service: RECORD,
        }
        await node.store.transact([], [Put(key, encode(record)) for key, record in records.items()])
        await asyncio.sleep(3 * PERIOD_S)
        left = len((await node.store.range(node.registry.key(SERVICES))).items)
        await node.stop()
        return left

    assert run_virtually(run()) == 0


def test_nothing_is_done_until_the_leader_has_written() -> None:
    async def run() -> list[list[str]]:
        leader = Leader()
        task = asyncio.create_task(leader.sweeper.run())
        await asyncio.sleep(2 * PERIOD_S)
        await leader.fill()
        seen = []
        for _ in range(2):
            await asyncio.sleep(5 * PERIOD_S)
            seen.append(await leader.left())
            leader.sweeper.note_write()
        task.cancel()
        return seen

    assert run_virtually(run()) == [ALL, OF_OTHERS]
