"""fleet-dns as a process, asked by dig, kdig and clients that do what they like."""

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from contrib.testbed.etcd import free_port
from fleetd.dns import server
from fleetd.dns.__main__ import main
from fleetd.dns.server import CannotListen, Server
from fleetd.dns.table_file import TableFile
from fleetd.model.announcement import Announcement
from fleetd.model.name_table import NameTable, encode
from fleetd.small_files import replace_file
from tests.dns.tables import make_table
from tests.requirements import require

QUESTION = dns.message.make_query("web.fleet.internal", "A", id=7).to_wire()
PATIENCE_S = 60.0
ASK_AGAIN_S = 1.0


class Running:
    """A server in this process, and its file."""

    def __init__(self, path: Path, port: int, idle_s: float = 60.0) -> None:
        self.path, self.port = path, port
        self.complaints: list[str] = []
        self.write(make_table())
        self.server = Server(TableFile(path, self.complaints.append), idle_s=idle_s, look_s=0.05)
        self.task = asyncio.create_task(self.server.run())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def write(self, table: NameTable, listen: tuple[str, ...] | None = None) -> None:
        listen = (self.address,) if listen is None else listen
        replace_file(self.path, encode(make_table(len(table.announcements), listen, table.domain)))

    async def wait_until_listening(self) -> None:
        await wait_until(lambda: self.server.listens != () or self.task.done())

    async def ask(self, request: bytes = QUESTION) -> bytes:
        """The answer over UDP. A question that a full buffer has dropped is asked again, as clients do."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.setblocking(False)
            udp.connect(("127.0.0.1", self.port))
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    await loop.sock_sendall(udp, request)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(ASK_AGAIN_S):
                            return await loop.sock_recv(udp, 65535)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def wait_until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 (nothing says so)
            await asyncio.sleep(0.01)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path / "names", free_port())
    await running.wait_until_listening()
    yield running
    running.server.end()
    await running.task


async def read_message(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2)))


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2) + message


async def send_for_ever(writer: asyncio.StreamWriter, message: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            writer.write(message)
            await writer.drain()
            await asyncio.sleep(0.01)


def is_served(port: int) -> bool:
    with socket.socket() as tcp:
        return tcp.connect_ex(("127.0.0.1", port)) == 0


async def dig(program: str, port: int, *arguments: str) -> list[str]:
    require([] if shutil.which(program) else [f"{program} is not installed"], "asks as users do")
    process = await asyncio.create_subprocess_exec(
        program, "@127.0.0.1", "-p", str(port), "+short", "+timeout=60", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return sorted(filter(None, output.decode().split("\n")))


@pytest.mark.parametrize("program", ["dig", "kdig"])
@pytest.mark.parametrize("options", [(), ("+tcp",), ("+noedns",), ("+bufsize=512",)])
async def test_dig_and_kdig_are_answered(running: Running, program: str, options: tuple[str, ...]) -> None:
    assert await dig(program, running.port, "web.fleet.internal", *options) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    services = await dig(program, running.port, "_web._tcp.fleet.internal", "SRV", *options)
    assert len(services) == 10
    assert services[0] == "1 1 8000 11111111.machine.fleet.internal."


@pytest.mark.parametrize("program", ["dig", "kdig"])
async def test_what_is_truncated_is_asked_again_over_tcp(running: Running, program: str) -> None:
    running.write(make_table(200))
    assert len(await dig(program, running.port, "_web._tcp.fleet.internal", "SRV")) == 200


async def test_a_new_table_counts_from_the_next_question_on(running: Running) -> None:
    for instances in (1, 2, 1, 3, 0):
        running.write(make_table(instances))
        answer = dns.message.from_wire(await running.ask())
        assert sum(map(len, answer.answer)) == instances
        reader, writer = await running.connect()
        writer.write(framed(QUESTION))
        assert sum(map(len, dns.message.from_wire(await read_message(reader)).answer)) == instances
        writer.close()


async def test_a_file_that_cannot_be_read_leaves_the_former_names(running: Running) -> None:
    replace_file(running.path, b"{}")
    before = await running.ask()
    replace_file(running.path, b"")
    assert sum(map(len, dns.message.from_wire(await running.ask()).answer)) == 3
    assert len(before) == len(await running.ask())
    assert all("the names known before are answered" in text for text in running.complaints)
    assert len(running.complaints) == 2
    running.write(make_table(1))
    assert sum(map(len, dns.message.from_wire(await running.ask()).answer)) == 1


async def test_it_ends_when_the_file_is_gone(running: Running) -> None:
    running.path.unlink()
    async with asyncio.timeout(PATIENCE_S):
        await running.task
    with pytest.raises(ConnectionRefusedError):
        await running.connect()


async def test_it_listens_elsewhere_when_the_file_says_so(running: Running) -> None:
    reader, _ = await running.connect()
    former, running.port = running.port, free_port()
    running.write(make_table())
    await wait_until(lambda: running.server.listens == (running.address,))
    assert await running.ask()
    assert await reader.read() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", former)


async def test_an_address_that_is_taken_is_named(running: Running, tmp_path: Path) -> None:
    other = Running(tmp_path / "other", running.port)
    with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1:{running.port}: Address already in use"):
        await other.task


async def test_ipv6_is_served(running: Running) -> None:
    running.write(make_table(), (f"[::1]:{running.port}", running.address))
    await wait_until(lambda: len(running.server.listens) == 2)
    reader, writer = await asyncio.open_connection("::1", running.port)
    writer.write(framed(QUESTION))
    assert await read_message(reader)
    writer.close()
    assert await running.ask()


async def test_a_question_over_tcp_may_come_in_pieces_and_many_at_once(running: Running) -> None:
    reader, writer = await running.connect()
    for byte in framed(QUESTION):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert (await read_message(reader))[:2] == b"\0\7"
    questions = [number.to_bytes(2) + QUESTION[2:] for number in range(1000)]
    writer.write(b"".join(map(framed, questions)))
    for number in range(1000):
        assert (await read_message(reader))[:2] == number.to_bytes(2)
    writer.close()


async def test_what_is_no_question_ends_a_connection(running: Running) -> None:
    for wrong in (b"\0\0", framed(b"x" * 11), framed(b"\0\7\x80" + bytes(9))):
        reader, writer = await running.connect()
        writer.write(wrong)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        writer.close()
    assert await running.ask()


@pytest.mark.parametrize("sent", [b"", b"\0", framed(QUESTION)[:-1]])
async def test_a_client_that_sends_nothing_more_is_left(tmp_path: Path, sent: bytes) -> None:
    running = Running(tmp_path / "names", free_port(), idle_s=0.05)
    await running.wait_until_listening()
    reader, writer = await running.connect()
    writer.write(sent)
    async with asyncio.timeout(PATIENCE_S):
        assert await reader.read() == b""
    writer.close()
    running.server.end()
    await running.task


async def test_a_client_that_takes_no_answers_is_left(tmp_path: Path) -> None:
    running = Running(tmp_path / "names", free_port(), idle_s=0.2)
    running.write(make_table(500))
    await running.wait_until_listening()
    question = framed(dns.message.make_query("_web._tcp.fleet.internal", "SRV").to_wire())
    _, writer = await running.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        await send_for_ever(writer, question * 100)
    running.server.end()
    await running.task


async def test_more_connections_than_there_may_be_end_the_one_idle_the_longest(running: Running) -> None:
    first = await running.connect()
    second = await running.connect()
    first[1].write(framed(QUESTION))
    await read_message(first[0])  # so the second is idle for longer
    others = [await running.connect() for _ in range(server.MOST_CONNECTIONS - 1)]
    async with asyncio.timeout(PATIENCE_S):
        assert await second[0].read() == b""
    for reader, writer in (first, *others):
        writer.write(framed(QUESTION))
        await read_message(reader)
        writer.close()
    second[1].close()


async def test_what_it_cannot_answer_is_reported_once(running: Running) -> None:
    broken = tuple(Announcement(name, f"{name}.service", "m1", "10.0.0.1", 70_000, "tcp") for name in ("a", "b"))
    replace_file(running.path, encode(NameTable("fleet.internal", (running.address,), "", "", (), broken)))
    for name in ("a", "b", "a"):
        question = dns.message.make_query(f"_{name}._tcp.fleet.internal", "SRV").to_wire()
        assert dns.message.from_wire(await running.ask(question)).rcode() == dns.rcode.SERVFAIL
    (complaint,) = running.complaints
    assert "SERVFAIL" in complaint
    assert "ValueError" in complaint


async def test_a_flood_of_junk_does_not_end_it(running: Running) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for number in range(20_000):
            udp.sendto(os.urandom(number % 64), ("127.0.0.1", running.port))
            if number % 100 == 0:
                await asyncio.sleep(0)
    assert dns.message.from_wire(await running.ask()).id == 7


async def test_the_process_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    port = free_port()
    replace_file(tmp_path / "names", encode(make_table(3, (f"127.0.0.1:{port}",))))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "fleetd.dns", os.fspath(tmp_path / "names"))
    await wait_until(lambda: is_served(port))
    assert await dig("dig", port, "web.fleet.internal") != []
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def test_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = os.fspath(tmp_path / "names")
    assert main([path]) == 1
    assert capsys.readouterr().err == f"<3>there is no {path}: fleetd writes it where fleet.conf has dns_listen=\n"
    assert main([path, path]) == main(["--help"]) == 2
    capsys.readouterr()
    Path(path).write_text("{}")
    assert main([path]) == 1
    assert capsys.readouterr().err.startswith(f"<3>{path}: it holds no name table: ")


def test_it_says_which_address_it_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "names"
    path.write_bytes(encode(make_table(1, ("192.0.2.1:8600",))))
    assert main([os.fspath(path)]) == 1
    assert capsys.readouterr().err == "<3>cannot listen on 192.0.2.1:8600: Cannot assign requested address\n"
