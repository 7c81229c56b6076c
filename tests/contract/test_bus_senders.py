"""Whose signals count (dbus_connection.py), on a private bus where every client may send everything to every other.

A real dbus-daemon, a connection that owns systemd's name, and others that send with dbus-send, as another user if this
runs as root. With both D-Bus libraries.
"""

import asyncio
import logging
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dbus_next import Message, MessageType, RequestNameReply
from dbus_next.aio import MessageBus

from fleetd.systemd.dbus_connection import (
    BUS,
    BUS_PATH,
    LIBRARIES,
    MANAGER,
    MANAGER_PATH,
    PROPERTIES,
    SYSTEMD,
    SystemBus,
    object_path,
)
from tests.metrics import Counted

PATIENCE_S = 60.0
DROPPED = "fleet_dbus_signals_dropped_total"
POLICY = """<busconfig><type>custom</type><listen>unix:dir={directory}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy></busconfig>"""
A_UNIT = object_path("a.service")

Signal = tuple[str, str, Sequence[Any]]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A folder for a bus that every user may use."""
    with tempfile.TemporaryDirectory(prefix="fleet-bus-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "bus.conf").write_text(POLICY.format(directory=directory))
        command = ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--print-address"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
            assert daemon.stdout is not None
            yield daemon.stdout.readline().strip()
            daemon.terminate()


class FakeSystemd:
    """A connection that may own systemd's name. It answers every call, and sends what it is told."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        bus.add_message_handler(self._answer)

    def _answer(self, message: Message) -> Message | None:
        return Message.new_method_return(message) if message.message_type is MessageType.METHOD_CALL else None

    async def take_name(self) -> None:
        assert await self._bus.request_name(SYSTEMD) is RequestNameReply.PRIMARY_OWNER

    async def release_name(self) -> None:
        await self._bus.release_name(SYSTEMD)

    async def signal(
        self,
        interface: str,
        member: str,
        signature: str,
        *body: object,
        path: str = MANAGER_PATH,
        to: str | None = None,
    ) -> None:
        message = Message(
            message_type=MessageType.SIGNAL,
            destination=to,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        await self._bus.send(message)

    async def end_job(self, number: int, to: str | None = None) -> None:
        job = f"{MANAGER_PATH}/job/{number}"
        await self.signal(MANAGER, "JobRemoved", "uoss", number, job, "a.service", "done", to=to)


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[FakeSystemd]:
    bus = await MessageBus(bus_address=address).connect()
    try:
        yield FakeSystemd(bus)
    finally:
        bus.disconnect()


class Listener:
    """A SystemBus on the bus, and what was reported to it."""

    def __init__(self, library: str, address: str) -> None:
        self.signals: list[Signal] = []
        self.times_reached = 0
        self.name = ""
        self.bus = SystemBus(self._note_reached, self._note, library=library, address=address, user=False)

    async def _note_reached(self) -> None:
        [me] = await self.bus.call("know ourselves", "GetId", destination=BUS, path=BUS_PATH, interface=BUS)
        assert me
        self.name = self.bus._bus.unique_name
        self.times_reached += 1  # last: a client that waits for this name sends to it

    def _note(self, path: str, member: str, body: Sequence[Any]) -> None:
        self.signals.append((path, member, body))

    def jobs(self) -> list[int]:
        return [body[0] for _, member, body in self.signals if member == "JobRemoved"]


@pytest.fixture
async def systemd(address: str) -> AsyncIterator[FakeSystemd]:
    async with connected(address) as systemd:
        await systemd.take_name()
        yield systemd


@pytest.fixture(params=LIBRARIES)
async def listener(request: pytest.FixtureRequest, address: str, systemd: FakeSystemd) -> AsyncIterator[Listener]:
    listener = Listener(request.param, address)
    await listener.bus.connect()
    yield listener
    await listener.bus.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 (what is counted has no event)
            await asyncio.sleep(0.01)


async def forge(address: str, to: str, signal: str, path: str, *body: str) -> None:
    """Send a signal to one connection, as another user if possible."""
    command = ["dbus-send", f"--bus={address}", "--type=signal", f"--dest={to}", path, signal, *body]
    options: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    process = await asyncio.create_subprocess_exec(*command, **options)
    assert await process.wait() == 0


FORGED = {
    "systemd's name changes hands": (
        f"{BUS}.NameOwnerChanged",
        BUS_PATH,
        f"string:{SYSTEMD}",
        "string::1.0",
        "string:",
    ),
    "the same, without a body": (f"{BUS}.NameOwnerChanged", BUS_PATH),
    "a job has ended": (
        f"{MANAGER}.JobRemoved",
        MANAGER_PATH,
        "uint32:1",
        f"objpath:{MANAGER_PATH}/job/1",
        "string:a.service",
        "string:done",
    ),
    "the same, with half a body": (f"{MANAGER}.JobRemoved", MANAGER_PATH, "uint32:1"),
    "systemd has reloaded": (f"{MANAGER}.Reloading", MANAGER_PATH, "boolean:false"),
    "the same, without a body ": (f"{MANAGER}.Reloading", MANAGER_PATH),
    "a unit has changed": (
        f"{PROPERTIES}.PropertiesChanged",
        A_UNIT,
        f"string:{SYSTEMD}.Unit",
        "dict:string:string:ActiveState,failed",
        "array:string:",
    ),
    "unknown interface": ("org.example.Some.Thing", "/org/example", "string:x"),
}


@pytest.mark.covers("R.15")
@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_signals_of_other_senders_are_ignored_and_counted(
    forged: tuple[str, ...], address: str, listener: Listener, systemd: FakeSystemd, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted()
    with caplog.at_level(logging.DEBUG):
        await forge(address, listener.name, *forged)
        await until(lambda: counted(DROPPED) == 1)
        await systemd.end_job(2)
        await until(lambda: listener.signals != [])
    assert listener.jobs() == [2]
    assert len(listener.signals) == 1
    assert listener.times_reached == 1
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio"] == []


async def test_a_thousand_forged_signals_do_not_block_calls_to_systemd(
    address: str, listener: Listener, systemd: FakeSystemd
) -> None:
    counted = Counted()
    async with connected(address) as other:
        for _ in range(1000):
            await other.signal(BUS, "NameOwnerChanged", "sss", SYSTEMD, ":1.0", "", path=BUS_PATH, to=listener.name)
            await other.end_job(1, to=listener.name)
        await asyncio.gather(*(listener.bus.call("ask", "Anything") for _ in range(100)))
        await until(lambda: counted(DROPPED) == 2000)
    assert listener.signals == []
    assert listener.times_reached == 1


async def test_signals_of_systemd_count_if_their_shape_is_right(listener: Listener, systemd: FakeSystemd) -> None:
    await systemd.signal(MANAGER, "Reloading", "b", False)
    await systemd.signal(MANAGER, "Reloading", "s", "no")
    await systemd.signal(MANAGER, "JobRemoved", "u", 1)
    await systemd.end_job(3)
    await systemd.signal(PROPERTIES, "PropertiesChanged", "sa{sv}as", f"{SYSTEMD}.Unit", {}, [], path=A_UNIT)
    await until(lambda: len(listener.signals) == 3)
    assert [(path, member) for path, member, _ in listener.signals] == [
        (MANAGER_PATH, "Reloading"),
        (MANAGER_PATH, "JobRemoved"),
        (A_UNIT, "PropertiesChanged"),
    ]


async def test_signals_of_a_new_owner_of_systemds_name_count_and_the_olds_do_not(
    address: str, listener: Listener, systemd: FakeSystemd
) -> None:
    async with connected(address) as heir:
        await systemd.release_name()
        await until(lambda: not listener.bus.is_connected)
        await heir.take_name()
        await until(lambda: listener.times_reached == 2)
        await systemd.end_job(1, to=listener.name)
        await heir.end_job(2, to=listener.name)
        await until(lambda: listener.signals != [])
    assert listener.jobs() == [2]
