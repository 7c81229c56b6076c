"""Seals and opens secrets, with X25519, HKDF-SHA256 and ChaCha20-Poly1305.

`python -m fleetd.trust.sealing` reads one request as JSON from standard input and writes its answer to standard output:
neither values nor keys are in arguments or the environment. The daemon runs it so (sealing_process.py) and has no
`cryptography` in memory.

A value is encrypted with a random key (`box`: nonce and ciphertext), and that key is sealed to the public key of each
machine: with an ephemeral X25519 key, whose public half comes first. Name and version are authenticated with both.
Public keys are in base64, as in the records of machines.
"""

import base64
import os
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fleetd.small_files import replace_file
from fleetd.trust.sealing_wire import Answer, Encrypt, MakeKey, Request, Sealed, Share, ShareAll

KEY_BYTES, NONCE_BYTES, PUBLIC_BYTES = 32, 12, 32
_CONTEXT = b"fleet secret 1"


class CannotOpen(ValueError):
    """What was to be opened is not for this key, of another name or version, or damaged."""


def make_seal_key(path: Path) -> str:
    """The public half of the key in this file, which only root can read; the key is made if there is none. Raises
    OSError and ValueError."""
    try:
        key = read_seal_key(path)
    except FileNotFoundError:
        key = X25519PrivateKey.generate()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, key.private_bytes_raw())
    public = public_half(key)
    replace_file(path.with_suffix(".pub"), public)
    return public


def read_seal_key(path: Path) -> X25519PrivateKey:
    """The private key in this file. Raises OSError and ValueError."""
    try:
        return X25519PrivateKey.from_private_bytes(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} holds no key: remove it and restart fleetd, which makes a new one") from error


def public_half(key: X25519PrivateKey) -> str:
    """What others seal to."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def encrypt(name: str, version: int, value: bytes, recipients: Iterable[str]) -> Sealed:
    """Encrypt a value for these public keys. One that is none is passed over."""
    key, nonce = os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
    box = nonce + ChaCha20Poly1305(key).encrypt(nonce, value, _associated(name, version))
    return Sealed(box=box, keys=seal_key_to(name, version, key, recipients))


def seal_key_to(name: str, version: int, key: bytes, recipients: Iterable[str]) -> dict[str, bytes]:
    """The key of one version, sealed to each of these public keys."""
    sealed = {}
    for recipient in recipients:
        with suppress(ValueError):  # what a machine says of itself need not be a key
            public = base64.b64decode(recipient, validate=True)
            ephemeral = X25519PrivateKey.generate()
            shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(public))
            begin = ephemeral.public_key().public_bytes_raw()
            wrapping = ChaCha20Poly1305(_derive(shared, begin, public))
            sealed[recipient] = begin + wrapping.encrypt(bytes(NONCE_BYTES), key, _associated(name, version))
    return sealed


def open_key(own: X25519PrivateKey, name: str, version: int, sealed: bytes) -> bytes:
    """The key of one version that was sealed to this machine. Raises CannotOpen."""
    begin, rest = sealed[:PUBLIC_BYTES], sealed[PUBLIC_BYTES:]
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(begin))
        wrapping = ChaCha20Poly1305(_derive(shared, begin, own.public_key().public_bytes_raw()))
        return wrapping.decrypt(bytes(NONCE_BYTES), rest, _associated(name, version))
    except (InvalidTag, ValueError) as error:
        raise CannotOpen(f"version {version} of the secret {name} is not sealed to this machine's key") from error


def open_value(own: X25519PrivateKey, name: str, version: int, sealed: bytes, box: bytes) -> bytes:
    """The value of one version. Raises CannotOpen."""
    key = open_key(own, name, version, sealed)
    try:
        return ChaCha20Poly1305(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], _associated(name, version))
    except (InvalidTag, ValueError) as error:
        raise CannotOpen(f"version {version} of the secret {name} is damaged") from error


def _derive(shared: bytes, begin: bytes, public: bytes) -> bytes:
    """The key that wraps one key for one machine. It is used once, so that its nonce may be zero."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=_CONTEXT + begin + public).derive(shared)


def _associated(name: str, version: int) -> bytes:
    return f"{name}\0{version}".encode()


def answer(request: Request) -> Answer:
    """Carry out a request. Raises OSError and ValueError; of several parts, each has its own answer."""
    match request:
        case MakeKey(path):
            return Answer((Sealed(public=make_seal_key(Path(path))),))
        case Encrypt(name, version, value, recipients):
            return Answer((encrypt(name, version, value, recipients),))
        case ShareAll(path, items):
            own = read_seal_key(Path(path))
            return Answer(tuple(_share(own, item) for item in items))


def _share(own: X25519PrivateKey, asked: Share) -> Sealed:
    try:
        key = open_key(own, asked.name, asked.version, asked.key)
    except CannotOpen as error:
        return Sealed(error=str(error))
    return Sealed(keys=seal_key_to(asked.name, asked.version, key, asked.recipients))


def main() -> int:
    """Answer one request. Returns the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a value may be in memory
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
        if isinstance(request, MakeKey):
            with suppress(OSError):  # nobody waits for it, while units wait for anything else
                os.nice(10)
        found = answer(request)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
