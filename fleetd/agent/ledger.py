"""What this machine has started, kept where it outlives fleetd but not the boot: by default /run/fleet.

One small file a unit, each replaced atomically, so that a crash leaves the old entry or the new one. Beside them the
store's identity as it was last seen, the names of orphans, and the links that were made for the units' [Install]. What
an entry means is reconciler/plan.py's matter, what a link means model/install.py's.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from fleetd.model.decoding import UNREADABLE, Count
from fleetd.reconciler.actions import LedgerEntry


class StoreSeen(msgspec.Struct, frozen=True):
    """Which store this machine has worked for last, and the highest revision of it that it has seen."""

    cluster_id: str = ""
    revision: Count = 0


_Value = TypeVar("_Value")
_BEING_WRITTEN = ".new"  # begins with a dot, as no entry does


class Ledger:
    """The ledger below a directory, made if need be. Reads all at once; a change is on disk when the call returns.

    Every method that changes something raises OSError where the disk refuses; then nothing has changed. A file that
    cannot be read counts as absent, with a warning.
    """

    def __init__(self, directory: Path, logger: logging.Logger) -> None:
        self._log = logger
        self._units = os.fspath(directory / "started")
        self._store_file, self._orphans_file, self._links_file = (
            os.fspath(directory / name) for name in ("store", "orphans", "links")
        )
        os.makedirs(self._units, exist_ok=True)
        self._entries = self._read_entries()
        self._store = self._read(self._store_file, StoreSeen) or StoreSeen()
        self._orphans = self._read(self._orphans_file, tuple[str, ...]) or ()
        self._links = self._read(self._links_file, dict[str, str])

    @property
    def names(self) -> tuple[str, ...]:
        """The units with an entry, in order."""
        return tuple(sorted(self._entries))

    def get(self, name: str) -> LedgerEntry | None:
        """What was carried out last for this unit, None where nothing was."""
        return self._entries.get(name)

    def put(self, name: str, entry: LedgerEntry) -> None:
        """Keep this entry for the unit."""
        if self._entries.get(name) != entry:
            _replace(self._entry(name), msgspec.json.encode(entry))
            self._entries[name] = entry

    def forget(self, name: str) -> None:
        """Keep nothing for the unit; if nothing is kept, that is no error."""
        if name in self._entries:
            with suppress(FileNotFoundError):
                os.unlink(self._entry(name))
            del self._entries[name]

    @property
    def store(self) -> StoreSeen:
        """The store as it was last seen; no cluster id: none was."""
        return self._store

    def put_store(self, seen: StoreSeen) -> None:
        """Keep what was seen of the store."""
        if seen != self._store:
            _replace(self._store_file, msgspec.json.encode(seen))
            self._store = seen

    @property
    def orphans(self) -> tuple[str, ...]:
        """Units that a restored store did not know, and that are held until a person decides; in order."""
        return self._orphans

    def put_orphans(self, names: tuple[str, ...]) -> None:
        """Keep these names as the orphans."""
        if names != self._orphans:
            _replace(self._orphans_file, msgspec.json.encode(names))
            self._orphans = names

    @property
    def links(self) -> Mapping[str, str] | None:
        """Link below systemd's runtime directory → the unit that it is (or was to be) made for; None: not kept yet."""
        return self._links

    def put_links(self, links: Mapping[str, str]) -> None:
        """Keep these links."""
        if links != self._links:
            _replace(self._links_file, msgspec.json.encode(links))
            self._links = dict(links)

    def _read_entries(self) -> dict[str, LedgerEntry]:
        entries = {}
        for name in sorted(os.listdir(self._units)):
            if not name.startswith("."):
                entry = self._read(self._entry(name), LedgerEntry)
                if entry is not None:
                    entries[name] = entry
        return entries

    def _entry(self, name: str) -> str:
        """The file of a unit's entry; as text, for pathlib would keep each name for ever."""
        return f"{self._units}/{name}"

    def _read(self, path: str, kind: type[_Value]) -> _Value | None:
        try:
            with open(path, "rb", buffering=0) as file:
                return msgspec.json.decode(file.read(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, *UNREADABLE) as error:
            self._log.warning("%s cannot be read and counts as absent: %s", path, error)
            return None


def _replace(target: str, content: bytes) -> None:
    temporary = os.path.join(os.path.dirname(target), _BEING_WRITTEN)
    with open(temporary, "wb", buffering=0) as file:
        file.write(content)
    os.replace(temporary, target)
