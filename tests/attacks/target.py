"""A cluster with something to lose, served as a server of a real one does it, and who attacks it."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from contrib.testbed.etcd import free_port
from fleetd.api.server import Server
from fleetd.config.options import Address
from tests.api.conftest import Fleet, fleet
from tests.api.served import LOOPBACK, serving
from tests.certificates import TestAuthority, TestTrust

__all__ = ["fleet"]

SECRET = "the-password-in-a-unit"
UNIT = f"[Service]\nExecStart=/bin/sleep {SECRET}\n"
PATIENCE_S = 2.0


class Answer(msgspec.Struct, frozen=True):
    """What came back over one connection until it ended: the HTTP statuses, and every byte."""

    statuses: tuple[int, ...]
    text: bytes

    @property
    def gave_nothing(self) -> bool:
        """Nothing but refusals, and nothing of the units."""
        return all(status >= 400 for status in self.statuses) and SECRET.encode() not in self.text


class Target:
    """The API of a cluster with one unit, on three addresses."""

    def __init__(self, fleet: Fleet, server: Server, authority: TestAuthority, trust: TestTrust) -> None:
        self.fleet = fleet
        self.server = server
        self.authority = authority
        self.trust = trust
        self.plain = self.https = self.metrics = Address()
        self._before = 0

    async def watch(self) -> None:
        """From now on, nothing may change."""
        self._before = await self.fleet.registry.store.revision()

    async def is_untouched(self) -> bool:
        return await self.fleet.registry.store.revision() == self._before

    async def send(self, address: Address, data: bytes, tls: ssl.SSLContext | None = None) -> Answer:
        """Send these bytes, and read until the other side has ended or keeps silent."""
        return await asyncio.to_thread(_send, address, data, tls)


def _send(address: Address, data: bytes, tls: ssl.SSLContext | None) -> Answer:
    received = b""
    try:
        with _connect(address) as plain:
            plain.settimeout(PATIENCE_S)
            connection = tls.wrap_socket(plain, server_hostname=LOOPBACK) if tls else plain
            connection.sendall(data)
            while more := connection.recv(65536):
                received += more
    except (TimeoutError, OSError):
        pass
    return Answer(tuple(int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3})", received)), received)


def _connect(address: Address) -> socket.socket:
    if not address.path:
        return socket.create_connection((address.host, address.port), PATIENCE_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address.path)
    return connection


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority(tmp_path_factory.mktemp("other"))


@pytest.fixture
async def target(fleet: Fleet, authority: TestAuthority) -> AsyncIterator[Target]:
    trust = TestTrust(authority)
    plain, metrics = (Address(host=LOOPBACK, port=free_port()) for _ in range(2))
    https = Address(host=LOOPBACK, port=free_port(), tls=True)
    await fleet.add_unit("db.service", UNIT, "launched")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(fleet.api, plain, https, trust=trust, metrics_addresses=[metrics])
        )
        found = Target(fleet, server, authority, trust)
        found.plain, found.https, found.metrics = plain, https, metrics
        await found.watch()
        yield found


def request(line: str, *headers: str, body: str = "", host: str = LOOPBACK) -> bytes:
    """One HTTP request, after which the connection ends."""
    length = [f"Content-Length: {len(body.encode())}"] if body else []
    head = [f"{line} HTTP/1.1", f"Host: {host}", *length, *headers, "Connection: close"]
    return "\r\n".join([*head, "", body]).encode()


def certificate_of(path: Path, authority: TestAuthority) -> ssl.SSLContext:
    """What a client with this certificate connects with."""
    return authority.client_context(path)
