"""The file from which names are answered follows the store."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from fleetd.model.announcement import Announcement, ServicePort, ServiceRecord
from fleetd.model.machine import Machine, MachineSettings
from fleetd.model.name_table import NameTable, decode
from fleetd.process.name_writer import NameWriter
from fleetd.registry.records import MACHINES, SERVICES, SETTINGS, SYNCED, Record, Synced
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Delete, Put

PATIENCE_S = 60.0
M1 = Machine(id="m1", address="10.0.0.1", metadata={"zone": "east"})
M2 = Machine(id="m2", address="10.0.0.2")


class Writing:
    """A writer, the store that it follows, and its file."""

    def __init__(self, directory: Path, *, is_worker: bool = False) -> None:
        self.registry = Registry(EmbeddedStore(":memory:", offload=inline))
        self.path = directory / "names"
        self.machine = M1
        self.set_back = asyncio.Event()
        self.is_worker = is_worker
        self.start()

    def start(self) -> None:
        writer = NameWriter(
            self.registry,
            self.path,
            listen=["127.0.0.1:8600"],
            domain="fleet.internal",
            machine=lambda: self.machine,
            set_back=self.set_back,
            is_worker=self.is_worker,
        )
        self.task = asyncio.create_task(writer.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def put(self, record: Record, *names: str) -> None:
        await self.registry.store.transact([], [self.registry.put(record, *names)])

    async def announce(self, record: ServiceRecord, machine: str = "m2") -> None:
        await self.put(record, "web", machine, "web.service")

    async def delete(self, key: str) -> None:
        await self.registry.store.transact([], [Delete(key)])

    def table(self) -> NameTable | None:
        return decode(self.path.read_bytes()) if self.path.exists() else None

    async def wait(self, is_so: Callable[[NameTable], bool]) -> NameTable:
        async with asyncio.timeout(PATIENCE_S):
            while (table := self.table()) is None or not is_so(table):  # noqa: ASYNC110 (a file)
                await asyncio.sleep(0.01)
        return table


@pytest.fixture
async def writing(tmp_path: Path) -> AsyncIterator[Writing]:
    writing = Writing(tmp_path)
    yield writing
    await writing.stop()


def machines(table: NameTable) -> dict[str, str]:
    return {machine.id: machine.address for machine in table.machines}


async def test_it_has_this_machine_at_once_and_everybody_may_read_it(writing: Writing) -> None:
    table = await writing.wait(lambda table: True)
    assert (table.domain, table.listen, table.machine, table.zone) == (
        "fleet.internal", ("127.0.0.1:8600",), "m1", "east"
    )  # fmt: skip
    assert machines(table) == {"m1": "10.0.0.1"}
    assert stat.S_IMODE(writing.path.stat().st_mode) == 0o644


async def test_it_follows_what_units_announce(writing: Writing) -> None:
    record = ServiceRecord("10.0.0.2", (ServicePort(80), ServicePort(53, "udp")), "west")
    await writing.announce(record)
    table = await writing.wait(lambda table: len(table.announcements) == 2)
    assert Announcement("web", "web.service", "m2", "10.0.0.2", 80, "tcp", "west") in table.announcements
    await writing.announce(msgspec.structs.replace(record, failing="it answers 500"))
    await writing.wait(lambda table: not table.announcements)
    await writing.announce(record)
    await writing.wait(lambda table: len(table.announcements) == 2)
    await writing.delete(writing.registry.key(SERVICES, "web", "m2", "web.service"))
    await writing.wait(lambda table: not table.announcements)


async def test_a_record_that_cannot_be_read_leaves_the_former(writing: Writing) -> None:
    await writing.announce(ServiceRecord("10.0.0.2", (ServicePort(80),)))
    await writing.wait(lambda table: len(table.announcements) == 1)
    for key in (
        writing.registry.key(SERVICES, "web", "m2", "web.service"),
        writing.registry.key(SERVICES, "web", "m2"),
    ):
        await writing.registry.store.transact([], [Put(key, b"{")])
    await writing.announce(ServiceRecord("10.0.0.3", (ServicePort(80),)), "m3")
    table = await writing.wait(lambda table: len(table.announcements) == 2)
    assert {each.machine for each in table.announcements} == {"m2", "m3"}


async def test_it_is_in_the_zone_that_operators_set(writing: Writing) -> None:
    await writing.put(MachineSettings(metadata={"zone": "north"}), "m1")
    await writing.put(MachineSettings(metadata={"zone": "south"}), "m11")
    await writing.wait(lambda table: table.zone == "north")
    await writing.delete(writing.registry.key(SETTINGS, "m11"))
    await writing.delete(writing.registry.key(SETTINGS, "m1"))
    await writing.wait(lambda table: table.zone == "east")


async def test_a_machine_keeps_its_name_until_the_leader_judges_it_dead(writing: Writing) -> None:
    await writing.put(M2, "m2")
    await writing.put(Synced("s"), "m2")
    await writing.stop()
    writing.start()  # two watches are in no order: now it has read both
    await writing.wait(lambda table: "m2" in machines(table))
    await writing.delete(writing.registry.key(MACHINES, "m2"))  # its lease has ended
    await writing.announce(ServiceRecord("10.0.0.3", (ServicePort(80),)), "m3")
    table = await writing.wait(lambda table: table.announcements != ())
    assert machines(table)["m2"] == "10.0.0.2"
    await writing.stop()
    writing.start()  # another fleetd, which has not seen the machine
    await writing.announce(ServiceRecord("10.0.0.3", (ServicePort(81),)), "m3")
    table = await writing.wait(lambda table: table.announcements[0].port == 81)
    assert machines(table)["m2"] == "10.0.0.2"
    await writing.delete(writing.registry.key(SYNCED, "m2"))
    await writing.wait(lambda table: "m2" not in machines(table))


async def test_a_machine_that_leaves_has_no_name_any_more(writing: Writing) -> None:
    await writing.put(M2, "m2")
    await writing.wait(lambda table: "m2" in machines(table))
    await writing.delete(writing.registry.key(MACHINES, "m2"))
    await writing.wait(lambda table: "m2" not in machines(table))


async def test_it_is_written_only_when_its_text_changes(writing: Writing) -> None:
    await writing.put(M2, "m2")
    await writing.wait(lambda table: "m2" in machines(table))
    before = writing.path.stat().st_ino
    await writing.put(msgspec.structs.replace(M2, session="another"), "m2")
    await writing.put(Synced("s"), "m2")
    await writing.announce(ServiceRecord("10.0.0.2", (ServicePort(80),), failing="no"))
    await asyncio.sleep(0.2)  # nothing is to happen
    assert writing.path.stat().st_ino == before


async def test_it_is_read_again_while_the_store_is_known_to_be_set_back(writing: Writing) -> None:
    await writing.wait(lambda table: True)
    writing.set_back.set()
    await asyncio.sleep(0)
    await writing.put(M2, "m2")
    await writing.wait(lambda table: "m2" in machines(table))
    writing.set_back.clear()
    await writing.put(msgspec.structs.replace(M2, address="10.9.9.9"), "m2")
    await writing.wait(lambda table: machines(table)["m2"] == "10.9.9.9")


async def test_a_file_that_cannot_be_written_is_tried_again_with_the_next_change(
    writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    await writing.wait(lambda table: True)
    writing.path.unlink()
    writing.path.mkdir()
    await writing.put(M2, "m2")
    async with asyncio.timeout(PATIENCE_S):
        while "cannot write what fleet-dns answers from" not in caplog.text:  # noqa: ASYNC110 (a log)
            await asyncio.sleep(0.01)
    writing.path.rmdir()
    await writing.put(msgspec.structs.replace(M2, address="10.9.9.9"), "m2")
    await writing.wait(lambda table: "m2" in machines(table))


async def test_a_worker_sees_of_machines_what_they_announce(tmp_path: Path) -> None:
    writing = Writing(tmp_path, is_worker=True)
    await writing.put(M2, "m2")
    await writing.announce(ServiceRecord("10.0.0.2", (ServicePort(80),)))
    table = await writing.wait(lambda table: table.announcements != ())
    assert machines(table) == {"m1": "10.0.0.1"}
    await writing.stop()
