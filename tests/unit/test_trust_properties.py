"""Whatever happens to servers and their store: once it is over, each has a certificate that counts for all others, and
no revocation is forgotten."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetd.model.certificate import CertificateIdentity, split_pem
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Delete, Put, Unavailable
from fleetd.trust import x509
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import Lives
from tests.examples import examples
from tests.unit.trusting_server import TrustingServer
from tests.virtual_time import run_virtually

BEGIN = 1_790_000_000.0
LIFE_S = 3000.0
SETTLED_S = 120.0  # longer than the longest pause between two tries


class Store(EmbeddedStore):
    """A store that can be down."""

    is_down = False

    async def range(self, *args, **options):
        if self.is_down:
            raise Unavailable("it is down")
        return await super().range(*args, **options)

    async def transact(self, *args):
        if self.is_down:
            raise Unavailable("it is down")
        return await super().transact(*args)


class World:
    def __init__(self, directory: Path) -> None:
        self.store = Store(":memory:", offload=inline)
        self.servers = [
            TrustingServer(
                f"m{number}",
                self.store,
                directory,
                lambda: BEGIN + asyncio.get_running_loop().time(),
                ahead_s=ahead_s,
                lives=Lives(machine_s=LIFE_S, authority_s=1e6),
            )
            for number, ahead_s in enumerate((0.0, 5.0, -5.0))
        ]
        self.running = set(self.servers)
        self.backup: dict[str, bytes] = {}
        self.revoked: set[str] = set()

    async def do(self, step: str, number: int) -> None:
        server = self.servers[number]
        if step == "rotate" and server in self.running:
            try:
                await server.keeper.rotate("ann")
            except (Unavailable, ValueError):
                return
        elif step == "revoke" and server in self.running and not self.store.is_down:
            subject = f"person/p{len(self.revoked)}"
            await server.keeper.revoke(subject, "ann")
            self.revoked.add(subject)
        elif step == "stop" and server in self.running:
            self.running.remove(server)
            await server.stop()
        elif step == "start" and server not in self.running:
            self.running.add(server)
            server.start()
        elif step == "back up":
            self.backup = await self.read()
        elif step == "restore" and not self.store.is_down:
            await self.restore()
        elif step == "down":
            self.store.is_down = True
        elif step == "up":
            self.store.is_down = False
        await asyncio.sleep(0)

    async def read(self) -> dict[str, bytes]:
        return {item.key: item.value for item in (await EmbeddedStore.range(self.store, "/fleet")).items}

    async def restore(self) -> None:
        gone = [Delete(key) for key in await self.read() if key not in self.backup]
        await self.store.transact([], [*gone, *(Put(key, value) for key, value in self.backup.items())])

    async def check(self) -> None:
        now_s = BEGIN + asyncio.get_running_loop().time()
        own = {server: TrustFiles(server.directory).read_certificate() for server in self.servers}
        trusted = {server: split_pem(await server.keeper.authorities()) for server in self.servers}
        for server in self.servers:
            assert server.keeper.expires_at_s > now_s + LIFE_S / 4
            assert x509.describe(own[server])["serialNumber"].lower() == server.keeper.own.serial
            for other in self.servers:
                assert any(x509.is_signed_by(own[server], authority) for authority in trusted[other])
            for subject in self.revoked:
                kind, _, name = subject.partition("/")
                assert server.keeper.is_revoked(CertificateIdentity(kind, name, issued_at_s=BEGIN))


STEPS = ("rotate", "revoke", "stop", "start", "back up", "restore", "down", "up")
PAUSES_S = (0.0, 1.0, 100.0, LIFE_S * 0.7, LIFE_S * 1.5)
steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.sampled_from(PAUSES_S)), max_size=14)


@pytest.mark.covers("R.14")
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_nobody_is_locked_out_and_no_revocation_is_forgotten(taken) -> None:
    async def scenario(directory: Path) -> None:
        world = World(directory)
        for server in world.servers:
            server.start()
        await asyncio.sleep(1)
        for step, number, seconds in taken:
            await world.do(step, number)
            await asyncio.sleep(seconds)
        world.store.is_down = False
        for number in range(3):
            await world.do("start", number)
        await asyncio.sleep(SETTLED_S)
        await world.check()
        for server in world.servers:
            await server.stop()

    with tempfile.TemporaryDirectory() as directory:
        run_virtually(scenario(Path(directory)))
