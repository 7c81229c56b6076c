"""A ledger whose writes are moments at which its fleetd can die. The disk is simulated no further."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fleetd.agent.ledger import AskedReboot, Ledger, Restored, StoreSeen
from fleetd.reconciler.actions import LedgerEntry


class WatchedLedger(Ledger):
    """Asks `is_fatal` just before and just after each change. A dead fleetd changes nothing."""

    def __init__(self, is_fatal: Callable[[str], bool], directory: Path) -> None:
        super().__init__(directory)
        self._is_fatal = is_fatal

    def put(self, name: str, entry: LedgerEntry) -> None:
        with self._watch(f"ledger entry {name}", self.get(name) != entry):
            super().put(name, entry)

    def forget(self, name: str) -> None:
        with self._watch(f"removal of ledger entry {name}", self.get(name) is not None):
            super().forget(name)

    def put_store(self, seen: StoreSeen) -> None:
        with self._watch("store in the ledger", self.store != seen):
            super().put_store(seen)

    def put_restored(self, restored: Restored) -> None:
        with self._watch("restore in the ledger", self.restored != restored):
            super().put_restored(restored)

    def put_orphans(self, names: tuple[str, ...]) -> None:
        with self._watch("orphans in the ledger", self.orphans != names):
            super().put_orphans(names)

    def put_links(self, links: Mapping[str, str]) -> None:
        with self._watch("links in the ledger", self.links != links):
            super().put_links(links)

    def put_reboot(self, asked: AskedReboot) -> None:
        with self._watch("reboot in the ledger", self.reboot != asked):
            super().put_reboot(asked)

    @contextmanager
    def _watch(self, what: str, changes: bool) -> Iterator[None]:
        if changes and self._is_fatal(f"before {what}"):
            raise OSError("fleetd is dead")
        yield
        if changes:
            self._is_fatal(f"after {what}")
