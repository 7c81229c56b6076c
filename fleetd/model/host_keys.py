"""Public host keys of SSH servers, and which files sshd_config(5) names for them."""

import base64
import binascii
import re
import struct
from collections.abc import Iterable, Iterator

import msgspec

MAX_KEYS = 8  # of one machine
MAX_LENGTH = 4096  # of one key as text: RSA keys of 16384 bits, the largest that OpenSSH takes, have 2,800 characters
_KIND = re.compile(r"[a-z0-9][a-zA-Z0-9@.-]{0,63}", re.ASCII)


def decode_key(kind: str, encoded: str) -> bytes:
    """The bytes of a key on the wire, from its kind and base64. Raises ValueError."""
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the key is not base64: {error}") from error
    name = kind.encode(errors="surrogateescape")
    if not blob.startswith(struct.pack(">I", len(name)) + name):
        raise ValueError(f"the key is not of the kind {kind}")
    return blob


def parse_public_keys(texts: Iterable[str]) -> tuple[str, ...]:
    """The keys in these public key files, as `KIND BASE64` without comments: each once, at most MAX_KEYS. Whatever is
    not the line of a public key is left out."""
    lines = (line.split() for text in texts for line in text.splitlines())
    keys = dict.fromkeys(f"{fields[0]} {fields[1]}" for fields in lines if len(fields) > 1 and is_key(*fields[:2]))
    return tuple(keys)[:MAX_KEYS]


def is_key(kind: str, encoded: str) -> bool:
    """True for a public key of a bounded size."""
    if not _KIND.fullmatch(kind) or len(kind) + len(encoded) >= MAX_LENGTH:
        return False
    try:
        return len(decode_key(kind, encoded)) > 4 + len(kind)
    except ValueError:
        return False


class SshdFiles(msgspec.Struct, frozen=True):
    """Other files that a configuration of sshd names: private host keys, and patterns of files to include."""

    host_keys: tuple[str, ...]
    includes: tuple[str, ...]


def read_sshd_config(text: str) -> SshdFiles:
    """The files that sshd_config(5) names for every connection, which is before the first Match."""
    keys: list[str] = []
    includes: list[str] = []
    for keyword, values in _settings(text):
        if keyword == "match":
            break
        if keyword == "hostkey":
            keys += values[:1]
        elif keyword == "include":
            includes += values
    return SshdFiles(tuple(keys), tuple(includes))


def _settings(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each keyword, in lower case, and its arguments: divided by blanks or one `=`, perhaps in double quotes."""
    for line in text.splitlines():
        keyword, *rest = re.split(r"\s*=\s*|\s+", line.strip(), maxsplit=1)
        values = re.findall(r'"([^"]*)"|(\S+)', rest[0]) if rest else []
        yield keyword.lower(), [quoted or plain for quoted, plain in values]
