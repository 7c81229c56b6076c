"""Takes what machines stream to this server: the logs that clients follow, and answers that have no room in the store
(model/answer_stream.py). Machines dial the addresses of `peer_listen=`, and each end checks the certificate of the
other.
"""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress

from fleetd.api.asking import Expected, Item
from fleetd.api.sockets import ListenError, open_socket
from fleetd.api.tls_clients import read_client
from fleetd.api.tls_listener import ServerTrust, TlsListener
from fleetd.config.options import Address
from fleetd.model.answer_stream import (
    ACCEPTED,
    BEGIN_S,
    MAX_LINE_BYTES,
    SILENCE_S,
    read_line,
    refusal_line,
)
from fleetd.model.certificate import MACHINE, CertificateIdentity
from fleetd.model.machine_request import InvalidAnswer, MachineAnswer

MAX_STREAMS = 256  # at once; more connections are closed
MAX_OF_MACHINE = 24  # of them; an honest machine has 16 (AT_ONCE and FOLLOWED in agent/answers.py)
PAUSE_S = 0.01  # after a line that says nothing: an honest machine sends one each ALIVE_S
LOST = "its stream has ended: the machine, its fleetd or the network between has failed"


class PeerStreams:
    """The streams to this server. `address` is where machines dial, as HOST:PORT; `trust` says which certificates
    count, `unix_now` is the wall clock."""

    def __init__(
        self, trust: ServerTrust, address: Callable[[], str], unix_now: Callable[[], float] = time.time
    ) -> None:
        self.trust = trust
        self.address = address
        self._unix_now = unix_now
        self._expected: dict[str, Expected] = {}  # by id of the question
        self._streams: dict[asyncio.Task[None], CertificateIdentity] = {}
        self._of_machine: Counter[str] = Counter()  # connections, by machine

    @contextmanager
    def expect(self, id_: str, machines: Collection[str]) -> Iterator[Expected]:
        """Take streams of these machines for the question of this id while the `with` block runs."""
        expected = self._expected[id_] = Expected(machines)
        try:
            yield expected
        finally:
            del self._expected[id_]
            for task in expected.tasks:
                task.cancel()

    def close_revoked(self) -> None:
        """End the streams of machines whose certificate was revoked."""
        for task, identity in list(self._streams.items()):
            if self.trust.is_revoked(identity):
                task.cancel()

    def close(self) -> None:
        """End all streams."""
        for task in self._streams:
            task.cancel()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take the stream of a machine that has dialled."""
        try:
            client = read_client(writer.get_extra_info("peercert"))
            _, refusal = client.refuse(self._unix_now(), self.trust.is_revoked, self.trust.why_unsure())
            identity = client.certificate
            if refusal or identity is None or identity.kind != MACHINE:
                await _say(writer, refusal_line(refusal or "only machines of the cluster stream here"))
                return
            if self._of_machine[identity.name] >= MAX_OF_MACHINE:
                await _say(writer, refusal_line(f"machine {identity.name} has {MAX_OF_MACHINE} streams here already"))
                return
            with self._count(identity.name):
                async with asyncio.timeout(BEGIN_S):
                    id_ = (await reader.readline()).decode("utf-8", "replace").strip()
                expected = self._expected.get(id_)
                if expected is None or identity.name not in expected.machines - expected.begun:
                    await _say(writer, refusal_line(f"nobody waits here for an answer of machine {identity.name}"))
                else:
                    await self._receive(reader, writer, identity, expected)
        except (OSError, ValueError, TimeoutError):  # ValueError: a line without end
            pass
        finally:
            writer.transport.abort()

    @contextmanager
    def _count(self, machine: str) -> Iterator[None]:
        self._of_machine[machine] += 1
        try:
            yield
        finally:
            self._of_machine -= Counter([machine])  # without those that have none

    async def _receive(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        identity: CertificateIdentity,
        expected: Expected,
    ) -> None:
        machine = identity.name
        expected.begun.add(machine)
        task = asyncio.create_task(pass_on(reader, machine, expected.items))
        self._streams[task] = identity
        expected.tasks.add(task)
        try:
            await _say(writer, ACCEPTED)
            await asyncio.wait([task])
        finally:
            task.cancel()
            del self._streams[task]
            expected.tasks.discard(task)
        if task.cancelled() and self.trust.is_revoked(identity):
            await expected.items.put((machine, MachineAnswer(failure="its certificate was revoked")))


async def pass_on(reader: asyncio.StreamReader, machine: str, items: asyncio.Queue[Item]) -> None:
    """Put what a machine says into the queue, until the end. Root of that machine can send anything."""
    end = MachineAnswer(failure=LOST)
    try:
        while True:
            async with asyncio.timeout(SILENCE_S):
                line = await reader.readline()
            if not line:
                break
            said = read_line(line)
            if isinstance(said, MachineAnswer):
                end = said
                break
            if said is None:
                await asyncio.sleep(PAUSE_S)  # a flood of such lines would keep fleetd from everything else
            else:
                await items.put((machine, said))
    except TimeoutError:
        end = MachineAnswer(failure=f"its stream has been silent for {SILENCE_S:g} s: it is cut off, or hangs")
    except InvalidAnswer as error:
        end = MachineAnswer(failure=str(error))
    except ValueError:
        end = MachineAnswer(failure=f"it sends a line of more than {MAX_LINE_BYTES} bytes")
    except OSError:
        pass
    await items.put((machine, end))


async def _say(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line)
    async with asyncio.timeout(BEGIN_S):
        await writer.drain()


class PeerListener:
    """Accepts the streams of machines. `streams` may be replaced at any time."""

    def __init__(self, streams: PeerStreams) -> None:
        self.streams = streams
        self._listeners: list[TlsListener] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, addresses: Sequence[Address]) -> None:
        """Listen on these addresses. Raises ListenError, and then listens on none."""
        opened: list[socket.socket] = []
        try:
            for address in addresses:
                opened.append(open_socket(address, insecure=False, for_anybody=True))  # it asks for certificates
        except ListenError:
            for sock in opened:
                sock.close()
            raise
        for sock in opened:
            sock.listen(MAX_STREAMS)
            self._listeners.append(TlsListener(sock, self._make_protocol, lambda: self.streams.trust, b""))

    async def stop(self) -> None:
        """Stop to listen, and end all streams."""
        await asyncio.gather(*(listener.close() for listener in self._listeners))
        self._listeners.clear()
        for task in self._tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _make_protocol(self) -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(MAX_LINE_BYTES)
        return asyncio.StreamReaderProtocol(reader, self._begin)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_STREAMS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self.streams.take(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
