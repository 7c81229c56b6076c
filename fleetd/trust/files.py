"""What a machine keeps of certificates on its disk: its own, the authorities that it trusts, and what it knows of both.

All of it is readable by root alone. A file is replaced as a whole.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from fleetd.model.authorities import Known
from fleetd.model.certificate import Authority, split_pem
from fleetd.model.decoding import UNREADABLE
from fleetd.small_files import replace_file

log = logging.getLogger(__name__)

_KEY_FILE = re.compile(r"authority-([0-9]{1,9})\.key", re.ASCII)


class OwnKnowledge(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine knows. `keys` are those of authorities whose keys are in the store: it may lose them. `names` are
    those in the machine's certificate."""

    known: Known = Known()
    keys: tuple[Authority, ...] = ()
    names: tuple[str, ...] = ()


class TrustFiles:
    """The files in a directory. Reading what is missing or broken returns nothing; writing raises OSError. `sync` has a
    file or folder written to the disk."""

    def __init__(self, directory: Path, sync: Callable[[int], None] = os.fsync) -> None:
        self.directory = directory
        self._sync = sync
        self.key, self.certificate, self.authorities, self._known = (
            directory / name for name in ("machine.key", "machine.pem", "authorities.pem", "known.json")
        )

    def read_key(self) -> str:
        """The machine's private key, '' if there is none."""
        return _read(self.key)

    def read_certificate(self) -> str:
        """The machine's certificate, '' if there is none."""
        return next(iter(split_pem(_read(self.certificate))), "")

    def write_certificate(self, key: str, certificate: str, chain: Sequence[str] = ()) -> None:
        """Keep the machine's certificate, with what is sent along with it, and its key."""
        if key != self.read_key():
            self._write(self.key, key)
        self._write(self.certificate, "".join((certificate, *chain)))

    def read_authorities(self) -> tuple[str, ...]:
        """The certificates of the authorities that were trusted last."""
        return split_pem(_read(self.authorities))

    def write_authorities(self, certificates: Sequence[str]) -> None:
        """Keep the certificates of the authorities that are trusted."""
        if tuple(certificates) != self.read_authorities():
            self._write(self.authorities, "".join(certificates))

    def read_known(self) -> OwnKnowledge:
        """What the machine knows."""
        text = _read(self._known)
        try:
            return msgspec.json.decode(text, type=OwnKnowledge) if text else OwnKnowledge()
        except UNREADABLE as error:
            log.warning("%s cannot be read, and is made again: %s", self._known, error)
            return OwnKnowledge()

    def write_known(self, known: OwnKnowledge) -> None:
        """Keep what the machine knows."""
        self._write(self._known, msgspec.json.encode(known).decode())

    def read_keys(self) -> tuple[Authority, ...]:
        """The authorities whose keys are here instead of in the store, by number: `authority-<number>.key`, and beside
        it its certificate, `authority-<number>.pem`."""
        try:
            names = sorted(os.listdir(self.directory))
        except OSError:
            return ()
        found = [
            Authority(int(match[1]), _read(self.directory / f"authority-{match[1]}.pem"), _read(self.directory / name))
            for name in names
            if (match := _KEY_FILE.fullmatch(name))
        ]
        usable = (msgspec.structs.replace(each, certificate="".join(split_pem(each.certificate))) for each in found)
        return tuple(sorted((each for each in usable if each.certificate and each.key), key=lambda each: each.number))

    def write_key(self, authority: Authority) -> None:
        """Keep an authority's key here."""
        self._write(self.directory / f"authority-{authority.number}.key", authority.key)
        self._write(self.directory / f"authority-{authority.number}.pem", authority.certificate)

    def write_pending_key(self, authority: Authority) -> None:
        """Keep the key of an authority that the store is about to get: under another name, which read_keys passes over.
        Whether it counts, settle_keys decides, also if fleetd ends meanwhile."""
        self._write(self.directory / f"pending-authority-{authority.number}.key", authority.key + authority.certificate)

    def settle_keys(self, numbers: Mapping[str, int]) -> None:
        """Have the pending keys of the cluster's authorities count, and drop those whose number another one has.
        `numbers` are those of all authorities, by their certificates."""
        for path in sorted(self.directory.glob("pending-authority-*.key")):
            text = _read(path)
            certificate = "".join(split_pem(text))
            if certificate in numbers:
                key = text[: text.find("-----BEGIN CERTIFICATE-----")]
                self.write_key(Authority(numbers[certificate], certificate, key))
            elif path.name not in {f"pending-authority-{number}.key" for number in numbers.values()}:
                continue  # the store may get it yet
            path.unlink(missing_ok=True)

    def forget_key(self, number: int) -> None:
        """Take back write_key."""
        (self.directory / f"authority-{number}.key").unlink(missing_ok=True)
        (self.directory / f"authority-{number}.pem").unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, text, sync=self._sync)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        log.warning("cannot read %s: %s", path, error)
        return ""
