"""The file of host keys that were accepted, in OpenSSH's format, and what it says of a key that a host shows.

Only the file is known here: nothing connects, nobody is asked, and a key is its name and its bytes.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
import struct
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from fleetctl.log import LOG

SSH_PORT = 22
_LABELS = {"ssh-rsa": "RSA", "ssh-dss": "DSA"}
_REVOKED = "@revoked"


class HostKey(msgspec.Struct, frozen=True):
    """A public key: its algorithm's name (`ssh-ed25519`) and its bytes on the wire."""

    kind: str
    blob: bytes

    @property
    def label(self) -> str:
        """The kind as people are shown it."""
        return "ECDSA" if self.kind.startswith("ecdsa-") else _LABELS.get(self.kind, self.kind)

    @property
    def md5(self) -> str:
        digest = hashlib.md5(self.blob, usedforsecurity=False).hexdigest()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))

    @property
    def sha256(self) -> str:
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


class Verdict(StrEnum):
    """What the file says of a key."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


class Finding(msgspec.Struct, frozen=True):
    """A verdict, and the line that it rests on, as `FILE:LINE` ('' where there is none)."""

    verdict: Verdict
    at: str = ""


class Line(msgspec.Struct, frozen=True):
    """One key, for the hosts that its patterns match."""

    number: int
    marker: str
    hosts: str
    key: HostKey

    def matches(self, name: str) -> bool:
        """Whether the line is about this host; a pattern with `!` that matches rejects it."""
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
    """The file as it was read. A file that is not there knows no host."""

    def __init__(self, path: str, lines: Sequence[Line]) -> None:
        self.path = path
        self._lines = lines

    @classmethod
    def read(cls, path: str) -> "KnownHosts":
        """Lines that cannot be used are passed over, with a warning. Raises OSError."""
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
                LOG.warning("%s:%d - %s", path, number, error)
            else:
                lines += [parsed] if parsed else []
        return cls(path, lines)

    def judge(self, names: Sequence[str], key: HostKey) -> Finding:
        """What the file says of the key of a host of these names: the first one that is in the file counts.

        A key that was revoked for any of them is refused, whatever else the file says.
        """
        names = [name.lower() for name in names]
        for line in self._lines:
            if line.marker == _REVOKED and line.key == key and any(map(line.matches, names)):
                return Finding(Verdict.REVOKED, f"{self.path}:{line.number}")
        about = self._about(names)
        for line in about:
            if line.key == key:
                return Finding(Verdict.KNOWN, f"{self.path}:{line.number}")
        return Finding(Verdict.CHANGED, f"{self.path}:{about[0].number}") if about else Finding(Verdict.UNKNOWN)

    def kinds(self, names: Sequence[str]) -> list[str]:
        """The kinds of keys that are recorded for a host: those it should be asked for first."""
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

    def _about(self, names: Sequence[str]) -> list[Line]:
        for name in names:
            found = [line for line in self._lines if not line.marker and line.matches(name)]
            if found:
                return found
        return []


def host_name(host: str, port: int) -> str:
    """A host as the file names it."""
    return f"[{host}]:{port}" if port != SSH_PORT else f"[{host}]" if ":" in host else host


def host_names(hosts: Sequence[str], port: int) -> list[str]:
    """Every spelling under which the file may have a host that goes by these names and addresses, best first."""
    names = [name for host in hosts for name in (host_name(host, port), host if port == SSH_PORT else "")]
    return list(dict.fromkeys(name for name in names if name))


def _parse_line(number: int, text: str) -> Line | None:
    """One line of the file, None for one that holds no key of a host. Raises ValueError with what is wrong."""
    fields = text.split()
    if not fields or fields[0].startswith("#"):
        return None
    marker = fields.pop(0) if fields[0].startswith("@") else ""
    if marker and marker != _REVOKED:
        return None  # authorities vouch for certificates, which are not asked for; other markers are of a later day
    if len(fields) < 3:
        raise ValueError("too few fields: it takes hosts, a kind of key, and the key")
    hosts, kind, encoded = fields[:3]
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the key is not base64: {error}") from error
    name = kind.encode(errors="surrogateescape")
    if not blob.startswith(struct.pack(">I", len(name)) + name):
        raise ValueError(f"the key is not of the kind {kind}")
    return Line(number, marker, hosts, HostKey(kind, blob))


def _matches_hash(hashed: str, name: str) -> bool:
    """Whether `|1|SALT|HASH` stands for this name."""
    try:
        _, version, salt, digest = hashed.split("|")
        wanted = base64.b64decode(digest)
        found = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
    except ValueError:
        return False
    return version == "1" and hmac.compare_digest(wanted, found)


def _glob(pattern: str) -> re.Pattern[str]:
    """The pattern of a host: only `*` and `?` are special, for addresses stand in brackets. Every star but the last is
    atomic, shortest match first: many of them cost no more time than few."""
    first, *others = ("".join("." if char == "?" else re.escape(char) for char in part) for part in pattern.split("*"))
    if not others:
        return re.compile(first, re.DOTALL)
    *middle, last = others
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle) + ".*" + last, re.DOTALL)
