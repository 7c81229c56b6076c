"""A fetcher whose downloads take as long, and end, as a test or a simulation says, without podman or a network."""

import asyncio
from collections.abc import Callable, Collection, Sequence

from fleetd.model.download import Download, FetchFailed, describe_failure

LOOK_S = 0.01


class ScriptedFetcher:
    """`here` are the downloads that are on the machine. `find_failure` says why one fails now, '' if it succeeds; by
    default `failures` holds that by source. Each takes `takes_s`. `begun` and `cancelled` are the sources of those so
    far."""

    keeps_any = False

    def __init__(self, find_failure: Callable[[Download], str] | None = None, takes_s: float = 0.1) -> None:
        self.here: dict[Download, None] = {}
        self.failures: dict[str, str] = {}
        self.takes_s = takes_s
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.prepared: dict[str, tuple[Download, ...]] = {}  # by unit
        self.tidied: list[set[Download]] = []
        self._find = find_failure or (lambda download: self.failures.get(download.source, ""))

    async def find(self, download: Download) -> bool:
        """True if it is here (Fetcher)."""
        await asyncio.sleep(LOOK_S)
        return download in self.here

    async def fetch(self, download: Download) -> None:
        """Get it (Fetcher)."""
        self.begun.append(download.source)
        await asyncio.sleep(self.takes_s)
        if failure := self._find(download):
            raise FetchFailed(describe_failure(download, failure))
        self.here[download] = None

    async def cancel(self, download: Download) -> None:
        """Note it (Fetcher)."""
        self.cancelled.append(download.source)

    def prepare(self, unit: str, downloads: Sequence[Download]) -> None:
        """Note it (Fetcher)."""
        self.prepared[unit] = tuple(downloads)

    def forget(self, unit: str) -> None:
        """Forget it (Fetcher)."""
        self.prepared.pop(unit, None)

    async def tidy(self, needed: Collection[Download]) -> None:
        """Note it (Fetcher)."""
        self.tidied.append(set(needed))
