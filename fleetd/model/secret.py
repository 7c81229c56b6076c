"""Secrets, as the store keeps them: always sealed. Pure; fleetd/trust/sealing.py seals and opens.

A version of a secret is encrypted once, with a key of its own, and that key is sealed to each machine that may open it.
"""

import re

import msgspec

from fleetd.model.decoding import FORMAT, Count

MAX_SECRET_BYTES = 64 * 1024
CREDENTIALS_SOCKET = "/run/fleet/credentials.sock"
KEPT_VERSIONS = 2  # the present one, and the one before it, for what is reverted

# A subset of what systemd takes as the name of a credential: no `:`, no `/`, no control characters, not `.` nor `..`.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}", re.ASCII)


def refuse_secret_name(name: str) -> str:
    """Why no secret has this name, or ''."""
    if _NAME.fullmatch(name):
        return ""
    shown = "".join(filter(str.isprintable, name))[:128]
    return (
        f'"{shown}" is no name of a secret: it has to hold letters, digits and "_.@-" only, to begin with a letter, a '
        "digit or _, and to have at most 128 characters"
    )


def refuse_secret_value(value: bytes, size: int = 0) -> str:
    """Why this is no value of a secret, or ''. NUL bytes are fine: services read a file. `size` is that of the value
    where `value` is but its beginning."""
    size = size or len(value)
    if not value:
        return "the value is empty: a service could not tell it from a secret that it was not given"
    if size > MAX_SECRET_BYTES:
        return f"the value has {size} bytes, and at most {MAX_SECRET_BYTES} are allowed"
    return ""


class SecretRef(msgspec.Struct, frozen=True, gc=False):
    """One version of a secret. Version 0: there is no secret of this name."""

    name: str
    version: Count = 0


class SecretVersion(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version: `box` is the value, encrypted; `keys` are its key, sealed to machines, by their public keys
    (Machine.seal_key). `size` is that of the value in bytes; `by` set it, at this Unix time."""

    number: Count
    box: bytes = b""
    keys: dict[str, bytes] = {}
    size: Count = 0
    by: str = ""
    at: float = 0.0


class Secret(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="format", tag=FORMAT):
    """A secret. Stored under `secrets/<name>`; the last of its `versions` is the present one, at most one is before it.
    `revision` is the store's revision of the record, and not part of the stored value."""

    versions: tuple[SecretVersion, ...]
    revision: Count = 0

    @property
    def present(self) -> SecretVersion:
        """The version that units are given when they start."""
        return self.versions[-1]

    def has(self, number: int) -> bool:
        """True if this version is kept."""
        return any(version.number == number for version in self.versions)

    def without_values(self) -> "Secret":
        """The same without what is large: that all of it is in memory is of use to nobody."""
        bare = tuple(
            msgspec.structs.replace(version, box=b"", keys=dict.fromkeys(version.keys, b""))
            for version in self.versions
        )
        return msgspec.structs.replace(self, versions=bare)


class SealedVersion(msgspec.Struct, frozen=True):
    """One version for one machine: `box` as in SecretVersion, and its key, sealed to the machine."""

    number: Count
    key: bytes
    box: bytes


class SealedSecret(msgspec.Struct, frozen=True, tag_field="format", tag=FORMAT):
    """A secret for one machine, where a unit that names it is placed. Stored under `sealed-secrets/<machine>/<name>`.
    `recipient` is the public key that the versions are sealed to."""

    recipient: str
    versions: tuple[SealedVersion, ...]

    def without_values(self) -> "SealedSecret":
        """The same without what is large."""
        bare = tuple(msgspec.structs.replace(version, key=b"", box=b"") for version in self.versions)
        return msgspec.structs.replace(self, versions=bare)

    def find(self, number: int) -> SealedVersion | None:
        """This version, None if the machine was not given it."""
        return next((version for version in self.versions if version.number == number), None)


def next_version(secret: Secret | None, revision: int) -> int:
    """The number of a new version, written when the store has this revision: it grows, also over a secret that was
    removed and set again."""
    return max([revision, 1, *(version.number + 1 for version in (secret.versions if secret else ()))])


def with_version(secret: Secret | None, version: SecretVersion) -> Secret:
    """The secret with a new version, and the one before it."""
    former = secret.versions[-(KEPT_VERSIONS - 1) :] if secret else ()
    return Secret((*former, version), secret.revision if secret else 0)


def with_previous(secret: Secret) -> Secret:
    """The secret with its two versions exchanged."""
    return msgspec.structs.replace(secret, versions=tuple(reversed(secret.versions)))


def with_sealed(sealed: SealedSecret | None, recipient: str, version: SealedVersion) -> SealedSecret:
    """The record of a machine with one more version; the oldest beyond those kept goes, and so does what is sealed to
    a key that the machine no longer has."""
    kept = sealed.versions if sealed and sealed.recipient == recipient else ()
    ordered = sorted((*(each for each in kept if each.number != version.number), version), key=lambda each: each.number)
    return SealedSecret(recipient, tuple(ordered[-KEPT_VERSIONS:]))
