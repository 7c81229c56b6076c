"""Puts the secrets of units where fleet-credentials.service finds them, before the units start: sealed, below
/run/fleet/credentials. They stay there while fleetd is down, and a reboot removes them.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from fleetd.model.decoding import UNREADABLE
from fleetd.model.secret import SecretRef
from fleetd.registry.records import SEALED_SECRETS
from fleetd.registry.registry import Registry
from fleetd.small_files import replace_file
from fleetd.store.protocol import StoreError
from fleetd.systemd.protocol import ServiceManagerError
from fleetd.trust.credentials_wire import Delivered


class SecretNotThere(ServiceManagerError):
    """A unit cannot be started, because a secret of its is not on this machine. The message says why."""


class Credentials:
    """The secrets of this machine's units, below a directory: UNIT/NAME, sealed to this machine. `find_key` returns the
    public half of the key that opens them, '' if nothing can open any."""

    def __init__(self, registry: Registry, machine_id: str, directory: Path, find_key: Callable[[], str]) -> None:
        self._registry = registry
        self._machine_id = machine_id
        self._directory = directory
        self._find_key = find_key

    async def prepare(self, unit: str, secrets: Sequence[SecretRef]) -> None:
        """Have these versions there for the unit, and no others. Raises SecretNotThere and OSError."""
        place = self._directory / unit
        if not secrets:
            if self._directory.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            return
        key = self._find_key()
        if not key:
            raise SecretNotThere("not started: this machine cannot open secrets yet (the log of its fleetd says why)")
        lacking = [ref for ref in secrets if not _is_there(place / ref.name, ref.version, key)]
        if lacking:
            await self._fetch(place, lacking, key)
        names = {ref.name for ref in secrets}
        for name in os.listdir(place):
            if name not in names:
                (place / name).unlink()

    def forget(self, unit: str) -> None:
        """Remove what is there for a unit that is not on this machine any more."""
        if self._directory.is_dir():
            shutil.rmtree(self._directory / unit, ignore_errors=True)

    async def _fetch(self, place: Path, lacking: Sequence[SecretRef], key: str) -> None:
        missing = next((ref.name for ref in lacking if not ref.version), "")
        if missing:
            raise SecretNotThere(f"not started: its secret {missing} is missing (fleetctl secret set {missing})")
        try:
            found = await self._registry.get_many(SEALED_SECRETS, [(self._machine_id, ref.name) for ref in lacking])
        except StoreError as error:
            raise SecretNotThere(f"not started: its secrets cannot be read from the store: {error}") from error
        for ref in lacking:
            sealed = found.get((self._machine_id, ref.name))
            version = sealed.find(ref.version) if sealed and sealed.recipient == key else None
            if version is None:
                raise SecretNotThere(
                    f"not started: version {ref.version} of the secret {ref.name} is not sealed for this machine yet"
                )
            content = msgspec.json.encode(Delivered(version.number, version.key, version.box, key))
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(place / ref.name, content, sync=_do_not_sync)


def _is_there(path: Path, version: int, key: str) -> bool:
    with suppress(OSError, *UNREADABLE):
        found = msgspec.json.decode(path.read_bytes(), type=Delivered)
        return (found.version, found.recipient) == (version, key)
    return False


def _do_not_sync(_: int) -> None:
    """The directory is on no disk."""
