"""The known hosts file, in OpenSSH's format; connects to nothing."""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import translate
from functools import cache

import msgspec

from fleetctl import output
from fleetd.model.host_keys import decode_key, is_key

SSH_PORT = 22
_LABELS = {"ssh-rsa": "RSA", "ssh-dss": "DSA"}
_REVOKED = "@revoked"


class HostKey(msgspec.Struct, frozen=True):
    """A public key: its algorithm's name (`ssh-ed25519`) and its bytes on the wire."""

    kind: str
    blob: bytes

    @property
    def label(self) -> str:
        """The kind as users see it."""
        return "ECDSA" if self.kind.startswith("ecdsa-") else _LABELS.get(self.kind, self.kind)

    @property
    def md5(self) -> str:
        digest = hashlib.md5(self.blob, usedforsecurity=False).hexdigest()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))

    @property
    def sha256(self) -> str:
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


class Record(msgspec.Struct, frozen=True):
    """The host keys that a machine publishes in its record in the cluster; none if `keys` is empty."""

    machine: str
    keys: tuple[HostKey, ...] = ()


NO_RECORD = Record("")


def preferred_kinds(known: Sequence[str], record: Record) -> list[str]:
    """The kinds of keys to ask a host for, best first: one that is in known_hosts and in the record satisfies both."""
    recorded = [key.kind for key in record.keys]
    return list(dict.fromkeys([*(kind for kind in known if kind in recorded), *recorded, *known]))


def read_record(machine: str, keys: Iterable[str]) -> Record:
    """The record of a machine, from its keys as `KIND BASE64`; what is no key is left out."""
    pairs = [(kind, encoded) for kind, _, encoded in (key.partition(" ") for key in keys) if is_key(kind, encoded)]
    return Record(machine, tuple(HostKey(kind, decode_key(kind, encoded)) for kind, encoded in pairs))


class KeyStatus(StrEnum):
    """Whether a host key is known."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


class Finding(msgspec.Struct, frozen=True):
    """A key's status, and the line that decides it, as `FILE:LINE` ('' for none)."""

    status: KeyStatus
    at: str = ""


class Entry(msgspec.Struct, frozen=True):
    """A line of the file: one key, for the hosts that its patterns match."""

    number: int
    marker: str
    hosts: str
    key: HostKey

    def matches(self, name: str) -> bool:
        """True if the line applies to this host; a matching pattern with `!` excludes it."""
        if self.hosts.startswith("|"):
            return _matches_hash(self.hosts, name)
        found = False
        for pattern in self.hosts.lower().split(","):
            if _glob(pattern.removeprefix("!")).fullmatch(name):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


class KnownHosts:
    """The file as it was read; a missing file knows no hosts."""

    def __init__(self, path: str, lines: Sequence[Entry]) -> None:
        self.path = path
        self._lines = lines

    @classmethod
    def read(cls, path: str) -> "KnownHosts":
        """Read the file; invalid lines are skipped with a warning. Raises OSError."""
        path = os.path.expanduser(path)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            return cls(path, ())
        lines = []
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                parsed = _parse_line(number, line)
            except ValueError as error:
                output.warning(f"warning: {path}:{number} - {error}")
            else:
                lines += [parsed] if parsed else []
        return cls(path, lines)

    def check(self, names: Sequence[str], key: HostKey) -> Finding:
        """The status of the key of a host with these names; the first name that is in the file counts.

        A key that is revoked for any of them is REVOKED, whatever else the file holds.
        """
        names = [name.lower() for name in names]
        for line in self._lines:
            if line.marker == _REVOKED and line.key == key and any(map(line.matches, names)):
                return Finding(KeyStatus.REVOKED, f"{self.path}:{line.number}")
        about = self._about(names)
        for line in about:
            if line.key == key:
                return Finding(KeyStatus.KNOWN, f"{self.path}:{line.number}")
        return Finding(KeyStatus.CHANGED, f"{self.path}:{about[0].number}") if about else Finding(KeyStatus.UNKNOWN)

    def kinds(self, names: Sequence[str]) -> list[str]:
        """The kinds of keys that are recorded for a host."""
        return list(dict.fromkeys(line.key.kind for line in self._about([name.lower() for name in names])))

    def append(self, name: str, key: HostKey) -> None:
        """Record a key. Raises OSError."""
        os.makedirs(os.path.dirname(self.path) or ".", mode=0o700, exist_ok=True)
        encoded = base64.b64encode(key.blob).decode()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        with open(descriptor, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            ends_mid_line = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            file.write(b"\n" * ends_mid_line + f"{name} {key.kind} {encoded}\n".encode())

    def _about(self, names: Sequence[str]) -> list[Entry]:
        for name in names:
            found = [line for line in self._lines if not line.marker and line.matches(name)]
            if found:
                return found
        return []


def host_name(host: str, port: int) -> str:
    """A host as the file spells it."""
    return f"[{host}]:{port}" if port != SSH_PORT else f"[{host}]" if ":" in host else host


def host_names(hosts: Sequence[str], port: int) -> list[str]:
    """Every spelling of a host with these names and addresses, best first."""
    names = [name for host in hosts for name in (host_name(host, port), host if port == SSH_PORT else "")]
    return list(dict.fromkeys(name for name in names if name))


def _parse_line(number: int, text: str) -> Entry | None:
    """One parsed line, None if it has no host key. Raises ValueError."""
    fields = text.split()
    if not fields or fields[0].startswith("#"):
        return None
    marker = fields.pop(0) if fields[0].startswith("@") else ""
    if marker and marker != _REVOKED:
        return None  # certificates are not requested; other markers are unknown
    if len(fields) < 3:
        raise ValueError("too few fields: expected hosts, kind of key, key")
    hosts, kind, encoded = fields[:3]
    return Entry(number, marker, hosts, HostKey(kind, decode_key(kind, encoded)))


def _matches_hash(hashed: str, name: str) -> bool:
    """True if `|1|SALT|HASH` is the hash of this name."""
    try:
        _, version, salt, digest = hashed.split("|")
        wanted = base64.b64decode(digest)
        found = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
    except ValueError:
        return False
    return version == "1" and hmac.compare_digest(wanted, found)


@cache
def _glob(pattern: str) -> re.Pattern[str]:
    """The regular expression of a host pattern, in which only `*` and `?` are special."""
    return re.compile(translate(pattern.replace("[", "[[]")))
