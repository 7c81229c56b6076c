"""Seals and opens secrets, with X25519, HKDF-SHA256 and ChaCha20-Poly1305.

`python -m fleetd.trust.sealing` reads one request as JSON from standard input and writes its answer to standard output:
neither values nor keys are in arguments or the environment. The daemon runs it so (sealing_process.py) and has no
`cryptography` in memory.

A value is encrypted with a random key (`box`: nonce and ciphertext), and that key is sealed to the public key of each
machine: with an ephemeral X25519 key, whose public half comes first. Name and version are authenticated with both.
Public keys are in base64, as in the records of machines. The private key of the machine is bound to its TPM where it
has one (tpm.py).
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

from fleetd.small_files import replace_file, sync_folder
from fleetd.trust.sealing_wire import Answer, Encrypt, MakeKey, Request, Sealed, Share, ShareAll
from fleetd.trust.tpm import Tpm, TpmFailed

KEY_BYTES, NONCE_BYTES, PUBLIC_BYTES = 32, 12, 32
_CONTEXT = b"fleet secret 1"
_NAME = "fleet-seal-key"  # of the credential
_BOUND, _LOST = ".cred", ".cred.lost"  # beside the file of the key: the credential, and one that was lost


class CannotOpen(ValueError):
    """What was to be opened is not for this key, of another name or version, or damaged."""


def make_seal_key(path: Path, tpm: Tpm | None = None) -> Sealed:
    """The public half of this machine's key, which only root can read: bound to the TPM if there is one that works, and
    else in the file `path`. It is made if there is none, moved to the TPM out of the file, and made anew if the TPM
    works and does not open it: nothing else could. Raises OSError and ValueError."""
    warning = ""
    try:
        key = read_seal_key(path, tpm)
    except FileNotFoundError:
        key = X25519PrivateKey.generate()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        warning = _keep(path, key, tpm)
    except TpmFailed as failure:
        key, warning = _replace_lost(path, tpm, failure)
    else:
        if path.exists():
            warning = _keep(path, key, tpm)
    public = public_half(key)
    replace_file(path.with_suffix(".pub"), public)
    return Sealed(public=public, bound=not path.exists(), warning=warning)


def _keep(path: Path, key: X25519PrivateKey, tpm: Tpm | None) -> str:
    """Bind the key to the TPM, or else have it in the file. Returns why there is a TPM, and it could not be used."""
    failure = ""
    if tpm and tpm.is_there():
        try:
            replace_file(path.with_suffix(_BOUND), tpm.bind(_NAME, key.private_bytes_raw()))
        except TpmFailed as error:
            failure = f"the key for secrets is not bound to the TPM of this machine, but in the file {path}: {error}"
        else:
            path.unlink(missing_ok=True)
            sync_folder(path.parent)
            return ""
    if not path.exists():
        replace_file(path, key.private_bytes_raw())
    return failure


def _replace_lost(path: Path, tpm: Tpm | None, failure: TpmFailed) -> tuple[X25519PrivateKey, str]:
    """The key that the TPM did not open, if it only had no time; else a new one, if the TPM works: then it was cleared,
    or it is another one. Returns what is to be said about that, too. Raises TpmFailed."""
    if not tpm or not tpm.is_there():
        raise TpmFailed(f"{failure}; systemd-creds has-tpm2 finds no TPM to use") from failure
    new = X25519PrivateKey.generate()
    content = tpm.bind(_NAME, new.private_bytes_raw())
    with suppress(TpmFailed):
        return read_seal_key(path, tpm), ""
    bound = path.with_suffix(_BOUND)
    bound.rename(path.with_suffix(_LOST))
    replace_file(bound, content)
    return new, (
        f"the key for secrets is lost, and there is a new one: {failure}. The TPM was cleared or replaced, or the file "
        "is damaged. Another server seals the secrets of this machine to the new key; those that no other server can "
        "open have to be set again"
    )


def read_seal_key(path: Path, tpm: Tpm | None = None) -> X25519PrivateKey:
    """The private key in this file, or else in the credential beside it. Raises TpmFailed if the TPM does not open it,
    other OSError and ValueError."""
    found = path
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        found = path.with_suffix(_BOUND)
        if not found.exists():
            raise
        content = _open(found, tpm)
    try:
        return X25519PrivateKey.from_private_bytes(content)
    except ValueError as error:
        raise ValueError(f"{found} holds no key: remove it and restart fleetd, which makes a new one") from error


def _open(bound: Path, tpm: Tpm | None) -> bytes:
    try:
        if tpm is None:
            raise TpmFailed("no TPM is used here")
        return tpm.open(_NAME, bound.read_bytes())
    except TpmFailed as error:
        raise TpmFailed(f"the TPM of this machine does not open {bound}: {error}") from error


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


def answer(request: Request, tpm: Tpm | None = None) -> Answer:
    """Carry out a request; without `tpm`, no TPM is used. Raises OSError and ValueError; of several parts, each has its
    own answer."""
    match request:
        case MakeKey(path):
            return Answer((make_seal_key(Path(path), tpm),))
        case Encrypt(name, version, value, recipients):
            return Answer((encrypt(name, version, value, recipients),))
        case ShareAll(path, items):
            own = read_seal_key(Path(path), tpm)
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
        found = answer(request, Tpm())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
