"""Servers and their keepers, over one store, with certificates that are made in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from fleetd.model.certificate import SERVER, CertificateIdentity
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Delete, Store
from fleetd.trust import x509
from fleetd.trust.__main__ import answer
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import Lives, TrustKeeper
from fleetd.trust.signing import Signer

BEGIN = 1_790_000_000.0
DAY_S = 86400.0
LIVES = Lives(machine_s=30 * DAY_S)


async def answer_here(call: bytes) -> bytes:
    return answer(call)


def signer() -> Signer:
    return Signer(answer_here)


def open_store(path: str = ":memory:") -> EmbeddedStore:
    return EmbeddedStore(path, offload=inline)


class TrustingServer:
    """One server: its keeper, its disk and its clock, which is `ahead_s` off."""

    def __init__(
        self,
        name: str,
        store: Store,
        directory: Path,
        unix_now: Callable[[], float],
        *,
        ahead_s: float = 0.0,
        lives: Lives = LIVES,
        **arguments: Any,
    ) -> None:
        self.name = name
        self.directory = directory / name
        self.revoked: list[str] = []
        self._make = lambda: TrustKeeper(
            CertificateIdentity("machine", name, SERVER),
            TrustFiles(self.directory, sync=lambda descriptor: None),
            Registry(store),
            unix_now=lambda: unix_now() + ahead_s,
            lives=lives,
            on_revoked=self.revoked.append,
            **{"signer": signer(), **arguments},
        )
        self.keeper = self._make()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it, or start it again: it knows what is on its disk."""
        self.keeper = self._make()
        self.keeper.open()
        self._task = asyncio.create_task(self.keeper.run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        assert self._task.cancelled(), self._task.exception()


def unix_now() -> float:
    """The wall clock in virtual time."""
    return BEGIN + asyncio.get_running_loop().time()


class Servers:
    """Makes servers over one store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @cached_property
    def store(self) -> EmbeddedStore:
        return open_store()

    def __call__(self, name: str, **arguments: Any) -> TrustingServer:
        return TrustingServer(name, self.store, self.directory, unix_now, **arguments)


@asynccontextmanager
async def running(*servers: TrustingServer) -> AsyncIterator[None]:
    """Within the `async with` block these servers run."""
    for each in servers:
        each.start()
    await asyncio.sleep(1)
    yield
    for each in servers:
        await each.stop()


def authority_of(server: TrustingServer) -> int:
    """The number of the authority that has signed the server's certificate."""
    known = server.keeper._known.authorities
    certificate = TrustFiles(server.directory).read_certificate()
    (number,) = [each.number for each in known if x509.is_signed_by(certificate, each.certificate)]
    return number


async def forget(store: Store, *parts: str) -> None:
    """Delete the keys that have one of these in them."""
    found = await store.range("/fleet")
    await store.transact([], [Delete(item.key) for item in found.items if any(part in item.key for part in parts)])
