"""The ledger: what this machine has started, kept in a directory that outlives fleetd but not the boot (/run/fleet).

It has one small file for each unit, replaced atomically, so that a crash leaves either the old entry or the new one;
and one each for the store's identity as last seen, its last restore, the orphans, the links made for the units'
[Install], a reboot, what the units announce, and the locks that they hold.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from fleetd.model.announce_options import NOTHING, AnnounceOptions
from fleetd.model.decoding import UNREADABLE, Count
from fleetd.model.isolation import UnitLock
from fleetd.reconciler.actions import LedgerEntry
from fleetd.reconciler.announcing import Health

log = logging.getLogger(__name__)


class StoreSeen(msgspec.Struct, frozen=True):
    """The store that this machine last worked with (the name of its epoch), and its highest revision seen."""

    cluster_id: str = ""
    revision: Count = 0


class Restored(msgspec.Struct, frozen=True, omit_defaults=True):
    """When this machine noticed, by its boot clock, that the store may have been restored (None: it was not); and the
    units that run here, must not run twice, and are stopped since."""

    noticed_s: float | None = None
    leaving: tuple[str, ...] = ()


class AnnouncedUnit(msgspec.Struct, frozen=True, omit_defaults=True):
    """A unit that announces itself: what the content says that it runs with, how it goes, since when the store has its
    names, and since when it has them no more because the unit is to be stopped, both on the machine's monotonic clock
    (None: it does not)."""

    options: AnnounceOptions = NOTHING
    health: Health = Health()
    announced_s: float | None = None
    withdrawn_s: float | None = None


class Announced(msgspec.Struct, frozen=True):
    """What this machine announces: the keys that the store may have, as (service, unit), and the units."""

    keys: tuple[tuple[str, str], ...] = ()
    units: dict[str, AnnouncedUnit] = {}


class HeldLock(msgspec.Struct, frozen=True):
    """A lock that a unit here holds: the session, its fencing token and its TTL, how often it is renewed, and when the
    last renewal that was answered was sent, by the machine's boot clock."""

    lock: UnitLock
    session: str
    token: str
    ttl_s: float
    renew_s: float
    heard_s: float


class AskedReboot(msgspec.Struct, frozen=True):
    """The last reboot that this machine was ordered to make: the id of the order, and why it is not made, '' if systemd
    has begun it."""

    order: str
    refusal: str = ""


_Value = TypeVar("_Value")
_BEING_WRITTEN = ".new"  # no entry begins with a dot


