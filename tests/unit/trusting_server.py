"""Servers and their keepers, over one store, with certificates that are made in this process."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetd.model.certificate import SERVER, CertificateIdentity
from fleetd.registry.registry import Registry
from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Store
from fleetd.trust.__main__ import answer
from fleetd.trust.files import TrustFiles
from fleetd.trust.keeper import Lives, TrustKeeper
from fleetd.trust.signing import Signer

LIVES = Lives(machine_s=30 * 86400.0)


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
