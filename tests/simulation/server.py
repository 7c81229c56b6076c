"""The cluster's one store and its faults: crashes, freezes, compactions, lost leases, restores.

It is the embedded store under control of the scenario. wire.py carries the requests and answers.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from fleetd.store.embedded import EmbeddedStore, inline
from fleetd.store.protocol import Event, Unavailable
from fleetd.store.sqlite import Written

_FILE = "store.db"
_HISTORY_REVISIONS = 100_000
_LEASES_APART = 1_000  # a lease granted after a restore never has a former id, as in etcd


class ObservedStore(EmbeddedStore):
    """An embedded store that reports each write as it is made."""

    def __init__(self, path: Path, on_events: Callable[[tuple[Event, ...]], None]) -> None:
        super().__init__(str(path), offload=inline, cluster_id="simulated", history=_HISTORY_REVISIONS)
        self._on_events = on_events

    def _publish(self, written: Written) -> None:
        super()._publish(written)
        if written.events:
            self._on_events(written.events)

    @property
    def leases(self) -> tuple[int, ...]:
        """The live leases, the oldest first."""
        return tuple(self._deadlines)

    def lease_ttl_s(self, lease: int) -> float:
        """The whole time to live of a lease; 0 without such a lease."""
        return self._ttls_s.get(lease, 0.0)

    @property
    def latest_revision(self) -> int:
        """The revision of the last write."""
        return self._history.revision


class StoreServer:
    """The store as a service in `directory`. `incarnation` counts its starts: a connection ends with it."""

    def __init__(self, directory: Path, on_events: Callable[[tuple[Event, ...]], None]) -> None:
        self._directory = directory
        self._snapshot = directory / "snapshot"
        self._on_events = on_events
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._up = asyncio.Event()
        self.incarnation = 0
        directory.mkdir()
        self.store = self._open()

    def _open(self) -> ObservedStore:
        self.incarnation += 1
        self._up.set()
        self._answers_since_s = asyncio.get_running_loop().time()
        return ObservedStore(self._directory / _FILE, self._on_events)

    @property
    def is_up(self) -> bool:
        """True if it runs, frozen or not."""
        return self._up.is_set()

    @property
    def answers(self) -> bool:
        """True if it runs and is not frozen."""
        return self.is_up and self._thawed.is_set()

    @property
    def answers_for_s(self) -> float:
        """How long it has been answering; 0 while it does not."""
        return asyncio.get_running_loop().time() - self._answers_since_s if self.answers else 0.0

    async def answering(self) -> ObservedStore:
        """Wait until the store is not frozen. Return it. Raises Unavailable if it is down."""
        await self._thawed.wait()
        if not self.is_up:
            raise Unavailable("the store refuses connections")
        return self.store

    async def found_up(self) -> ObservedStore:
        """Wait until the store runs and is not frozen. Return it."""
        while not self.answers:
            await self._up.wait()
            await self._thawed.wait()
        return self.store

    async def crash(self) -> None:
        """The service dies; acknowledged writes are on its disk."""
        if self.is_up:
            self._up.clear()
            await self.store.close()

    def start(self) -> None:
        """The service starts again, with its data."""
        if not self.is_up:
            self.store = self._open()

    def freeze(self) -> None:
        """It accepts requests and does not handle them; leases run out meanwhile."""
        self._thawed.clear()

    def thaw(self) -> None:
        """It handles the requests that have waited."""
        self._thawed.set()
        self._answers_since_s = asyncio.get_running_loop().time()

    def take_snapshot(self) -> None:
        """Save its present data."""
        shutil.rmtree(self._snapshot, ignore_errors=True)
        self._snapshot.mkdir()
        for file in self._files():
            shutil.copy(file, self._snapshot / file.name)

    @property
    def has_snapshot(self) -> bool:
        """True if there is a snapshot to restore."""
        return self._snapshot.exists()

    async def restore(self) -> None:
        """Stop, take the data of the snapshot, and start."""
        await self.crash()
        for file in self._files():
            file.unlink()
        for file in sorted(self._snapshot.iterdir()):
            shutil.copy(file, self._directory / file.name)
        connection = sqlite3.connect(self._directory / _FILE)
        with connection:
            connection.execute("UPDATE store SET last_lease = last_lease + ?", (_LEASES_APART * self.incarnation,))
        connection.close()
        self.start()

    async def expire(self, leases: tuple[int, ...]) -> None:
        """End these leases early, as a member does that wrongly believes that it leads."""
        for lease in leases:
            await self.store.revoke(lease)

    def _files(self) -> list[Path]:
        return sorted(file for file in self._directory.iterdir() if file.name.startswith(_FILE))