class Ledger:
    """The ledger in a directory, which is created if missing. All is read at once; changes are on disk on return.

    Every method that changes something raises OSError if the disk refuses; then nothing has changed. A file that
    cannot be read counts as absent, with a warning.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._units = os.fspath(directory / "started")
        self._store_file, self._orphans_file, self._links_file, self._reboot_file, self._announced_file = (
            os.fspath(directory / name) for name in ("store", "orphans", "links", "reboot", "announced")
        )
        self._locks_file, self._restored_file = (os.fspath(directory / name) for name in ("held-locks", "restored"))
        os.makedirs(self._units, exist_ok=True)
        self._entries = self._read_entries()
        self._store = self._read(self._store_file, StoreSeen) or StoreSeen()
        self._restored = self._read(self._restored_file, Restored) or Restored()
        self._orphans = self._read(self._orphans_file, tuple[str, ...]) or ()
        self._links = self._read(self._links_file, dict[str, str])
        self._reboot = self._read(self._reboot_file, AskedReboot)
        self._announced = self._read(self._announced_file, Announced)
        self._locks = self._read(self._locks_file, dict[str, HeldLock]) or {}

    @property
    def directory(self) -> Path:
        """The directory."""
        return self._directory

    @property
    def names(self) -> tuple[str, ...]:
        """The units that have an entry, in order."""
        return tuple(sorted(self._entries))

    def get(self, name: str) -> LedgerEntry | None:
        """Return what was last carried out for this unit, or None."""
        return self._entries.get(name)

    def put(self, name: str, entry: LedgerEntry) -> None:
        """Store the unit's entry."""
        if self._entries.get(name) != entry:
            _replace(self._entry(name), msgspec.json.encode(entry))
            self._entries[name] = entry

    def forget(self, name: str) -> None:
        """Delete the unit's entry, if there is one."""
        if name in self._entries:
            with suppress(FileNotFoundError):
                os.unlink(self._entry(name))
            del self._entries[name]

    @property
    def store(self) -> StoreSeen:
        """The store as last seen; `cluster_id` is '' if none was."""
        return self._store

    def put_store(self, seen: StoreSeen) -> None:
        """Store what was seen of the store."""
        if seen != self._store:
            _replace(self._store_file, msgspec.json.encode(seen))
            self._store = seen

    @property
    def restored(self) -> Restored:
        """The last restore of the store."""
        return self._restored

    def put_restored(self, restored: Restored) -> None:
        """Store what is known of the last restore."""
        if restored != self._restored:
            _replace(self._restored_file, msgspec.json.encode(restored))
            self._restored = restored

    @property
    def orphans(self) -> tuple[str, ...]:
        """Units that run here though a restored store does not know them, in order; kept until an operator decides."""
        return self._orphans

    def put_orphans(self, names: tuple[str, ...]) -> None:
        """Store the names of the orphans."""
        if names != self._orphans:
            _replace(self._orphans_file, msgspec.json.encode(names))
            self._orphans = names

    @property
    def links(self) -> Mapping[str, str] | None:
        """Link below systemd's runtime directory → unit it is, or was about to be, made for; None: none stored yet."""
        return self._links

    def put_links(self, links: Mapping[str, str]) -> None:
        """Store the links."""
        if links != self._links:
            _replace(self._links_file, msgspec.json.encode(links))
            self._links = dict(links)

    @property
    def reboot(self) -> AskedReboot | None:
        """The last reboot that was asked for in this boot."""
        return self._reboot

    def put_reboot(self, asked: AskedReboot) -> None:
        """Store how a reboot was answered."""
        _replace(self._reboot_file, msgspec.json.encode(asked))
        self._reboot = asked

    @property
    def announced(self) -> Announced | None:
        """What this machine announces; None: not known since it booted."""
        return self._announced

    def put_announced(self, announced: Announced) -> None:
        """Store what this machine announces."""
        if announced != self._announced:
            _replace(self._announced_file, msgspec.json.encode(announced))
            self._announced = announced

    @property
    def locks(self) -> Mapping[str, HeldLock]:
        """The locks that units here hold, by unit."""
        return self._locks

    def put_locks(self, locks: Mapping[str, HeldLock]) -> None:
        """Store the locks."""
        if locks != self._locks:
            _replace(self._locks_file, msgspec.json.encode(locks))
            self._locks = dict(locks)

    def _read_entries(self) -> dict[str, LedgerEntry]:
        entries = {}
        for name in sorted(os.listdir(self._units)):
            if not name.startswith("."):
                entry = self._read(self._entry(name), LedgerEntry)
                if entry is not None:
                    entries[name] = entry
        return entries

    def _entry(self, name: str) -> str:
        """Return the path of a unit's entry; a str, because pathlib interns every name for good."""
        return f"{self._units}/{name}"

    def _read(self, path: str, kind: type[_Value]) -> _Value | None:
        try:
            with open(path, "rb", buffering=0) as file:
                return msgspec.json.decode(file.read(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, *UNREADABLE) as error:
            log.warning("%s cannot be read and is ignored: %s", path, error)
            return None


def _replace(target: str, content: bytes) -> None:
    temporary = os.path.join(os.path.dirname(target), _BEING_WRITTEN)
    with open(temporary, "wb", buffering=0) as file:
        file.write(content)
    os.replace(temporary, target)
